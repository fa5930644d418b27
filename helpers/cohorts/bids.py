"""Any folder of scans in BIDS layout as a cohort, preprocessed once and kept.

Expected: ``participants.tsv`` beside ``sub-*/[ses-*/]anat/sub-*_T1w.nii.gz``, or beside NIfTI
files, which are then called as the people are. Real folders have gaps. Nothing is left out in
silence: a scan that cannot be used stops the load at its end, with all such scans in one error;
people without a scan or a label are left out with one warning.

References
----------
Gorgolewski et al. (2016), The brain imaging data structure.
"""

import hashlib
import warnings
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import pooch
import torch

from helpers import grids, tensors
from helpers.cohorts import participants as participants_table
from helpers.cohorts.cohort import Cohort
from helpers.cohorts.finding import find_scans
from helpers.cohorts.report import QUALITY
from helpers.cohorts.scans import Scan, prepare
from helpers.errors import BrokenScansError, LeftOutWarning
from helpers.grids import Grid


@dataclass(frozen=True)
class Problem:
    """One thing in a folder that keeps a scan or a person out of the cohort."""

    participant_id: str
    file: str
    kind: str
    detail: str


def from_bids(
    folder: str | Path,
    label: str | None = "sex",
    *,
    grid: Grid | None = None,
    classes: Sequence[str] | None = None,
    bins: Sequence[float] | None = None,
    masks: str | None = None,
    cache: str | Path | None = None,
    on_error: str = "raise",
    n_procs: int = 1,
    progress: bool = True,
) -> Cohort:
    """Load a BIDS folder of T1-weighted scans as a cohort in MNI space.

    The first call registers every scan (five to eight seconds each); the volumes are kept in the
    cache, so that an interrupted call resumes and later calls take a moment. A cohort may be larger
    than memory: more than a gigabyte of volumes is read from the disk as training asks for it (see
    `helpers.tensors`). What a network learns is the same to the bit, so there is nothing to choose.

    Parameters
    ----------
    folder : str or Path
        Holds ``participants.tsv`` and the ``sub-*`` folders, or NIfTI files.
    label : str or None
        Column of ``participants.tsv`` that gives the class. None loads every scan as the one
        class ``"unlabelled"``, with or without a table.
    grid : Grid, optional
        Target grid, by default the 4 mm teaching grid. On one of `helpers.grids.rigid`, heads keep
        their size. On one of `helpers.grids.native`, scans are not registered: each brain stays in
        its own space, cut out by its mask.
    classes : sequence of str, optional
        Values of the column that count, in the order of their integer labels; people with other
        values are left out. By default all values, sorted.
    bins : sequence of float, optional
        Edges that cut a numeric column into classes; ``bins=[40, 60]`` makes three. A numeric
        column without edges is an error: where to cut an age is the researcher's decision.
    masks : str, optional
        Where each subject's brain mask or parcellation is, relative to the folder, such as
        ``"derivatives/dlmuse/{participant_id}_dseg.nii.gz"``. ``{session}`` and ``{name}`` (the
        scan's file name without ``_T1w.nii.gz``) may be used too. Without it the template's mask
        stands in.
    cache : str or Path, optional
        Folder for the preprocessed volumes; by default one in the user's cache folder.
    on_error : {"raise", "skip"}
        What to do about scans that are damaged, cannot be registered or miss their mask: raise
        one error about all of them after the others are done, or warn and leave them out.
    n_procs : int
        Number of processes that register scans at the same time, each with about 1 GB of memory.
    progress : bool
        Show a progress bar.

    Returns
    -------
    cohort : Cohort
        One subject a scan, ordered by participant and session. ``participants`` has the table's
        columns and ``session``, ``scan``, ``mask_dice``, ``template_correlation`` and
        ``volume_ratio`` (see `report.Report`); ``participants.attrs["problems"]`` lists what was
        left out. ``reports`` says how each scan was moved: `to_scan` brings maps back.

    Raises
    ------
    FileNotFoundError
        If the folder, its table or its scans are missing.
    ValueError
        If the table is unusable: no such column, duplicate ids, a numeric column without bins.
    BrokenScansError
        If scans could not be used and ``on_error`` is ``"raise"``.
    CannotWriteError
        If the cache cannot be written, or the disk has no room for the volumes.

    Examples
    --------
    >>> from helpers import cohorts
    >>> cohort = cohorts.from_bids("my_study", "diagnosis")  # doctest: +SKIP
    >>> cohort.participants.attrs["problems"]  # doctest: +SKIP
    []
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error is {on_error!r}; expected 'raise' or 'skip'")
    folder = Path(folder)
    grid = grids.mni() if grid is None else grid
    scans = find_scans(folder, masks=masks)
    called = [scan.participant_id for scan in scans]
    table = participants_table.read(folder, required=label is not None, called=called)
    if label is None:
        everyone = pd.DataFrame({"participant_id": [scan.participant_id for scan in scans]})
        everyone = everyone.drop_duplicates(ignore_index=True)
        table = everyone if table is None else everyone.merge(table, how="outer").fillna("")
    values, classes = participants_table.label_values(table, label, classes, bins)
    usable, row_labels, left_out = _match(scans, table, values, classes)

    cache = _default_cache(folder) if cache is None else Path(cache)
    volumes = tensors.zeros((len(usable), 1, *grid.shape))
    kept, reports, broken = [], [], []
    with closing(prepare(usable, grid, cache, n_procs=n_procs, progress=progress)) as prepared:
        for position, found in enumerate(prepared):
            if isinstance(found, str):
                scan = usable[position]
                broken.append(Problem(scan.participant_id, scan.file, "broken scan", found))
            else:
                volumes[len(kept)] = found[0]
                reports.append(found[1])
                kept.append(position)
    if broken and on_error == "raise":
        raise BrokenScansError(
            f"{len(broken)} of {len(usable)} scans cannot be used (the others are done and kept in "
            f"the cache):\n{_listed(broken)}\nMend or remove them, or pass on_error='skip' to "
            f"leave them out",
            pd.DataFrame([asdict(problem) for problem in broken]),
        )
    problems = broken + left_out
    if problems:
        warnings.warn(
            f"{len(problems)} left out of {folder.name}:\n{_listed(problems)}",
            LeftOutWarning,
            stacklevel=2,
        )
    if not kept:
        raise ValueError(f"no scan of {folder} is left to load:\n{_listed(problems)}")
    participants = _described([usable[position] for position in kept], table)
    participants = participants.assign(**pd.DataFrame([report.quality() for report in reports]))
    labels = torch.tensor([row_labels[position] for position in kept])
    participants.attrs["problems"] = [asdict(problem) for problem in problems]
    return Cohort(volumes[: len(kept)], labels, classes, participants, grid, reports=reports)


def _default_cache(folder: Path) -> Path:
    # Folders with the same subject names must not mix.
    key = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
    return Path(pooch.os_cache("brain-cnn-helpers")) / "preprocessed" / f"{folder.name}-{key}"


def _match(
    scans: list[Scan], table: pd.DataFrame, values: pd.Series, classes: tuple[str, ...]
) -> tuple[list[Scan], list[int], list[Problem]]:
    """Join scans and people; whoever has no counterpart or no label becomes a `Problem`."""
    left_out = []
    people = dict(zip(table["participant_id"], values, strict=True))
    scanned = {scan.participant_id for scan in scans}
    for name, value in people.items():
        if name not in scanned:
            left_out.append(Problem(name, "", "no scan", "in participants.tsv, but has no T1w"))
        elif value == "":
            left_out.append(Problem(name, "", "no label", "the label is missing (n/a)"))
        elif value not in classes:
            left_out.append(Problem(name, "", "other class", f"{value!r} is not in {classes}"))
    usable, labels, seen = [], [], {}
    for scan in scans:
        name, visit = scan.participant_id, (scan.participant_id, scan.session)
        if name not in people:
            left_out.append(Problem(name, scan.file, "no row", "not in participants.tsv"))
        elif people[name] in classes:
            if visit in seen:
                detail = f"a further scan of the same visit; {seen[visit]} is used"
                left_out.append(Problem(name, scan.file, "further scan", detail))
                continue
            seen[visit] = scan.file
            usable.append(scan)
            labels.append(classes.index(people[name]))
    return usable, labels, left_out


def _described(scans: list[Scan], table: pd.DataFrame) -> pd.DataFrame:
    """Return one row a scan: whose it is, and what the table says of that person."""
    rows = pd.DataFrame(
        [(scan.participant_id, scan.session, scan.file) for scan in scans],
        columns=["participant_id", "session", "scan"],
    )
    described = participants_table.typed(table).drop(
        columns=["session", "scan", *QUALITY], errors="ignore"
    )
    return rows.merge(described, on="participant_id", how="left")


def _listed(problems: list[Problem], most: int = 20) -> str:
    lines = [
        f"  {problem.participant_id} [{problem.kind}] "
        f"{f'{problem.file}: ' if problem.file else ''}{problem.detail}"
        for problem in problems[:most]
    ]
    if len(problems) > most:
        lines.append(f"  ... and {len(problems) - most} more")
    return "\n".join(lines)
