import numpy as np
import pytest

from helpers.viewers.scene import number, place, scene


def test_a_zero_overlay_warns_and_is_still_drawn(phantom):
    with pytest.warns(UserWarning, match="overlay is zero everywhere"):
        shown, _ = scene(phantom.volume, 0 * phantom.overlay, grid=phantom.grid)
    assert shown.limits == {"map": 1}
    assert shown.picture(0, 3, overlay="map").shape[-1] == 3


def test_an_empty_mask_warns(phantom):
    with pytest.warns(UserWarning, match="mask is empty"):
        scene(phantom.volume, grid=phantom.grid, mask=phantom.mask & False)


@pytest.mark.parametrize("name", ["overlay", "mask"])
def test_layers_of_another_shape_are_refused(phantom, name):
    layer = {name: phantom.volume[:, 1:]}
    with pytest.raises(ValueError, match=rf"the {name} has \(15, 20, 24\) voxels, the grid"):
        scene(phantom.volume, grid=phantom.grid, **layer)


def test_one_bad_overlay_of_several_is_named(phantom):
    maps = {"gradient": phantom.overlay, "lrp": phantom.overlay * float("nan")}
    with pytest.raises(ValueError, match="overlay 'lrp' holds 7680 NaN"):
        scene(phantom.volume, maps, grid=phantom.grid)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"limit": 0}, "above 0; got 0"),
        ({"limit": -1.0}, "above 0; got -1.0"),
        ({"window": (1, 1)}, r"black below white, got \(1, 1\)"),
    ],
)
def test_wrong_scales_are_refused(phantom, wrong, message):
    with pytest.raises(ValueError, match=message):
        scene(phantom.volume, phantom.overlay, grid=phantom.grid, **wrong)


def test_limits_are_chosen_for_each_overlay_unless_given(phantom):
    maps = {"a": phantom.overlay, "b": 5 * phantom.overlay}
    assert scene(phantom.volume, maps, grid=phantom.grid)[0].limits == {"a": 1, "b": 5}
    given, _ = scene(phantom.volume, maps, grid=phantom.grid, limit=2)
    assert given.limits == {"a": 2, "b": 2}


def test_a_position_in_the_empty_margin_is_shown(phantom):
    volume = phantom.volume.clone()
    volume[:, :8] = 0
    position = phantom.grid.millimetres((2, 6, 7))
    shown, voxel = scene(volume, grid=phantom.grid, position_mm=position)
    assert voxel == (2, 6, 7)
    assert shown.frame.low[0] <= 2


def test_picture_puts_colour_on_grey_and_outline_on_top(phantom):
    shown, voxel = scene(
        phantom.volume, phantom.overlay, grid=phantom.grid, mask=phantom.mask, smooth=False
    )
    plain = shown.picture(2, voxel[2]).astype(int)
    colored = shown.picture(2, voxel[2], overlay="map").astype(int)
    changed = np.abs(plain - colored).sum(-1) > 0
    assert 0 < changed.mean() < 0.05
    assert (colored[changed][:, 0] > colored[changed][:, 2]).all(), "positive is orange"
    faint = shown.picture(2, voxel[2], overlay="map", opacity=0.0).astype(int)
    np.testing.assert_array_equal(faint, plain)
    hidden, _ = scene(phantom.volume, phantom.overlay, grid=phantom.grid, limit=2, smooth=False)
    np.testing.assert_array_equal(
        hidden.picture(2, voxel[2], overlay="map", threshold=0.6), hidden.picture(2, voxel[2])
    )


def test_words_name_peak_and_region(phantom):
    overlay = 3 * phantom.overlay.clamp(max=0.5)
    shown, _ = scene(phantom.volume, overlay, grid=phantom.grid, mask=phantom.mask)
    words = shown.values()
    assert "from \N{MINUS SIGN}3 (blue) to 3 (orange)" in words
    assert f"strongest (\N{MINUS SIGN}3) at {place(phantom.grid, phantom.cold)}" in words
    assert "a region of 0.81 ml" in words


def test_numbers_are_short_and_never_minus_zero():
    assert [number(mm) for mm in (-0.01, 4.0, 2.54, -3.0)] == [
        "0",
        "4",
        "2.5",
        "\N{MINUS SIGN}3",
    ]
