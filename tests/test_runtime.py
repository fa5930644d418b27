import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from helpers import runtime
from helpers.errors import CannotWriteError


def test_profile_is_quick_unless_asked(monkeypatch):
    monkeypatch.delenv("HELPERS_PROFILE", raising=False)
    assert runtime.profile().name == "quick"
    monkeypatch.setenv("HELPERS_PROFILE", "full")
    assert runtime.profile().spacing_mm == 2.0


def test_unknown_profile_names_those_that_exist(monkeypatch):
    monkeypatch.setenv("HELPERS_PROFILE", "turbo")
    with pytest.raises(ValueError, match=r"'turbo'.*\['full', 'quick'\]"):
        runtime.profile()


def test_generator_streams_are_reproducible_and_apart():
    def draw(*stream):
        return torch.rand(50, generator=runtime.generator(*stream))

    assert torch.equal(draw(3, 7), draw(3, 7))
    assert not torch.equal(draw(3, 7), draw(3, 8))
    assert not torch.equal(draw(3, 7), draw(7, 3))
    with pytest.raises(ValueError, match="zero or larger"):
        runtime.generator(-1)


def test_full_disk_leaves_the_old_file(tmp_path):
    target = tmp_path / "scores.txt"
    target.write_text("old")

    def write_until_the_disk_is_full():
        with runtime.replacing(target) as unfinished:
            unfinished.write_text("half of the n")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CannotWriteError, match=r"cannot write .*/scores\.txt: No space left"):
        write_until_the_disk_is_full()
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["scores.txt"]


def write(path, text="whole"):
    with runtime.replacing(path) as unfinished:
        unfinished.write_text(text)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("a file/scores.txt", "File exists|Not a directory"),
        (f"{'n' * 252}.txt", "File name too long"),
    ],
)
def test_what_cannot_be_written_is_named(tmp_path, place, reason):
    (tmp_path / "a file").write_text("in the way")
    message = rf"cannot write .*{place[-40:]}: ({reason})"
    with pytest.raises(CannotWriteError, match=message):
        write(tmp_path / place)
    assert [path.name for path in tmp_path.iterdir()] == ["a file"]


@pytest.mark.parametrize("place", [b"f\xff/scores.txt", b"f/scores\xff.txt"])
def test_names_are_utf8(tmp_path, place):
    with pytest.raises(
        CannotWriteError, match=r"\\udcff.*': its name is not UTF-8; choose another"
    ):
        write(tmp_path / os.fsdecode(place))
    assert not list(tmp_path.iterdir())


def test_the_longest_names_of_a_disk_can_be_written(tmp_path):
    name = "ä" * 120 + "b" * 11 + ".txt"
    assert len(os.fsencode(name)) == 255
    write(tmp_path / name)
    assert (tmp_path / name).read_text() == "whole"


def unfinished_files(folder):
    return sorted(path.name for path in folder.glob(".unfinished-*"))


def killed_while_writing(path):
    """Write half a file in a process that dies of it; return the name of what is left."""
    child = os.fork()
    if not child:
        with runtime.replacing(path) as unfinished:
            unfinished.write_text("ha")
            os._exit(9)
    os.waitpid(child, 0)
    (name,) = unfinished_files(path.parent)
    return name


def test_what_a_killed_program_left_is_swept(tmp_path):
    left = killed_while_writing(tmp_path / "scores.txt")
    assert (tmp_path / left).read_text() == "ha"
    write(tmp_path / "other.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["other.txt"]


def test_what_is_being_written_is_not_swept(tmp_path):
    left = killed_while_writing(tmp_path / "scores.txt")
    _, machine, _, *rest = left.removeprefix(".").split("-")
    other_machine = "-".join([".unfinished", "0" * len(machine), "1", *rest])
    mine = "-".join([".unfinished", machine, str(os.getpid()), *rest])
    old = "-".join([".unfinished", "1" * len(machine), "1", *rest])
    for name in (other_machine, mine, old):
        shutil.copy(tmp_path / left, tmp_path / name)
    os.utime(tmp_path / old, (0, 0))
    write(tmp_path / "other.txt")
    assert unfinished_files(tmp_path) == sorted([other_machine, mine])


def test_several_processes_keep_the_order():
    found = runtime.in_processes(abs, [-3, 2, -1, 0], n_procs=2, label="sizes", show=False)
    assert list(found) == [3, 2, 1, 0]
    with pytest.raises(ValueError, match="n_procs must be 1 or more, got 0"):
        list(runtime.in_processes(abs, [1], n_procs=0, label="sizes"))


class Slow(list):
    """Items of which all come late but the first two, which two processes are given at once."""

    def __iter__(self):
        for k, item in enumerate(super().__iter__()):
            time.sleep(3 * (k > 1))
            yield item


@pytest.mark.parametrize(
    "items", [[1, 1], Slow([1, 1, 1])], ids=["at work", "before the next item"]
)
def test_a_process_that_is_killed_is_named(items):
    with pytest.raises(ChildProcessError, match="one of 2 processes was killed"):
        list(runtime.in_processes(os._exit, items, n_procs=2, label="exits", show=False))


SLEEPING = """
import contextlib, sys, time
from helpers import runtime
items = [0.3, 60, 60, 60]
try:
    with contextlib.closing(
        runtime.in_processes(time.sleep, items, n_procs=2, label="sleeping")
    ) as results:
        for _ in results:
            print("begun", flush=True)
            time.sleep(float(sys.argv[1]))
except KeyboardInterrupt:
    raise SystemExit(130)
"""


@pytest.mark.parametrize("busy_s", [0, 60], ids=["waiting for a result", "between two results"])
def test_ctrl_c_stops_all_processes(busy_s):
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPING, str(busy_s)],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout.readline() == "begun\n"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        said = process.communicate(timeout=30)[1]
        assert process.returncode == 130, said
        assert "Traceback" not in said
        for _ in range(100):
            if not is_alive(process.pid):
                break
            time.sleep(0.1)
        assert not is_alive(process.pid)
    finally:
        if is_alive(process.pid):
            os.killpg(process.pid, signal.SIGKILL)


def is_alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
