"""Maps by a person's own anatomy: FreeSurfer's or any other segmentation of the very scan."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from helpers import anatomy, evaluation, grids
from helpers.cohorts.report import Report
from helpers.cohorts.scans import Scan, to_scan
from helpers.errors import BrokenScanError
from helpers.grids import Grid

# Of segmentation and brain. DLMUSE's parcellations overlap by 0.94 or more with the masks that the
# preprocessing makes of them; one in another space, or of another person, by less.
_LEAST_DICE = 0.8


def by_own_region(
    scan: Scan,
    map_file: Path,
    volume: torch.Tensor,
    report: Report,
    grid: Grid,
    *,
    names: str | Path,
) -> pd.DataFrame:
    """Average a map on the scan's voxels within each region of the person's own segmentation.

    Parameters
    ----------
    scan : Scan
        Knows where its segmentation is.
    map_file : Path
        The map on the voxels of the scan.
    volume, report, grid
        What `Scan.on` gives on the network's grid: says where the brain is.
    names : str or Path
        As in `helpers.anatomy.atlas`: a table, or ``"desikan_killiany"`` for ``aparc+aseg``.

    Returns
    -------
    DataFrame
        As `helpers.evaluation.by_region`.

    Raises
    ------
    BrokenScanError
        If the segmentation is missing, damaged, or does not lie on this brain.
    ValueError
        If labels have no name.
    """
    file = scan.segmentation
    if not file.exists():
        raise BrokenScanError(f"its segmentation is missing: expected {file}")
    values, native = grids.read(map_file)
    own = anatomy.atlas(native, file, names=names)
    brain = to_scan(volume, report, grid) > 0.05
    inside = own.labels.numpy() > 0
    if report.cut_off:  # what the network's voxels do not reach says nothing about the place
        inside &= to_scan(torch.full_like(volume, 100), report, grid) > 50
    dice = 2 * np.count_nonzero(brain & inside) / (np.count_nonzero(brain) + inside.sum())
    if dice < _LEAST_DICE:
        raise BrokenScanError(
            f"its segmentation {file} does not lie on its brain (overlap {dice:.2f}, expected "
            f"{_LEAST_DICE} or more): is it of this scan, and in the scan's space?"
        )
    return evaluation.by_region(torch.from_numpy(values)[None, None], native, own)
