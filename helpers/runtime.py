"""Where the code runs and how it stays reproducible: profile, device, seeds, progress, safe files.

Everything random in this package draws from a generator made here, so that the same seed gives
the same bytes on the same machine.
"""

import hashlib
import json
import os
import platform
import re
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from tqdm.auto import tqdm

from helpers.errors import CannotWriteError

PROFILE_VARIABLE = "HELPERS_PROFILE"

# How the name of an unfinished file begins on this machine; the writer's process follows.
_UNFINISHED = f".unfinished-{hashlib.sha256(platform.node().encode()).hexdigest()[:8]}-"
_ENDING = 24  # characters: enough for any suffix
_STALE_S = 24 * 3600  # nobody takes a day to write a file


@dataclass(frozen=True)
class Profile:
    """How much the course computes.

    Attributes
    ----------
    name : str
        ``"quick"`` (any laptop, the default) or ``"full"`` (one GPU).
    spacing_mm : float
        Voxel size of the grid that the chapters work on.
    precision : str
        Precision passed to Lightning Fabric: ``"32-true"`` or ``"bf16-mixed"``.
    """

    name: str
    spacing_mm: float
    precision: str


PROFILES = {
    "quick": Profile("quick", spacing_mm=4.0, precision="32-true"),
    "full": Profile("full", spacing_mm=2.0, precision="bf16-mixed"),
}


def profile() -> Profile:
    """Return the profile that the environment variable ``HELPERS_PROFILE`` asks for.

    Raises
    ------
    ValueError
        If the variable names a profile that does not exist.

    Examples
    --------
    >>> from helpers import runtime
    >>> runtime.profile().spacing_mm
    4.0
    """
    name = os.environ.get(PROFILE_VARIABLE, "quick")
    if name not in PROFILES:
        raise ValueError(
            f"{PROFILE_VARIABLE} is {name!r}; expected one of {sorted(PROFILES)}. "
            f"Unset the variable to get the quick profile."
        )
    return PROFILES[name]


def interactive() -> bool:
    """Say whether somebody sits at a prompt: a notebook, IPython or Python itself.

    Who stops a cell wants to see what there is so far. Who stops a program wants it to stop.
    """
    return hasattr(sys, "ps1")


def device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def processor() -> str:
    """Return the name of this machine's processor; Linux hides it from `platform`."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def generator(seed: int, *stream: int) -> torch.Generator:
    """Return a CPU random generator for one stream of a seed.

    Parameters
    ----------
    seed : int
        The experiment's seed, zero or larger.
    *stream : int
        Names an independent stream under the seed, for example a subject's index. Subject 7 is
        then the same person whether 10 or 1000 subjects are made. Zeros at the end do not count:
        stream 7, 0 is stream 7.

    Examples
    --------
    >>> import torch
    >>> from helpers import runtime
    >>> a, b = runtime.generator(0, 7), runtime.generator(0, 7)
    >>> bool(torch.rand(1, generator=a) == torch.rand(1, generator=b))
    True
    """
    if seed < 0 or any(part < 0 for part in stream):
        raise ValueError(f"seeds must be zero or larger, got {(seed, *stream)}")
    state = np.random.SeedSequence([seed, *stream]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))


def progress(items: Iterable, *, label: str, total: int | None = None, show: bool = True) -> tqdm:
    """Wrap an iterable in a progress bar with an estimate of the time left.

    A page without a kernel gets none (``HELPERS_STATIC_SITE`` is 1): it would stand still there.
    """
    hide = not show or os.environ.get("HELPERS_STATIC_SITE") == "1"
    return tqdm(items, desc=label, total=total, disable=hide, leave=False)


def in_processes(
    function: Callable, items: Sequence, *, n_procs: int, label: str, show: bool = True
) -> Iterator:
    """Apply a function to each item in several processes; yield the results in the items' order.

    Iterate within ``contextlib.closing``: an error or Ctrl+C between two results then ends the
    processes. Else Python would wait for them before it exits.

    Parameters
    ----------
    function : callable
        Gets one item. An error that it raises ends everything.
    n_procs : int
        Number of processes; with 1, the function runs in this one.
    label : str
        Stands before the progress bar.
    show : bool
        Show the bar.

    Raises
    ------
    ValueError
        If ``n_procs`` is below 1.
    ChildProcessError
        If a process was killed.

    Examples
    --------
    >>> from helpers import runtime
    >>> list(runtime.in_processes(abs, [3, -4], n_procs=1, label="sizes", show=False))
    [3, 4]
    """
    if n_procs < 1:
        raise ValueError(f"n_procs must be 1 or more, got {n_procs}")
    n_procs = min(n_procs, len(items))
    results = map(function, items)
    try:
        if n_procs > 1:
            parallel = joblib.Parallel(n_jobs=n_procs, return_as="generator")
            with _uninterrupted():
                results = parallel(joblib.delayed(function)(item) for item in items)
        yield from progress(results, label=label, total=len(items), show=show)
    except BrokenExecutor as error:  # of a result, or while the first items are handed out
        raise ChildProcessError(
            f"one of {n_procs} processes was killed, perhaps because the memory was full; with "
            f"fewer processes, the same call goes on from here"
        ) from error
    finally:
        if isinstance(results, Generator):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about the items that are given up here
                results.close()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let processes that are started here inherit that Ctrl+C is not for them: this one ends them.

    A terminal sends it to all, and each would say so with a traceback.
    """
    if threading.current_thread() is not threading.main_thread():  # Python allows it there only
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def checksum(path: str | Path) -> str:
    """Return the SHA-256 of a file's content."""
    with Path(path).open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Write a file completely or not at all.

    Yields a temporary path beside ``path``. Only when the block ends without an error does the
    temporary file take the name ``path``; a full disk or a kill leaves the old file as it was.
    What a killed program has left in the folder is removed.

    Raises
    ------
    CannotWriteError
        If the disk or the system refuses, or ``path`` is not UTF-8 (safetensors, tables and
        terminals cannot hold such a name); the message names ``path``.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from helpers import runtime
    >>> target = pathlib.Path(tempfile.mkdtemp()) / "scores.txt"
    >>> with runtime.replacing(target) as unfinished:
    ...     _ = unfinished.write_text("0.97")
    >>> target.read_text()
    '0.97'
    """
    path = Path(path)
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise CannotWriteError(
            f"cannot write {str(path)!a}: its name is not UTF-8; choose another"
        ) from error
    # Writers choose the format by the end of the name; all of it might be too long.
    ending = f"-{path.name[-_ENDING:]}"
    unfinished = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent.resolve())
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f"{_UNFINISHED}{os.getpid()}-", suffix=ending
        )
        os.close(handle)
        unfinished = Path(name)
        yield unfinished
        with unfinished.open("rb") as written:
            os.fsync(written.fileno())
        unfinished.chmod(0o644)
        unfinished.replace(path)
    except OSError as error:
        raise CannotWriteError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if unfinished is not None:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)


def write_json(path: str | Path, content: Any, *, default: Callable | None = None) -> None:
    """Write a JSON file that people can read, completely or not at all.

    Raises
    ------
    CannotWriteError
        As `replacing`.
    """
    text = json.dumps(content, indent=2, default=default)
    with replacing(path) as unfinished:
        unfinished.write_text(text + "\n")


@cache
def _sweep(folder: Path) -> None:
    """Remove, once a program and folder, the unfinished files whose writers are dead."""
    for path in folder.glob(".unfinished-*"):
        with suppress(OSError):  # another process may sweep as well
            if _writer_is_gone(path.name) or time.time() - path.stat().st_mtime > _STALE_S:
                path.unlink()


def _writer_is_gone(name: str) -> bool:
    # A writer on another machine, or on Windows (where asking kills), only its file's age betrays.
    writer = re.match(rf"{re.escape(_UNFINISHED)}(\d+)-", name)
    if writer is None or os.name != "posix":
        return False
    try:
        os.kill(int(writer[1]), 0)
    except ProcessLookupError:
        return True
    except OSError:  # it lives, but is another user's
        return False
    return False
