"""A scan in its own space, for a network that was trained without a template: turned, cut, scaled.

Nothing is registered. What is done is what MONAI's ``Orientation("RAS")``, ``Spacing`` and a crop
about the brain do: the voxels are brought into RAS+ order, resampled along the scan's own axes from
its first voxel on, and cropped or padded so that the voxel n // 2 lies in the middle of the brain.
An oblique scan is not straightened, because the network has not seen straightened ones.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from helpers import grids
from helpers.cohorts import plausibility
from helpers.cohorts.intensities import standardise
from helpers.cohorts.report import Report
from helpers.errors import BrokenScanError
from helpers.grids import Grid

# Of the twelve shipped scans, brains measure 1.1 to 1.6 litres. A newborn's stays within, and a
# large man's with the fluid around it; a head does not, the less so in air that is nowhere 0.
BRAIN_LITRES = (0.2, 2.4)
MOST_DARK = 0.2  # of a mask
MOST_CUT_OFF = 0.5  # of a brain

# Value of a mask's voxels while it is interpolated: nilearn warns about masks of 0 and 1.
_FULL = np.float32(100)
# In voxels: what the float32 of a file's affine loses.
_ROUNDING = 1e-3


def centred(
    scan: str | Path, grid: Grid, *, mask: str | Path | None = None
) -> tuple[Float[Tensor, "1 x y z"], Report]:
    """Bring a scan to a network's voxels about the middle of its brain, without a template.

    The intensities stay as the scanner measured them but for their scale: the slow brightness of
    the coil is not taken out either. Where the scan has the network's spacing already, nothing is
    interpolated (values agree to a thousandth).

    Parameters
    ----------
    scan : path
        Any orientation and voxel size.
    grid : Grid
        From `helpers.grids.native`.
    mask : path, optional
        Where the brain is: a mask or a parcellation, everything above 0 counts. Its voxels may
        differ from the scan's. Without it, the scan is 0 outside the brain.

    Returns
    -------
    volume : tensor of shape (1, x, y, z)
        Background 0, median of the brain 1.
    report : Report
        Its `to_mni` takes the scan's millimetres to those of the grid; `cut_off` says how much of
        the brain the grid does not reach.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    BrokenScanError
        If a file is damaged, the scan shows a head and there is no mask, the mask does not lie on
        the brain or has no brain's size, or most of the brain does not fit onto the grid.

    Examples
    --------
    >>> from helpers import cohorts, grids
    >>> from helpers.cohorts import native
    >>> scan = cohorts.real_study() / "sub-04/anat/sub-04_T1w.nii.gz"
    >>> volume, report = native.centred(scan, grids.native(2.0, (72, 88, 72)))
    >>> tuple(volume.shape), report.cut_off
    ((1, 72, 88, 72), 0.0)
    """
    data, source = grids.read(scan)
    plausibility.check_raw(data)
    brain, brain_grid = (data, source) if mask is None else grids.read(mask)
    brain = brain > 0
    _check_size(brain, brain_grid, masked=mask is not None)
    full = np.where(brain, _FULL, np.float32(0))
    within = brain
    if mask is not None:
        within = grids.resample(full, brain_grid, source, nearest=True) > 0
        _check_place(data, within)
    positions = np.argwhere(within)
    to_grid = _to_grid(source, positions.mean(0), grid)
    cut_off = _cut_off(source.millimetres(positions), to_grid, grid)
    if cut_off > MOST_CUT_OFF:
        field = " x ".join(
            f"{n * mm:.0f}" for n, mm in zip(grid.shape, grid.spacing_mm, strict=True)
        )
        raise BrokenScanError(
            f"{cut_off:.0%} of the brain does not fit onto the network's voxels, which reach over "
            f"{field} mm; are shape and spacing_mm of the network's card right?"
        )

    def moved(values: np.ndarray, where: Grid) -> Tensor:
        there = grids.widened(Grid(where.shape, to_grid @ where.affine))
        return torch.from_numpy(grids.resample(values, there, grid))[None]

    volume = standardise(moved(data, source), moved(full, brain_grid) > _FULL / 2)
    report = Report(
        native=grids.read_grid(scan),
        to_mni=to_grid,
        mutual_information=None,
        mask_dice=None,
        template_correlation=None,
        volume_ratio=1.0,
        cut_off=cut_off,
    )
    return volume, report


def _check_size(brain: Bool[np.ndarray, "x y z"], grid: Grid, *, masked: bool) -> None:
    """Raise a BrokenScanError if this is a head, or next to nothing."""
    litres = np.count_nonzero(brain) * grid.voxel_volume_mm3 / 1e6
    low, high = BRAIN_LITRES
    if low <= litres <= high:
        return
    if masked:
        what = f"its mask holds {litres:.2g} litres"
    else:
        what = f"what is not 0 in the scan measures {litres:.2g} litres"
        if litres > high:
            what += ", as a whole head does, and it has no brain mask"
    raise BrokenScanError(
        f"{what}; expected a brain of {low} to {high}. Nothing is registered here, so that no "
        f"template can say where the brain is: name brain masks with --masks, or give scans that "
        f"are 0 outside the brain"
    )


def _check_place(data: Float[np.ndarray, "x y z"], within: Bool[np.ndarray, "x y z"]) -> None:
    """Raise a BrokenScanError unless there is something to see where the mask is."""
    if not within.any():
        raise BrokenScanError(
            "the mask is empty where the scan is; expected values above 0 inside the brain and an "
            "affine that fits the scan's"
        )
    dark = float((data[within] <= 0).mean())
    if dark > MOST_DARK:
        raise BrokenScanError(
            f"the mask does not lie on the brain: the scan is 0 in {dark:.0%} of it; is it of this "
            f"scan, and in the scan's space?"
        )


def _to_grid(source: Grid, middle: Float[np.ndarray, "3"], grid: Grid) -> Float[np.ndarray, "4 4"]:
    """Return what turns a scan's axes into the grid's and puts a voxel's place at its middle."""
    axes = source.affine[:3, :3] / source.spacing_mm
    left, _, right = np.linalg.svd(axes)  # the nearest rotation, should the affine be sheared
    turn = (left @ right).T
    first = source.millimetres((0, 0, 0))
    # In whole voxels of the grid from the scan's first voxel on: equal spacings need no
    # interpolation. A middle between two voxels is rounded up, whatever its last digits.
    steps = turn @ (source.millimetres(middle) - first) / grid.spacing_mm
    place = first + turn.T @ (np.floor(steps + 0.5 + _ROUNDING) * grid.spacing_mm)
    to_grid = np.eye(4)
    to_grid[:3, :3], to_grid[:3, 3] = turn, -turn @ place
    return to_grid


def _cut_off(
    brain_mm: Float[np.ndarray, "voxel 3"], to_grid: Float[np.ndarray, "4 4"], grid: Grid
) -> float:
    """Return the share of a brain's places that lie beyond the grid's outer edges."""
    voxels = grid.voxels(brain_mm @ to_grid[:3, :3].T + to_grid[:3, 3])
    edges = np.array(grid.shape) - 0.5 + _ROUNDING
    outside = ((voxels < -0.5 - _ROUNDING) | (voxels > edges)).any(1)
    return round(float(outside.mean()), 6)
