"""Regions of an atlas that shrink, in their own form: the flow that takes volume away from them.

A structure of the course's tasks is a ball. Here the flow follows the region. It is the gradient of
a potential whose Laplacian is the region, blurred a little, less the region blurred widely: what is
lost inside, the surroundings gain, and farther away nothing moves. Blurring is diffusion, so the
potential has a closed form in frequencies.
"""

import difflib
import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from helpers import anatomy, fields
from helpers.anatomy import Atlas
from helpers.cohorts.deformations import Deformation
from helpers.grids import Grid

MOST_PERCENT = 50.0
# A region that shrinks pulls at tissue this far around it (SD of the wide blur).
_REACH_MM = 14.0
# Where the effect is: all voxels that shrink or grow by at least this share of the strongest.
_STRONG = 0.25
_TRIES = 12


@dataclass(frozen=True, eq=False)
class Region:
    """A region that shrinks: what a `Structure` is, in the form of the region.

    Attributes
    ----------
    name : str
    place : tensor of shape (1, x, y, z)
        Where tissue shrinks, or grows in its stead, by a quarter of the strongest at least.
    velocity : tensor of shape (1, 3, x, y, z)
        In voxels, at strength 1; channel i moves axis i, and the field pulls.
    share : float
        1, or 0 in a twin without it.
    """

    name: str
    place: Bool[Tensor, "1 x y z"]
    velocity: Float[Tensor, "1 3 x y z"]
    share: float = 1.0

    def ball(self, grid: Grid, *, within: float) -> Bool[Tensor, "1 x y z"]:
        """Return the voxels of the effect, whatever share of a radius is asked for."""
        return self.place


@dataclass(frozen=True, eq=False)
class Shrinkage(Deformation):
    """Regions that shrink, on the grid that they were made for."""

    structures: tuple[Region, ...]

    def displacement(
        self, grid: Grid, *, within: Bool[Tensor, "x y z"] | None = None
    ) -> Float[Tensor, "1 3 x y z"]:
        """Return the field that pulls a brain into the one with the effect, in voxels."""
        return fields.integrate_velocity(self.strength * self._velocity(), steps=4, within=within)

    def reach(self, grid: Grid) -> float:
        """Return a bound of the motion along any axis, in voxels."""
        return abs(self.strength) * float(self._velocity().abs().max())

    def place(self, grid: Grid) -> Bool[Tensor, "1 x y z"]:
        """Return the voxels of all regions, whatever the strength."""
        return torch.stack([region.place for region in self.structures]).any(0)

    def changed(self, grid: Grid) -> Bool[Tensor, "1 x y z"]:
        """Return the voxels of those regions that shrink."""
        changing = [region.place for region in self.structures if self.strength * region.share]
        return torch.stack(changing).any(0) if changing else torch.zeros_like(self.place(grid))

    def _velocity(self) -> Float[Tensor, "1 3 x y z"]:
        return sum(region.share * region.velocity for region in self.structures)


def shrinkage(region: str, atlas: Atlas, *, percent: float) -> Shrinkage:
    """Return the deformation that takes a share of its volume from a region.

    Parameters
    ----------
    region : str
        A name in the atlas, or one without its side for both sides.
    atlas : Atlas
    percent : float
        Above 0 and at most 50.

    Raises
    ------
    ValueError
        If there is no such region, most of it lies outside the template's brain, it is too small
        for the voxels, or the percentage is none.

    Examples
    --------
    >>> import torch
    >>> from helpers import anatomy, fields
    >>> from helpers.study.trusting.shrinking import shrinkage
    >>> atlas = anatomy.atlas()
    >>> field = shrinkage("white matter", atlas, percent=20).displacement(atlas.grid)
    >>> before = (atlas.labels == 2).float()[None, None]
    >>> round(float(fields.warp(before, field).sum() / before.sum()), 2)
    0.8
    """
    if not 0 < percent <= MOST_PERCENT:
        raise ValueError(f"percent is above 0 and at most {MOST_PERCENT:g}, got {percent}")
    labels = labels_of(region, atlas)
    brain = anatomy.template(atlas.grid).mask[0]
    for label, name in labels.items():
        inside = float(brain[atlas.labels == label].float().mean())
        if inside < 0.5:
            raise ValueError(
                f"only {inside:.0%} of {name} lies in the brain of the template, so it cannot "
                f"shrink there; name a region of the brain"
            )
    return Shrinkage(_shrinking(labels, atlas, math.log1p(-percent / 100)), 1.0)


def labels_of(region: str, atlas: Atlas) -> dict[int, str]:
    """Return the labels of a region in an atlas, those of both sides if it says none.

    Raises
    ------
    ValueError
        If there is no such region; the message names those with names like it.

    Examples
    --------
    >>> from helpers import anatomy
    >>> from helpers.study.trusting.shrinking import labels_of
    >>> labels_of("Grey matter", anatomy.atlas())
    {1: 'grey matter'}
    """
    exact = {label: name for label, name in atlas.names.items() if name == region}
    if exact:
        return exact
    wanted = region.casefold()
    sided = {label: name for label, (name, _) in anatomy.lateralised(atlas).items()}
    found = {
        label: name
        for label, name in atlas.names.items()
        if wanted in (name.casefold(), sided.get(label, "").casefold())
    }
    if found:
        return found
    known = list(dict.fromkeys([*sided.values(), *atlas.names.values()]))
    like = [name for name in known if wanted in name.casefold()]
    small = {name.casefold(): name for name in known}
    like += [small[name] for name in difflib.get_close_matches(wanted, small, n=5, cutoff=0.6)]
    like = list(dict.fromkeys(like))[:5]
    said = f"near it are {like}" if like else f"it has {known[:5]} and others"
    raise ValueError(f"the atlas has no region {region!r}; {said}")


def _shrinking(labels: dict[int, str], atlas: Atlas, log_kept: float) -> tuple[Region, ...]:
    """Return regions with velocities that together leave so much of each one's volume."""
    voxels = [atlas.labels == label for label in labels]
    whole = torch.stack(voxels)[None].float()
    flows = torch.cat([_outward(region, atlas.grid) for region in voxels])
    scales = torch.full((len(voxels),), -log_kept)
    for _ in range(_TRIES):  # how fast each has to flow is found by trying: neighbours interfere
        velocities = scales.view(-1, 1, 1, 1, 1) * flows
        field = fields.integrate_velocity(velocities.sum(0, keepdim=True), steps=4)
        left = fields.warp(whole, field).flatten(2).sum(2)[0] / whole.flatten(2).sum(2)[0]
        if ((left.log() - log_kept).abs() < 1e-3).all():
            break
        scales = scales * log_kept / left.log()
    else:
        worst = list(labels.values())[int((left.log() - log_kept).abs().argmax())]
        raise ValueError(
            f"{worst} cannot shrink so much on voxels of {atlas.grid.spacing_mm[0]:g} mm; take "
            f"smaller voxels, a larger region or a lower percentage"
        )
    found = []
    for name, velocity in zip(labels.values(), velocities.split(1), strict=True):
        size = fields.log_expansion(fields.integrate_velocity(velocity, steps=4))[0].abs()
        found.append(Region(name, size >= _STRONG * size.max(), velocity))
    return tuple(found)


def _outward(voxels: Bool[Tensor, "x y z"], grid: Grid) -> Float[Tensor, "1 3 x y z"]:
    """Return where to look for tissue when the region shrinks: away from it, in voxels.

    At scale 1, a large region shrinks by 1 in log expansion.
    """
    narrow_mm = max(grid.spacing_mm) / 2  # no frequency that the grid does not hold
    # The transform is periodic: what leaves on one side must not come in on the other.
    size = [
        n + math.ceil(3 * _REACH_MM / mm) for n, mm in zip(grid.shape, grid.spacing_mm, strict=True)
    ]
    frequencies = [torch.fft.fftfreq, torch.fft.fftfreq, torch.fft.rfftfreq]
    axes = [
        2 * math.pi * of(n, mm)
        for of, n, mm in zip(frequencies, size, grid.spacing_mm, strict=True)
    ]
    waves = torch.stack(torch.meshgrid(*axes, indexing="ij"))  # 3 x y z, in radians a mm
    square = waves.square().sum(0)
    blur = (-square * narrow_mm**2 / 2).exp() - (-square * _REACH_MM**2 / 2).exp()
    potential = torch.fft.rfftn(voxels.float(), s=size) * blur / square.clamp_min(1e-12)
    flow_mm = torch.fft.irfftn(-1j * waves * potential, s=size, dim=(1, 2, 3))
    x, y, z = grid.shape
    to_voxels = torch.tensor(grid.affine[:3, :3], dtype=torch.float32).inverse()
    return torch.einsum("ij,jxyz->ixyz", to_voxels, flow_mm[:, :x, :y, :z])[None]
