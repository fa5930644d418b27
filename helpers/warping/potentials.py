"""Deformations that come from a potential: one number a place says where tissue grows or shrinks.

The velocity of the flow is the slope of the potential. So nothing rotates, and what one place
gains, its surroundings give: a brain in its skull. A bump of the potential grows tissue, a dent
shrinks it.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from helpers import fields

CONTROL_SPACING = 4  # voxels from one control point to the next
_DIVISOR = 8  # volumes are padded to a multiple: classifiers halve the resolution three times
_INTEGRATION_STEPS = 5


def checked_shape(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return the shape of volumes that have at least two control points along each axis."""
    if len(shape) != 3 or min(shape) <= _DIVISOR:
        raise ValueError(
            f"a simulator needs volumes of more than {_DIVISOR} voxels an axis, got {shape}"
        )
    return tuple(shape)


def padded(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return the next shape that can be halved three times."""
    return tuple(-(-n // _DIVISOR) * _DIVISOR for n in shape)


def pad(volumes: Float[Tensor, "subject 1 x y z"]) -> Float[Tensor, "subject 1 x2 y2 z2"]:
    """Return volumes of the padded shape, with what warping sees beyond the border anyway."""
    shape = tuple(volumes.shape[2:])
    more = [n - m for n, m in zip(padded(shape), shape, strict=True)]
    return F.pad(volumes, [side for m in reversed(more) for side in (0, m)], mode="replicate")


def control_points(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return how many control points volumes of a shape have."""
    return tuple(n // CONTROL_SPACING for n in padded(shape))


def expansion(
    potential: Float[Tensor, "subject a b c"], blur_voxels: float
) -> Float[Tensor, "subject x y z"]:
    """Return the log expansion that the flow begins with, on every second voxel.

    The log expansion of `displacement` is the same to first order. This one is linear in the
    potential, and takes no integration.
    """
    velocity = _velocity(potential, blur_voxels)
    return -sum(torch.gradient(velocity[:, i], dim=i + 1)[0] for i in range(3))


def displacement(
    potential: Float[Tensor, "subject a b c"], shape: tuple[int, int, int], blur_voxels: float
) -> Float[Tensor, "subject 3 x y z"]:
    """Return the deformation of volumes of a shape, in voxels; it cannot fold."""
    # On every second voxel: an eighth of the work, and as smooth.
    flow = fields.integrate_velocity(_velocity(potential, blur_voxels), steps=_INTEGRATION_STEPS)
    return fields.resize(flow, padded(shape))[(..., *(slice(n) for n in shape))]


def _velocity(
    potential: Float[Tensor, "subject a b c"], blur_voxels: float
) -> Float[Tensor, "subject 3 x y z"]:
    """Return the slope of the blurred potential on every second voxel, in these voxels."""
    half = tuple(n * CONTROL_SPACING // 2 for n in potential.shape[1:])
    smooth = F.interpolate(potential[:, None], half, mode="trilinear", align_corners=True)
    smooth = fields.gaussian_blur(smooth, blur_voxels / 2)[:, 0]
    return torch.stack(torch.gradient(smooth, dim=(1, 2, 3)), dim=1)
