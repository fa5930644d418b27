"""One look for all figures: fonts, colours that colour-blind readers can tell apart, no background.

Backgrounds are transparent and text is a grey that reads on white and on near-black, so that a
figure fits the page in its light and in its dark theme. (On the website the text takes the
page's own colour, see `helpers.viewers.display`.)
"""

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
from jaxtyping import Float, UInt8

NAME = "helpers"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
# Contrast with white 4.2:1, with the dark theme's #121212 4.5:1.
TEXT = "#7b7f86"
GRID = "rgba(128, 132, 140, 0.28)"
# After Okabe and Ito (2008), Color Universal Design, with the two darkest lightened and the
# yellow darkened until each reads on white and on near-black.
COLORS = ("#2a86c7", "#dd7700", "#12a57c", "#c864a0", "#8c7ae0", "#b39a12", "#4aa9dd", "#d4553a")

# The map of an overlay: blue below zero, orange above, both brighter with strength, so that they
# glow on the black panel; the sign lies on the blue-yellow axis, which most colour-blind people
# see. Position is the strength from 0 to 1 of the limit. Zero is a grey, although nobody sees it:
# lossy compression smears colour over a few pixels, and must not smear orange into blue.
_STRENGTH = np.array([0.0, 0.12, 0.35, 0.7, 1.0])
_POSITIVE = np.array([[90, 90, 90], [170, 45, 0], [225, 78, 0], [255, 160, 20], [255, 240, 130]])
_NEGATIVE = np.array([[90, 90, 90], [14, 50, 175], [20, 90, 235], [40, 175, 255], [190, 245, 255]])
# An overlay is invisible up to the first strength and at its most opaque from the second on.
_FADE = (0.05, 0.4)

OUTLINE = (102, 255, 178)
LATTICE = (255, 214, 110)


def use() -> None:
    """Make this style the default of every plotly figure made from now on."""
    pio.templates[NAME] = template()
    pio.templates.default = NAME


def template() -> go.layout.Template:
    """Return the plotly template: transparent, quiet axes, one colour cycle."""
    axis = {
        "gridcolor": GRID,
        "linecolor": GRID,
        "zerolinecolor": GRID,
        "zerolinewidth": 1,
        "ticks": "",
        "automargin": True,
        "title": {"standoff": 10},
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 14, "color": TEXT},
            "title": {"x": 0, "xref": "paper", "xanchor": "left", "font": {"size": 17}},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "colorway": list(COLORS),
            "colorscale": {
                "diverging": colorscale(),
                "sequential": "Viridis",
                "sequentialminus": "Viridis",
            },
            "xaxis": axis,
            "yaxis": axis,
            "margin": {"l": 56, "r": 16, "t": 56, "b": 48},
            "legend": {"bgcolor": "rgba(0,0,0,0)"},
            "hoverlabel": {"font": {"family": FONT}},
        }
    )


def overlay_colors(
    strength: Float[np.ndarray, "*axes"], threshold: float = 0.0
) -> UInt8[np.ndarray, "*axes 4"]:
    """Colour an overlay: blue is negative, orange positive, zero transparent.

    Parameters
    ----------
    strength : ndarray
        The overlay divided by its limit; values beyond -1 and 1 take the end colours.
    threshold : float
        Hide what is weaker than this, 0 to 1, default 0. The scale itself fades weak values:
        invisible to 0.05, most opaque from 0.4 on.

    Examples
    --------
    >>> import numpy as np
    >>> from helpers.viewers import style
    >>> style.overlay_colors(np.array([0.0, 1.0])).tolist()
    [[90, 90, 90, 0], [255, 240, 130, 205]]
    """
    size = np.clip(np.abs(strength), 0, 1)
    colors = np.empty((*strength.shape, 4), np.uint8)
    for channel in range(3):
        up = np.interp(size, _STRENGTH, _POSITIVE[:, channel])
        down = np.interp(size, _STRENGTH, _NEGATIVE[:, channel])
        colors[..., channel] = np.where(strength < 0, down, up).round()
    alpha = np.interp(size, _FADE, (0, 205))
    colors[..., 3] = np.where(size < threshold, 0, alpha).round()
    return colors


def colorscale(steps: int = 33) -> list[list]:
    """Return the overlay's colours on black, from -limit to +limit, as a plotly colour scale."""
    strength = np.linspace(-1, 1, steps)
    colors = overlay_colors(strength).astype(float)
    on_black = (colors[:, :3] * colors[:, 3:] / 255).round().astype(int)
    return [
        [float((s + 1) / 2), f"rgb({r},{g},{b})"]
        for s, (r, g, b) in zip(strength, on_black, strict=True)
    ]
