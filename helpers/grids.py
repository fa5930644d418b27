"""Voxel grids: where in millimetres a voxel is, and NIfTI files in and out.

A volume without its grid is just numbers. A `Grid` says how many voxels there are along each axis
and how voxel indices become millimetres; it travels with every volume in this course. Arrays are
in NIfTI order and RAS+ orientation: the first axis runs to the subject's right, the second to the
front, the third up.
"""

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from jaxtyping import Float
from nilearn import image as nilearn_image
from torch import Tensor

from helpers import runtime

# Outer edges of the field of view, in MNI millimetres: the whole brain with a margin, and a size
# that divides by 2, 4 and 8 mm alike.
_MNI_LOW_MM = np.array([-96.0, -130.0, -84.0])
_MNI_HIGH_MM = np.array([96.0, 94.0, 108.0])


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular grid of voxels in space.

    Attributes
    ----------
    shape : tuple of int
        Number of voxels along x, y, z.
    affine : ndarray of shape (4, 4)
        Maps voxel indices to millimetres, as in a NIfTI header.

    Examples
    --------
    >>> from helpers import grids
    >>> grid = grids.mni(4.0)
    >>> grid.shape, grid.spacing_mm
    ((48, 56, 48), (4.0, 4.0, 4.0))
    >>> grid.millimetres((0, 0, 0)).tolist()
    [-94.0, -128.0, -82.0]
    """

    shape: tuple[int, int, int]
    affine: np.ndarray

    def __post_init__(self):
        affine = np.asarray(self.affine, dtype=float)
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"a grid has three axes of at least one voxel, got {self.shape}")
        if affine.shape != (4, 4) or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise ValueError(f"expected an invertible 4x4 affine, got {affine.tolist()}")
        affine = affine.copy()
        affine.setflags(write=False)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "affine", affine)

    def __eq__(self, other):
        return (
            isinstance(other, Grid)
            and self.shape == other.shape
            and np.allclose(self.affine, other.affine, atol=1e-4)
        )

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Edge lengths of one voxel in millimetres."""
        return tuple(float(s) for s in np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel in cubic millimetres."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def millimetres(self, voxels) -> np.ndarray:
        """Turn voxel indices (..., 3) into millimetres (..., 3)."""
        return np.asarray(voxels, dtype=float) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def voxels(self, millimetres) -> np.ndarray:
        """Turn millimetres (..., 3) into voxel indices (..., 3), not rounded."""
        inverse = np.linalg.inv(self.affine)
        return np.asarray(millimetres, dtype=float) @ inverse[:3, :3].T + inverse[:3, 3]

    def centers_mm(self) -> Float[Tensor, "3 x y z"]:
        """Return the position of every voxel's centre in millimetres."""
        indices = np.stack(np.meshgrid(*map(np.arange, self.shape), indexing="ij"), axis=-1)
        return torch.from_numpy(np.moveaxis(self.millimetres(indices), -1, 0).copy()).float()


def mni(spacing_mm: float = 4.0) -> Grid:
    """Return the course's grid in MNI152 space.

    Parameters
    ----------
    spacing_mm : float
        Edge length of a voxel, default 4 mm (48x56x48 voxels). It must divide the field of view
        of 192x224x192 mm.

    Raises
    ------
    ValueError
        If the spacing does not divide the field of view.
    """
    extent = _MNI_HIGH_MM - _MNI_LOW_MM
    if not spacing_mm > 0 or np.any(
        np.abs(extent / spacing_mm - np.round(extent / spacing_mm)) > 1e-6
    ):
        raise ValueError(
            f"spacing_mm must divide 192, 224 and 192 mm without a rest (1, 2, 4 or 8 do), "
            f"got {spacing_mm}"
        )
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = _MNI_LOW_MM + spacing_mm / 2
    return Grid(tuple(np.round(extent / spacing_mm).astype(int).tolist()), affine)


def read(path: str | Path) -> tuple[Float[np.ndarray, "x y z"], Grid]:
    """Read a NIfTI file as a RAS+ array and its grid.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not a readable 3D NIfTI image (truncated, another format, 4D).
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no scan at {path}")
    try:
        loaded = nib.as_closest_canonical(nib.load(path))
        data = np.squeeze(np.asarray(loaded.dataobj, dtype=np.float32))
    except Exception as error:  # nibabel, zlib and numpy each raise their own kinds
        raise ValueError(f"{path} is damaged or not a NIfTI image: {error}") from error
    if data.ndim != 3:
        raise ValueError(f"{path} has shape {loaded.shape}; expected one 3D volume")
    return data, Grid(data.shape, loaded.affine)


def save(volume, grid: Grid, path: str | Path) -> Path:
    """Write one volume as NIfTI with the grid's affine; an older file survives a failure.

    Parameters
    ----------
    volume : array or tensor of shape (x, y, z) or (1, x, y, z)
    grid : Grid
        The volume's grid; its shape must fit.
    path : str or Path
        Ends with ``.nii`` or ``.nii.gz``.
    """
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise ValueError(f"expected a name ending with .nii or .nii.gz, got {path.name}")
    array = np.asarray(torch.as_tensor(volume).detach().cpu().float())
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.shape != grid.shape:
        raise ValueError(f"the volume has shape {array.shape}, its grid {grid.shape}")
    with runtime.replacing(path) as unfinished:
        nib.save(nib.Nifti1Image(array, grid.affine), unfinished)
    return path


def resample(
    volume: Float[np.ndarray, "x y z"], source: Grid, target: Grid, *, nearest: bool = False
) -> Float[np.ndarray, "x2 y2 z2"]:
    """Bring a volume onto another grid through both affines.

    Going to larger voxels, the volume is smoothed first, so that detail that the target grid
    cannot hold does not fold back into it as noise (aliasing).

    Parameters
    ----------
    nearest : bool
        Take the nearest voxel instead of interpolating: for labels and atlases.
    """
    loaded = nib.Nifti1Image(np.asarray(volume, dtype=np.float32), source.affine)
    if not nearest:
        # A Gaussian whose FWHM is the target's spacing, less the blur that the source already has.
        fwhm = np.sqrt(
            np.clip(np.square(target.spacing_mm) - np.square(source.spacing_mm), 0, None)
        )
        if fwhm.max() > 0:
            loaded = nilearn_image.smooth_img(loaded, fwhm)
    moved = nilearn_image.resample_img(
        loaded,
        target_affine=target.affine,
        target_shape=target.shape,
        interpolation="nearest" if nearest else "continuous",
        force_resample=True,
        copy_header=True,
    )
    return np.asarray(moved.dataobj, dtype=np.float32)


def check_volumes(volumes: Tensor, grid: Grid | None = None) -> None:
    """Raise a ValueError unless the tensor is a batch of usable volumes.

    A usable batch has the axes (subject, channel, x, y, z), is finite, and none of its volumes is
    constant. With a grid, the last three axes must be the grid's.
    """
    if not isinstance(volumes, Tensor) or volumes.ndim != 5:
        shape = tuple(getattr(volumes, "shape", ()))
        raise ValueError(
            f"expected volumes with the axes (subject, channel, x, y, z), got shape {shape}; "
            f"a single volume needs volume[None, None]"
        )
    if grid is not None and tuple(volumes.shape[2:]) != grid.shape:
        raise ValueError(
            f"the volumes have {tuple(volumes.shape[2:])} voxels, the grid {grid.shape}; "
            f"bring them onto it with grids.resample"
        )
    flat = volumes.detach().flatten(1)
    finite = flat.isfinite().all(1)
    if not finite.all():
        where = torch.nonzero(~finite).flatten().tolist()
        raise ValueError(f"volumes {where} hold NaN or infinite voxels; mend or drop these scans")
    constant = flat.amax(1) == flat.amin(1)
    if constant.any():
        where = torch.nonzero(constant).flatten().tolist()
        raise ValueError(f"volumes {where} are constant, so there is nothing to see in them")
