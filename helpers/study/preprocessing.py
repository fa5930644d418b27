"""Bring every scan of a study into MNI space, and show how well each fits the template."""

from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from helpers import anatomy, grids, runtime
from helpers.cohorts.finding import check_names
from helpers.cohorts.report import QUALITY, Report
from helpers.cohorts.scans import SPACE, TRANSFORM, Scan, prepare_or_say, preprocessed
from helpers.errors import BrokenScanError
from helpers.grids import Grid
from helpers.study import pages, records
from helpers.study.folders import Study
from helpers.viewers.sheet import fit_sheet

PICTURE = f"_space-{SPACE}_desc-preproc_T1w.png"
PROBLEM = "_desc-preproc_problem.json"

# The picture of the fit shows the head this far beyond the template's brain: skull enough to see
# whether it lies right, and no face.
_BEYOND_BRAIN_MM = 14


def preprocess(
    study: Study,
    *,
    spacing_mm: float = 4.0,
    n_procs: int = 1,
    scans: bool = True,
    tables: bool = True,
    progress: bool = True,
) -> pd.DataFrame:
    """Register, strip and standardise every scan; show how well each lies on the template.

    For the scan ``sub-01_T1w.nii.gz``: ``sub-01_space-MNI152NLin2009aSym_res-4_desc-preproc_T1w``
    (NIfTI, and what it was made from as JSON), the affine that brings it there (``_xfm.json``) and
    a picture of the template's outline on the scan. For all: ``group/desc-preproc_scans.tsv`` and
    the page ``quality.html``. Scans that are finished are skipped.

    Parameters
    ----------
    study : Study
    spacing_mm : float
        Edge of a voxel, default 4. Another spacing needs no second registration.
    n_procs : int
        Scans at the same time, each with about 1 GB of memory.
    scans, tables : bool
        Do each scan; write what is about all of them. Where several programs share the scans, the
        tables are written once, when all are done.
    progress : bool
        Show a bar.

    Returns
    -------
    DataFrame
        One row a scan, with the numbers of `helpers.cohorts.report.QUALITY`; ``problem`` says why a
        scan could not be preprocessed.

    Raises
    ------
    ValueError
        If the spacing does not divide the field of view, or names of results would collide.
    CannotWriteError
        If the disk is full or refuses.

    Examples
    --------
    >>> from helpers import cohorts, study
    >>> from helpers.cohorts.real_brains import STUDY_MASKS
    >>> mine = study.Study(cohorts.real_study(), "results", masks=STUDY_MASKS)
    >>> study.preprocess(mine, n_procs=2)["mask_dice"].min()  # doctest: +SKIP
    0.94
    """
    grid = grids.mni(spacing_mm)
    if n_procs < 1:
        raise ValueError(f"n_procs must be 1 or more, got {n_procs}")
    endings = [preprocessed(grid), preprocessed(grid, ".json"), TRANSFORM, PICTURE, PROBLEM]
    check_names(study.folder, study.scans, endings)
    left = unprepared(study, grid) if scans else []
    study.describe()
    one = partial(_preprocess_one, study=study, grid=grid)
    options = {"n_procs": n_procs, "label": "preprocessing", "show": progress}
    with closing(runtime.in_processes(one, left, **options)) as done:
        list(done)
    table = quality(study, grid)
    if tables:
        records.write_table(table, study.group("desc-preproc_scans.tsv"))
        pages.write(study.output / "quality.html", quality_page(study, table))
    return table


def unprepared(study: Study, grid: Grid) -> list[Scan]:
    """Return the scans that are not preprocessed yet, or not as they are now."""
    return [scan for scan in study.scans if not _is_done(scan, study, grid)]


def quality(study: Study, grid: Grid) -> pd.DataFrame:
    """Return one row a scan: how well it fits, or what is wrong with it."""
    rows = []
    for scan in study.scans:
        row = {"participant_id": scan.participant_id, "session": scan.session, "scan": scan.file}
        problem = records.read(scan.derived(study.output, PROBLEM), "its scan is done again")
        if problem is not None:
            row |= problem
        elif not _is_done(scan, study, grid):
            row["problem"] = "it has not been preprocessed yet"
        else:
            report = scan.kept_report(study.output)
            file = scan.derived(study.output, preprocessed(grid))
            row |= {"file": file.relative_to(study.output).as_posix(), **report.quality()}
        rows.append(row)
    columns = ["participant_id", "session", "scan", "file", *QUALITY, "problem"]
    return pd.DataFrame(rows).reindex(columns=columns)


def quality_page(study: Study, table: pd.DataFrame) -> pages.Page:
    """Return the page that shows every scan with the template's outline, sortable by the numbers.

    The scans that fit worst come first.
    """
    broken = table["problem"].notna()
    page = pages.Page(
        "Do the scans lie on the template?",
        f"{len(table) - broken.sum()} of {len(table)} scans of {study.folder.resolve().name} are "
        f"in MNI space. The line is the edge of the template's brain: it should run along the edge "
        f"of each brain. The scans that are least like the template come first.",
    )
    if broken.any():
        page.warn(f"{broken.sum()} scans could not be preprocessed; the table says why.")
    shown = table.drop(columns="file").sort_values("template_correlation", na_position="first")
    page.table(shown, "Every scan, and how well it fits", decimals=3)
    for row, scan in ((table.loc[i], study.scans[i]) for i in shown.index[~broken[shown.index]]):
        numbers = ", ".join(
            f"{name.replace('_', ' ')} {row[name]:.3f}" for name in QUALITY if pd.notna(row[name])
        )
        page.picture(scan.derived(study.output, PICTURE), scan.file, numbers)
    return page


def _is_done(scan: Scan, study: Study, grid: Grid) -> bool:
    try:
        return scan.is_prepared(grid, study.output) and scan.derived(study.output, PICTURE).exists()
    except (BrokenScanError, OSError):
        return False


def _preprocess_one(scan: Scan, *, study: Study, grid: Grid) -> None:
    problem_file = scan.derived(study.output, PROBLEM)
    with study.lock(scan):
        found = prepare_or_say(scan, grid, study.output)
        if isinstance(found, str):
            runtime.write_json(problem_file, {"problem": found})
            return
        problem_file.unlink(missing_ok=True)
        _draw_fit(scan, found[1], scan.derived(study.output, PICTURE))


def _draw_fit(scan: Scan, report: Report, path: Path) -> None:
    """Draw the scan as it lies in MNI space, with the edge of the template's brain."""
    template = anatomy.template(grids.mni(2.0))
    native, grid = grids.read(scan.image)
    in_mni = Grid(grid.shape, report.to_mni @ grid.affine, "mni")
    head = grids.resample(native, in_mni, template.grid).clip(0)
    brain = template.mask[0].numpy()
    away_mm = ndimage.distance_transform_edt(~brain, template.grid.spacing_mm)
    picture = fit_sheet(np.where(away_mm <= _BEYOND_BRAIN_MM, head, 0), brain, grid=template.grid)
    with runtime.replacing(path) as unfinished:
        Image.fromarray(picture).save(unfinished, compress_level=4)
