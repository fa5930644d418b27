"""Scans of a folder, brought to a model's grid, and maps brought back to the scans' own voxels."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from helpers import grids
from helpers.cohorts import bids, plausibility, preprocessing
from helpers.cohorts.report import Report
from helpers.errors import BrokenScanError
from helpers.grids import Grid

LONGEST_NAME = 255  # bytes, on all common disks


@dataclass(frozen=True, eq=False)
class Scan:
    """One scan, brought to the model.

    Attributes
    ----------
    volume : tensor of shape (1, x, y, z)
        On the model's grid.
    report : Report
        Where it came from and how it was moved. A scan that lay on the model's grid already was
        not moved.
    """

    volume: Float[Tensor, "1 x y z"]
    report: Report


def find_scans(folder: str | Path, *, endings: Sequence[str] = ("",)) -> list[dict]:
    """List the scans of a folder of NIfTI files or of a BIDS folder.

    Parameters
    ----------
    endings : sequence of str
        What each scan's name is followed by in the names of the files that will be written.

    Returns
    -------
    list of dict
        Each with ``name``, ``scan`` (the file, relative to the folder), ``participant_id`` and
        ``session``.

    Raises
    ------
    FileNotFoundError
        If there is no folder or no scan.
    ValueError
        If two scans would write to the same file on a disk that does not tell capital letters
        from small ones, or a name is too long for a disk or not UTF-8.
    """
    folder = Path(folder)
    files = sorted(
        path.name
        for path in folder.glob("[!.]*")
        if path.name.endswith((".nii", ".nii.gz")) and not path.is_dir()
    )
    if files:
        scans = [{"participant_id": _stem(f), "session": "", "scan": f} for f in files]
    else:
        try:
            scans = bids.find_scans(folder).to_dict("records")
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}; or NIfTI files (.nii, .nii.gz) in it") from error
    scans = [{"name": _stem(Path(scan["scan"]).name), **scan} for scan in scans]
    _check_names(folder, scans, endings)
    return scans


def load_scan(path: str | Path, grid: Grid, *, cache: str | Path, mask: Path | None = None) -> Scan:
    """Read a scan; preprocess it unless it lies on the model's grid.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    BrokenScanError
        If the file is damaged or cannot be registered, or lies on the grid but is no
        standardised brain.
    """
    native = grids.read_grid(path)
    if native.upright() != grid:
        volume, report = preprocessing.cached(path, cache, grid=grid, mask=mask)
        return Scan(volume, report)
    data, _ = grids.read(path)
    volume = torch.from_numpy(np.ascontiguousarray(data))[None]  # a flipped axis has no copy yet
    try:
        correlation = plausibility.check_standardised(volume, grid)
    except BrokenScanError as error:
        raise BrokenScanError(
            f"{path} lies on the model's grid, so it is not preprocessed again; but {error}. "
            f"Make it so with intensities.standardise, or give the raw scan"
        ) from error
    report = Report(native, np.eye(4), None, None, correlation, volume_ratio=1.0)
    return Scan(volume, report)


def to_scan(explained_map: Float[Tensor, "1 x y z"], report: Report, grid: Grid) -> np.ndarray:
    """Bring a map from the grid of a model or cohort to the voxels of the scan's file.

    Going back and forth through the registration, it needs no second one. Where the grid does not
    reach, the map is zero.

    Examples
    --------
    >>> from helpers import cohorts, grids
    >>> cohort = cohorts.from_bids("my_study")  # doctest: +SKIP
    >>> report = cohort.reports[3]  # doctest: +SKIP
    >>> values = cohorts.to_scan(maps[3], report, cohort.grid)  # doctest: +SKIP
    >>> grids.save(values, report.native, "map_of_the_fourth.nii.gz")  # doctest: +SKIP
    """
    values = explained_map[0].numpy()
    in_mni = Grid(report.native.shape, report.to_mni @ report.native.affine)
    # On the grid's own voxels, in whatever order, nothing is interpolated.
    moved = grids.resample(values, grid, in_mni, nearest=in_mni.upright() == grid)
    # Splines overshoot: a map that is nowhere negative must not become so.
    return moved.clip(min(0.0, float(values.min())), max(0.0, float(values.max())))


def _stem(name: str) -> str:
    return name.removesuffix(".gz").removesuffix(".nii")


def _check_names(folder: Path, scans: list[dict], endings: Sequence[str]) -> None:
    taken: dict[str, str] = {}
    for scan in scans:
        file = scan["scan"]
        try:
            longest = max(len(f"{scan['name']}{ending}".encode()) for ending in endings)
            str(folder / file).encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the name of {str(folder / file)!a} is not UTF-8, so no table can hold it; "
                f"rename the file or folder"
            ) from error
        if longest > LONGEST_NAME:
            raise ValueError(
                f"the name of {file} in {folder} is too long: a result's name would have {longest} "
                f"bytes, disks take {LONGEST_NAME}; rename the file"
            )
        for ending in endings:
            # As on the disks of macOS and Windows: A is a, and e with an accent is one letter.
            written = unicodedata.normalize("NFC", f"{scan['name']}{ending}".casefold())
            other = taken.setdefault(written, file)
            if other != file:
                raise ValueError(
                    f"results of {other} and {file} in {folder} would overwrite each other, both "
                    f"would be called {scan['name']}{ending}; rename one of the scans"
                )
