"""How a plotly figure reaches the page: HTML where there is no kernel, plotly's own way elsewhere.

On a page built from a notebook, plotly's default output stays blank. With ``HELPERS_STATIC_SITE``
set to 1 (the build of the website does so), importing `helpers.viewers` makes the renderer
``helpers_static`` plotly's default. It writes each figure, a plain one as well as a viewer's, as a
small piece of HTML with alternative text. The page loads ``plotly.min.js`` once.
"""

import html
import os

import plotly.graph_objects as go
import plotly.io as pio
from plotly.io.base_renderers import MimetypeRenderer

from helpers.viewers.panels import NARROW_BELOW

STATIC_VARIABLE = "HELPERS_STATIC_SITE"
RENDERER = "helpers_static"


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
    script = _SCRIPT.replace("NARROW", str(NARROW_BELOW))
    label = html.escape(" ".join(alt.split()), quote=True)
    return (
        f'<div class="helpers-figure" role="img" aria-label="{label}" tabindex="0" '
        f'style="min-height:{height}px">{_STYLE}<noscript>{label}</noscript>'
        f'<div class="helpers-plot"></div><script type="text/javascript">'
        f"({script})(document.currentScript.parentNode, {spec});</script></div>"
    )


def _fallback(figure: go.Figure) -> str:
    title = figure.layout.title.text
    kinds = sorted({trace.type for trace in figure.data})
    return f"Figure ({', '.join(kinds) or 'empty'}): {title or 'without a title'}"


# The page's own colour for text and surfaces; labels on black panels carry their own.
_STYLE = """<style>
.helpers-figure{max-width:100%;overflow:hidden}
.helpers-figure:focus-visible{outline:2px solid currentColor;outline-offset:2px}
.helpers-figure svg text{fill:currentColor!important}
.helpers-figure .slider-rail-rect{fill:rgba(128,132,140,.35)!important}
.helpers-figure .slider-labels text{fill:transparent!important}
.helpers-figure .updatemenu-item-rect{fill:var(--pst-color-surface,Canvas)!important}
html[data-theme="dark"] .cell_output .text_html:has(.helpers-figure){
background:transparent!important;color:var(--pst-color-text-base)!important;padding:0}
</style>"""

_SCRIPT = r"""function (box, figure) {
  var plot = box.querySelector(".helpers-plot"), viewer = (figure.layout.meta || {}).viewer;
  var title = (figure.layout.title || {}).text, top = (figure.layout.margin || {}).t;
  var legend = figure.layout.legend || {};
  function wrapped(width) {
    var lines = [""], most = Math.max(16, (viewer ? width : width - 80) / 8.6);
    title.split(" ").forEach(function (word) {
      var last = lines[lines.length - 1];
      if (last && (last + " " + word).length > most) lines.push(word);
      else lines[lines.length - 1] = last ? last + " " + word : word;
    });
    return lines;
  }
  function fitted() {
    var width = box.clientWidth || 800, changes = {width: width};
    if (viewer) {
      var way = width < NARROW ? viewer.narrow : viewer.wide;
      Object.assign(changes, way.layout);
    }
    if (!viewer && legend.x === undefined) {
      var below = {orientation: "h", x: 0, y: -0.2, yanchor: "top"};
      changes.legend = width < NARROW ? Object.assign({}, legend, below) : legend;
    }
    if (title && title.indexOf("<") < 0) {
      var lines = wrapped(width), own = viewer ? changes["margin.t"] : top === undefined ? 56 : top;
      changes["title.text"] = lines.join("<br>");
      changes["margin.t"] = own + 20 * (lines.length - 1);
    }
    if (viewer) {
      var inside = width - changes["margin.l"] - changes["margin.r"];
      changes.height = Math.round(inside * way.ratio + changes["margin.t"] + changes["margin.b"]);
    }
    return changes;
  }
  function steps(moves) {
    var changes = {};
    moves.forEach(function (move) {
      var slider = plot.layout.sliders[move[0]];
      var to = Math.max(0, Math.min(slider.steps.length - 1, move[1]));
      Object.assign(changes, slider.steps[to].args[0]);
      changes["sliders[" + move[0] + "].active"] = to;
    });
    return window.Plotly.relayout(plot, changes);
  }
  function pointed(event) {
    var drags = event.pointerType === "mouse" && event.buttons === 1;
    if (event.type === "pointermove" && !drags) return;
    var edge = plot.getBoundingClientRect(), full = plot._fullLayout;
    for (var panel = 0; panel < 3; panel++) {
      var number = panel ? panel + 1 : "";
      var x = full["xaxis" + number], y = full["yaxis" + number];
      var across = (event.clientX - edge.left - x._offset) / x._length;
      var up = 1 - (event.clientY - edge.top - y._offset) / y._length;
      if (across < 0 || across > 1 || up < 0 || up > 1) continue;
      return steps([across, up].map(function (share, i) {
        var axis = viewer.across[panel][i], margin = viewer.tiles[axis][0];
        return [axis, Math.floor((share - margin) / (1 - 2 * margin) * viewer.tiles[axis][1])];
      }));
    }
  }
  var keys = {ArrowLeft: [0, -1], ArrowRight: [0, 1], PageDown: [1, -1], PageUp: [1, 1],
    ArrowDown: [2, -1], ArrowUp: [2, 1]};
  function pressed(event) {
    var key = keys[event.key];
    if (!key) return;
    event.preventDefault();
    steps([[key[0], (plot.layout.sliders[key[0]].active || 0) + key[1]]]);
  }
  function put(path, value) {
    var names = path.replace(/\[(\d+)\]/g, ".$1").split("."), last = names.pop();
    var place = names.reduce(function (at, name) {
      return at[name] === undefined ? (at[name] = {}) : at[name];
    }, figure.layout);
    place[last] = value;
  }
  function draw() {
    var changes = fitted();
    Object.keys(changes).forEach(function (path) { put(path, changes[path]); });
    if (window.matchMedia("(pointer: coarse)").matches) figure.layout.dragmode = false;
    // A fresh plot: a colour bar that is only turned by a relayout leaves its old ticks behind.
    window.Plotly.purge(plot);
    return window.Plotly.newPlot(plot, {data: figure.data, layout: figure.layout,
      frames: figure.frames, config: {displayModeBar: false, displaylogo: false}});
  }
  function start() {
    var width = box.clientWidth;
    draw().then(function () {
      box.style.minHeight = "";
      box.dataset.ready = "1";
    });
    new ResizeObserver(function () {
      if (!box.clientWidth || box.clientWidth === width) return;
      width = box.clientWidth;
      draw();
    }).observe(box);
    if (viewer && viewer.tiles) {
      plot.addEventListener("pointerdown", pointed);
      plot.addEventListener("pointermove", pointed);
      box.addEventListener("keydown", pressed);
    }
  }
  if (window.Plotly) start(); else window.addEventListener("load", start);
}"""
