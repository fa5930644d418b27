import numpy as np
import pandas as pd
import pytest
from pictures import center, tile

from helpers.viewers import display
from helpers.viewers.sequences import sequence, tune

CURVE = pd.Series([0.0, 2.0, 3.0, 9.0], index=[0, 1, 2, 3], name="objective")


def figure_of(phantom, **options):
    """Three pictures: bright voxel in place, then dark, then elsewhere."""
    pictures = {0: phantom.volume, 2: phantom.volume * 0, 3: phantom.volume.flip(1)}
    at = phantom.grid.millimetres(phantom.bright)
    return sequence(pictures, CURVE, grid=phantom.grid, position_mm=at, window=(0, 1), **options)


def moved(figure, index):
    """Show another picture, as the slider does: by the frame that its step names."""
    (name,), _ = figure.layout.sliders[0].steps[index].args
    (frame,) = (frame for frame in figure.frames if frame.name == name)
    return figure.update_layout(frame.layout)


def test_the_slider_shows_each_picture_upright(phantom):
    figure = figure_of(phantom)
    spacing, shape = np.array(phantom.grid.spacing_mm), np.array(phantom.grid.shape)
    for index, flipped in ((0, False), (2, True)):
        moved(figure, index)
        voxel = np.array(phantom.bright)
        if flipped:
            voxel[0] = shape[0] - 1 - voxel[0]
        offset = (voxel - (shape - 1) / 2) * spacing / (shape * spacing).max()
        grey = tile(figure, 0, 2)[..., 0]
        if not flipped:
            assert center(np.clip(grey - grey.max() / 2, 0, None)) == pytest.approx(
                (0.5 + offset[0], 0.5 + offset[1]), abs=0.03
            )
        else:  # the axial slice through the bright voxel; x is mirrored
            bright = center(np.clip(grey - grey.max() / 2, 0, None))
            assert bright[0] == pytest.approx(0.5 + offset[0], abs=0.03)
    moved(figure, 1)
    assert tile(figure, 0, 0).max() < 8  # the dark one


def test_the_marker_goes_along_the_curve(phantom):
    figure = figure_of(phantom)
    assert figure.layout.shapes[0].x0 == 3  # the last picture is shown first
    assert moved(figure, 1).layout.shapes[0].x0 == 2
    assert list(figure.data[0].y) == CURVE.tolist()
    low, high = figure.layout.yaxis4.range
    assert low < 0 < 9 < high


def test_the_default_position_is_where_the_pictures_differ(phantom):
    other = phantom.volume.clone()
    other[(0, *phantom.cold)] = 0.9
    figure = sequence({0: phantom.volume, 1: other}, CURVE, grid=phantom.grid)
    millimetres = phantom.grid.millimetres(phantom.cold)
    assert f"x {millimetres[0]:.1f}".replace("-", "\N{MINUS SIGN}") in figure.layout.meta["alt"]


def test_several_curves_have_a_legend(phantom):
    two = pd.DataFrame({"objective": CURVE, "penalty": CURVE / 2})
    figure = sequence(
        {0: phantom.volume, 3: phantom.volume}, two, grid=phantom.grid, position_mm=(0, 0, 0)
    )
    assert [trace.name for trace in figure.data] == ["objective", "penalty"]
    assert figure.layout.showlegend


def test_bad_input(phantom):
    with pytest.raises(ValueError, match="two pictures or more, got 1"):
        sequence({0: phantom.volume}, CURVE, grid=phantom.grid)
    with pytest.raises(ValueError, match="the picture 5 has"):
        sequence({0: phantom.volume, 5: phantom.volume[:, 1:]}, CURVE, grid=phantom.grid)


@pytest.mark.browser
def test_slider_and_film_work_without_a_kernel(phantom, show):
    page = show(display.to_html(figure_of(phantom, title="Forming", across="step")), 390)
    full = "document.querySelector('.helpers-plot')._fullLayout"

    def shown():
        return page.evaluate(
            f"[{full}.xaxis.range[0], {full}.yaxis.range[1], {full}.shapes[0].x0,"
            f" {full}.sliders[0].active]"
        )

    assert shown() == [0, -1, 3, 2]  # two columns: the third picture lies in the second row
    page.evaluate(
        "(() => {const p = document.querySelector('.helpers-plot');"
        "return Plotly.animate(p, ...p.layout.sliders[0].steps[1].args)})()"
    )
    assert shown() == [1, 0, 2, 1]
    page.click(".updatemenu-button")
    page.wait_for_function(f"{full}.sliders[0].active === 0")
    page.wait_for_function(f"{full}.sliders[0].active === 2 && {full}.yaxis.range[1] === -1")
    assert shown() == [0, -1, 3, 2]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert not page.problems


def test_tuning_computes_what_was_chosen(phantom):
    asked = []

    def make(**chosen):
        asked.append(chosen)
        return phantom.volume * chosen["blur"]

    box = tune(make, {"blur": [0.5, 1.0], "variation": [10, 30]}, grid=phantom.grid)
    blur, _, button, picture = box.children
    blur.value = 1.0
    button.click()
    assert asked == [{"blur": 1.0, "variation": 10}]
    assert picture.value[:4] == b"RIFF"
    assert not button.disabled
