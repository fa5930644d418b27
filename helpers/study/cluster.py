"""The participants divided among the jobs of a cluster: SLURM, or processes of this machine.

A job is a run of the command on its share of the participants, as somebody would start it by hand:
what is finished stays, whatever becomes of the job, and the same command goes on. When all have
ended, one more job does the group level and names the shares that failed.

References
----------
submitit: https://github.com/facebookincubator/submitit
"""

import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from helpers.errors import OtherProcessError

Command = Callable[[Sequence[str]], int]
EXECUTORS = ("slurm", "local")

_MINUTES = 240  # of a SLURM job that does not say how long it takes
# How jobs start, and where they write, is decided here.
_DECIDED = ("array", "dependency", "error", "nodes", "ntasks", "ntasks-per-node", "output")
_MOST_NAMES = 3


def submit(
    command: Command,
    arguments: Sequence[str],
    participants: Sequence[str],
    *,
    jobs: int,
    folder: str | Path,
    executor: str = "slurm",
    slurm: Mapping[str, str] | None = None,
    group: bool = True,
) -> list[str] | list[int]:
    """Divide the participants among jobs; when all have ended, do what is about everybody.

    Parameters
    ----------
    command : callable
        ``command(arguments) -> exit code``, in a module that jobs can import: the command line's
        ``main``.
    arguments : sequence of str
        Of the command: a verb, the folder of the scans, that of the results and options, without a
        level and participants.
    participants : sequence of str
        With or without ``sub-``. Each goes to one job, neighbours to different ones: scans of one
        site, which often stand together, may take longer than others.
    jobs : int
        Fewer if there are fewer participants.
    folder : str or Path
        Gets one folder for this call, with what each job says (``*_log.out``, ``*_log.err``). All
        machines must reach it.
    executor : str
        ``"slurm"`` (default) queues an array of jobs, and one that waits for it, and returns.
        ``"local"`` runs all jobs at the same time on this machine, without its GPU, and waits.
    slurm : mapping, optional
        What each job needs, as options of ``sbatch`` without dashes: ``{"partition": "long",
        "mem": "4GB", "cpus-per-task": "2", "time": "60"}``. The time is in minutes, default 240. A
        job that reaches it, or is preempted, is queued again and goes on, three times at most.
    group : bool
        Do the group level at the end, default. On SLURM, this is the job that names the shares
        which failed.

    Returns
    -------
    list of str or list of int
        The jobs' numbers in SLURM; or their exit codes. That of the group level comes last.

    Raises
    ------
    ImportError
        If submitit is not installed.
    ValueError
        If there is nobody, ``jobs`` is below 1, the executor is unknown, or SLURM is not there or
        refuses the jobs.
    OtherProcessError
        If shares have failed; the message names their logs. All others are done by then.

    Examples
    --------
    >>> from helpers.command import main
    >>> from helpers.study import cluster
    >>> run = ["preprocess", "/data/study", "/data/results"]
    >>> cluster.submit(main, run, ["01", "02", "03"], jobs=2, folder="logs")  # doctest: +SKIP
    ['4711_0', '4711_1', '4712']
    """
    if executor not in EXECUTORS:
        raise ValueError(f"unknown executor {executor!r}; there are {list(EXECUTORS)}")
    if slurm and executor != "slurm":
        raise ValueError(f"{dict(slurm)} is for SLURM; leave it out with executor={executor!r}")
    verb, scans, output, *options = arguments
    shares = _divided(participants, jobs)
    runs = [
        _Run(command, (verb, scans, output, "participant", *options, "--participant-label", *share))
        for share in shares
    ]
    last = _Run(command, (verb, scans, output, "group", *options)) if group else None
    # Process numbers come again, so each call has a folder of its own.
    folder = Path(folder).absolute() / time.strftime(f"{verb}-%Y%m%dT%H%M%S")
    queue = _queue_on_slurm if executor == "slurm" else _run_here
    return queue(_submitit(), runs, shares, last, folder, slurm or {})


@dataclass(frozen=True)
class _Run:
    """A run of the command, as a job."""

    command: Command
    arguments: tuple[str, ...]

    def __call__(self) -> int:
        try:
            return self.command(self.arguments)
        except SystemExit as ended:
            if ended.code in (2, 130):  # the command's own
                return ended.code
            raise

    def checkpoint(self) -> Any:
        """Return what is queued again when the time is up: the same, it goes on where it was."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@dataclass(frozen=True)
class _Share:
    """Some participants, and the job that has to do with them."""

    name: str
    result: Path
    log: Path

    def problem(self) -> str | None:
        """Return why the share failed, if it did; broken scans are no failure."""
        try:
            outcome, found = pickle.loads(self.result.read_bytes())
        except FileNotFoundError:
            outcome, found = "killed", "was killed, perhaps because memory or time ran out"
        if outcome == "success":
            if found in (0, 1):
                return None
            found = f"ended with exit code {found}{self._last_words()}"
        elif outcome == "error":
            found = f"failed: {found.strip().splitlines()[-1]}"
        return f"{self.name} {found}; see {self.log}"

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        said = [line.strip() for line in lines if "brain-cnns" in line]
        return f" ({said[-1]})" if said else ""


@dataclass(frozen=True)
class _Finish:
    """The last job: the group level, and a word about shares that failed."""

    last: _Run
    shares: tuple[_Share, ...]

    def __call__(self) -> int:
        code = self.last()
        _check(self.shares)
        return code


def _check(shares: Sequence[_Share]) -> None:
    problems = [problem for share in shares if (problem := share.problem()) is not None]
    if problems:
        raise OtherProcessError(
            f"{len(problems)} of {len(shares)} shares failed; what they finished is kept, and the "
            f"same command goes on from here: " + ". ".join(problems)
        )


def _queue_on_slurm(
    submitit: ModuleType,
    runs: list[_Run],
    shares: list[list[str]],
    last: _Run | None,
    folder: Path,
    slurm: Mapping[str, str],
) -> list[str]:
    wanted = {name.replace("_", "-"): value for name, value in slurm.items()}
    decided = sorted(wanted.keys() & set(_DECIDED))
    if decided:
        raise ValueError(f"{', '.join(decided)} cannot be chosen; leave it out")
    minutes = wanted.pop("time", str(_MINUTES))
    if not minutes.isdecimal():
        raise ValueError(f"time is a number of minutes, got {minutes!r}")
    try:
        executor = submitit.SlurmExecutor(folder)
    except RuntimeError as error:
        raise ValueError(
            f"{error} Start this on a machine from which the cluster's jobs are submitted, or "
            f"take executor='local'"
        ) from error
    name = f"brain-cnns-{runs[0].arguments[0]}"
    executor.update_parameters(job_name=name, time=int(minutes), additional_parameters=wanted)
    try:
        queued = executor.submit_array(runs)
        if last is not None:
            # Also after a failure: the tables say who is missing.
            array, _, _ = queued[0].job_id.partition("_")
            executor.update_parameters(dependency=f"afterany:{array}")
            queued.append(executor.submit(_Finish(last, _shares_of(queued, shares))))
    except submitit.core.utils.FailedJobError as error:
        raise ValueError(f"SLURM refuses the jobs: {error}") from error
    return [job.job_id for job in queued]


def _run_here(
    submitit: ModuleType,
    runs: list[_Run],
    shares: list[list[str]],
    last: _Run | None,
    folder: Path,
    _: Mapping[str, str],
) -> list[int]:
    executor = submitit.LocalExecutor(folder)
    executor.update_parameters(timeout_min=7 * 24 * 60)  # else two minutes
    started = executor.submit_array(runs)
    try:
        for job in started:
            job.wait()
    except BaseException:
        for job in started:
            job.cancel(check=False)
        raise
    given = _shares_of(started, shares)
    codes = [] if last is None else [last()]
    _check(given)
    return [job.result() for job in started] + codes


def _shares_of(queued: list, shares: list[list[str]]) -> tuple[_Share, ...]:
    return tuple(
        _Share(
            f"share {number} of {len(shares)} ({_named(share)})",
            job.paths.result_pickle,
            job.paths.stderr,
        )
        for number, (job, share) in enumerate(zip(queued, shares, strict=True), 1)
    )


def _divided(participants: Sequence[str], jobs: int) -> list[list[str]]:
    """Return the people of each job; everybody once, whether written with sub- or without."""
    people = list(dict.fromkeys(f"sub-{name.removeprefix('sub-')}" for name in participants))
    if not people:
        raise ValueError("there are no participants to divide among jobs")
    if jobs < 1:
        raise ValueError(f"jobs must be 1 or more, got {jobs}")
    jobs = min(jobs, len(people))
    return [people[first::jobs] for first in range(jobs)]


def _named(share: Sequence[str]) -> str:
    more = len(share) - _MOST_NAMES
    return ", ".join(share[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _submitit() -> ModuleType:
    try:
        import submitit
    except ImportError as error:
        raise ImportError(
            "jobs of a cluster are submitted by submitit, which is not installed: "
            "pip install submitit"
        ) from error
    return submitit
