"""Any folder of scans in BIDS layout as a cohort, preprocessed once and kept.

Expected: ``participants.tsv`` beside ``sub-*/[ses-*/]anat/sub-*_T1w.nii.gz``. Real folders have
gaps. Nothing is left out in silence: a scan that cannot be used stops the load at its end, with
all such scans in one error; people without a scan or a label are left out with one warning.

References
----------
Gorgolewski et al. (2016), The brain imaging data structure.
"""

import hashlib
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import pooch
import torch
from torch import Tensor

from helpers import errors, grids, runtime
from helpers.cohorts import participants as participants_table
from helpers.cohorts import preprocessing
from helpers.cohorts.cohort import Cohort
from helpers.cohorts.report import QUALITY, Report
from helpers.errors import BrokenScanError, BrokenScansError, CannotWriteError, LeftOutWarning
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
    cache, so that an interrupted call resumes and later calls take a moment.

    Parameters
    ----------
    folder : str or Path
        Holds ``participants.tsv`` and the ``sub-*`` folders.
    label : str or None
        Column of ``participants.tsv`` that gives the class. None loads every scan as the one
        class ``"unlabelled"``, with or without a table.
    grid : Grid, optional
        Target grid, by default the 4 mm teaching grid.
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
    scans = find_scans(folder)
    table = participants_table.read(folder, required=label is not None)
    if label is None:
        everyone = pd.DataFrame({"participant_id": scans["participant_id"].unique()})
        table = everyone if table is None else everyone.merge(table, how="outer").fillna("")
    values, classes = participants_table.label_values(table, label, classes, bins)
    rows, row_labels, left_out = _match(scans, table, values, classes)

    cache = _default_cache(folder) if cache is None else Path(cache)
    volumes, kept, reports, broken = [], [], [], []
    records = rows.to_dict("records")
    options = {"grid": grid, "masks": masks, "n_procs": n_procs, "progress": progress}
    with closing(prepare(folder, records, cache, **options)) as prepared:
        for position, found in enumerate(prepared):
            if isinstance(found, str):
                person, scan = rows.loc[position, ["participant_id", "scan"]]
                broken.append(Problem(person, scan, "broken scan", found))
            else:
                volumes.append(found[0])
                reports.append(found[1])
                kept.append(position)
    if broken and on_error == "raise":
        raise BrokenScansError(
            f"{len(broken)} of {len(rows)} scans cannot be used (the others are done and kept in "
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
    if not volumes:
        raise ValueError(f"no scan of {folder} is left to load:\n{_listed(problems)}")
    participants = rows.iloc[kept].reset_index(drop=True)
    participants = participants.assign(**pd.DataFrame([report.quality() for report in reports]))
    labels = torch.tensor([row_labels[position] for position in kept])
    participants.attrs["problems"] = [asdict(problem) for problem in problems]
    return Cohort(torch.stack(volumes), labels, classes, participants, grid, reports=reports)


def prepare(
    folder: str | Path,
    rows: Sequence[dict],
    cache: str | Path,
    *,
    grid: Grid,
    masks: str | None = None,
    n_procs: int = 1,
    progress: bool = True,
) -> Iterator[tuple[Tensor, Report] | str]:
    """Preprocess rows of `find_scans`; yield each volume and report, or what is wrong with it.

    Whatever goes wrong with one scan stops no other; see `from_bids` for the parameters. Iterate
    within ``contextlib.closing``, as over `helpers.runtime.in_processes`.

    Raises
    ------
    ValueError
        If ``masks`` has an unknown placeholder.
    CannotWriteError
        If the cache cannot be written.
    """
    folder, cache = Path(folder), Path(cache)
    where = {"folder": folder, "masks": masks, "cache": cache, "grid": grid}
    if rows:
        with suppress(BrokenScanError):
            find_mask(folder, masks, rows[0])  # a wrong pattern is wrong for all
    if n_procs > 1:  # a process takes seconds to start
        waiting = sum(not _is_kept(row, **where) for row in rows)
        n_procs = max(1, min(n_procs, waiting))
    prepare_one = partial(_prepare_one, **where)
    return runtime.in_processes(
        prepare_one, rows, n_procs=n_procs, label="preprocessing", show=progress
    )


def find_scans(folder: str | Path) -> pd.DataFrame:
    """List the T1-weighted scans of a BIDS folder: ``participant_id``, ``session``, ``scan``."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder at {folder}; expected one with sub-* folders in it")
    found = []
    for pattern in ("sub-*/anat/sub-*_T1w.nii*", "sub-*/ses-*/anat/sub-*_T1w.nii*"):
        for path in folder.glob(pattern):
            if path.name.endswith((".nii", ".nii.gz")):
                parts = path.relative_to(folder).parts
                session = parts[1] if len(parts) == 4 else ""
                found.append((parts[0], session, "/".join(parts)))
    if not found:
        raise FileNotFoundError(
            f"no scan in {folder}; expected sub-*/anat/sub-*_T1w.nii.gz, or the same below a "
            f"ses-* folder"
        )
    return pd.DataFrame(sorted(found), columns=["participant_id", "session", "scan"])


def find_mask(folder: str | Path, masks: str | None, row: dict) -> Path | None:
    """Return the mask of one row of `find_scans`, or None if there is no pattern for masks.

    Raises
    ------
    BrokenScanError
        If the file is missing.
    """
    if masks is None:
        return None
    name = Path(row["scan"]).name.split("_T1w.nii")[0]
    try:
        path = Path(folder) / masks.format(
            participant_id=row["participant_id"], session=row["session"], name=name
        )
    except (KeyError, IndexError) as error:
        raise ValueError(
            f"masks={masks!r} has an unknown placeholder {error}; expected {{participant_id}}, "
            f"{{session}} or {{name}}"
        ) from error
    if not path.exists():
        # Falling back on the template's mask would cut this brain out in another way than the
        # rest, and a network may learn the cut.
        raise BrokenScanError(f"its mask is missing: expected {path}")
    return path


def _prepare_one(row: dict, *, folder, masks, cache, grid) -> tuple[Tensor, Report] | str:
    try:
        mask = find_mask(folder, masks, row)
        return preprocessing.cached(folder / row["scan"], cache, grid=grid, mask=mask)
    except CannotWriteError:  # the disk's fault, not the scan's
        raise
    except (BrokenScanError, FileNotFoundError) as error:
        return errors.beside_name(error, folder / row["scan"])
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return (
            f"{type(error).__name__}: {error} "
            f"(in {place.name}, {Path(place.filename).name}, line {place.lineno})"
        )


def _is_kept(row: dict, *, folder, masks, cache, grid) -> bool:
    """Say whether a row takes no time: it is in the cache, or cannot be prepared at all."""
    try:
        mask = find_mask(folder, masks, row)
        return (cache / preprocessing.kept_name(folder / row["scan"], grid, mask)).exists()
    except (BrokenScanError, OSError):
        return True


def _default_cache(folder: Path) -> Path:
    # Folders with the same subject names must not mix.
    key = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
    return Path(pooch.os_cache("brain-cnn-helpers")) / "preprocessed" / f"{folder.name}-{key}"


def _match(scans, table, values, classes) -> tuple[pd.DataFrame, list[int], list[Problem]]:
    """Join scans and people; whoever has no counterpart or no label becomes a `Problem`."""
    left_out = []
    people = dict(zip(table["participant_id"], values, strict=True))
    for name, value in people.items():
        if name not in set(scans["participant_id"]):
            left_out.append(Problem(name, "", "no scan", "in participants.tsv, but has no T1w"))
        elif value == "":
            left_out.append(Problem(name, "", "no label", "the label is missing (n/a)"))
        elif value not in classes:
            left_out.append(Problem(name, "", "other class", f"{value!r} is not in {classes}"))
    usable, labels, seen = [], [], {}
    for row in scans.to_dict("records"):
        name, visit = row["participant_id"], (row["participant_id"], row["session"])
        if name not in people:
            left_out.append(Problem(name, row["scan"], "no row", "not in participants.tsv"))
        elif people[name] in classes:
            if visit in seen:
                detail = f"a further scan of the same visit; {seen[visit]} is used"
                left_out.append(Problem(name, row["scan"], "further scan", detail))
                continue
            seen[visit] = row["scan"]
            usable.append(row)
            labels.append(classes.index(people[name]))
    rows = pd.DataFrame(usable, columns=["participant_id", "session", "scan"])
    described = participants_table.typed(table).drop(
        columns=["session", "scan", *QUALITY], errors="ignore"
    )
    return rows.merge(described, on="participant_id", how="left"), labels, left_out


def _listed(problems: list[Problem], most: int = 20) -> str:
    lines = [
        f"  {problem.participant_id} [{problem.kind}] "
        f"{f'{problem.file}: ' if problem.file else ''}{problem.detail}"
        for problem in problems[:most]
    ]
    if len(problems) > most:
        lines.append(f"  ... and {len(problems) - most} more")
    return "\n".join(lines)
