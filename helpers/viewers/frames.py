"""Which part of a volume is shown, and where in a picture each voxel lies.

Pictures are square *tiles*, one a slice, in **neurological** orientation: the subject's left is
on the left, the front is right in sagittal tiles, up is up. All tiles of a frame have the same
scale in millimetres.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float

from helpers.grids import Grid

PLANES = ("sagittal", "coronal", "axial")
AXES = "xyz"
# Array axes that run to the right and upwards in a tile of each plane.
ACROSS = ((1, 2), (0, 2), (0, 1))
# What stands at the left and right edge of a tile.
EDGES = (("P", "A"), ("L", "R"), ("L", "R"))

_TILE_PIXELS = 184
_MARGIN_VOXELS = 1


@dataclass(frozen=True)
class Frame:
    """The part of a grid that is shown, and how it lies in square tiles.

    Attributes
    ----------
    grid : Grid
    low, high : tuple of int
        First voxel shown along x, y, z, and one past the last.
    side_mm : float
        Edge length of every tile.
    pixels : int
        Edge length of every tile.
    """

    grid: Grid
    low: tuple[int, int, int]
    high: tuple[int, int, int]
    side_mm: float
    pixels: int

    def count(self, axis: int) -> int:
        """Return how many slices there are along an axis."""
        return self.high[axis] - self.low[axis]

    def width(self, axis: int) -> int:
        """Return how many pixels the shown part takes along an axis."""
        share = self.count(axis) * self.grid.spacing_mm[axis] / self.side_mm
        return max(1, round(share * self.pixels))

    def start(self, axis: int) -> int:
        """Return the pixel where the shown part begins, the same margin being left at its end."""
        return (self.pixels - self.width(axis)) // 2

    def fraction(self, axis: int, voxel: float) -> float:
        """Return where a voxel's centre lies in a tile along an axis, 0 to 1."""
        inside = (voxel - self.low[axis] + 0.5) / self.count(axis)
        return (self.start(axis) + inside * self.width(axis)) / self.pixels

    def millimetres(self, axis: int, voxel: int) -> float:
        """Return the position of a slice; on an oblique grid, at the slice's centre."""
        middle = (np.array(self.low) + np.array(self.high) - 1) / 2
        middle[axis] = voxel
        return float(self.grid.millimetres(middle)[axis])


def checked(volume, grid: Grid, name: str = "volume") -> Float[np.ndarray, "x y z"]:
    """Return a volume as a float array, or say what is wrong with it.

    Parameters
    ----------
    volume : array or tensor of shape (x, y, z) or (1, x, y, z)
    grid : Grid
        Its shape must be the volume's and its axes RAS+.
    name : str
        What the error message calls it.

    Raises
    ------
    ValueError
        If the rank or shape does not fit, voxels are NaN or infinite, or the grid is not RAS+.
    """
    array = np.asarray(torch.as_tensor(volume).detach().cpu().float())
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 3:
        raise ValueError(
            f"the {name} must have shape (x, y, z) or (1, x, y, z), got {array.shape}; "
            f"take one subject of a batch with volumes[0]"
        )
    if array.shape != grid.shape:
        raise ValueError(
            f"the {name} has {array.shape} voxels, the grid {grid.shape}; "
            f"bring it onto the grid with grids.resample, or pass the grid it came with"
        )
    broken = int((~np.isfinite(array)).sum())
    if broken:
        raise ValueError(f"the {name} holds {broken} NaN or infinite voxels; mend it first")
    directions = grid.affine[:3, :3]
    if (
        not (np.diag(directions) > 0).all()
        or not (np.abs(directions).argmax(axis=0) == np.arange(3)).all()
    ):
        raise ValueError(
            f"expected a RAS+ grid (x to the right, y to the front, z up), got the affine "
            f"{directions.tolist()}; left and right would be wrong. grids.read returns RAS+"
        )
    return array


def frame(grid: Grid, shown: Bool[np.ndarray, "x y z"]) -> Frame:
    """Return the smallest frame that holds all voxels to be shown, with a margin."""
    where = np.argwhere(shown) if shown.any() else np.array([[0, 0, 0], np.array(grid.shape) - 1])
    low = np.maximum(where.min(axis=0) - _MARGIN_VOXELS, 0)
    high = np.minimum(where.max(axis=0) + 1 + _MARGIN_VOXELS, grid.shape)
    spacing = np.array(grid.spacing_mm)
    side_mm = float(((high - low) * spacing).max())
    # Whole multiples of the finest voxel, so that voxels keep equal widths in a tile.
    voxels = side_mm / spacing.min()
    pixels = round(voxels * max(1, round(_TILE_PIXELS / voxels)))
    return Frame(grid, tuple(low.tolist()), tuple(high.tolist()), side_mm, pixels)


def union(parts: list[Frame]) -> Frame:
    """Return one frame on the same grid that holds everything the parts hold."""
    shown = np.zeros(parts[0].grid.shape, bool)
    for part in parts:
        low, high = (np.array(ends) for ends in (part.low, part.high))
        # The margin that `frame` adds again is taken off, except at the edge of the grid.
        low = np.where(low > 0, low + _MARGIN_VOXELS, low)
        high = np.where(high < part.grid.shape, high - _MARGIN_VOXELS, high)
        shown[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return frame(parts[0].grid, shown)


def content(volume: Float[np.ndarray, "x y z"]) -> Bool[np.ndarray, "x y z"]:
    """Return where there is something to see: more than 2 % of the strongest absolute value."""
    strength = np.abs(volume)
    return strength > 0.02 * strength.max()


def focus(
    frame: Frame,
    *,
    position_mm=None,
    overlay: Float[np.ndarray, "x y z"] | None = None,
    mask: Bool[np.ndarray, "x y z"] | None = None,
) -> tuple[int, int, int]:
    """Return the voxel to look at first.

    It is the voxel nearest to ``position_mm`` if that is given; else the voxel of the mask that is
    nearest to the mask's centre; else the overlay's strongest voxel; else the frame's middle.

    Raises
    ------
    ValueError
        If ``position_mm`` is not three numbers or lies outside the grid.
    """
    if position_mm is not None:
        return _voxel(frame.grid, position_mm)
    if mask is not None and mask.any():
        where = np.argwhere(mask)
        nearest = np.square(where - where.mean(axis=0)).sum(axis=1).argmin()
        return tuple(where[nearest].tolist())
    if overlay is not None and overlay.any():
        peak = np.unravel_index(np.abs(overlay).argmax(), overlay.shape)
        return tuple(int(i) for i in peak)
    return tuple((a + b) // 2 for a, b in zip(frame.low, frame.high, strict=True))


def _voxel(grid: Grid, position_mm) -> tuple[int, int, int]:
    position = np.asarray(position_mm, dtype=float)
    if position.shape != (3,):
        raise ValueError(f"position_mm is three numbers (x, y, z), got {position_mm}")
    voxel = np.round(grid.voxels(position)).astype(int)
    if (voxel < 0).any() or (voxel >= grid.shape).any():
        ends = grid.millimetres([(0, 0, 0), np.array(grid.shape) - 1]).round(1)
        raise ValueError(
            f"position_mm {tuple(position.tolist())} lies outside the grid, which runs from "
            f"{tuple(ends[0].tolist())} to {tuple(ends[1].tolist())} mm"
        )
    return tuple(voxel.tolist())
