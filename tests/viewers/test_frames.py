import numpy as np
import pytest
import torch

from helpers.grids import Grid
from helpers.viewers import frames


def whole(grid):
    return frames.frame(grid, np.ones(grid.shape, bool))


def test_checked_takes_tensors_arrays_and_masks(phantom):
    for volume in (phantom.volume, phantom.volume[0], phantom.volume.numpy(), phantom.mask):
        array = frames.checked(volume, phantom.grid)
        assert array.shape == phantom.grid.shape
        assert array.dtype == np.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v[None], r"shape \(x, y, z\) or \(1, x, y, z\), got \(1, 1, 16, 20, 24\)"),
        (lambda v: v[0, 0], r"got \(20, 24\)"),
        (lambda v: v[:, :, :, 1:], r"\(16, 20, 23\) voxels, the grid \(16, 20, 24\)"),
        (lambda v: v / 0, "holds 7680 NaN or infinite voxels"),
        (lambda v: v * float("nan"), "holds 7680 NaN or infinite voxels"),
    ],
)
def test_checked_says_what_is_wrong(phantom, change, message):
    with pytest.raises(ValueError, match=message):
        frames.checked(change(phantom.volume), phantom.grid)


def test_a_flipped_grid_is_refused(phantom):
    affine = phantom.grid.affine.copy()
    affine[0] *= -1
    with pytest.raises(ValueError, match=r"expected a RAS\+ grid"):
        frames.checked(phantom.volume, Grid(phantom.grid.shape, affine))


def test_fractions_follow_millimetres(phantom):
    """The closed form: the tile's middle is the field of view's middle, all axes to one scale."""
    frame = whole(phantom.grid)
    for axis in range(3):
        for voxel in (0, 7, phantom.grid.shape[axis] - 1):
            expected = 0.5 + frame.millimetres(axis, voxel) / 80  # 80 mm is the longest side
            assert frame.fraction(axis, voxel) == pytest.approx(expected, abs=1 / frame.pixels)


def test_the_frame_leaves_the_empty_margin_away(phantom):
    shown = np.zeros(phantom.grid.shape, bool)
    shown[3:10, 4:9, 0:24] = True
    frame = frames.frame(phantom.grid, shown)
    assert frame.low == (2, 3, 0)
    assert frame.high == (11, 10, 24)
    assert frame.side_mm == 60


def test_nothing_to_show_gives_the_whole_grid(phantom):
    assert frames.frame(phantom.grid, np.zeros(phantom.grid.shape, bool)).high == (16, 20, 24)


def test_union_holds_both_parts(phantom):
    parts = []
    for box in (np.s_[3:5, 6:8, 9:11], np.s_[8:10, 7:12, 20:24]):
        shown = np.zeros(phantom.grid.shape, bool)
        shown[box] = True
        parts.append(frames.frame(phantom.grid, shown))
    joined = frames.union(parts)
    assert (joined.low, joined.high) == ((2, 5, 8), (11, 13, 24))
    assert frames.union(parts[:1]) == parts[0]


def test_focus_prefers_position_then_mask_then_overlay_then_middle(phantom):
    frame = whole(phantom.grid)
    overlay = 2 * frames.checked(phantom.overlay.clamp(max=0), phantom.grid)
    mask = phantom.mask[0].numpy()
    position = phantom.grid.millimetres((5, 6, 7))
    assert frames.focus(frame, position_mm=position, overlay=overlay, mask=mask) == (5, 6, 7)
    assert frames.focus(frame, overlay=overlay, mask=mask) == phantom.bright
    assert frames.focus(frame, overlay=overlay, mask=mask & False) == phantom.cold
    assert frames.focus(frame, overlay=0 * overlay) == (8, 10, 12)


def test_focus_stays_inside_a_hollow_mask(phantom):
    mask = np.zeros(phantom.grid.shape, bool)
    mask[4:9, 4:9, 4:9] = True
    mask[5:8, 5:8, 5:8] = False
    assert mask[frames.focus(whole(phantom.grid), mask=mask)]


@pytest.mark.parametrize(
    ("position", "message"),
    [
        ((0, 0), "three numbers"),
        ((0, 0, 31), r"\(0.0, 0.0, 31.0\) lies outside the grid, which runs from \(-22.5, -38.0"),
        (torch.tensor([-30.0, 0, 0]), "lies outside the grid"),
    ],
)
def test_positions_outside_are_refused(phantom, position, message):
    with pytest.raises(ValueError, match=message):
        frames.focus(whole(phantom.grid), position_mm=position)
