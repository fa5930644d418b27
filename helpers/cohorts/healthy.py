"""Healthy variation: one template, many different brains.

A subject is a set of drawn numbers (`draw`) and a function of them that draws nothing (`render`).
Head size, pose, a smooth diffeomorphism and a disease that deforms are composed into *one* field,
and the template is interpolated *once*. Doing it twice for one group only blurs that group, and a
network will find the blur before it finds the disease (chapter 2 tells that story).
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from helpers import fields
from helpers.anatomy import Anatomy, widen
from helpers.cohorts.deformations import Deformation
from helpers.grids import Grid

_HEAD_CENTER_MM = (0.0, -18.0, 12.0)
_VELOCITY_POINTS = (10, 12, 10)  # one control point about every 20 mm
_BIAS_POINTS = (3, 4, 3)


@dataclass(frozen=True, eq=False)
class Variation:
    """Everything that makes one simulated brain differ from the template.

    Attributes
    ----------
    size : tensor of shape (3,)
        Head size along x, y, z relative to the template.
    rotation_deg, translation_mm : tensor of shape (3,)
        Pose that registration would leave over.
    velocity : tensor of shape (3, a, b, c)
        Control points of the smooth deformation, no unit.
    deformation_mm : float
        Standard deviation over voxels of the smooth velocity.
    contrast : tensor of shape (3,)
        Relative change of the intensity of grey matter, white matter and fluid.
    bias : tensor of shape (d, e, f)
        Control points of the log of the receive field.
    noise : float
        Standard deviation of the noise; the brain's median intensity is 1.
    noise_seed : int
        Seed of the noise's own stream.
    """

    size: Float[Tensor, "3"]
    rotation_deg: Float[Tensor, "3"]
    translation_mm: Float[Tensor, "3"]
    velocity: Float[Tensor, "3 a b c"]
    deformation_mm: float
    contrast: Float[Tensor, "3"]
    bias: Float[Tensor, "d e f"]
    noise: float
    noise_seed: int


@dataclass(frozen=True, eq=False)
class Brain:
    """One subject before the scanner, on the grid of the template.

    Attributes
    ----------
    t1 : tensor of shape (1, x, y, z)
        Without noise; median 1, background 0.
    tissues : tensor of shape (3, x, y, z)
    mask : tensor of shape (1, x, y, z)
    place, changed : tensor of shape (1, x, y, z)
        The structures of the deformation, and those of them that it changes; empty without one.
    medians : tuple of tensor
        What the intensities were divided by, one after the other.
    log_expansion : tensor of shape (1, x, y, z), optional
        What the deformation did to each place; None without one.
    """

    t1: Float[Tensor, "1 x y z"]
    tissues: Float[Tensor, "3 x y z"]
    mask: Bool[Tensor, "1 x y z"]
    place: Bool[Tensor, "1 x y z"]
    changed: Bool[Tensor, "1 x y z"]
    medians: tuple[Float[Tensor, ""], ...]
    log_expansion: Float[Tensor, "1 x y z"] | None = None


def draw(generator: torch.Generator) -> Variation:
    """Draw one healthy subject."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    overall_size = 1 + 0.03 * normal(1)
    return Variation(
        size=(overall_size * (1 + 0.01 * normal(3))).clamp(0.85, 1.12),
        rotation_deg=2.0 * normal(3),
        translation_mm=1.5 * normal(3),
        velocity=normal(3, *_VELOCITY_POINTS),
        deformation_mm=float(1.6 * (1 + 0.1 * normal(1))),
        contrast=0.04 * normal(3),
        bias=0.06 * normal(*_BIAS_POINTS),
        noise=float(0.02 + 0.02 * torch.rand(1, generator=generator)),
        noise_seed=int(torch.randint(2**62, (1,), generator=generator)),
    )


def draw_pose(generator: torch.Generator) -> Variation:
    """Draw only what registration leaves over: for scans that have all other variation already."""
    drawn = draw(generator)
    return replace(
        drawn,
        size=torch.ones(3),
        deformation_mm=0.0,
        contrast=torch.zeros(3),
        bias=torch.zeros_like(drawn.bias),
        noise=0.0,
    )


def displacement(
    variation: Variation, grid: Grid, *, head_size: float = 1.0
) -> Float[Tensor, "1 3 x y z"]:
    """Return the one field that pulls the template into the subject, in voxels."""
    # The smooth part is integrated on every second voxel: an eighth of the work, the same field.
    coarse = tuple((n + 1) // 2 for n in grid.shape)
    velocity = F.interpolate(variation.velocity[None], coarse, mode="trilinear", align_corners=True)
    for _ in range(2):  # rounds off the kinks that linear interpolation leaves
        velocity = F.avg_pool3d(F.pad(velocity, (1,) * 6, mode="replicate"), 3, stride=1)
    coarse_spacing_mm = torch.tensor(
        [s * (n - 1) / (c - 1) for s, n, c in zip(grid.spacing_mm, grid.shape, coarse, strict=True)]
    ).view(1, 3, 1, 1, 1)
    velocity = velocity * (variation.deformation_mm / velocity.std()) / coarse_spacing_mm
    smooth = fields.resize(fields.integrate_velocity(velocity, steps=5), grid.shape)
    return fields.compose_affine(_pose(variation, grid, head_size), smooth)


def render(
    variation: Variation,
    anatomy: Anatomy,
    deformation: Deformation | None = None,
    *,
    field: Float[Tensor, "1 3 x y z"] | None = None,
    medians: tuple[Float[Tensor, ""], ...] | None = None,
) -> Brain:
    """Return the subject without noise, and where and how the deformation changed it.

    Parameters
    ----------
    field : tensor of shape (1, 3, x, y, z), optional
        The `displacement` of variation and head size, where it is known already.
    medians : tuple of tensor, optional
        Divide the intensities by these. A twin gets those of its person: by its own, it would be a
        shade brighter or darker everywhere.
    """
    grid = anatomy.grid
    if field is None:
        head_size = 1.0 if deformation is None else deformation.head_size
        field = displacement(variation, grid, head_size=head_size)
    # Four of five voxels are air. Only those are looked up that the effect may move into the brain.
    reach = 0.0 if deformation is None else deformation.reach(grid)
    near = widen(anatomy.mask, voxels=math.ceil(reach + 0.5))
    inside = fields.warp(near[None].float(), field, nearest=True).flatten().nonzero()[:, 0]
    inside = inside.expand(3, -1)
    voxels = fields.identity(grid.shape)[0].flatten(1).gather(1, inside)[None]
    field = field[0].flatten(1).gather(1, inside)[None]
    if deformation is not None:
        effect = deformation.displacement(grid, within=widen(near, voxels=2)[0])
        places = torch.stack([deformation.place(grid), deformation.changed(grid)], 1)
        changes = torch.cat([effect, places.float(), fields.log_expansion(effect)], 1)
        changes = fields.sample(changes, voxels + field)
        field = field + changes[:, :3]
    sources = torch.cat([anatomy.t1, anatomy.tissues, anatomy.mask.float()])[None]
    t1, tissues, mask = fields.sample(sources, voxels + field)[0].split([1, 3, 1])
    mask = mask > 0.5
    tissues = tissues * mask
    t1 = t1 * (1 + torch.einsum("t,tn->n", variation.contrast, tissues))
    t1 = t1.clamp_min(0).masked_fill(~mask, 0)
    place = changed = torch.zeros_like(mask)
    log_expansion = None
    if deformation is not None:
        place, changed = (mask & (changes[0, c : c + 1] > 0.5) for c in (3, 4))
        log_expansion = (changes[0, 5:] + 3 * math.log(deformation.head_size)) * mask
    if medians is None:
        medians = (t1[mask].median(),)
        if deformation is not None:
            # A grown ventricle darkens the median of the whole brain, and with it every voxel: the
            # network would read the effect anywhere. Only tissue away from the structures counts.
            medians = (*medians, (t1 / medians[0])[mask & ~place].median())
    for median in medians:
        t1 = t1 / median

    def whole(values):
        volume = values.new_zeros(len(values), math.prod(grid.shape))
        return volume.scatter_(1, inside[: len(values)], values).unflatten(1, grid.shape)

    return Brain(
        t1=whole(t1),
        tissues=whole(tissues),
        mask=whole(mask),
        place=whole(place),
        changed=whole(changed),
        medians=medians,
        log_expansion=None if log_expansion is None else whole(log_expansion),
    )


def acquire(
    clean: Float[Tensor, "1 x y z"], variation: Variation, mask: Bool[Tensor, "1 x y z"]
) -> Float[Tensor, "1 x y z"]:
    """Add what the scanner adds: a smooth receive field and noise, inside the brain."""
    shape = tuple(clean.shape[1:])
    log_bias = F.interpolate(
        variation.bias[None, None], shape, mode="trilinear", align_corners=True
    )
    noise_stream = torch.Generator().manual_seed(variation.noise_seed)
    noise = variation.noise * torch.randn(clean.shape, generator=noise_stream)
    return torch.where(mask, clean * log_bias[0].exp() + noise, clean)


def _pose(variation: Variation, grid: Grid, head_size: float) -> Float[Tensor, "4 4"]:
    """Return the voxel-to-voxel matrix that looks up the template for a resized, turned head."""
    center = torch.tensor(_HEAD_CENTER_MM)
    linear = fields.rotation(variation.rotation_deg.deg2rad()) @ torch.diag(
        1 / (variation.size * head_size)
    )
    in_mm = torch.eye(4)
    in_mm[:3, :3] = linear
    in_mm[:3, 3] = center - linear @ (center + variation.translation_mm)
    affine = torch.tensor(grid.affine, dtype=torch.float32)
    return torch.linalg.inv(affine) @ in_mm @ affine
