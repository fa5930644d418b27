"""Deformation fields: warp, compose, integrate a velocity, read the Jacobian.

Every field here is a *displacement in voxels* with the axes ``(subject 3 x y z)``; channel i moves
axis i. Warping *pulls*: ``warped(p) = volume(p + u(p))``, so a field says for each voxel of the
new image where in the old one to look. Outside the volume the nearest border voxel continues.

References
----------
Arsigny et al. (2006), A log-Euclidean framework for statistics on diffeomorphisms.
Ashburner (2007), A fast diffeomorphic image registration algorithm.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


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
    return _sample(volumes, positions, nearest=nearest)


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
    velocity: Float[Tensor, "subject 3 x y z"], *, steps: int = 6
) -> Float[Tensor, "subject 3 x y z"]:
    """Turn a stationary velocity into a diffeomorphic displacement by scaling and squaring.

    Parameters
    ----------
    velocity : tensor of shape (subject, 3, x, y, z)
        In voxels per unit time.
    steps : int
        Number of squarings, default 6: the flow is followed in ``2**steps`` small steps.
    """
    _check_displacement(velocity)
    displacement = velocity / 2**steps
    for _ in range(steps):
        displacement = compose(displacement, displacement)
    return displacement


def jacobian_determinant(
    displacement: Float[Tensor, "subject 3 x y z"],
) -> Float[Tensor, "subject x y z"]:
    """Return the Jacobian determinant of ``p -> p + u(p)`` at each voxel.

    Central differences inside, one-sided ones at the border. With the pull convention a
    determinant of 2 means that a voxel of the *new* image covers two voxels of the *old* one:
    tissue there has shrunk to a half. `log_expansion` has the sign that a reader expects.
    """
    _check_displacement(displacement)
    rows = [
        torch.stack(torch.gradient(displacement[:, i], dim=(1, 2, 3)), dim=-1) for i in range(3)
    ]
    jacobian = torch.stack(rows, dim=-2)  # subject x y z i j = d u_i / d p_j
    jacobian = jacobian + torch.eye(3, dtype=jacobian.dtype, device=jacobian.device)
    return torch.linalg.det(jacobian)


def log_expansion(
    displacement: Float[Tensor, "subject 3 x y z"],
) -> Float[Tensor, "subject 1 x y z"]:
    """Return the log expansion of tissue: positive where the anatomy grew.

    Minus the log of `jacobian_determinant`. A value of 0.1 is 10.5 % more volume, -0.1 is 9.5 %
    less. Folded voxels (determinant of zero or below) count as a determinant of 1e-6.
    """
    return -jacobian_determinant(displacement).clamp_min(1e-6).log()[:, None]


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


def _sample(volumes: Tensor, positions: Tensor, *, nearest: bool = False) -> Tensor:
    # grid_sample wants positions scaled to -1..1 between the corner voxels' centres, in the order
    # z, y, x: the reverse of the channels here.
    sizes = positions.new_tensor([max(n - 1, 1) for n in volumes.shape[2:]]).view(1, 3, 1, 1, 1)
    scaled = rearrange((2 * positions / sizes - 1).flip(1), "s c x y z -> s x y z c")
    return F.grid_sample(
        volumes,
        scaled.to(volumes.dtype),
        mode="nearest" if nearest else "bilinear",
        padding_mode="border",
        align_corners=True,
    )


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
