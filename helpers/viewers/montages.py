"""Several volumes side by side in one plane: five classes, one subject before and after."""

from collections.abc import Sequence
from dataclasses import replace
from typing import SupportsFloat

import numpy as np
import plotly.graph_objects as go
import torch
from torch import Tensor

from helpers.grids import Grid
from helpers.viewers import frames, panels, rendering
from helpers.viewers.frames import AXES, EDGES, PLANES
from helpers.viewers.panels import Arrangement
from helpers.viewers.scene import Scene, number, scene

Volumes = Tensor | np.ndarray | Sequence[Tensor | np.ndarray]


def montage(
    volumes: Volumes,
    titles: Sequence[str] | None = None,
    *,
    grid: Grid,
    plane: str = "axial",
    position_mm: SupportsFloat | Sequence[SupportsFloat] | np.ndarray | None = None,
    overlays: Volumes | None = None,
    masks: Volumes | None = None,
    displacements: Volumes | None = None,
    title: str | None = None,
    limit: float | int | None = None,
    window: Sequence[SupportsFloat] | None = None,
    overlay_label: str = "map",
    columns: int = 5,
    smooth: bool = True,
    alt: str | None = None,
) -> go.Figure:
    """Show one slice of each volume, all with the same grey window, colours and scale in mm.

    Orientation and colours are those of `helpers.viewers.slices`: left is left.

    Parameters
    ----------
    volumes : tensor or array of shape (subject, 1, x, y, z), or a sequence of single volumes
    titles : sequence of str, optional
        What stands in each panel.
    grid : Grid
        The grid of all of them, RAS+.
    plane : str
        ``"axial"`` (default), ``"coronal"`` or ``"sagittal"``.
    position_mm : float or sequence of float, optional
        Where the slice lies on the axis across the plane, for all or for each. Default, for
        each: the middle of its mask, else its overlay's strongest voxel, else the brain's middle.
    overlays, masks : like ``volumes``, optional
        Drawn in colour and as an outline; an empty mask draws nothing.
    displacements : tensor of shape (subject, 3, x, y, z) or sequence of single fields, optional
        The fields that made the volumes (`helpers.fields`, in voxels). A grid of squares is drawn
        that the tissue carried along: where a cell has grown, tissue has grown.
    title : str, optional
    limit : float, optional
        As in `slices`, by default over all overlays together.
    window : (black, white), optional
        As in `slices`, by default over all volumes together.
    overlay_label : str
        What the colour bar is called.
    columns : int
        Panels in a row on a wide page, default 5; a phone shows two.
    smooth : bool
        Interpolate between voxels (default), or show them as squares.
    alt : str, optional
        Alternative text; the default names the panels and their position.

    Returns
    -------
    plotly.graph_objects.Figure

    Raises
    ------
    ValueError
        If a shape does not fit, the numbers of volumes, titles, overlays, masks or positions
        differ, the plane is unknown, or a position lies outside the grid.

    Examples
    --------
    >>> from helpers import anatomy, viewers
    >>> brain = anatomy.template()
    >>> figure = viewers.montage(brain.tissues, ["grey", "white", "fluid"], grid=brain.grid)
    >>> len(figure.layout.images)
    3
    """
    if plane not in PLANES:
        raise ValueError(f"plane is one of {PLANES}, got {plane!r}")
    axis = PLANES.index(plane)
    count = len(volumes)
    if not count:
        raise ValueError("there are no volumes to show")
    titles = [""] * count if titles is None else list(titles)
    overlays = [None] * count if overlays is None else list(overlays)
    masks = [None] * count if masks is None else list(masks)
    displacements = [None] * count if displacements is None else list(displacements)
    positions = [position_mm] * count if np.ndim(position_mm) == 0 else list(position_mm)
    _same_number(
        count,
        titles=titles,
        overlays=overlays,
        masks=masks,
        displacements=displacements,
        position_mm=positions,
    )
    volumes = [frames.checked(volume, grid) for volume in volumes]
    overlays = [o if o is None else frames.checked(o, grid, "overlay") for o in overlays]
    drawn = [o for o in overlays if o is not None]
    if window is None:
        window = rendering.window(np.stack(volumes))
    if limit is None and drawn:
        limit = rendering.limit_of(np.stack(drawn)) or 1.0
    parts = [
        _part(volume, overlay, mask, position, axis, grid, limit, window, overlay_label, smooth)
        for volume, overlay, mask, position in zip(volumes, overlays, masks, positions, strict=True)
    ]
    shared = frames.union([part.frame for part, _ in parts])
    parts = [
        (replace(part, frame=shared, displacement=_field(displacement, grid)), voxel)
        for (part, voxel), displacement in zip(parts, displacements, strict=True)
    ]
    figure = go.Figure(
        layout={
            **panels.axes(count),
            "title": {"text": title} if title else {},
            "plot_bgcolor": "black",
            "images": [_image(*part, axis, i) for i, part in enumerate(parts)],
            "annotations": _labels(parts, titles, axis),
            "dragmode": False,
            "hovermode": False,
            "showlegend": False,
        }
    )
    if drawn:
        panels.add_color_bar(figure, overlay_label, limit)
    wide, narrow = _arrangements(count, columns, bool(drawn), title)
    alt = alt or _describe(parts, titles, axis, title, overlay_label if drawn else None)
    return panels.finish(figure, wide, narrow, alt=alt)


def _same_number(count: int, **parts: list) -> None:
    numbers = {name: len(part) for name, part in parts.items()}
    if set(numbers.values()) != {count}:
        raise ValueError(f"there are {count} volumes; expected as many of each, got {numbers}")


def _part(
    volume, overlay, mask, position, axis, grid, limit, window, label, smooth
) -> tuple[Scene, int]:
    if mask is not None and not torch.as_tensor(mask).any():
        mask = None
    place = None
    if position is not None:
        place = grid.millimetres((np.array(grid.shape) - 1) / 2)
        place[axis] = position
    shown, voxel = scene(
        volume,
        overlay,
        grid=grid,
        mask=mask,
        limit=limit,
        window=window,
        position_mm=place,
        name=label,
        smooth=smooth,
    )
    return shown, voxel[axis]


def _field(displacement: Tensor | np.ndarray | None, grid: Grid) -> np.ndarray | None:
    if displacement is None:
        return None
    if tuple(displacement.shape) != (3, *grid.shape):
        raise ValueError(
            f"a displacement on this grid has shape {(3, *grid.shape)}, "
            f"got {tuple(displacement.shape)}"
        )
    return torch.as_tensor(displacement).detach().cpu().double().numpy()


def _image(shown: Scene, voxel: int, axis: int, panel: int) -> dict:
    overlay = next(iter(shown.overlays), None)
    sharp = replace(shown.frame, pixels=2 * shown.frame.pixels)
    suffix = panel + 1 if panel else ""
    return {
        "source": rendering.data_uri(
            shown.picture(axis, voxel, frame=sharp, overlay=overlay), quality=80
        ),
        "xref": f"x{suffix}",
        "yref": f"y{suffix}",
        "x": 0,
        "y": 0,
        "sizex": 1,
        "sizey": 1,
        "xanchor": "left",
        "yanchor": "top",
        "sizing": "stretch",
        "layer": "above",
    }


def _labels(parts: list[tuple[Scene, int]], titles: Sequence[str], axis: int) -> list[dict]:
    labels = []
    for panel, ((shown, voxel), name) in enumerate(zip(parts, titles, strict=True)):
        where = f"{AXES[axis]} = {number(shown.frame.millimetres(axis, voxel))}"
        low, high = EDGES[axis]
        top = {"xanchor": "left", "yanchor": "top", "borderpad": 4}
        if name:
            labels.append(panels.note(f"<b>{name}</b>", panel, x=0, y=1, **top))
        for text, x, anchor in (
            (f"<b>{low}</b>", 0, "left"),
            (where, 0.5, "center"),
            (f"<b>{high}</b>", 1, "right"),
        ):
            bottom = {"xanchor": anchor, "yanchor": "bottom", "borderpad": 3}
            labels.append(panels.note(text, panel, x=x, y=0, **bottom))
    return labels


def _arrangements(
    count: int, columns: int, colored: bool, title: str | None
) -> tuple[Arrangement, Arrangement]:
    wide = panels.arrange(count, max(min(columns, count), 2))
    narrow = panels.arrange(count, 2, gap=0.015)
    common = {"margin.l": 2, "margin.t": 46 if title else 4}
    wide.changes |= {**common, "margin.r": 74 if colored else 2, "margin.b": 4}
    narrow.changes |= {**common, "margin.r": 2, "margin.b": 66 if colored else 4}
    if colored:
        wide.changes |= panels.upright_bar()
        narrow.changes |= panels.flat_bar(x=0.5, y=0, length=0.9)
    return wide, narrow


def _describe(
    parts: list[tuple[Scene, int]],
    titles: Sequence[str],
    axis: int,
    title: str | None,
    colored: str | None,
) -> str:
    shown = [
        f"{name or f'volume {i + 1}'} at {AXES[axis]} "
        f"{number(part.frame.millimetres(axis, voxel))} mm"
        for i, ((part, voxel), name) in enumerate(zip(parts, titles, strict=True))
    ]
    words = f"{title}. " if title else ""
    words += f"{len(parts)} {PLANES[axis]} slices of brain volumes: {', '.join(shown)}."
    if colored:
        strongest = next(limit for part, _ in parts for limit in part.limits.values())
        words += f" Colour shows {colored}, blue negative, orange positive, up to {strongest:.3g}."
    if any(part.displacement is not None for part, _ in parts):
        words += " A grid of squares is drawn as the tissue carried it along."
    if any(part.mask is not None for part, _ in parts):
        words += " Outlines mark the true regions."
    return words
