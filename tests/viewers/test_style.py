import numpy as np
import plotly.graph_objects as go
import plotly.io as pio

from helpers.viewers import style


def luminance(color) -> float:
    """Return the relative luminance of WCAG 2."""
    share = np.asarray(color, dtype=float) / 255
    linear = np.where(share <= 0.03928, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(a, b) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def rgb(code: str) -> list[int]:
    return [int(code[i : i + 2], 16) for i in (1, 3, 5)]


def test_text_and_lines_read_on_light_and_dark_pages():
    for code, least in [(style.TEXT, 3.9), *((color, 2.5) for color in style.COLORS)]:
        assert contrast(rgb(code), (255, 255, 255)) > least, code
        assert contrast(rgb(code), (18, 18, 18)) > least, code


def test_zero_is_transparent_and_signs_are_symmetric():
    colors = style.overlay_colors(np.array([-1.0, -0.5, -0.04, 0.0, 0.04, 0.5, 1.0])).astype(int)
    assert colors[:, 3].tolist() == colors[::-1, 3].tolist()
    assert colors[2:5, 3].tolist() == [0, 0, 0]
    assert (colors[:2, 2] > colors[:2, 0]).all(), "negative is blue"
    assert (colors[-2:, 0] > colors[-2:, 2]).all(), "positive is orange"


def test_strength_shows_as_brightness_on_black():
    strengths = np.linspace(0.1, 1, 10)
    for sign in (-1, 1):
        colors = style.overlay_colors(sign * strengths).astype(float)
        bright = [luminance(c[:3] * c[3] / 255) for c in colors]
        assert bright == sorted(bright)


def test_threshold_hides_the_weak():
    alpha = style.overlay_colors(np.array([-0.9, 0.3, 0.9]), threshold=0.5)[:, 3]
    assert (alpha > 0).tolist() == [True, False, True]


def test_values_beyond_the_limit_take_the_end_colours():
    colors = style.overlay_colors(np.array([1.0, 7.0, -1.0, -7.0]))
    assert colors[0].tolist() == colors[1].tolist()
    assert colors[2].tolist() == colors[3].tolist()


def test_colorscale_runs_from_negative_to_positive():
    scale = style.colorscale(5)
    assert [place for place, _ in scale] == [0, 0.25, 0.5, 0.75, 1]
    assert scale[2][1] == "rgb(0,0,0)"


def test_plain_figures_take_the_style():
    style.use()
    assert pio.templates.default == style.NAME
    assert go.Figure().layout.template.layout.paper_bgcolor == "rgba(0,0,0,0)"
