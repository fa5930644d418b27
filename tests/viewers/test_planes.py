import numpy as np
import pytest
import torch
from pictures import center, tile

from helpers import anatomy, grids, viewers
from helpers.viewers import display
from helpers.viewers.frames import ACROSS


def expected_share(phantom, axis, voxel):
    """Where a voxel lies in a tile: all axes to the scale of the longest side, 80 mm."""
    return 0.5 + phantom.grid.millimetres(voxel)[axis] / 80


def full(phantom, **options):
    position = phantom.grid.millimetres(phantom.bright)
    options = {"position_mm": position, "smooth": False, "window": (0, 1)} | options
    return viewers.slices(
        phantom.volume, phantom.overlay, grid=phantom.grid, mask=phantom.mask, crop=False, **options
    )


@pytest.mark.parametrize("panel", [0, 1, 2])
@pytest.mark.parametrize("smooth", [True, False])
def test_the_bright_voxel_lies_where_its_millimetres_say(phantom, panel, smooth):
    figure = full(phantom, smooth=smooth)
    volume, overlay, outline = (tile(figure, layer, panel) for layer in range(3))
    grey = volume[..., 0] if volume.ndim == 3 else volume
    layers = {
        "volume": np.clip(grey - grey.max() / 2, 0, None),
        "overlay": overlay[..., 3] * (overlay[..., 0] > overlay[..., 2]),
        "outline": outline[..., 3] * (outline[..., 1] > 200),
    }
    for name, weights in layers.items():
        for found, axis in zip(center(weights), ACROSS[panel], strict=True):
            expected = expected_share(phantom, axis, phantom.bright)
            assert found == pytest.approx(expected, abs=0.012), (name, axis)


def test_right_is_marked_on_the_side_of_the_right_voxel(phantom):
    figure = full(phantom)
    assert phantom.grid.millimetres(phantom.bright)[0] > 0, "positive x is the subject's right"
    marks = {
        (note.xref, note.x): note.text for note in figure.layout.annotations if "<b>" in note.text
    }
    for panel, low, high in (("x", "P", "A"), ("x2", "L", "R"), ("x3", "L", "R")):
        assert f"<b>{low}</b>" in marks[f"{panel} domain", 0]
        assert f"<b>{high}</b>" in marks[f"{panel} domain", 1]
    for panel in (1, 2):
        assert center(tile(figure, 1, panel)[..., 3])[0] > 0.5, "the side marked R"


def test_crosshairs_cross_at_the_position(phantom):
    shapes = full(phantom).layout.shapes
    for panel in range(3):
        across, up = ACROSS[panel]
        assert shapes[2 * panel].x0 == shapes[2 * panel].x1
        for shape, side, axis in ((2 * panel, "x0", across), (2 * panel + 1, "y0", up)):
            expected = expected_share(phantom, axis, phantom.bright)
            assert shapes[shape][side] == pytest.approx(expected, abs=0.006)


def test_every_slider_step_shows_its_slice(phantom):
    figure = full(phantom)
    for axis, slider in enumerate(figure.layout.sliders):
        assert len(slider.steps) == phantom.grid.shape[axis]
        assert slider.active == phantom.bright[axis]
        for voxel in (0, phantom.cold[axis], phantom.bright[axis]):
            figure.plotly_relayout(slider.steps[voxel].args[0])
            shown = tile(figure, 1, axis)
            strong = shown[..., 3] > 100
            assert strong.any() == (voxel != 0), (axis, voxel)
            if strong.any():
                blue = shown[strong][:, 2].mean() > shown[strong][:, 0].mean()
                assert blue == (voxel == phantom.cold[axis])
        label = figure.layout.annotations[axis].text
        assert slider.steps[phantom.bright[axis]].label in label


def test_a_dict_of_overlays_gets_a_menu_with_its_own_scale(phantom):
    maps = {"gradient": phantom.overlay, "lrp": -4 * phantom.overlay}
    figure = viewers.slices(phantom.volume, maps, grid=phantom.grid)
    buttons = figure.layout.updatemenus[0].buttons
    assert [button.label for button in buttons] == ["gradient", "lrp", "no map"]
    assert [image.visible for image in figure.layout.images] == [True] * 6 + [False] * 3
    figure.plotly_relayout(buttons[1].args[0])
    assert [image.visible for image in figure.layout.images[3:]] == [False] * 3 + [True] * 3
    assert figure.layout.coloraxis.cmax == 4
    figure.plotly_relayout(buttons[2].args[0])
    assert not any(image.visible for image in figure.layout.images[3:])


def test_no_two_images_have_the_same_place(phantom):
    """plotly.js tells images apart by place and size only."""
    images = full(phantom).layout.images
    places = {(i.xref, i.x, i.sizex, i.yref, i.y, i.sizey) for i in images}
    assert len(places) == len(images) == 9


def test_the_default_alt_text_says_what_is_where(phantom):
    figure = full(phantom, title="Subject 3", overlay_label="gradient")
    alt = figure.layout.meta["alt"]
    assert alt.startswith("Subject 3. Sagittal, coronal and axial slice")
    assert "x 13.5, y 14, z 18.8 mm" in alt
    assert "left is left" in alt
    assert "gradient" in alt
    assert full(phantom, alt="A lesion.").layout.meta["alt"] == "A lesion."


def test_zero_overlay_warns_and_still_draws(phantom):
    with pytest.warns(UserWarning, match="zero everywhere"):
        figure = viewers.slices(phantom.volume, 0 * phantom.overlay, grid=phantom.grid)
    assert len(figure.layout.images) == 6


def test_a_position_outside_the_grid_is_refused(phantom):
    with pytest.raises(ValueError, match="lies outside the grid"):
        viewers.slices(phantom.volume, grid=phantom.grid, position_mm=(0, 0, 500))


@pytest.mark.parametrize(
    ("spacing_mm", "kind", "most_mb"),
    [
        (4.0, "nothing", 0.25),
        (4.0, "smooth", 0.6),
        (4.0, "noise", 0.6),
        (2.0, "smooth", 0.7),
    ],
)
def test_figures_stay_light(spacing_mm, kind, most_mb):
    brain = anatomy.template(grids.mni(spacing_mm))
    noise = torch.randn(brain.t1.shape, generator=torch.Generator().manual_seed(0))
    pool = round(16 / spacing_mm) + 1
    smooth = torch.nn.functional.avg_pool3d(noise, pool, 1, pool // 2)
    overlay = {"nothing": None, "smooth": smooth * brain.mask, "noise": noise * brain.mask}[kind]
    figure = viewers.slices(brain.t1, overlay, grid=brain.grid, mask=smooth > smooth.max() / 2)
    assert len(display.to_html(figure)) < most_mb * 1e6
