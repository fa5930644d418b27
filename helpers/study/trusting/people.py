"""Everybody of a study once, on a grid, and without any label."""

import warnings

import pandas as pd
import torch

from helpers import errors, runtime
from helpers.cohorts import Cohort
from helpers.errors import BrokenScanError, CannotWriteError, LeftOutWarning
from helpers.grids import Grid
from helpers.study.folders import Study

_MOST_LISTED = 20


def everybody(study: Study, grid: Grid, *, progress: bool = True) -> Cohort:
    """Return each person's first good scan as a cohort of one class.

    Parameters
    ----------
    study : Study
        A scan on the grid is taken as it is; any other is preprocessed, or read from where
        `preprocess` has left it.
    grid : Grid
        In MNI space.
    progress : bool
        Show a bar.

    Returns
    -------
    Cohort
        ``participants`` has ``participant_id``, ``scan`` and the quality of the preprocessing.

    Raises
    ------
    ValueError
        If no scan is good.
    CannotWriteError
        If the disk is full or refuses.

    Warns
    -----
    LeftOutWarning
        If scans are broken.

    Examples
    --------
    >>> from helpers import cohorts, grids, study
    >>> from helpers.study.trusting.people import everybody
    >>> everybody(study.Study(cohorts.real_study(), "results"), grids.mni())  # doctest: +SKIP
    Cohort(12 subjects: 12 everybody; 48x56x48 voxels)
    """
    volumes, rows, broken, taken = [], [], {}, set()
    for scan in runtime.progress(study.scans, label="reading scans", show=progress):
        if scan.participant_id in taken:
            continue
        try:
            with study.lock(scan):
                volume, report = scan.on(grid, study.preprocessed)
        except CannotWriteError:
            raise
        except (BrokenScanError, FileNotFoundError) as error:
            broken[scan.file] = errors.beside_name(error, scan.image)
            continue
        taken.add(scan.participant_id)
        volumes.append(volume)
        rows.append({"participant_id": scan.participant_id, "scan": scan.file, **report.quality()})
    if broken:
        listed = [f"  {file}: {problem}" for file, problem in broken.items()]
        more = len(listed) - _MOST_LISTED
        listed = listed[:_MOST_LISTED] + ([f"  ... and {more} more"] if more > 0 else [])
        warnings.warn(
            f"{len(broken)} scans left out of {study.folder.name}:\n{chr(10).join(listed)}",
            LeftOutWarning,
            stacklevel=3,
        )
    if not volumes:
        raise ValueError(f"no scan of {study.folder} is left to load")
    labels = torch.zeros(len(volumes), dtype=torch.long)
    participants = pd.DataFrame(rows)
    participants.attrs["problems"] = [
        {"kind": "broken scan", "file": file, "detail": problem} for file, problem in broken.items()
    ]
    return Cohort(torch.stack(volumes), labels, ("everybody",), participants, grid)


def check_number(people: int, folds: int) -> None:
    """Raise a ValueError if halves of so many people cannot be divided into so many folds.

    Every fold needs somebody of each half, and 2 of each to learn from.

    Examples
    --------
    >>> from helpers.study.trusting.people import check_number
    >>> check_number(10, 5)
    """
    if folds < 2:
        raise ValueError(f"a cross-validation has 2 folds or more, got {folds}")
    half = people // 2  # the smaller one
    if half < folds or half - -(-half // folds) < 2:
        needed = 2 * max(folds, 4 if folds == 2 else 3)
        raise ValueError(
            f"{people} people with good scans are too few for {folds} folds: every fold needs "
            f"somebody with the effect and somebody without, and 2 of each to learn from; that "
            f"is {needed} people or more. Take fewer folds or more people"
        )
