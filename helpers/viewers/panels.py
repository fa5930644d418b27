"""Square panels on a plotly figure, arranged for a wide page and for a phone.

Plotly lays figures out in shares of the width, which suits one width only. A viewer's figure
therefore carries two arrangements in ``layout.meta["viewer"]``; the static page picks one by the
width that it finds (see `helpers.viewers.display`), a live notebook shows the wide one.
"""

from dataclasses import dataclass, field

import plotly.graph_objects as go

from helpers.viewers import style

# Below this width, in CSS pixels, the narrow arrangement is used.
NARROW_BELOW = 560
# Width that the height is computed for where no script can adapt it.
_DEFAULT_WIDTH = 860

LABEL = "#e9ebee"  # on the black panels, in both themes


@dataclass
class Arrangement:
    """Where everything is, as changes to a plotly layout.

    Attributes
    ----------
    ratio : float
        Height of the plot area divided by its width.
    changes : dict
        Attribute paths as `plotly.js` writes them, such as ``"xaxis2.domain"``.
    """

    ratio: float
    changes: dict = field(default_factory=dict)

    def height(self, width: float) -> float:
        """Return the figure's height for a width in pixels; margins must be among the changes."""
        inside = width - self.changes["margin.l"] - self.changes["margin.r"]
        edges = self.changes["margin.t"] + self.changes["margin.b"]
        return round(inside * self.ratio + edges)


def key(kind: str, index: int) -> str:
    """Return plotly's name of an axis: ``xaxis``, ``xaxis2``, ..."""
    return f"{kind}axis{index + 1 if index else ''}"


def arrange(count: int, columns: int, *, gap: float = 0.008) -> Arrangement:
    """Put square panels in rows from the top left; ``gap`` is a share of the width."""
    rows = -(-count // columns)
    side = (1 - (columns - 1) * gap) / columns
    ratio = rows * side + (rows - 1) * gap
    arrangement = Arrangement(ratio)
    for i in range(count):
        row, column = divmod(i, columns)
        left = column * (side + gap)
        top = 1 - row * (side + gap) / ratio
        arrangement.changes[f"{key('x', i)}.domain"] = [round(left, 5), round(left + side, 5)]
        arrangement.changes[f"{key('y', i)}.domain"] = [
            round(max(top - side / ratio, 0), 5),
            round(top, 5),
        ]
    return arrangement


def axes(count: int) -> dict:
    """Return the layout of ``count`` black square panels without ticks."""
    common = {
        "visible": False,
        "fixedrange": True,
        "showgrid": False,
        "zeroline": False,
        "constrain": "domain",
        "automargin": False,
    }
    layout = {}
    for i in range(count):
        number = i + 1 if i else ""
        layout[key("x", i)] = {**common, "range": [0, 1], "anchor": f"y{number}"}
        layout[key("y", i)] = {
            **common,
            "range": [-1, 0],
            "anchor": f"x{number}",
            "scaleanchor": f"x{number}",
        }
    return layout


def note(text: str, panel: int, *, x: float, y: float, **options) -> dict:
    """Return an annotation inside a panel; x and y are shares of the panel."""
    number = panel + 1 if panel else ""
    return {
        "text": lit(text),
        "xref": f"x{number} domain",
        "yref": f"y{number} domain",
        "x": x,
        "y": y,
        "showarrow": False,
        "font": {"size": 13, "color": LABEL},
        "bgcolor": "rgba(0, 0, 0, 0.4)",
        **options,
    }


def lit(text: str) -> str:
    """Fix the colour of text on a black panel, which must not follow the page's theme."""
    return f'<span style="color:{LABEL}">{text}</span>'


def add_color_bar(figure: go.Figure, name: str, limit: float) -> None:
    """Add the overlay's scale, with a point that is nowhere: plotly draws scales only for data."""
    marker = {"color": [0], "coloraxis": "coloraxis", "opacity": 0}
    figure.add_scatter(x=[None], y=[None], mode="markers", marker=marker, hoverinfo="skip")
    figure.layout.coloraxis = {
        "cmin": -limit,
        "cmax": limit,
        "colorscale": style.colorscale(),
        "colorbar": {
            "title": {"text": name, "side": "top", "font": {"size": 13}},
            "thickness": 14,
            "outlinewidth": 0,
            "tickfont": {"size": 12},
            "nticks": 5,
            "tickformat": ".2~g",
        },
    }


def upright_bar() -> dict:
    """Return the changes that put the colour bar into the right margin."""
    place = {"orientation": "v", "x": 1.01, "xanchor": "left", "y": 0.5, "yanchor": "middle"}
    return {f"coloraxis.colorbar.{name}": value for name, value in {**place, "len": 1}.items()}


def flat_bar(*, x: float, y: float, length: float) -> dict:
    """Return the changes that lay the colour bar at (x, y), its top centre, as shares."""
    place = {"orientation": "h", "x": x, "xanchor": "center", "y": y, "yanchor": "top"}
    return {f"coloraxis.colorbar.{name}": value for name, value in {**place, "len": length}.items()}


def slider(steps: list[dict], active: int, *, prefix: str, suffix: str = "", **place) -> dict:
    """Return a slider that says where it stands above its rail, and names no step below it."""
    said = {"prefix": prefix, "suffix": suffix, "font": {"size": 13, "color": style.TEXT}}
    return {
        "active": active,
        "steps": steps,
        "currentvalue": said,
        "font": {"size": 1, "color": "rgba(0,0,0,0)"},  # no labels under the rail
        "ticklen": 0,
        "minorticklen": 0,
        "bgcolor": style.COLORS[0],
        "activebgcolor": style.COLORS[1],
        "bordercolor": style.GRID,
        "borderwidth": 0,
        "xanchor": "left",
        "yanchor": "top",
        "y": 0,
        "transition": {"duration": 0},
        **place,
    }


def finish(
    figure: go.Figure, wide: Arrangement, narrow: Arrangement, *, alt: str, **facts
) -> go.Figure:
    """Apply the wide arrangement and write both, and the alternative text, into the figure."""
    figure.plotly_relayout({**wide.changes, "height": wide.height(_DEFAULT_WIDTH)})
    figure.layout.meta = {
        "alt": alt,
        "viewer": {
            "wide": {"ratio": wide.ratio, "layout": wide.changes},
            "narrow": {"ratio": narrow.ratio, "layout": narrow.changes},
            **facts,
        },
    }
    return figure
