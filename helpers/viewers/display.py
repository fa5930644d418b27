"""How a plotly figure reaches the page: HTML where there is no kernel, plotly's own way elsewhere.

On a page built from a notebook, plotly's default output stays blank. With ``HELPERS_STATIC_SITE``
set to 1 (the build of the website does so), importing `helpers.viewers` makes the renderer
``helpers_static`` plotly's default. It writes each figure, a plain one as well as a viewer's, as a
small piece of HTML with alternative text, with ``figure.js`` and ``figure.css`` of this folder. The
page loads ``plotly.min.js`` once.
"""

import html
import os
from importlib import resources

import plotly.graph_objects as go
import plotly.io as pio
from plotly.io.base_renderers import MimetypeRenderer

from helpers.viewers.panels import NARROW_BELOW

STATIC_VARIABLE = "HELPERS_STATIC_SITE"
RENDERER = "helpers_static"

_FOLDER = resources.files("helpers.viewers")
_SCRIPT = _FOLDER.joinpath("figure.js").read_text(encoding="utf-8")
_STYLE = _FOLDER.joinpath("figure.css").read_text(encoding="utf-8")


class StaticRenderer(MimetypeRenderer):
    """Plotly renderer that writes a figure as HTML without plotly.js."""

    def to_mimebundle(self, fig_dict: dict) -> dict[str, str]:
        """Return the figure as HTML; plotly calls this on display."""
        return {"text/html": to_html(go.Figure(fig_dict, skip_invalid=True))}


def static() -> bool:
    """Return whether figures go to a page without a kernel.

    Examples
    --------
    >>> from helpers.viewers import display
    >>> display.static()
    False
    """
    return os.environ.get(STATIC_VARIABLE, "") not in ("", "0")


def use() -> None:
    """Register the renderer, and make it plotly's default on a static page."""
    pio.renderers[RENDERER] = StaticRenderer()
    if static():
        pio.renderers.default = RENDERER


def describe(figure: go.Figure, alt: str) -> go.Figure:
    """Give any plotly figure a text for readers who cannot see it, and return the figure.

    Parameters
    ----------
    figure : plotly figure
        It is changed.
    alt : str
        Says what there is to see, in a sentence or two.

    Examples
    --------
    >>> import plotly.graph_objects as go
    >>> from helpers import viewers
    >>> figure = viewers.describe(go.Figure(), "Accuracy rises from 20 % to 98 % in 14 epochs.")
    >>> figure.layout.meta["alt"]
    'Accuracy rises from 20 % to 98 % in 14 epochs.'
    """
    if not alt.strip():
        raise ValueError("the alternative text is empty; say in a sentence what there is to see")
    figure.layout.meta = {**(figure.layout.meta or {}), "alt": alt}
    return figure


def to_html(figure: go.Figure) -> str:
    """Return a figure as a piece of HTML for a page that loads plotly.js itself.

    It waits for plotly.js if the page loads that later, takes the page's text colour in light
    and dark themes, and carries ``role="img"`` with the alternative text. Without an alternative
    text (see `describe`) the title stands in.
    """
    meta = figure.layout.meta if isinstance(figure.layout.meta, dict) else {}
    alt = meta.get("alt") or _fallback(figure)
    height = int(figure.layout.height or 450)
    # "</" inside a string would end the script element.
    spec = pio.to_json(figure, validate=False).replace("</", "<\\/")
    label = html.escape(" ".join(alt.split()), quote=True)
    return (
        f'<div class="helpers-figure" role="img" aria-label="{label}" tabindex="0" '
        f'style="min-height:{height}px"><style>{_STYLE}</style><noscript>{label}</noscript>'
        f'<div class="helpers-plot"></div><script type="text/javascript">'
        f"({_SCRIPT})(document.currentScript.parentNode, {spec}, {NARROW_BELOW});</script></div>"
    )


def _fallback(figure: go.Figure) -> str:
    title = figure.layout.title.text
    kinds = sorted({trace.type for trace in figure.data})
    return f"Figure ({', '.join(kinds) or 'empty'}): {title or 'without a title'}"
