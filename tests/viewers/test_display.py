import io

import numpy as np
import plotly.express as px
import plotly.graph_objects as go
import plotly.io as pio
import pytest
from PIL import Image

from helpers import anatomy, viewers
from helpers.viewers import display


@pytest.fixture
def page_build(monkeypatch):
    """As in the build of the website."""
    before = pio.renderers.default
    monkeypatch.setenv(display.STATIC_VARIABLE, "1")
    display.use()
    yield
    pio.renderers.default = before


@pytest.fixture(scope="module")
def brain():
    return anatomy.template()


@pytest.fixture(scope="module")
def figure(brain):
    position = brain.grid.centers_mm()
    distance = (position - brain.grid.centers_mm().new_tensor([32, -20, 30]).view(3, 1, 1, 1)).norm(
        dim=0
    )
    mask = distance < 15
    overlay = (-((distance / 15) ** 2)).exp() - 0.3 * (-(((distance - 60) / 15) ** 2)).exp()
    return viewers.slices(
        brain.t1,
        overlay * brain.mask[0],
        grid=brain.grid,
        mask=mask,
        title="A planted lesion and a map that found it, in the first subject of all",
    )


@pytest.mark.usefixtures("page_build")
def test_every_figure_becomes_html_on_a_static_page():
    assert pio.renderers.default == display.RENDERER
    bundle = px.line(x=[1, 2], y=[3, 4], title="Plain")._repr_mimebundle_()
    assert list(bundle) == ["text/html"]
    assert 'role="img" aria-label="Figure (scatter): Plain"' in bundle["text/html"]


def test_a_live_notebook_keeps_plotlys_own_way(monkeypatch):
    monkeypatch.delenv(display.STATIC_VARIABLE, raising=False)
    before = pio.renderers.default
    display.use()
    assert pio.renderers.default == before
    monkeypatch.setenv(display.STATIC_VARIABLE, "0")
    assert not display.static()


def test_alt_text_is_escaped_and_required():
    figure = viewers.describe(go.Figure(), 'Says "<b>"\n and </script>')
    assert 'aria-label="Says &quot;&lt;b&gt;&quot; and &lt;/script&gt;"' in display.to_html(figure)
    with pytest.raises(ValueError, match="alternative text is empty"):
        viewers.describe(go.Figure(), " ")


def test_text_cannot_end_the_script():
    page = display.to_html(go.Figure(layout={"title": {"text": "</script><b>"}}))
    assert page.count("</script>") == 1


def test_html_carries_no_plotly_and_no_address(figure):
    page = display.to_html(figure)
    assert "http" not in page.replace("http://www.w3.org", "")
    assert len(page) < 0.6e6


def pixels(locator) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("RGB")).astype(float)


def panel(page, index: int) -> dict:
    """Return the box of a panel in page coordinates."""
    return page.evaluate(
        """(i) => {
            const plot = document.querySelector(".js-plotly-plot"), n = i ? i + 1 : "";
            const edge = plot.getBoundingClientRect(), full = plot._fullLayout;
            const x = full["xaxis" + n], y = full["yaxis" + n];
            return {x: edge.left + x._offset, y: edge.top + y._offset,
                    width: x._length, height: y._length};
        }""",
        index,
    )


def shot(page, index: int) -> np.ndarray:
    taken = page.screenshot(clip=panel(page, index))
    return np.asarray(Image.open(io.BytesIO(taken)).convert("RGB")).astype(float)


def drag(page, slider: int, share: float) -> None:
    """Drag the handle of a slider to a share of its rail."""
    grip = page.locator(".slider-grip-rect").nth(slider).bounding_box()
    rail = page.locator(".slider-rail-rect").nth(slider).bounding_box()
    height = grip["y"] + grip["height"] / 2
    page.mouse.move(grip["x"] + grip["width"] / 2, height)
    page.mouse.down()
    page.mouse.move(rail["x"] + share * rail["width"], height, steps=4)
    page.mouse.up()
    page.wait_for_timeout(300)


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_each_slider_moves_its_slice_and_the_crosshairs(figure, show, width):
    page = show(display.to_html(figure), width)
    for slider in range(3):
        before = [shot(page, i) for i in range(3)]
        drag(page, slider, 0.25)
        after = [shot(page, i) for i in range(3)]
        change = [np.abs(a - b).mean() for a, b in zip(before, after, strict=True)]
        assert change[slider] > 5, "the slice is another"
        assert all(c > 0.2 for c in change), "the crosshairs moved in the others"
        assert max(c for i, c in enumerate(change) if i != slider) < change[slider]
    assert page.problems == []


@pytest.mark.browser
def test_what_is_seen_is_what_was_put_in(figure, brain, show):
    """In the axial panel the hot spot is right of the middle, at the truth, and orange."""
    page = show(display.to_html(figure))
    seen = shot(page, 2)
    orange = (seen[..., 0] > 180) & (seen[..., 2] < seen[..., 0] - 90)
    rows, columns = np.nonzero(orange)
    assert columns.mean() / seen.shape[1] == pytest.approx(0.5 + 32 / 188, abs=0.02)
    assert rows.mean() / seen.shape[0] > 0.5, "y = -20 mm is behind the middle"


@pytest.mark.browser
def test_a_click_and_the_keys_move_the_crosshair(figure, show):
    page = show(display.to_html(figure))
    box = panel(page, 2)
    page.mouse.click(box["x"] + 0.3 * box["width"], box["y"] + 0.3 * box["height"])
    page.wait_for_timeout(300)
    lines = "() => document.querySelector('.js-plotly-plot').layout.shapes.map(s => [s.x0, s.y0])"
    shapes = page.evaluate(lines)
    assert shapes[4][0] == pytest.approx(0.3, abs=0.02)
    assert shapes[5][1] == pytest.approx(0.7, abs=0.02)
    page.locator(".helpers-figure").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(300)
    assert page.evaluate(lines)[4][0] == pytest.approx(shapes[4][0] + 4 / 188, abs=0.002)


@pytest.mark.browser
def test_the_truth_can_be_hidden_and_the_map_chosen(figure, show):
    page = show(display.to_html(figure))
    before = shot(page, 0)
    page.get_by_text("truth: on / off").click()
    page.wait_for_timeout(300)
    without = shot(page, 0)
    green = [((s[..., 1] > 180) & (s[..., 0] < 150)).sum() for s in (before, without)]
    assert green[0] > 50
    assert green[1] < green[0] / 10
    page.locator(".updatemenu-header").first.click()
    page.wait_for_timeout(500)
    page.locator(".updatemenu-dropdown-button").filter(has_text="no map").click()
    page.wait_for_timeout(300)
    grey = shot(page, 0)
    assert np.abs(grey[..., 0] - grey[..., 2]).max() < 30


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_overlaps_or_runs_out(figure, show, width):
    page = show(display.to_html(figure), width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = [panel(page, i) for i in range(3)]
    for i in range(3):
        assert boxes[i]["width"] == pytest.approx(boxes[i]["height"], abs=1.5)
        boxes.append(page.locator(".slider-group").nth(i).bounding_box())
    boxes += [page.locator(".gtitle").bounding_box(), page.locator(".colorbar").bounding_box()]
    boxes += [item.bounding_box() for item in page.locator(".updatemenu-item-rect").all()]
    whole = page.locator(".helpers-figure").bounding_box()
    for i, a in enumerate(boxes):
        assert a["x"] >= whole["x"] - 1
        assert a["x"] + a["width"] <= whole["x"] + whole["width"] + 1
        assert a["y"] + a["height"] <= whole["y"] + whole["height"] + 1
        for b in boxes[:i]:
            apart = (
                a["x"] >= b["x"] + b["width"] - 1
                or b["x"] >= a["x"] + a["width"] - 1
                or a["y"] >= b["y"] + b["height"] - 1
                or b["y"] >= a["y"] + a["height"] - 1
            )
            assert apart, (a, b)


@pytest.mark.browser
@pytest.mark.parametrize(("theme", "color"), [("light", "34, 34, 34"), ("dark", "206, 214, 221")])
def test_text_follows_the_theme(figure, show, theme, color):
    page = show(display.to_html(figure), theme=theme)
    fill = "(e) => getComputedStyle(e).fill"
    assert page.locator(".gtitle").evaluate(fill) == f"rgb({color})"


@pytest.mark.browser
def test_plain_figures_draw_even_if_plotly_comes_last(show):
    figure = px.line(
        x=[1, 2], y=[3, 4], title="A title that is too long for one line on a phone, surely"
    )
    page = show(display.to_html(figure), 390, script_last=True)
    assert page.locator(".js-line").count() == 1
    title = page.locator(".gtitle").bounding_box()
    assert title["x"] + title["width"] <= 390 - 16
