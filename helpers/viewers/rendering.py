"""From a framed volume to pictures: cut it into tiles, paint them, pack them as WebP.

A *sprite* is one picture that holds all tiles of a plane, row by row; a viewer shows the tile that
it wants by moving a window over the sprite. One picture of 40 slices weighs a fraction of 40.
"""

import base64
import io
import math

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from helpers.viewers import style
from helpers.viewers.frames import ACROSS, Frame

_LINE_PER_PIXELS = 184


def window(volume: Float[np.ndarray, "..."]) -> tuple[float, float]:
    """Return the intensities shown as black and white.

    Black is 0, or the 0.5 percentile where that is negative; white a tenth above the 99.8
    percentile of the voxels that are not 0, so that bright tissue stays below white.
    """
    values = volume[volume != 0]
    if not len(values):
        return 0.0, 1.0
    low = min(0.0, float(np.percentile(volume, 0.5)))
    high = low + 1.1 * (float(np.percentile(values, 99.8)) - low)
    return low, high if high > low else low + 1.0


def limit_of(overlay: Float[np.ndarray, "..."]) -> float:
    """Return the overlay's strength that gets the strongest colour.

    It is the 99.9 percentile of the absolute value over the voxels that are not 0: one stray
    voxel does not darken the rest, and a small lesion in a large volume still counts. Without
    any such voxel it is 0.
    """
    strength = np.abs(overlay[overlay != 0])
    return float(np.percentile(strength, 99.9)) if len(strength) else 0.0


def tiles(
    volume: Float[np.ndarray, "x y z"],
    frame: Frame,
    axis: int,
    *,
    voxels: slice | None = None,
    smooth: bool = True,
) -> Float[np.ndarray, "slice row column"]:
    """Cut a volume into square tiles along one axis; zeros fill the margins.

    Parameters
    ----------
    voxels : slice, optional
        Which slices, as voxel indices of the grid; default all of the frame.
    smooth : bool
        Interpolate between voxels within the slice (default), or show them as squares.
    """
    across, up = ACROSS[axis]
    box = [slice(low, high) for low, high in zip(frame.low, frame.high, strict=True)]
    box[axis] = box[axis] if voxels is None else voxels
    cut = np.moveaxis(volume[tuple(box)], axis, 0)
    size = (frame.width(across), frame.width(up))
    left, below = frame.start(across), frame.start(up)
    top = frame.pixels - below - size[1]
    resample = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    pictures = np.zeros((len(cut), frame.pixels, frame.pixels), np.float32)
    for picture, flat in zip(pictures, cut, strict=True):
        # (across, up) becomes (row from the top, column).
        upright = np.ascontiguousarray(flat.T[::-1])
        resized = Image.fromarray(upright).resize(size, resample)
        picture[top : top + size[1], left : left + size[0]] = resized
    return pictures


def paint_grey(
    pictures: Float[np.ndarray, "slice row column"], low: float, high: float
) -> UInt8[np.ndarray, "slice row column"]:
    """Paint intensities from black (low) to white (high)."""
    return (np.clip((pictures - low) / (high - low), 0, 1) * 255).round().astype(np.uint8)


def paint_outline(
    pictures: Float[np.ndarray, "slice row column"],
) -> UInt8[np.ndarray, "slice row column 4"]:
    """Draw the edge of a mask (value above one half) as a bright line with a dark rim.

    The line lies just inside the mask; it is one pixel wide in a tile of a viewer, and more in a
    larger tile.
    """
    inside = pictures > 0.5
    width = max(1, round(pictures.shape[-1] / _LINE_PER_PIXELS))
    flat = np.zeros((3, 3, 3), bool)
    flat[1] = True  # neighbours within a slice only
    # Beyond the picture's edge the mask goes on, so that the edge of the grid is no outline.
    core = ndimage.binary_erosion(inside, flat, width, border_value=1)
    inner = ndimage.binary_erosion(core, flat, width, border_value=1)
    colors = np.zeros((*inside.shape, 4), np.uint8)
    colors[ndimage.binary_dilation(inside, flat, width) & ~inner] = (0, 0, 0, 150)
    colors[inside & ~core] = (*style.OUTLINE, 255)
    return colors


def paint_lattice(
    positions: Float[np.ndarray, "2 row column"], spacing: float
) -> UInt8[np.ndarray, "row column 4"]:
    """Draw where two coordinates pass through the multiples of a spacing.

    Parameters
    ----------
    positions : ndarray of shape (2, row, column)
        The coordinates, one for the lines of each direction, that each pixel came from.
    spacing : float
        From one line to the next, in the unit of the coordinates.
    """
    half_width = max(1, positions.shape[-1] / _LINE_PER_PIXELS) / 2
    strength = np.zeros(positions.shape[1:])
    for coordinate in positions:
        per_pixel = np.hypot(*np.gradient(coordinate)).clip(1e-6)
        away = np.abs((coordinate + spacing / 2) % spacing - spacing / 2) / per_pixel
        strength = np.maximum(strength, np.clip(half_width + 0.5 - away, 0, 1))
    colors = np.empty((*strength.shape, 4), np.uint8)
    colors[..., :3] = style.LATTICE
    colors[..., 3] = (strength * 190).round()
    return colors


def lettered(
    picture: UInt8[np.ndarray, "row column 3"], edges: tuple[str, str]
) -> UInt8[np.ndarray, "row column 3"]:
    """Write letters into the lower corners of a tile, such as L and R."""
    drawn = Image.fromarray(picture)
    pen = ImageDraw.Draw(drawn)
    size = max(10, picture.shape[0] // 18)
    for letter, column, anchor in zip(
        edges, (size // 3, drawn.width - size // 3), "lr", strict=True
    ):
        place = (column, drawn.height - size // 3)
        pen.text(place, letter, "white", ImageFont.load_default(size), anchor=f"{anchor}d")
    return np.asarray(drawn)


def sprite(painted: UInt8[np.ndarray, "slice row column ..."]) -> tuple[np.ndarray, int]:
    """Pack tiles into one picture, row by row.

    Returns
    -------
    picture : ndarray of shape (row, column) or (row, column, 4)
    columns : int
        How many tiles stand side by side: tile ``i`` is in row ``i // columns``.
    """
    count, side = painted.shape[:2]
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    picture = np.zeros((rows * side, columns * side, *painted.shape[3:]), np.uint8)
    for i, tile in enumerate(painted):
        row, column = divmod(i, columns)
        picture[row * side : (row + 1) * side, column * side : (column + 1) * side] = tile
    return picture, columns


def data_uri(picture: UInt8[np.ndarray, "row column ..."], quality: int | None = 62) -> str:
    """Return a picture as a WebP data URI; a quality of None keeps every pixel as it is."""
    return "data:image/webp;base64," + base64.b64encode(webp(picture, quality)).decode()


def webp(picture: UInt8[np.ndarray, "row column ..."], quality: int | None = 62) -> bytes:
    """Return a picture as the bytes of a WebP file."""
    file = io.BytesIO()
    options = {"lossless": True} if quality is None else {"quality": quality, "alpha_quality": 20}
    Image.fromarray(picture).save(file, "WEBP", method=4, **options)
    return file.getvalue()
