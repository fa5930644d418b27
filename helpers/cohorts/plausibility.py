"""Is this a brain? What a scan, and a volume in MNI space, must be like before a network reads it.

Every check says what it measured and what it expected. The bounds stand well outside of what true
brains gave, measured over 37 scans of ds002748 and 49 of IXI (35 with masks, 14 without), on the
4 mm grid, and over 1000 simulated people, 200 of each task.
"""

from itertools import permutations, product

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from helpers import anatomy, grids
from helpers.errors import BrokenScanError
from helpers.grids import Grid

# Of raw scans, all 176 measured: the brightest voxel was 1.1 to 3.1 times the 99.5th percentile,
# none was negative, and 186 to 2399 different values occurred. Splines undershoot a little.
MAXIMUM_OVER_BRIGHT = 20.0
LOWEST_OVER_BRIGHT = -0.5
MOST_NEGATIVE = 0.3  # share of the voxels; z-scores have more
FEWEST_VALUES = 16

# Of standardised volumes (60 simulated people of each task): median 0.93 to 1.06, brightest voxel
# 1.3 to 2.1, none negative.
MEDIANS = (0.5, 2.0)
BRIGHTEST = 10.0
LOWEST = -0.05
# Voxels above a tenth of the median, over the template's brain: 0.72 to 1.36.
BRAIN_FRACTIONS = (0.5, 1.8)
# The same within the emptiest half (left, right, back, front, bottom, top) of the template's brain:
# 0.68 to 1; in a brain with one half cut off it is 0.
EMPTIEST_HALF = 0.4
# Correlation with the template inside its brain: 0.50 to 0.87. The best of the same volumes turned
# or flipped: 0.28 to 0.44, always at least 0.16 less than upright.
MINIMUM_CORRELATION = 0.45

_DARK = 0.1
_HALVES = (("left", "right"), ("back", "front"), ("bottom", "top"))


def check_raw(data: Float[np.ndarray, "x y z"]) -> None:
    """Raise a BrokenScanError unless these can be the raw intensities of a T1-weighted scan."""
    if min(data.shape) < 8:
        raise BrokenScanError(
            f"the scan has {data.shape} voxels; expected a 3D scan of the whole brain, not slices"
        )
    _check_numbers(data)
    bright, values = float(np.percentile(data, 99.5)), len(np.unique(data))
    if values < FEWEST_VALUES:
        raise BrokenScanError(
            f"the scan holds only {values} different values; is it a mask or a parcellation?"
        )
    negative = float((data < 0).mean())
    if negative > MOST_NEGATIVE or data.min() < LOWEST_OVER_BRIGHT * abs(bright):
        raise BrokenScanError(
            f"the scan runs from {data.min():.3g} to {data.max():.3g}, {negative:.0%} of it below "
            f"0; expected raw intensities, zero or larger, not z-scores"
        )
    if data.max() > MAXIMUM_OVER_BRIGHT * bright:
        raise BrokenScanError(
            f"the brightest voxel of the scan, {data.max():.3g}, is more than "
            f"{MAXIMUM_OVER_BRIGHT:g} times as bright as the brightest tissue ({bright:.3g}); "
            f"set what is no signal to 0"
        )


def check_standardised(volume: Float[Tensor, "1 x y z"], grid: Grid) -> float:
    """Check a volume in MNI space with the background 0 and the brain's median 1.

    Parameters
    ----------
    volume : tensor of shape (1, x, y, z)
    grid : Grid
        Its grid in MNI space. Everything about the place is measured on the 4 mm grid.

    Returns
    -------
    correlation : float
        Pearson correlation with the template inside the template's brain, to six digits: the same
        whatever the number of threads.

    Raises
    ------
    BrokenScanError
        If this is no such brain; the message holds what was measured.

    Examples
    --------
    >>> from helpers import anatomy
    >>> from helpers.cohorts import plausibility
    >>> brain = anatomy.template()
    >>> plausibility.check_standardised(brain.t1, brain.grid)
    1.0
    >>> plausibility.check_standardised(brain.t1.flip(3), brain.grid)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    helpers.errors.BrokenScanError: this is no upright brain in MNI space: ...
    """
    data = volume[0].numpy()
    _check_numbers(data)
    values = len(np.unique(data))
    if values < FEWEST_VALUES:
        raise BrokenScanError(
            f"the volume holds only {values} different values; is it a mask or a parcellation?"
        )
    if data.min() < LOWEST:
        raise BrokenScanError(
            f"the volume falls to {data.min():.3g}; expected a brain with the median 1 on a "
            f"background of 0, nothing negative, no z-scores"
        )
    median = float(np.median(data[data > 0])) if data.max() > 0 else 0.0
    if not MEDIANS[0] <= median <= MEDIANS[1] or data.max() > BRIGHTEST:
        raise BrokenScanError(
            f"the median of the voxels that are not 0 is {median:.3g} and the largest "
            f"{data.max():.3g}; expected about 1 in a brain with a background of 0, and nothing "
            f"above {BRIGHTEST:g}"
        )
    teaching = grids.mni()
    if grid != teaching:
        data = grids.resample(data, grid, teaching)
    return _check_place(torch.from_numpy(np.ascontiguousarray(data)))


def _check_numbers(data: np.ndarray) -> None:
    if not np.isfinite(data).all():
        raise BrokenScanError("the scan holds NaN or infinite voxels; set them to 0 first")
    if data.min() == data.max():
        raise BrokenScanError("the scan is constant, so there is nothing in it")


def _check_place(volume: Float[Tensor, "x y z"]) -> float:
    """Compare with the template: how much brain, in both halves, the right way up."""
    brain = anatomy.template().mask[0]
    findings = []
    tissue = volume > _DARK
    fraction = float(tissue.sum() / brain.sum())
    low, high = BRAIN_FRACTIONS
    if not low <= fraction <= high:
        findings.append(
            f"it fills {fraction:.0%} of the template's brain, expected {low:.0%} to {high:.0%}"
        )
    for axis, names in enumerate(_HALVES):
        cut = brain.shape[axis] // 2
        for name, whole, filled in zip(
            names, brain.split(cut, axis), (brain & tissue).split(cut, axis), strict=True
        ):
            share = float(filled.sum() / whole.sum())
            if share < EMPTIEST_HALF:
                findings.append(f"only {share:.0%} of the {name} half of the brain is there")
    correlation, turned, best = _correlations(volume)
    if correlation < max(best, MINIMUM_CORRELATION):
        findings.append(
            f"correlation with the template {correlation:.2f}, expected at least "
            f"{MINIMUM_CORRELATION}"
        )
    if best > max(correlation, MINIMUM_CORRELATION):
        findings.append(f"it looks {turned}: turned back, its correlation is {best:.2f}")
    if findings:
        raise BrokenScanError(f"this is no upright brain in MNI space: {'; '.join(findings)}")
    return correlation


def _correlations(volume: Float[Tensor, "x y z"]) -> tuple[float, str, float]:
    """Return the correlation as it lies, and what the best other orientation is and gives.

    Left and right cannot be told apart: the template is symmetric.
    """
    template = anatomy.template()
    inside = _cube(template.mask[0].float()) > 0
    expected = _normed(_cube(template.t1[0].double())[inside])
    cube, found = _cube(volume.double()), {}
    for order, back_to_front, upside_down in product(permutations(range(3)), (0, 1), (0, 1)):
        flips = [axis for axis, flip in ((1, back_to_front), (2, upside_down)) if flip]
        turned = _normed(cube.permute(order).flip(flips)[inside])
        words = ["upside down"] * upside_down + ["back to front"] * back_to_front
        if order != (0, 1, 2):
            words = [f"lying on its side (its axes are {', '.join('xyz'[i] for i in order)})"]
        # The last digits of a sum hang on the threads that share it.
        correlation = round(float(turned @ expected), 6)
        found[order, back_to_front, upside_down] = (correlation, " and ".join(words))
    upright, _ = found.pop(((0, 1, 2), 0, 0))
    best, words = max(found.values())
    return upright, words, best


def _cube(volume: Float[Tensor, "x y z"]) -> Float[Tensor, "n n n"]:
    """Pad with air to equal sides, so that every turn of 90 degrees fits."""
    longest = max(volume.shape)
    before_and_after = [((longest - n) // 2, (longest - n + 1) // 2) for n in volume.shape]
    return F.pad(volume, [n for pair in reversed(before_and_after) for n in pair])


def _normed(values: Float[Tensor, "voxel"]) -> Float[Tensor, "voxel"]:
    return F.normalize(values - values.mean(), dim=0)
