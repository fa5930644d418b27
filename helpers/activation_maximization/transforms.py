"""Small random moves of the volume before the network sees it.

What still excites the network after a move is not a pattern of single voxels. A transform is a
function ``(volumes, generator) -> volumes`` through which gradients flow; every image of the batch
draws its own move.

References
----------
Olah, Mordvintsev, Schubert (2017), Feature visualization, Distill, doi 10.23915/distill.00007.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from helpers import fields, runtime
from helpers.cohorts import healthy
from helpers.grids import Grid

Volumes = Float[Tensor, "image 1 x y z"]
Transform = Callable[[Volumes, torch.Generator], Volumes]


def jitter(voxels: int) -> Transform:
    """Shift each volume by up to so many whole voxels along each axis; its border continues.

    Examples
    --------
    >>> import torch
    >>> from helpers import runtime
    >>> from helpers.activation_maximization import transforms
    >>> shift = transforms.jitter(2)
    >>> tuple(shift(torch.rand(3, 1, 8, 9, 10), runtime.generator(0)).shape)
    (3, 1, 8, 9, 10)
    """
    _check(voxels >= 0, f"jitter needs 0 or more voxels, got {voxels}")

    def shift(volumes: Tensor, generator: torch.Generator) -> Tensor:
        shape = tuple(volumes.shape[2:])
        _check(voxels < min(shape), f"a jitter of {voxels} voxels is too large for volumes {shape}")
        starts = torch.randint(2 * voxels + 1, (len(volumes), 3), generator=generator).tolist()
        padded = F.pad(volumes, (voxels,) * 6, mode="replicate")
        cut = [
            padded[(i, slice(None), *(slice(s, s + n) for s, n in zip(start, shape, strict=True)))]
            for i, start in enumerate(starts)
        ]
        return torch.stack(cut)

    return shift


def rotation(degrees: float) -> Transform:
    """Turn each volume about its middle by up to so many degrees about x, y and z."""
    _check(0 <= degrees <= 180, f"a rotation has 0 to 180 degrees, got {degrees}")
    largest = torch.tensor(float(degrees)).deg2rad()

    def turn(volumes: Tensor, generator: torch.Generator) -> Tensor:
        drawn = largest * (2 * torch.rand(len(volumes), 3, generator=generator) - 1)
        return _affine(volumes, [fields.rotation(angles) for angles in drawn])

    return turn


def people(grid: Grid, *, subjects: int = 24, seed: int = 0, noise: float = 0.03) -> Transform:
    """Bend each volume as the brain of one of several healthy people, and add a scanner's noise.

    What excites the network in one head only is not a pattern of all heads.

    Parameters
    ----------
    grid : Grid
        That of the volumes.
    subjects : int
        How many people to draw from, default 24; see `helpers.cohorts.healthy`.
    noise : float
        Standard deviation inside the brain, whose median is 1.
    """
    _check(subjects >= 1, f"expected one person or more, got {subjects}")
    drawn = [healthy.draw(runtime.generator(seed, i)) for i in range(subjects)]
    bent = torch.cat([healthy.displacement(one, grid) for one in drawn])

    def bend(volumes: Tensor, generator: torch.Generator) -> Tensor:
        whose = torch.randint(subjects, (len(volumes),), generator=generator)
        warped = fields.warp(volumes, bent[whose].to(volumes))
        grain = noise * torch.randn(volumes.shape, generator=generator).to(volumes)
        return warped + grain * (warped > 0.05)

    return bend


def _affine(volumes: Tensor, matrices: list[Float[Tensor, "3 3"]]) -> Tensor:
    """Pull each volume through a linear map about its middle."""
    middle = torch.tensor([(n - 1) / 2 for n in volumes.shape[2:]])
    still = volumes.new_zeros(1, 3, *volumes.shape[2:])
    displacements = []
    for matrix in matrices:
        about_middle = torch.eye(4)
        about_middle[:3, :3] = matrix
        about_middle[:3, 3] = middle - matrix @ middle
        displacements.append(fields.compose_affine(about_middle.to(volumes), still))
    return fields.warp(volumes, torch.cat(displacements))


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
