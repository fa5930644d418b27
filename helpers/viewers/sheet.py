"""One picture file about one scan: three planes through the strongest place, then axial slices.

For folders of scans, where nobody opens an interactive viewer a thousand times.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from helpers.grids import Grid
from helpers.viewers import rendering, style
from helpers.viewers.frames import ACROSS, AXES, EDGES, Frame
from helpers.viewers.scene import MINUS, Scene, number, scene

COLUMNS = 4
AXIAL_SLICES = 8
_TEXT = (225, 228, 232)
_CROSS = (150, 200, 255)
_CROSS_GAP = 0.1  # share of the tile that the crosshair leaves open around its centre


def sheet(
    volume: Tensor | np.ndarray,
    overlay: Tensor | np.ndarray,
    *,
    grid: Grid,
    title: str,
    lines: Sequence[str] = (),
) -> UInt8[np.ndarray, "row column 3"]:
    """Draw a volume with an overlay on it as one picture.

    Orientation and colours are those of `helpers.viewers.slices`: left is left, blue is negative.

    Parameters
    ----------
    volume, overlay : tensor or array of shape (x, y, z) or (1, x, y, z)
    grid : Grid
        The grid of both, RAS+.
    title : str
        Heads the panel with the colour scale.
    lines : sequence of str
        What else stands there, such as method and class.

    Returns
    -------
    ndarray of shape (row, column, 3)
        Three rows of four square panels: sagittal, coronal and axial through the overlay's
        strongest voxel, the panel with text, and eight axial slices from the bottom to the top.

    Raises
    ------
    ValueError
        If a shape does not fit the grid, or the grid is not RAS+.

    Warns
    -----
    UserWarning
        If the overlay is zero everywhere.

    Examples
    --------
    >>> from helpers import anatomy
    >>> from helpers.viewers.sheet import sheet
    >>> brain = anatomy.template()
    >>> picture = sheet(brain.t1, brain.tissues[0], grid=brain.grid, title="grey matter")
    >>> picture.shape[1] / picture.shape[0] == 4 / 3
    True
    """
    shown, voxel = scene(volume, overlay, grid=grid)
    frame = replace(shown.frame, pixels=2 * shown.frame.pixels)
    panels = [_panel(shown, frame, axis, voxel[axis], cross=voxel) for axis in range(3)]
    panels.append(_text(frame.pixels, title, lines, shown.limits["map"]))
    # Evenly spaced, without the outermost: those show hardly any brain.
    heights = np.linspace(frame.low[2], frame.high[2] - 1, AXIAL_SLICES + 2)[1:-1].round()
    panels += [_panel(shown, frame, 2, int(height)) for height in heights]
    return rearrange(np.stack(panels), "(row column) y x c -> (row y) (column x) c", column=COLUMNS)


def fit_sheet(
    head: np.ndarray, outline: np.ndarray, *, grid: Grid
) -> UInt8[np.ndarray, "row column 3"]:
    """Draw a head with the outline of a template's brain: does it lie right?

    Parameters
    ----------
    head, outline : array of shape (x, y, z)
        The outline is the edge of what is above one half.
    grid : Grid
        The grid of both, RAS+.

    Returns
    -------
    ndarray of shape (row, column, 3)
        Three rows of four square panels: sagittal, coronal and axial slices through the outlined
        region, evenly spaced.

    Examples
    --------
    >>> from helpers import anatomy
    >>> from helpers.viewers.sheet import fit_sheet
    >>> brain = anatomy.template()
    >>> fit_sheet(brain.t1[0].numpy(), brain.mask[0].numpy(), grid=brain.grid).ndim
    3
    """
    shown, _ = scene(head, grid=grid, mask=outline)
    rows = []
    for axis in range(3):
        inside = np.flatnonzero(outline.any(axis=tuple({0, 1, 2} - {axis})))
        places = np.linspace(inside[0], inside[-1], COLUMNS + 2)[1:-1].round()
        rows.append([_panel(shown, shown.frame, axis, int(place)) for place in places])
    return rearrange(np.array(rows), "row column y x c -> (row y) (column x) c")


def _panel(shown: Scene, frame: Frame, axis: int, voxel: int, cross=None) -> np.ndarray:
    overlay = next(iter(shown.overlays), None)
    picture = shown.picture(axis, voxel, frame=frame, overlay=overlay)
    drawn = Image.fromarray(rendering.lettered(picture, EDGES[axis]))
    pen, side = ImageDraw.Draw(drawn), frame.pixels
    if cross is not None:
        across, up = (frame.fraction(a, cross[a]) for a in ACROSS[axis])
        x, y, gap = across * side, (1 - up) * side, _CROSS_GAP * side
        for ends in ((0, y, x - gap, y), (x + gap, y, side, y)):
            pen.line(ends, _CROSS)
        for ends in ((x, 0, x, y - gap), (x, y + gap, x, side)):
            pen.line(ends, _CROSS)
    position = number(frame.millimetres(axis, voxel)).replace(MINUS, "-")  # the font has no minus
    where = f"{AXES[axis]} = {position} mm"
    pen.text((side // 2, side - 6), where, _TEXT, _font(side), anchor="md")
    return np.asarray(drawn)


def _text(side: int, title: str, lines: Sequence[str], limit: float) -> np.ndarray:
    """Draw the panel with the title, the lines and the colour scale."""
    drawn = Image.new("RGB", (side, side))
    pen, font, margin = ImageDraw.Draw(drawn), _font(side), side // 16
    letters = int((side - 2 * margin) / font.getlength("n"))
    wrapped = [
        part for line in (title, "", *lines) for part in textwrap.wrap(line, letters) or [""]
    ]
    pen.multiline_text((margin, margin), "\n".join(wrapped), _TEXT, font, spacing=side // 40)
    strength = np.linspace(-1, 1, side - 2 * margin)
    colors = style.overlay_colors(np.repeat(strength[None], side // 14, axis=0)).astype(float)
    bar = (colors[..., :3] * colors[..., 3:] / 255).round().astype(np.uint8)
    top = side - 3 * margin
    drawn.paste(Image.fromarray(bar), (margin, top))
    for strength, x, anchor in ((-limit, margin, "ls"), (limit, side - margin, "rs")):
        pen.text((x, top - margin // 3), f"{strength:.2g}", _TEXT, font, anchor=anchor)
    return np.asarray(drawn)


def _font(side: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(max(10, side // 20))
