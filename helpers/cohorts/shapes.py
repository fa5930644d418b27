"""Geometric bodies to plant into a volume: ball, cube, rod, shell, all of one volume.

Each body is a signed distance in millimetres (negative inside). A voxel's share of the body falls
off linearly over one voxel at the surface, as partial volume does in a scan; at 4 mm this is what
carries the shape.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from helpers import fields
from helpers.grids import Grid

# Sizes relative to the radius of the ball with the same volume.
_HALF_EDGE = (torch.pi / 6) ** (1 / 3)
_ROD_RADIUS = (4 / 3 / 5) ** (1 / 3)  # a cylinder five radii long
_ROD_HALF_LENGTH = 2.5 * _ROD_RADIUS
_HOLLOW = 0.7  # inner radius of the shell relative to its outer one
_SHELL_RADIUS = (1 - _HOLLOW**3) ** (-1 / 3)


def _length(vectors: Tensor) -> Tensor:
    return vectors.square().sum(0).sqrt()  # several times faster here than a vector norm


def _ball(position: Tensor) -> Tensor:
    return _length(position) - 1


def _cube(position: Tensor) -> Tensor:
    beyond = position.abs() - _HALF_EDGE
    return _length(beyond.clamp_min(0)) + beyond.amax(0).clamp_max(0)


def _rod(position: Tensor) -> Tensor:
    across = _length(position[:2]) - _ROD_RADIUS
    along = position[2].abs() - _ROD_HALF_LENGTH
    beyond = torch.stack([across, along])
    return _length(beyond.clamp_min(0)) + beyond.amax(0).clamp_max(0)


def _shell(position: Tensor) -> Tensor:
    middle = _SHELL_RADIUS * (1 + _HOLLOW) / 2
    return (_length(position) - middle).abs() - _SHELL_RADIUS * (1 - _HOLLOW) / 2


# Signed distance to each body of unit equivalent radius, at positions (3, ...) in its own frame.
SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "ball": _ball,
    "cube": _cube,
    "rod": _rod,
    "shell": _shell,
}
_REACH = 1.75  # no body extends farther from its centre, in equivalent radii


@dataclass(frozen=True, eq=False)
class Body:
    """One body at one place.

    Attributes
    ----------
    shape : str
        A name in `SHAPES`.
    center_mm : tensor of shape (3,)
    rotation_deg : tensor of shape (3,)
        Turns about x, then y, then z.
    radius_mm : float
        Radius of the ball of the same volume.
    intensity : float
        Opaque: the body's own intensity, where the brain's median is 1. Multiplicative: the factor
        on the tissue beneath.
    opaque : bool
    visible : bool
        False for the sham body of a control: it marks a place and changes nothing.
    """

    shape: str
    center_mm: Float[Tensor, "3"]
    rotation_deg: Float[Tensor, "3"]
    radius_mm: float
    intensity: float
    opaque: bool = True
    visible: bool = True

    def __post_init__(self):
        if self.shape not in SHAPES:
            raise ValueError(f"unknown shape {self.shape!r}; there are {sorted(SHAPES)}")

    def as_shape(self, shape: str) -> "Body":
        """Return a body of another shape at the same place, turn and volume."""
        return replace(self, shape=shape)

    def occupancy(self, grid: Grid) -> Float[Tensor, "1 x y z"]:
        """Return the share of each voxel that the body fills, 0 to 1."""
        occupancy = torch.zeros(1, *grid.shape)
        box, values = self.local_occupancy(grid)
        occupancy[0][box] = values
        return occupancy

    def local_occupancy(self, grid: Grid) -> tuple[tuple[slice, slice, slice], Tensor]:
        """Return the voxel box around the body and the occupancy inside this box."""
        spacing = min(grid.spacing_mm)
        reach = torch.full((3,), self.radius_mm * _REACH + spacing) / torch.tensor(grid.spacing_mm)
        middle = torch.from_numpy(grid.voxels(self.center_mm)).float()
        low = (middle - reach).floor().long()
        high = (middle + reach).ceil().long() + 1
        size = torch.tensor(grid.shape)
        low, high = low.clamp_min(0).minimum(size), high.clamp_min(0).minimum(size)
        box = tuple(slice(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True))
        indices = torch.stack(
            torch.meshgrid(*(torch.arange(s.start, s.stop) for s in box), indexing="ij")
        ).float()
        affine = torch.tensor(grid.affine, dtype=torch.float32)
        offset = torch.einsum("ij,jxyz->ixyz", affine[:3, :3], indices - middle.view(3, 1, 1, 1))
        own_frame = torch.einsum(
            "ji,jxyz->ixyz", fields.rotation(self.rotation_deg.deg2rad()), offset
        )
        distance_mm = SHAPES[self.shape](own_frame / self.radius_mm) * self.radius_mm
        return box, (0.5 - distance_mm / spacing).clamp(0, 1)

    def mask(self, grid: Grid) -> Bool[Tensor, "1 x y z"]:
        """Return the voxels that the body fills at least to a half."""
        return self.occupancy(grid) >= 0.5

    def paint(self, volume: Float[Tensor, "1 x y z"], grid: Grid) -> Float[Tensor, "1 x y z"]:
        """Return a copy of the volume with the body in it."""
        if not self.visible:
            return volume
        occupancy = self.occupancy(grid)
        inside = self.intensity if self.opaque else volume * self.intensity
        return volume * (1 - occupancy) + occupancy * inside
