"""One run divided among the jobs of a cluster."""

import argparse
from collections.abc import Callable, Sequence

from helpers.command import arguments

# What a job is told in its own words.
_OF_THE_CALL = ("verb", "run", "bids_dir", "out_dir", "level", "participant_label", "dry_run")
_OF_THE_CALL += ("jobs", "executor", "slurm")


def asked(options: argparse.Namespace) -> bool:
    """Say whether a run is to be divided; refuse what is about jobs where there are none."""
    if getattr(options, "jobs", None) is not None:
        return not options.dry_run
    if getattr(options, "slurm", []) or getattr(options, "executor", None) is not None:
        raise ValueError("--slurm and --executor are about jobs: say how many with --jobs")
    return False


def submit(main: Callable[[Sequence[str]], int], options: argparse.Namespace) -> int:
    """Divide the participants among jobs, each of which runs ``main`` on its share."""
    from helpers.study import cluster

    if options.level == "group":
        raise ValueError("what is about all of them is one job: leave --jobs out")
    if not all("=" in word for word in options.slurm):
        raise ValueError(f"--slurm takes OPTION=VALUE, got {' '.join(options.slurm)}")
    study = arguments.study_from(options)
    if hasattr(options, "model"):
        arguments.model_from(options)  # better refused now than by every job
    flags = []
    for name, value in vars(options).items():
        flag = f"--{name.replace('_', '-')}"
        if name in _OF_THE_CALL or value is None or value is False or value == []:
            continue
        if isinstance(value, list):
            flags += [flag, *map(str, value)]
        else:
            flags.append(flag if value is True else f"{flag}={value}")
    ended = cluster.submit(
        main,
        [options.verb, str(options.bids_dir.resolve()), str(options.out_dir.resolve()), *flags],
        [scan.participant_id for scan in study.scans],
        jobs=options.jobs,
        folder=study.output / ".logs",
        executor=options.executor or "slurm",
        slurm=dict(word.split("=", 1) for word in options.slurm),
        group=options.level is None and not options.participant_label,
    )
    if options.executor == "local":
        return max(ended)
    print(f"queued as {', '.join(ended)}; they write into {study.output / '.logs'}")
    return 0
