"""Which processes share the work: one, several on a machine, or several machines.

Lightning Fabric places tensors and adds up gradients. It has to be told how many machines and
processes there are, and the launcher's environment knows: ``torchrun`` and ``fabric run`` (any
number of machines), or SLURM's ``srun``.
"""

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy

from helpers import runtime
from helpers.errors import OtherProcessError

# For how long a process may be waited for at the start and between two steps of a training. At the
# start, all import the same libraries; a step is a batch or a validation: minutes on a slow disk or
# network. PyTorch's half an hour is long to look at nothing.
_STEP = timedelta(minutes=10)
# And at the end of work that was divided: one process may have all the large scans.
_SHARE = timedelta(days=7)

# Set by launchers that are not understood here: better to stop than to do all work several times.
_OTHER_LAUNCHERS = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "JSM_NAMESPACE_SIZE")

# Processes on each machine, what srun says of its own step first.
_SLURM_COUNTS = ("SLURM_STEP_TASKS_PER_NODE", "SLURM_NTASKS_PER_NODE", "SLURM_TASKS_PER_NODE")


def launched_fabric() -> Fabric:
    """Return the engine: the GPU if there is one, and all processes that a launcher started.

    Raises
    ------
    ValueError
        If the launcher is unknown, or machines run different numbers of processes.
    OtherProcessError
        If the other processes do not come within ten minutes.

    Examples
    --------
    >>> from helpers import processes
    >>> fabric = processes.launched_fabric()
    >>> fabric.global_rank, fabric.world_size
    (0, 1)
    """
    machines, each = _layout(os.environ)
    by_fabric_run = os.environ.get("LT_CLI_USED") == "1"
    if machines * each == 1:
        strategy = "auto"
    elif by_fabric_run:  # it wants to read its own word here, and ends all when one is gone
        strategy = "ddp"
    else:
        strategy = DDPStrategy(timeout=_STEP)
    try:
        fabric = Fabric(
            num_nodes=machines,
            devices=each,
            strategy=strategy,
            precision=runtime.profile().precision if torch.cuda.is_available() else "32-true",
        )
        if not by_fabric_run:  # which has launched already
            fabric.launch()
    except torch.distributed.DistError as error:
        raise OtherProcessError(
            f"{machines * each} processes should have met within {_STEP}, but some did not come: "
            f"{error}"
        ) from error
    return fabric


def rank() -> int:
    """Return this process's number among all that a launcher started, also before they have met.

    Examples
    --------
    >>> from helpers import processes
    >>> processes.rank()
    0
    """
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))


@contextmanager
def together(fabric: Fabric) -> Iterator[None]:
    """Let all processes pass the end of a block, or none: nobody waits for one that is gone.

    What one process raises, it raises; the others raise an `OtherProcessError` about it.

    Examples
    --------
    >>> from helpers import processes
    >>> with processes.together(processes.launched_fabric()):
    ...     print("what each does before it needs the others")
    what each does before it needs the others
    """
    several = fabric.world_size > 1
    # Gloo, also beside GPUs, notices at once that a process has died.
    waiting = torch.distributed.new_group(backend="gloo", timeout=_SHARE) if several else None
    error = None
    try:
        yield
    except Exception as caught:
        error = caught
    if several:
        torch.distributed.barrier(waiting)
        torch.distributed.destroy_process_group(waiting)
    said = None if error is None else f"{type(error).__name__}: {error}"
    every = [fabric.broadcast(said, src=rank) for rank in range(fabric.world_size)]
    if error is not None:
        raise error
    for rank, other in enumerate(every):
        if other is not None:
            raise OtherProcessError(f"process {rank} of {fabric.world_size} ended: {other}")


def _layout(environment) -> tuple[int, int]:
    """Return the number of machines, and of processes on each."""
    if "LOCAL_WORLD_SIZE" in environment:  # torchrun and fabric run
        total, each = (int(environment[name]) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
        if total % each:
            raise ValueError(
                f"every machine must start the same number of processes; this one has {each}, "
                f"all together have {total}"
            )
        return total // each, each
    if int(environment.get("SLURM_NTASKS", 1)) > 1 and not _interactive(environment):
        return _slurm_layout(environment)
    for name in _OTHER_LAUNCHERS:
        if int(environment.get(name, 1)) > 1:
            raise ValueError(
                f"{name} says that {environment[name]} processes were started, by a launcher that "
                f"is not supported: start them with torchrun, fabric run or srun"
            )
    return 1, 1


def _slurm_layout(environment) -> tuple[int, int]:
    tasks, machines = int(environment["SLURM_NTASKS"]), int(environment.get("SLURM_NNODES", 1))
    known = [name for name in _SLURM_COUNTS if name in environment]
    counts = environment[known[0]] if known else ""
    each = re.fullmatch(r"(\d+)(\(x\d+\))?", counts)  # "2" or "2(x3)"; uneven ones read "2,1"
    if each is None or int(each[1]) * machines != tasks:
        raise ValueError(
            f"SLURM started {tasks} processes on {machines} machines ({counts!r} on each), and "
            f"every machine needs the same number: set --nodes and --ntasks-per-node"
        )
    if "SLURM_STEP_ID" not in environment:
        warnings.warn(
            f"SLURM reserved {tasks} tasks, but this process does not look as if srun had started "
            f"it, and waits for the others: write `srun python ...`",
            stacklevel=3,
        )
    os.environ["SLURM_NTASKS_PER_NODE"] = each[1]  # Fabric insists, also after `srun -n 2`
    return machines, int(each[1])


def _interactive(environment) -> bool:
    """Say whether this is a shell or notebook inside a reservation, as Fabric sees it."""
    return environment.get("SLURM_JOB_NAME") in ("bash", "interactive")
