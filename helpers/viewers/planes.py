"""Three planes through a volume, moved by sliders that need no kernel.

Each plane is one sprite per layer (volume, overlay, outline). A slider moves the axis window from
tile to tile and the crosshairs with it; nothing is computed in the reader's browser, and no
voxel values travel with the page.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import SupportsFloat

import numpy as np
import plotly.graph_objects as go
from torch import Tensor

from helpers.grids import Grid
from helpers.viewers import panels, rendering, style
from helpers.viewers.frames import ACROSS, AXES, EDGES, PLANES, Frame
from helpers.viewers.panels import Arrangement
from helpers.viewers.scene import Scene, Voxel, crosshair, number, place, scene

# Pixels left out each way in grey and in colour (which needs less detail), and WebP quality: the
# first row that keeps the pictures of a figure within the budget is used. The 4 mm grid needs the
# first, one map at 2 mm the second, many maps the third, noise everywhere the last.
_SAVINGS = ((1, 2, 60), (1, 3, 45), (1, 4, 45), (2, 4, 45))
_BUDGET_BYTES = 430_000
_CROSSHAIR = {"color": "rgba(255,255,255,0.55)", "width": 1}


def slices(
    volume: Tensor | np.ndarray,
    overlay: Tensor | np.ndarray | Mapping[str, Tensor | np.ndarray] | None = None,
    *,
    grid: Grid,
    title: str | None = None,
    mask: Tensor | np.ndarray | None = None,
    limit: float | int | None = None,
    window: Sequence[SupportsFloat] | None = None,
    position_mm: Sequence[SupportsFloat] | np.ndarray | None = None,
    overlay_label: str = "map",
    mask_label: str = "truth",
    smooth: bool = True,
    crop: bool = True,
    alt: str | None = None,
) -> go.Figure:
    """Show a volume in sagittal, coronal and axial slices, with a heat map and a true region.

    The orientation is **neurological**: the subject's left is on the left of the coronal and the
    axial slice, and L and R say so. (Radiologists often view the mirror image.) The sliders, and
    on the website also a click into a slice and the arrow keys, move the crosshair.

    Parameters
    ----------
    volume : tensor or array of shape (x, y, z) or (1, x, y, z)
        Drawn in grey.
    overlay : tensor or array of the same shape, or dict of them, optional
        Drawn in colour: blue below zero, orange above, transparent near zero. Of a dict of
        name to overlay one is shown at a time, chosen in a menu.
    grid : Grid
        The grid of all of them, RAS+.
    title : str, optional
    mask : tensor or array of the same shape, optional
        Drawn as an outline where it is true (or above one half): usually the planted truth.
    limit : float, optional
        Absolute value of the overlay that gets the strongest colour. Default: the 99.9
        percentile of the absolute value over the voxels that are not 0, for each overlay.
    window : (black, white), optional
        Intensities of the volume drawn black and white. Default: 0 (or the 0.5 percentile if that
        is negative) and a tenth above the 99.8 percentile of the voxels that are not 0.
    position_mm : three numbers, optional
        Where to start. Default: the middle of the mask, else the overlay's strongest voxel, else
        the middle of the brain.
    overlay_label, mask_label : str
        What the colour bar and the outline are called.
    smooth : bool
        Interpolate between voxels within a slice (default), or show voxels as squares.
    crop : bool
        Leave the empty margin of the volume away (default).
    alt : str, optional
        Alternative text for readers who cannot see the figure. The default says what is shown
        and where; a text that says what there is *to see* is better.

    Returns
    -------
    plotly.graph_objects.Figure

    Raises
    ------
    ValueError
        If a shape does not fit the grid, voxels are NaN, or the position is outside the grid.

    Warns
    -----
    UserWarning
        If the overlay is zero everywhere or the mask is empty.

    Examples
    --------
    >>> from helpers import anatomy, viewers
    >>> brain = anatomy.template()
    >>> figure = viewers.slices(brain.t1, grid=brain.grid, title="MNI152", position_mm=(0, 0, 0))
    >>> len(figure.layout.sliders)
    3
    """
    shown, voxel = scene(
        volume,
        overlay,
        grid=grid,
        mask=mask,
        limit=limit,
        window=window,
        position_mm=position_mm,
        name=overlay_label,
        smooth=smooth,
        crop=crop,
    )
    figure = go.Figure(
        layout={
            **panels.axes(3),
            "title": {"text": title} if title else {},
            "plot_bgcolor": "black",
            "images": _images(shown),
            "shapes": _crosshairs(),
            "annotations": _labels(),
            "sliders": [_slider(shown.frame, axis, voxel) for axis in range(3)],
            "updatemenus": _menus(shown, mask_label),
            "dragmode": False,
            "hovermode": False,
            "showlegend": False,
        }
    )
    if shown.overlays:
        panels.add_color_bar(figure, *next(iter(shown.limits.items())))
    for axis in range(3):
        figure.plotly_relayout(_move(shown.frame, axis, voxel[axis]))
    wide, narrow = _arrangements(shown, title)
    return panels.finish(
        figure,
        wide,
        narrow,
        alt=alt or _describe(shown, voxel, title),
        tiles=[[shown.frame.start(a) / shown.frame.pixels, shown.frame.count(a)] for a in range(3)],
        across=ACROSS,
    )


def _images(shown: Scene) -> list[dict]:
    """Return the sprites of each layer, plane by plane: volume, overlays, outline."""
    for saving in _SAVINGS:
        images, size = [], 0
        for image in _sprites(shown, *saving):
            images.append(image)
            size += len(image["source"])
            if size > _BUDGET_BYTES and saving != _SAVINGS[-1]:
                break
        else:
            break
    if shown.mask is not None:
        for axis in range(3):
            images.append(_image(shown.frame, shown.frame, axis, shown.outline(axis), quality=None))
    for i, image in enumerate(images):
        # plotly.js knows images by place and size alone and drops all but one of equals.
        image["x"] += i * 1e-6
    return images


def _sprites(shown: Scene, grey_step: int, color_step: int, quality: int) -> Iterator[dict]:
    """Yield the images of the volume and of the overlays, the first overlay visible."""
    grey = replace(shown.frame, pixels=max(shown.frame.pixels // grey_step, 1))
    color = replace(shown.frame, pixels=max(shown.frame.pixels // color_step, 1))
    for axis in range(3):
        yield _image(shown.frame, grey, axis, shown.grey(axis, frame=grey), quality=quality)
    for i, name in enumerate(shown.overlays):
        for axis in range(3):
            painted = shown.colors(name, axis, frame=color)
            image = _image(shown.frame, color, axis, painted, quality=quality - 5)
            yield {**image, "visible": i == 0}


def _image(
    frame: Frame, own: Frame, axis: int, painted: np.ndarray, *, quality: int | None
) -> dict:
    """Lay a sprite on its panel so that tile (row, column) fills [column, +1] x [-row - 1, -row].

    A sprite with fewer pixels may have a margin that is half a pixel off; it is moved by that.
    """
    picture, columns = rendering.sprite(painted)
    across, up = ACROSS[axis]
    panel = axis + 1 if axis else ""
    return {
        "source": rendering.data_uri(picture, quality),
        "xref": f"x{panel}",
        "yref": f"y{panel}",
        "x": frame.start(across) / frame.pixels - own.start(across) / own.pixels,
        "y": frame.start(up) / frame.pixels - own.start(up) / own.pixels,
        "sizex": columns,
        "sizey": picture.shape[0] // painted.shape[1],
        "xanchor": "left",
        "yanchor": "top",
        "sizing": "stretch",
        "layer": "above",
        "visible": True,
    }


def _crosshairs() -> list[dict]:
    """Return a vertical and a horizontal line for each panel, placed by `_move`."""
    shapes = []
    for axis in range(3):
        panel = axis + 1 if axis else ""
        refs = {"xref": f"x{panel} domain", "yref": f"y{panel} domain"}
        common = {"type": "line", "line": _CROSSHAIR, **refs}
        shapes.append({**common, "x0": 0.5, "x1": 0.5, "y0": 0, "y1": 1})
        shapes.append({**common, "x0": 0, "x1": 1, "y0": 0.5, "y1": 0.5})
    return shapes


def _labels() -> list[dict]:
    """Return the position label of each panel, then the letters at the panels' edges."""
    top = {"xanchor": "left", "yanchor": "top", "borderpad": 4}
    labels = [panels.note("", axis, x=0, y=1, **top) for axis in range(3)]
    bottom = {"yanchor": "bottom", "borderpad": 3}
    for axis, (low, high) in enumerate(EDGES):
        for letter, x, anchor in ((low, 0, "left"), (high, 1, "right")):
            labels.append(panels.note(f"<b>{letter}</b>", axis, x=x, y=0, **bottom, xanchor=anchor))
    return labels


def _move(frame: Frame, axis: int, voxel: int) -> dict:
    """Return the changes of the layout that show another slice along an axis."""
    columns = int(np.ceil(np.sqrt(frame.count(axis))))
    row, column = divmod(voxel - frame.low[axis], columns)
    changes = {
        f"{panels.key('x', axis)}.range": [column, column + 1],
        f"{panels.key('y', axis)}.range": [-row - 1, -row],
        f"annotations[{axis}].text": panels.lit(
            f"{PLANES[axis]}  {AXES[axis]} = {number(frame.millimetres(axis, voxel))} mm"
        ),
    }
    position = tuple(voxel if a == axis else 0 for a in range(3))
    for panel in range(3):
        for direction, moved in enumerate(ACROSS[panel]):
            if moved == axis:
                share = crosshair(frame, panel, position)[direction]
                side = "xy"[direction]
                shape = f"shapes[{2 * panel + direction}]"
                changes[f"{shape}.{side}0"] = changes[f"{shape}.{side}1"] = share
    return changes


def _slider(frame: Frame, axis: int, voxel: Voxel) -> dict:
    steps = [
        {
            "method": "relayout",
            "label": number(frame.millimetres(axis, v)),
            "args": [_move(frame, axis, v)],
        }
        for v in range(frame.low[axis], frame.high[axis])
    ]
    active = voxel[axis] - frame.low[axis]
    return panels.slider(steps, active, prefix=f"{AXES[axis]} = ", suffix=" mm")


def _menus(shown: Scene, mask_label: str) -> list[dict]:
    """Return what is under the sliders: the choice of the map, and the outline on or off."""
    names = list(shown.overlays)
    first_outline = 3 + 3 * len(names)
    menus = []
    if names:
        buttons = [_choose(shown, name) for name in (*names, None)]
        menus.append({"type": "dropdown", "direction": "up", "buttons": buttons})
    if shown.mask is not None:
        hide, show = (
            {f"images[{first_outline + axis}].visible": seen for axis in range(3)}
            for seen in (False, True)
        )
        button = {
            "method": "relayout",
            "label": f"{mask_label}: on / off",
            "args": [hide],
            "args2": [show],
        }
        # Not active: the first click runs "args", the next "args2".
        menus.append({"type": "buttons", "buttons": [button], "showactive": False, "active": -1})
    common = {
        "xanchor": "left",
        "yanchor": "top",
        "bordercolor": style.GRID,
        "bgcolor": "rgba(128, 132, 140, 0.14)",
        "font": {"size": 13},
    }
    return [{**menu, **common} for menu in menus]


def _choose(shown: Scene, chosen: str | None) -> dict:
    changes = {}
    for i, name in enumerate(shown.overlays):
        for axis in range(3):
            changes[f"images[{3 + 3 * i + axis}].visible"] = name == chosen
    if chosen is not None:
        limit = shown.limits[chosen]
        changes |= {"coloraxis.cmin": -limit, "coloraxis.cmax": limit}
        changes["coloraxis.colorbar.title.text"] = chosen
    return {"method": "relayout", "label": chosen or "no map", "args": [changes]}


def _arrangements(shown: Scene, title: str | None) -> tuple[Arrangement, Arrangement]:
    wide, narrow = panels.arrange(3, 3), panels.arrange(3, 2, gap=0.015)
    top = 46 if title else 4
    menus = bool(shown.overlays) + (shown.mask is not None)
    wide.changes |= {
        "margin.l": 2,
        "margin.r": 74 if shown.overlays else 2,
        "margin.t": top,
        "margin.b": 94 if menus else 48,
    }
    narrow.changes |= {"margin.l": 2, "margin.r": 2, "margin.t": top, "margin.b": 186}
    for axis in range(3):
        low, high = wide.changes[f"{panels.key('x', axis)}.domain"]
        wide.changes |= _slider_place(axis, x=low, length=high - low, top=14)
        narrow.changes |= _slider_place(axis, x=0, length=1, top=6 + 62 * axis)
        wide.changes[f"sliders[{axis}].currentvalue.visible"] = False
        narrow.changes[f"sliders[{axis}].currentvalue.visible"] = True
    for i in range(menus):
        spot = f"updatemenus[{i}]"
        wide.changes |= {f"{spot}.x": i / 3 + 0.004, f"{spot}.y": 0, f"{spot}.pad.t": 52}
        narrow.changes |= {f"{spot}.x": 0.53, f"{spot}.y": 0.2 - 0.1 * i, f"{spot}.pad.t": 0}
    if shown.overlays:
        wide.changes |= panels.upright_bar()
        narrow.changes |= panels.flat_bar(x=0.76, y=0.46, length=0.4)
    return wide, narrow


def _slider_place(axis: int, *, x: float, length: float, top: int) -> dict:
    spot = f"sliders[{axis}]"
    return {
        f"{spot}.x": round(x, 5),
        f"{spot}.len": round(length, 5),
        f"{spot}.pad": {"t": top, "b": 0, "l": 8, "r": 8},
    }


def _describe(shown: Scene, voxel: Voxel, title: str | None) -> str:
    named = f"{title}. " if title else ""
    return (
        f"{named}Sagittal, coronal and axial slice of a brain volume through "
        f"{place(shown.frame.grid, voxel)}; left is left. {shown.values()} "
        f"Sliders move the slices."
    )
