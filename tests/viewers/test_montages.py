import numpy as np
import pytest
import torch
from pictures import center, picture

from helpers import anatomy, viewers
from helpers.viewers import display


def test_each_panel_shows_its_volume_upright(phantom):
    other = phantom.volume.flip(1)
    figure = viewers.montage(
        [phantom.volume, other],
        ["right", "left"],
        grid=phantom.grid,
        position_mm=phantom.grid.millimetres(phantom.bright)[2],
        smooth=False,
        window=(0, 1),
    )
    places = []
    for image in figure.layout.images:
        grey = picture(image.source)[..., 0]
        places.append(center(np.clip(grey - grey.max() / 2, 0, None)))
    assert places[0] == pytest.approx((0.5 + 13.5 / 80, 0.5 + 14 / 80), abs=0.012)
    assert places[1] == pytest.approx((0.5 - 13.5 / 80, 0.5 + 14 / 80), abs=0.012)
    texts = [note.text for note in figure.layout.annotations]
    assert sum("<b>R</b>" in text for text in texts) == 2
    assert any("right" in text for text in texts)


def test_volumes_share_one_window(phantom):
    figure = viewers.montage(
        torch.stack([phantom.volume, 0.5 * phantom.volume]), grid=phantom.grid, position_mm=0
    )
    usual = [np.median(picture(image.source)) for image in figure.layout.images]
    assert usual == pytest.approx([255 / 1.1, 255 / 2.2], abs=3)


def test_each_panel_looks_at_its_own_truth(phantom):
    masks = torch.stack([phantom.mask, phantom.mask.roll(-6, 3), phantom.mask & False])
    figure = viewers.montage([phantom.volume] * 3, grid=phantom.grid, masks=masks)
    where = [note.text for note in figure.layout.annotations if "z = " in note.text]
    assert ["18.8" in where[0], "3.8" in where[1]] == [True, True]
    assert "Outlines mark" in figure.layout.meta["alt"]


def lattice_columns(source):
    """Return where upright lines stand, as shares of the panel's width."""
    yellow = np.clip(picture(source)[..., 0] - picture(source)[..., 2], 0, None)
    profile = np.median(yellow, axis=0)
    columns = np.flatnonzero(profile > profile.max() / 2)
    groups = np.split(columns, np.flatnonzero(np.diff(columns) > 2) + 1)
    return np.array([group.mean() + 0.5 for group in groups]) / len(profile)


def test_the_grid_moves_with_the_tissue(phantom):
    volume = torch.full_like(phantom.volume, 0.3)
    still, moved, grown = torch.zeros(3, 3, *phantom.grid.shape)
    moved[0] = 1.0  # looks one voxel further right: tissue goes one voxel to the left
    x = torch.arange(phantom.grid.shape[0]).view(-1, 1, 1)
    grown[0] = -x / 3  # looks at two thirds of the place: everything is 1.5 times as wide
    figure = viewers.montage(
        [volume] * 3,
        grid=phantom.grid,
        position_mm=0,
        displacements=[still, moved, grown],
        window=(0, 1),
    )
    places = [lattice_columns(image.source) for image in figure.layout.images]
    shown, other, wide = (np.diff(p).mean() for p in places)
    voxel = shown / 3
    assert other == pytest.approx(shown, rel=0.02)
    assert wide == pytest.approx(1.5 * shown, rel=0.02)
    # Both begin with the first line that lies inside; a line further left has left the picture.
    offset = (places[1][:, None] - places[0]) / voxel
    assert (np.abs(offset - np.round(offset / 3 + 1 / 3) * 3 + 1) < 0.1).all()
    assert "carried" in figure.layout.meta["alt"]


def test_overlays_share_one_limit(phantom):
    figure = viewers.montage(
        [phantom.volume] * 2,
        grid=phantom.grid,
        overlays=[phantom.overlay, 3 * phantom.overlay],
        overlay_label="gradient",
    )
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-3, 3)
    assert "gradient" in figure.layout.meta["alt"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"titles": ["one"]}, "there are 2 volumes; expected as many of each, got {'titles': 1"),
        ({"position_mm": [1, 2, 3]}, "'position_mm': 3"),
        ({"position_mm": 300}, "lies outside the grid"),
        ({"plane": "horizontal"}, "got 'horizontal'"),
        ({"volumes": []}, "no volumes"),
        ({"displacements": [torch.zeros(1, 2, 3)] * 2}, "a displacement on this grid has shape"),
        ({"overlays": [torch.zeros(1, 2, 3)] * 2}, r"the overlay has \(1, 2, 3\) voxels"),
    ],
)
def test_errors_say_what_is_wrong(phantom, options, message):
    options = {"volumes": [phantom.volume] * 2, "grid": phantom.grid} | options
    with pytest.raises(ValueError, match=message):
        viewers.montage(options.pop("volumes"), **options)


def test_five_brains_are_light():
    brain = anatomy.template()
    figure = viewers.montage([brain.t1] * 5, list("abcde"), grid=brain.grid)
    assert len(display.to_html(figure)) < 0.1e6
