"""Run the command in children that are forked after the slow imports, and end some of them early.

    python forked.py WEIGHTS SCANS PLACE

The last line printed is JSON: what became of each child.
"""

import errno
import json
import os
import random
import signal
import socket
import sys
import time
from datetime import timedelta

import torch
from small_study import main

from helpers import attribution, processes

torch.set_num_threads(1)
weights, scans, place = sys.argv[1:]


def ended_well(output):
    out = f"{place}/{output}"
    return main("explain", scans, out, f"--model={weights}", "--method=gradient") == 0


def started(output, environment=(), prepare=lambda: None):
    """Start the command in a child; return its process."""
    process = os.fork()
    if process:
        return process
    os.environ |= dict(environment)
    prepare()
    try:
        code = 0 if ended_well(output) else 1
    except SystemExit as ended:
        code = ended.code
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        code = 70
    sys.stderr.flush()
    os._exit(code)


def ended(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def kills():
    """Kill ten runs in the same output folder; return how many were still running."""
    begun = time.monotonic()
    assert ended(started("timed")) == 0
    duration = time.monotonic() - begun
    draw, killed = random.Random(11), 0
    for _ in range(10):
        process = started("killed")
        time.sleep(duration * draw.uniform(0.05, 0.3))
        os.kill(process, signal.SIGKILL)
        killed += ended(process) == -signal.SIGKILL
    assert ended(started("killed")) == 0
    return killed


def two_ranks(output, prepare, *, step_s=600.0):
    """Run two processes as torchrun would, without anybody who stops the one for the other."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    begun = time.monotonic()
    processes._STEP = timedelta(seconds=step_s)
    ranks = [
        started(
            output,
            {
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "GROUP_RANK": "0",
                "NODE_RANK": "0",
                "WORLD_SIZE": "2",
                "LOCAL_WORLD_SIZE": "2",
                "TORCHELASTIC_RUN_ID": "test",
            },
            prepare if rank == 1 else lambda: None,
        )
        for rank in range(2)
    ]
    codes = [ended(rank) for rank in ranks]
    return {"ended": codes, "seconds": time.monotonic() - begun}


def full_disk():
    def refuse(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    os.fsync = refuse


def sudden_death():
    def die(*arguments):
        os.kill(os.getpid(), signal.SIGKILL)

    attribution.METHODS["gradient"] = die


def large_scans():
    def slow(*arguments, gradient=attribution.METHODS["gradient"]):
        time.sleep(2.5 * processes._STEP.total_seconds())
        return gradient(*arguments)

    attribution.METHODS["gradient"] = slow


# What a program computes once, templates for example, the children find in memory.
assert ended_well("whole")
found = {
    "killed": kills(),
    "full": two_ranks("full", full_disk),
    "dead": two_ranks("dead", sudden_death),
    "slow": two_ranks("slow", large_scans, step_s=1.0),
}
print(json.dumps(found))
