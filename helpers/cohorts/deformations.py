"""Effects that change the form of a brain: structures that grow or shrink.

A structure is a ball in MNI space. Inside it a smooth velocity field flows away from the centre
(growth) or towards it (shrinkage). Around a ball that grows, tissue is squeezed: the flow dies out
within centimetres, and what one place gains the ring around it has to give.

The places are named after anatomy and *inspired* by what is often reported. The sizes and signs
are ours. All of this is a simulation and says nothing about any disease or about any person.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from helpers import fields
from helpers.grids import Grid

_REACH = 1.5  # a structure's place ends at so many radii, where most of its motion is over


@dataclass(frozen=True)
class Structure:
    """A ball of tissue that grows or shrinks.

    Attributes
    ----------
    name : str
    center_mm : tuple of float
        In MNI space.
    radius_mm : float
        Where the motion is largest; it falls off like a Gaussian of this SD.
    log_expansion : float
        At the very centre, when the effect has strength 1: 0.7 doubles the volume, -0.7 halves
        it. On a coarse grid a little less arrives; the cohort's truth is what did arrive.
    share : float
        How much of the person's strength this structure has; 0 in a twin without it.
    """

    name: str
    center_mm: tuple[float, float, float]
    radius_mm: float
    log_expansion: float
    share: float = 1.0

    def ball(self, grid: Grid, *, within: float) -> Bool[Tensor, "1 x y z"]:
        """Return the voxels no farther from the centre than this share of the radius."""
        reach = within * self.radius_mm
        return _squared_distance(self.center_mm, grid)[None] <= reach**2


def _both_sides(name: str, center_mm: tuple[float, float, float], *sizes: float) -> list[Structure]:
    x, y, z = center_mm
    return [
        Structure(f"{name} left", (-x, y, z), *sizes),
        Structure(f"{name} right", (x, y, z), *sizes),
    ]


STRUCTURES: dict[str, tuple[Structure, ...]] = {
    "atrophy": (
        *_both_sides("hippocampus", (27, -22, -14), 12, -0.8),
        *_both_sides("lateral ventricle", (15, -4, 20), 15, 1.0),
    ),
    "alcohol": (
        *_both_sides("insula", (38, 4, 0), 13, -0.8),
        *_both_sides("superior frontal", (14, 44, 28), 14, -0.8),
        Structure("cerebellar vermis", (0, -62, -22), 14, -0.9),
        Structure("third ventricle", (0, -12, 4), 13, 1.0),
    ),
    "sex": (
        *_both_sides("amygdala", (23, -4, -18), 12, 0.8),
        *_both_sides("caudate", (13, 14, 10), 13, -0.8),
        *_both_sides("planum temporale", (50, -26, 10), 13, -0.8),
        Structure("posterior cingulate", (0, -46, 28), 14, -0.8),
        Structure("orbitofrontal", (0, 38, -12), 14, 0.8),
    ),
    "mixed": (
        *_both_sides("hippocampus", (27, -22, -14), 12, -0.8),
        *_both_sides("lateral ventricle", (15, -4, 20), 15, 1.0),
        *_both_sides("insula", (38, 4, 0), 13, -0.8),
        *_both_sides("superior frontal", (14, 44, 28), 14, -0.8),
    ),
}


def planted_structures(
    task: str, grid: Grid, *, within: float = 1.0
) -> dict[str, Bool[Tensor, "x y z"]]:
    """Return where a task's structures lie in MNI space, to ask what a map says of each.

    Parameters
    ----------
    task : str
        ``"atrophy"``, ``"alcohol"``, ``"sex"`` or ``"mixed"``.
    grid : Grid
    within : float
        Radius of the balls as a share of each structure's own. Default 1; with 0.5 no two overlap.

    Returns
    -------
    dict
        From the structure's name to its voxels.

    Raises
    ------
    ValueError
        If the task plants no structures, or a ball is too small to hold a voxel.

    Examples
    --------
    >>> from helpers import cohorts, grids
    >>> list(cohorts.planted_structures("atrophy", grids.mni()))[:2]
    ['hippocampus left', 'hippocampus right']
    """
    if task not in STRUCTURES:
        raise ValueError(f"expected a task of {sorted(STRUCTURES)}, got {task!r}")
    found = {}
    for structure in STRUCTURES[task]:
        found[structure.name] = structure.ball(grid, within=within)[0]
        if not found[structure.name].any():
            raise ValueError(
                f"no voxel lies within {within} of the radius of {structure.name}; use a larger "
                f"share, or the grid is too coarse or lies elsewhere"
            )
    return found


@dataclass(frozen=True)
class Deformation:
    """The effect of one subject, in the space of the template.

    Attributes
    ----------
    structures : tuple of Structure
    strength : float
        Multiplies every log expansion; 0 for a control, who has the structures and no effect.
        What a structure gets of it is its `share`.
    head_size : float
        Size of the whole head along each axis relative to the subject's own; 1 changes nothing.
    """

    structures: tuple[Structure, ...]
    strength: float
    head_size: float = 1.0

    def displacement(
        self, grid: Grid, *, within: Bool[Tensor, "x y z"] | None = None
    ) -> Float[Tensor, "1 3 x y z"]:
        """Return the field that pulls the healthy template into the ill one, in voxels.

        With ``within``, the field counts in these voxels alone.
        """
        if self.strength == 0:
            return torch.zeros(1, 3, *grid.shape)
        velocity = _velocity(self.structures, grid)
        # Motions of millimetres: 16 small steps are ample.
        return fields.integrate_velocity(self.strength * velocity, steps=4, within=within)

    def reach(self, grid: Grid) -> float:
        """Return a bound of the motion along any axis, in voxels."""
        velocity = _velocity(self.structures, grid)
        return abs(self.strength) * float(velocity.abs().max())

    def place(self, grid: Grid) -> Bool[Tensor, "1 x y z"]:
        """Return the voxels within the structures, whatever the strength."""
        return _place(self.structures, grid)

    def changed(self, grid: Grid) -> Bool[Tensor, "1 x y z"]:
        """Return the voxels within those structures that grow or shrink."""
        changing = tuple(s for s in self.structures if self.strength * s.share != 0)
        return _place(changing, grid)


@lru_cache(maxsize=16)
def _velocity(structures: tuple[Structure, ...], grid: Grid) -> Float[Tensor, "1 3 x y z"]:
    """Return the velocity at strength 1, in voxels; all subjects of most tasks share it."""
    velocity_mm = torch.zeros(3, *grid.shape)
    for structure in structures:
        if structure.share == 0:
            continue
        squared = _squared_distance(structure.center_mm, grid)
        fading = (-squared / (2 * structure.radius_mm**2)).exp()
        from_center = _from(structure.center_mm, grid)
        # A flow of a/3 along each axis multiplies the volume at the centre by exp(a). The field
        # pulls: to grow, look closer to the centre.
        velocity_mm -= structure.share * structure.log_expansion / 3 * from_center * fading
    to_voxels = torch.tensor(grid.affine[:3, :3], dtype=torch.float32).inverse()
    return torch.einsum("ij,jxyz->ixyz", to_voxels, velocity_mm)[None]


def _place(structures: tuple[Structure, ...], grid: Grid) -> Bool[Tensor, "1 x y z"]:
    place = torch.zeros(1, *grid.shape, dtype=torch.bool)
    for structure in structures:
        place |= structure.ball(grid, within=_REACH)
    return place


@lru_cache(maxsize=32)
def _squared_distance(center_mm: tuple[float, float, float], grid: Grid) -> Float[Tensor, "x y z"]:
    return _from(center_mm, grid).square().sum(0)


def _from(center_mm: tuple[float, float, float], grid: Grid) -> Float[Tensor, "3 x y z"]:
    """Return where each voxel lies from a centre, in mm."""
    return _centers_mm(grid) - torch.tensor(center_mm).view(3, 1, 1, 1)


@lru_cache(maxsize=2)
def _centers_mm(grid: Grid) -> Float[Tensor, "3 x y z"]:
    return grid.centers_mm()
