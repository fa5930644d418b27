import numpy as np
import pytest

from helpers.viewers.sheet import sheet


def strong(picture):
    """Where the overlay's strongest orange is, and its strongest blue."""
    picture = picture.astype(int)
    return picture[..., 0] - picture[..., 2] > 60, picture[..., 2] - picture[..., 0] > 60


def center(mask):
    rows, columns = np.nonzero(mask)
    return columns.mean() / mask.shape[1], 1 - rows.mean() / mask.shape[0]


def test_right_is_right_front_is_front_and_up_is_up(phantom):
    # Without the blue voxel, the crosshair is the only blue.
    overlay = phantom.overlay.clamp_min(0)
    picture = sheet(phantom.volume, overlay, grid=phantom.grid, title="phantom")
    side = picture.shape[0] // 3
    panels = [picture[:side, i * side : (i + 1) * side] for i in range(3)]
    shape, voxel, spacing = np.array(phantom.grid.shape), np.array(phantom.bright), (3.0, 4.0, 2.5)
    extent = shape * spacing
    for panel, (across, up) in zip(panels, ((1, 2), (0, 2), (0, 1)), strict=True):
        place = ((voxel + 0.5) * spacing - extent / 2) / extent.max() + 0.5
        assert center(strong(panel)[0]) == pytest.approx((place[across], place[up]), abs=0.02)


def test_negative_is_blue_and_the_slices_rise(phantom):
    overlay = phantom.overlay * 0
    overlay[0, 5:10, 5:10, :12], overlay[0, 5:10, 5:10, 12:] = 1.0, -1.0
    picture = sheet(phantom.volume, overlay, grid=phantom.grid, title="phantom")
    side = picture.shape[0] // 3
    blue = strong(picture[side:])[1]
    orange = strong(picture[side:])[0]
    assert orange[:side].any()
    assert not orange[side:].any()
    assert blue[side:].any()
    assert not blue[:side].any()


def test_the_text_is_there(phantom):
    plain, titled = (
        sheet(phantom.volume, phantom.overlay, grid=phantom.grid, title=title, lines=lines)
        for title, lines in (("", ()), ("sub-1", ["lrp", "predicted: a very long class name " * 3]))
    )
    side = plain.shape[0] // 3
    different = (plain != titled).any(-1)
    assert different[:side, 3 * side :].sum() > 500
    different[:side, 3 * side :] = False
    assert not different.any()


def test_an_empty_map_is_said(phantom):
    with pytest.warns(UserWarning, match="zero everywhere"):
        sheet(phantom.volume, phantom.overlay * 0, grid=phantom.grid, title="phantom")


@pytest.mark.usefixtures("unchecked")
def test_bad_input(phantom):
    with pytest.raises(ValueError, match="the overlay has"):
        sheet(phantom.volume, phantom.overlay[..., 1:], grid=phantom.grid, title="phantom")
