"""A sequence of pictures: three slices above curves, with one slider through both, and a film.

What the sequence runs along may be the steps in which a feature picture forms, strengths of a
regularizer, or strengths of a simulated disease. Every plane is one sprite that holds all pictures,
so slider and film work on a page without a kernel. `tune` computes pictures for strengths that the
reader chooses, where there is a kernel.
"""

from collections.abc import Callable, Mapping
from typing import SupportsFloat

import ipywidgets as widgets
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from torch import Tensor

from helpers.grids import Grid
from helpers.viewers import frames, panels, rendering, style
from helpers.viewers.frames import AXES, EDGES, PLANES
from helpers.viewers.panels import Arrangement
from helpers.viewers.scene import Scene, number, place, scene

_CURVE_SHARE, _GAP_SHARE = 0.3, 0.09  # heights, as shares of the figure's width
_QUALITY = 70
_FRAME_MS = 350
_CURVE = 3  # the panel behind the three slices


def sequence(
    pictures: Mapping[int | float, Tensor | np.ndarray],
    curves: pd.Series | pd.DataFrame,
    *,
    grid: Grid,
    across: str = "step",
    title: str | None = None,
    position_mm=None,
    window: tuple[SupportsFloat, SupportsFloat] | None = None,
    alt: str | None = None,
) -> go.Figure:
    """Show pictures in sagittal, coronal and axial slices above curves, moved by one slider.

    A button plays them from the first to the last.

    Parameters
    ----------
    pictures : mapping from number to tensor or array of shape (x, y, z) or (1, x, y, z)
        In the order of the slider, for example the snapshots of
        `helpers.activation_maximization.maximize`.
    curves : Series or DataFrame
        Lines below the slices, over the index; a vertical line marks the picture's number there.
    grid : Grid
        The grid of all pictures, RAS+.
    across : str
        What the numbers are: the label of the slider and of the axis.
    title : str, optional
    position_mm : three numbers, optional
        Where to cut; default where the last picture differs most from the first.
    window : (black, white), optional
        Default: that of `helpers.viewers.slices` for all pictures together.
    alt : str, optional
        Alternative text for readers who cannot see the figure.

    Returns
    -------
    plotly.graph_objects.Figure

    Raises
    ------
    ValueError
        If there are fewer than two pictures, or one does not fit the grid.

    Examples
    --------
    >>> import pandas as pd
    >>> from helpers import anatomy, viewers
    >>> brain = anatomy.template()
    >>> rising = pd.Series([0.0, 1.0, 3.0], name="objective")
    >>> figure = viewers.sequence({0: brain.t1, 2: 1.2 * brain.t1}, rising, grid=brain.grid)
    >>> len(figure.layout.sliders[0].steps)
    2
    """
    if len(pictures) < 2:
        raise ValueError(f"a slider needs two pictures or more, got {len(pictures)}")
    numbers = list(pictures)
    volumes = [frames.checked(volume, grid, f"picture {k}") for k, volume in pictures.items()]
    if window is None:
        window = rendering.window(np.stack(volumes))
    if position_mm is None:
        change = np.abs(volumes[-1] - volumes[0])
        position_mm = grid.millimetres(np.unravel_index(change.argmax(), change.shape))
    scenes, voxel = _scenes(volumes, grid, window, position_mm)
    curves = curves.to_frame() if isinstance(curves, pd.Series) else curves
    layout = panels.axes(_CURVE + 1)
    low, high = float(np.nanmin(curves)), float(np.nanmax(curves))
    margin = 0.06 * (high - low) or 1.0
    for kind, (first, last) in (
        ("x", _ends(curves, numbers)),
        ("y", (low - margin, high + margin)),
    ):
        layout[panels.key(kind, _CURVE)] = {
            "range": [first, last],
            "fixedrange": True,
            "anchor": f"{'y' if kind == 'x' else 'x'}{_CURVE + 1}",
            "automargin": False,
            "tickfont": {"size": 12},
        }
    layout[panels.key("x", _CURVE)]["title"] = {"text": across, "standoff": 4}
    figure = go.Figure(
        layout={
            **layout,
            "title": {"text": title} if title else {},
            "plot_bgcolor": "rgba(0,0,0,0)",
            "images": [_sprite(scenes, axis, voxel[axis]) for axis in range(3)],
            "shapes": [_marker(low - margin, high + margin)],
            "annotations": _labels(scenes[0], voxel),
            "sliders": [_slider(numbers, across)],
            "updatemenus": [_play()],
            "dragmode": False,
            "hovermode": False,
            "showlegend": len(curves.columns) > 1,
            "legend": {"orientation": "h", "x": 0, "y": 0, "yanchor": "top"},
        }
    )
    for name in curves:
        figure.add_scatter(
            x=curves.index, y=curves[name], name=name, xaxis=f"x{_CURVE + 1}",
            yaxis=f"y{_CURVE + 1}", mode="lines" if len(curves) > 12 else "lines+markers",
        )  # fmt: skip
    marker = figure.layout.shapes[0].to_plotly_json()
    figure.frames = [
        go.Frame(name=f"{k:g}", layout=_frame(_move(numbers, i), marker))
        for i, k in enumerate(numbers)
    ]
    figure.plotly_relayout(_move(numbers, len(numbers) - 1))
    names = " and ".join(map(str, curves.columns))
    described = alt or (f"{title}. " if title else "") + (
        f"Sagittal, coronal and axial slice through {place(grid, voxel)}, for {across} "
        f"{numbers[0]:g} to {numbers[-1]:g}, chosen by a slider; below, {names}, from "
        f"{curves.iloc[0, 0]:.3g} to {curves.iloc[-1, 0]:.3g}."
    )
    legend = len(curves.columns) > 1
    wide, narrow = (_arrangement(columns, title, legend) for columns in (3, 2))
    return panels.finish(figure, wide, narrow, alt=described)


def tune(
    make: Callable[..., Tensor],
    strengths: Mapping[str, list[float]],
    *,
    grid: Grid,
    position_mm=None,
) -> widgets.Widget:
    """Return sliders for strengths and a button that computes the picture; needs a kernel.

    Parameters
    ----------
    make : callable
        ``make(**chosen)``, with a strength for each name, returns a volume (1, x, y, z).
    strengths : dict
        From a regularizer's name to the strengths to choose from.

    Examples
    --------
    >>> from helpers import anatomy, viewers
    >>> brain = anatomy.template()
    >>> box = viewers.tune(lambda blur: blur * brain.t1, {"blur": [0.5, 1.0]}, grid=brain.grid)
    """
    wide = widgets.Layout(width="420px")
    sliders = {
        name: widgets.SelectionSlider(options=choices, description=name, layout=wide)
        for name, choices in strengths.items()
    }
    button = widgets.Button(description="compute", button_style="primary")
    picture = widgets.Image(format="webp", layout={"width": "100%", "max_width": "900px"})
    picture.alt = "Sagittal, coronal and axial slice of the optimized picture; left is left."

    def run(_) -> None:
        button.disabled, button.description = True, "computing ..."
        try:
            volume = make(**{name: slider.value for name, slider in sliders.items()})
            shown, voxel = scene(volume, grid=grid, position_mm=position_mm)
            cut = [
                rendering.lettered(shown.picture(axis, voxel[axis]), EDGES[axis])
                for axis in range(3)
            ]
            picture.value = rendering.webp(np.concatenate(cut, axis=1), 85)
        finally:
            button.disabled, button.description = False, "compute"

    button.on_click(run)
    return widgets.VBox([*sliders.values(), button, picture])


def _scenes(volumes, grid: Grid, window, position_mm) -> tuple[list[Scene], tuple[int, int, int]]:
    """Return the pictures on one frame that holds them all."""
    whole = np.max([np.abs(volume) for volume in volumes], axis=0)
    shared, voxel = scene(whole, grid=grid, position_mm=position_mm, window=window)
    return [Scene(shared.frame, volume, shared.window, {}, {}) for volume in volumes], voxel


def _sprite(scenes: list[Scene], axis: int, voxel: int) -> dict:
    """Lay all pictures' slices side by side; the axis window shows one of them."""
    painted = np.concatenate([shown.grey(axis, voxels=slice(voxel, voxel + 1)) for shown in scenes])
    picture, columns = rendering.sprite(painted)
    panel = axis + 1 if axis else ""
    return {
        "source": rendering.data_uri(picture, _QUALITY),
        "xref": f"x{panel}",
        "yref": f"y{panel}",
        "x": axis * 1e-6,  # plotly.js drops all but one of equals
        "y": 0,
        "sizex": columns,
        "sizey": picture.shape[0] // painted.shape[1],
        "xanchor": "left",
        "yanchor": "top",
        "sizing": "stretch",
        "layer": "above",
    }


def _move(numbers: list, index: int) -> dict:
    """Return the changes of the layout that show another picture."""
    columns = int(np.ceil(np.sqrt(len(numbers))))
    row, column = divmod(index, columns)
    changes = {"shapes[0].x0": numbers[index], "shapes[0].x1": numbers[index]}
    for axis in range(3):
        changes[f"{panels.key('x', axis)}.range"] = [column, column + 1]
        changes[f"{panels.key('y', axis)}.range"] = [-row - 1, -row]
    return changes


def _frame(changes: dict, marker: dict) -> dict:
    """Return the changes as a layout of their own, as frames of a film want it."""
    ranges = {
        name.removesuffix(".range"): {"range": value}
        for name, value in changes.items()
        if name.endswith(".range")
    }
    place = {name: changes[f"shapes[0].{name}"] for name in ("x0", "x1")}
    return {**ranges, "shapes": [{**marker, **place}]}


def _marker(low: float, high: float) -> dict:
    return {
        "type": "line",
        "xref": f"x{_CURVE + 1}",
        "yref": f"y{_CURVE + 1}",
        "x0": 0,
        "x1": 0,
        "y0": low,
        "y1": high,
        "line": {"color": style.TEXT, "width": 2, "dash": "dot"},
    }


def _ends(curves: pd.DataFrame, numbers: list) -> tuple[float, float]:
    low = min(float(curves.index.min()), *map(float, numbers))
    high = max(float(curves.index.max()), *map(float, numbers))
    margin = 0.02 * (high - low) or 1.0
    return low - margin, high + margin


def _labels(shown: Scene, voxel) -> list[dict]:
    labels = []
    top = {"xanchor": "left", "yanchor": "top", "borderpad": 4}
    for axis, (left, right) in enumerate(EDGES):
        mm = number(shown.frame.millimetres(axis, voxel[axis]))
        where = f"{PLANES[axis]}  {AXES[axis]} = {mm} mm"
        labels.append(panels.note(where, axis, x=0, y=1, **top))
        for letter, x, anchor in ((left, 0, "left"), (right, 1, "right")):
            bottom = {"yanchor": "bottom", "borderpad": 3, "xanchor": anchor}
            labels.append(panels.note(f"<b>{letter}</b>", axis, x=x, y=0, **bottom))
    return labels


def _slider(numbers: list, across: str) -> dict:
    steps = [
        {"method": "animate", "label": f"{k:g}", "args": [[f"{k:g}"], _pace(0)]} for k in numbers
    ]
    pad = {"t": 44, "b": 0, "l": 8, "r": 8}
    return panels.slider(steps, len(numbers) - 1, prefix=f"{across} ", x=0, len=1, pad=pad)


def _play() -> dict:
    """Return the button that plays the film; the slider goes along."""
    return {
        "type": "buttons",
        "buttons": [{"label": "▶ play", "method": "animate", "args": [None, _pace(_FRAME_MS)]}],
        "showactive": False,
        "x": 1,
        "xanchor": "right",
        "y": 0,
        "yanchor": "top",
        "pad": {"t": 27, "r": 8},
        "font": {"size": 13},
    }


def _pace(milliseconds: int) -> dict:
    return {
        "mode": "immediate",
        "frame": {"duration": milliseconds, "redraw": True},
        "transition": {"duration": 0},
    }


def _arrangement(columns: int, title: str | None, legend: bool) -> Arrangement:
    """Put the slices into the upper part and the curve under them, as wide as the figure."""
    slices = panels.arrange(3, columns)
    below = _CURVE_SHARE if columns == 3 else 1.6 * _CURVE_SHARE
    ratio = slices.ratio + _GAP_SHARE + below
    arrangement = Arrangement(ratio)
    for axis in range(3):
        low, high = slices.changes[f"{panels.key('y', axis)}.domain"]
        lifted = [
            round((edge * slices.ratio + _GAP_SHARE + below) / ratio, 5) for edge in (low, high)
        ]
        arrangement.changes[f"{panels.key('y', axis)}.domain"] = lifted
        across = f"{panels.key('x', axis)}.domain"
        arrangement.changes[across] = slices.changes[across]
    arrangement.changes |= {
        f"{panels.key('x', _CURVE)}.domain": [0.06 if columns == 3 else 0.1, 1],
        f"{panels.key('y', _CURVE)}.domain": [0, round(below / ratio, 5)],
        "legend.y": round((below + _GAP_SHARE) / ratio, 5),
        "margin.l": 4,
        "margin.r": 8,
        "margin.t": 46 if title else 4,
        "margin.b": 112,
    }
    return arrangement
