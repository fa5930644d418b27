"""Deformation fields: warp, compose, invert, integrate a velocity, read the Jacobian.

Every field here is a *displacement in voxels* with the axes ``(subject 3 x y z)``; channel i moves
axis i. Warping *pulls*: ``warped(p) = volume(p + u(p))``, so a field says for each voxel of the
new image where in the old one to look. Outside the volume the nearest border voxel continues.
Determinants have no unit.

References
----------
Arsigny et al. (2006), A log-Euclidean framework for statistics on diffeomorphisms.
Ashburner (2007), A fast diffeomorphic image registration algorithm.
Chen et al. (2008), A simple fixed-point approach to invert a deformation field.
"""

import math
import warnings

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

FWHM_PER_SD = math.sqrt(8 * math.log(2))  # of a Gaussian

# Why not MONAI's Warp and DVF2DDF: the same numbers to the last bit, values and gradients (see the
# tests), but 1.2 times the time here, on one thread for a single subject, and for whole grids only.


def identity(
    shape: tuple[int, int, int], *, like: Tensor | None = None
) -> Float[Tensor, "1 3 x y z"]:
    """Return every voxel's own index as a field of positions."""
    like = torch.empty(0) if like is None else like
    axes = [torch.arange(n, dtype=like.dtype, device=like.device) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def warp(
    volumes: Float[Tensor, "subject channel x y z"],
    displacement: Float[Tensor, "subject 3 x2 y2 z2"],
    *,
    nearest: bool = False,
) -> Float[Tensor, "subject channel x2 y2 z2"]:
    """Pull volumes through a displacement: ``warped(p) = volume(p + u(p))``.

    Parameters
    ----------
    displacement : tensor of shape (subject, 3, x, y, z)
        In voxels of ``volumes``.
    nearest : bool
        Take the nearest voxel instead of interpolating linearly: for label maps.

    Raises
    ------
    ValueError
        If the field has not three channels, or another number of subjects.

    Examples
    --------
    >>> import torch
    >>> from helpers import fields
    >>> volumes = torch.rand(1, 1, 6, 7, 8)
    >>> one_voxel_along_x = torch.zeros(1, 3, 6, 7, 8)
    >>> one_voxel_along_x[:, 0] = 1
    >>> bool(torch.allclose(fields.warp(volumes, one_voxel_along_x)[:, :, 0], volumes[:, :, 1]))
    True
    """
    _check_displacement(displacement)
    if len(volumes) != len(displacement):
        raise ValueError(f"{len(volumes)} volumes, but {len(displacement)} displacement fields")
    positions = identity(tuple(displacement.shape[2:]), like=displacement) + displacement
    return sample(volumes, positions, nearest=nearest)


def sample(
    volumes: Float[Tensor, "subject channel x y z"],
    positions: Float[Tensor, "subject 3 *points"],
    *,
    nearest: bool = False,
) -> Float[Tensor, "subject channel *points"]:
    """Look up volumes at positions between their voxels.

    Parameters
    ----------
    positions : tensor of shape (subject, 3, ...)
        In voxels of ``volumes``; channel i counts along axis i. Any arrangement of points: a grid,
        or a list of those that matter.
    nearest : bool
        Take the nearest voxel instead of interpolating linearly.

    Examples
    --------
    >>> import torch
    >>> from helpers import fields
    >>> volumes = torch.arange(24.0).view(1, 1, 2, 3, 4)
    >>> fields.sample(volumes, torch.tensor([[[0.0], [0.0], [1.5]]])).tolist()
    [[[1.5]]]
    """
    points = positions.flatten(2)
    # grid_sample wants positions scaled to -1..1 between the corner voxels' centres, in the order
    # z, y, x: the reverse of the channels here.
    halves = points.new_tensor([max(n - 1, 1) / 2 for n in volumes.shape[2:]]).view(1, 3, 1)
    scaled = (points / halves - 1).flip(1)
    # On the CPU, torch shares this work over the subjects alone: one subject's points are cut into
    # a piece for each thread.
    alone = len(volumes) == 1 and volumes.device.type == "cpu"
    pieces = torch.get_num_threads() if alone else 1
    if points.shape[2] % pieces:
        scaled = F.pad(scaled, (0, -points.shape[2] % pieces))
    sampled = F.grid_sample(
        volumes.expand(len(volumes) * pieces, -1, -1, -1, -1),
        rearrange(scaled, "s c (piece n) -> (s piece) n 1 1 c", piece=pieces).to(volumes.dtype),
        mode="nearest" if nearest else "bilinear",
        padding_mode="border",
        align_corners=True,
    )
    sampled = rearrange(sampled, "(s piece) c n 1 1 -> s c (piece n)", piece=pieces)
    return sampled[:, :, : points.shape[2]].unflatten(2, positions.shape[2:])


def compose(
    first: Float[Tensor, "subject 3 x y z"], second: Float[Tensor, "subject 3 x y z"]
) -> Float[Tensor, "subject 3 x y z"]:
    """Return the one field that does what warping by ``first`` and then by ``second`` does.

    ``warp(v, compose(first, second))`` is ``warp(warp(v, first), second)`` with one interpolation
    instead of two. Two interpolations blur twice, and a network sees that.
    """
    _check_displacement(first)
    _check_displacement(second)
    return second + warp(first, second)


def integrate_velocity(
    velocity: Float[Tensor, "subject 3 x y z"],
    *,
    steps: int = 6,
    within: Bool[Tensor, "x y z"] | None = None,
) -> Float[Tensor, "subject 3 x y z"]:
    """Turn a stationary velocity into a diffeomorphic displacement by scaling and squaring.

    Parameters
    ----------
    velocity : tensor of shape (subject, 3, x, y, z)
        In voxels per unit time.
    steps : int
        Number of squarings, default 6: the flow is followed in ``2**steps`` small steps.
    within : tensor of shape (x, y, z), optional
        Follow the flow in these voxels alone; what the field says elsewhere is of no use. Leave a
        margin around the voxels that matter. Default everywhere.
    """
    _check_displacement(velocity)
    displacement = velocity / 2**steps
    if within is None:
        for _ in range(steps):
            displacement = compose(displacement, displacement)
        return displacement
    inside = within.flatten().nonzero()[:, 0].expand(*velocity.shape[:2], -1)
    voxels = identity(tuple(within.shape), like=velocity).flatten(2)
    start = voxels.expand(len(velocity), -1, -1).gather(2, inside)
    for _ in range(steps):
        half = displacement.flatten(2).gather(2, inside)
        whole = half + sample(displacement, start + half)
        displacement = displacement.flatten(2).scatter(2, inside, whole).view_as(velocity)
    return displacement


def inverse(
    displacement: Float[Tensor, "subject 3 x y z"], *, iterations: int = 50
) -> Float[Tensor, "subject 3 x y z"]:
    """Return the field that undoes a displacement: ``compose(u, inverse(u))`` is zero.

    The inverse w satisfies ``w(p) = -u(p + w(p))``, so the right side is applied again and again.
    For a velocity there is no need to search: ``integrate_velocity(-velocity)`` is the inverse.

    Parameters
    ----------
    iterations : int
        Default 50. Neighbours that move apart by at most half of their distance need about 15.

    Warns
    -----
    UserWarning
        If a point still misses its origin by more than a hundredth of a voxel: where a field folds
        or squeezes tissue to less than half, the search may not end.

    Examples
    --------
    >>> import torch
    >>> from helpers import fields
    >>> one_voxel_along_x = torch.zeros(1, 3, 6, 7, 8)
    >>> one_voxel_along_x[:, 0] = 1
    >>> bool((fields.inverse(one_voxel_along_x)[:, 0] == -1).all())
    True
    """
    _check_displacement(displacement)
    if iterations < 1:
        raise ValueError(f"iterations must be 1 or more, got {iterations}")
    backward = -displacement
    for _ in range(iterations):
        backward = -warp(displacement, backward)
    missed = float(compose(displacement, backward).detach().abs().max())
    if not missed <= 0.01:
        warnings.warn(
            f"the inverse misses by up to {missed:.2g} voxels after {iterations} iterations; "
            f"{float(folding_fraction(displacement).max()):.2%} of the voxels are folded",
            stacklevel=2,
        )
    return backward


def jacobian_determinant(
    displacement: Float[Tensor, "subject 3 x y z"],
) -> Float[Tensor, "subject x y z"]:
    """Return the Jacobian determinant of ``p -> p + u(p)`` at each voxel.

    Central differences inside, one-sided ones at the border. With the pull convention a
    determinant of 2 means that a voxel of the *new* image covers two voxels of the *old* one:
    tissue there has shrunk to a half. `log_expansion` has the sign that a reader expects.
    """
    _check_displacement(displacement)
    slopes = [torch.gradient(displacement[:, i], dim=(1, 2, 3)) for i in range(3)]  # du_i / dp_j
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = slopes
    xx, yy, zz = 1 + xx, 1 + yy, 1 + zz
    # Written out, because torch.linalg.det of so many small matrices takes ten times as long.
    return xx * (yy * zz - yz * zy) - xy * (yx * zz - yz * zx) + xz * (yx * zy - yy * zx)


def log_expansion(
    displacement: Float[Tensor, "subject 3 x y z"],
) -> Float[Tensor, "subject 1 x y z"]:
    """Return the log expansion of tissue: positive where the anatomy grew.

    Minus the log of `jacobian_determinant`. A value of 0.1 is 10.5 % more volume, -0.1 is 9.5 %
    less. Folded voxels (determinant of zero or below) count as a determinant of 1e-6.
    """
    return -jacobian_determinant(displacement).clamp_min(1e-6).log()[:, None]


def folding_fraction(
    displacement: Float[Tensor, "subject 3 x y z"],
) -> Float[Tensor, "subject"]:
    """Return each field's share of folded voxels: those with a determinant of zero or below.

    There the deformed grid turns over itself: tissue is torn or counted twice, and no anatomy does
    that. The flow of a velocity has none.
    """
    return (jacobian_determinant(displacement) <= 0).flatten(1).float().mean(1)


def gaussian_blur(
    volumes: Float[Tensor, "subject channel x y z"], sigma_voxels: float
) -> Float[Tensor, "subject channel x y z"]:
    """Blur with a Gaussian, one axis after the other; beyond the border, its voxels continue.

    Parameters
    ----------
    volumes : tensor of shape (subject, channel, x, y, z)
        Volumes or fields; each channel is blurred on its own.
    sigma_voxels : float
        Standard deviation, above 0. The kernel is cut at four of them and sums to 1.
    """
    if not 0 < sigma_voxels < math.inf:
        raise ValueError(f"a blur needs sigma_voxels above 0, got {sigma_voxels}")
    reach = int(4 * sigma_voxels + 0.5)
    offsets = torch.arange(-reach, reach + 1, dtype=volumes.dtype, device=volumes.device)
    kernel = torch.exp(-0.5 * (offsets / sigma_voxels).square())
    kernel = kernel / kernel.sum()
    for axis in (2, 3, 4):
        lines = volumes.movedim(axis, -1)
        padded = F.pad(lines.flatten(1, 3), (reach, reach), mode="replicate")
        blurred = F.conv1d(padded.flatten(0, 1)[:, None], kernel[None, None])
        volumes = blurred.view(lines.shape).movedim(-1, axis)
    return volumes


def resize(
    displacement: Float[Tensor, "subject 3 x y z"], shape: tuple[int, int, int]
) -> Float[Tensor, "subject 3 x2 y2 z2"]:
    """Bring a field onto a finer or coarser grid over the same corners; still in (new) voxels."""
    _check_displacement(displacement)
    resized = F.interpolate(displacement, size=shape, mode="trilinear", align_corners=True)
    scale = [(new - 1) / (old - 1) for new, old in zip(shape, displacement.shape[2:], strict=True)]
    return resized * displacement.new_tensor(scale).view(1, 3, 1, 1, 1)


def compose_affine(
    matrix: Float[Tensor, "4 4"], displacement: Float[Tensor, "subject 3 x y z"]
) -> Float[Tensor, "subject 3 x y z"]:
    """Return `compose` of an affine map and a field, exactly: no interpolation is needed.

    Parameters
    ----------
    matrix : tensor of shape (4, 4)
        Voxel ``p`` looks up voxel ``matrix @ p``.
    displacement : tensor of shape (subject, 3, x, y, z)
        The second warp; zeros give the field of the affine map alone.
    """
    _check_displacement(displacement)
    indices = identity(tuple(displacement.shape[2:]), like=displacement)
    moved = torch.einsum("ij,sjxyz->sixyz", matrix[:3, :3], indices + displacement)
    return moved + matrix[:3, 3].view(1, 3, 1, 1, 1) - indices


def rotation(angles_rad: Float[Tensor, "3"]) -> Float[Tensor, "3 3"]:
    """Return the rotation matrix for turns about x, then y, then z."""
    (sx, sy, sz), (cx, cy, cz) = torch.sin(angles_rad).tolist(), torch.cos(angles_rad).tolist()
    about_x = torch.tensor([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = torch.tensor([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = torch.tensor([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def _check_displacement(displacement: Tensor) -> None:
    if displacement.ndim != 5 or displacement.shape[1] != 3:
        raise ValueError(
            f"expected a displacement with the axes (subject, 3, x, y, z), "
            f"got shape {tuple(displacement.shape)}"
        )
    if min(displacement.shape[2:]) < 2:
        raise ValueError(
            f"a field needs at least 2 voxels an axis, got {tuple(displacement.shape)}"
        )
