"""Voxel grids: where in millimetres a voxel is, and NIfTI files in and out.

A volume without its grid is just numbers. A `Grid` says how many voxels there are along each axis
and how voxel indices become millimetres; it travels with every volume in this course. Arrays are
in NIfTI order and RAS+ orientation: the first axis runs to the subject's right, the second to the
front, the third up.
"""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from jaxtyping import Float
from nilearn import image as nilearn_image
from scipy import ndimage
from torch import Tensor

from helpers import runtime
from helpers.errors import BrokenScanError

# Outer edges of the field of view, in MNI millimetres: the whole brain with a margin, and a size
# that divides by 2, 4 and 8 mm alike.
_MNI_LOW_MM = np.array([-96.0, -130.0, -84.0])
_MNI_HIGH_MM = np.array([96.0, 94.0, 108.0])
FIELD_OF_VIEW_MM = _MNI_HIGH_MM - _MNI_LOW_MM
# Its middle, inside the brain: a head that keeps its size is turned and shifted about it.
MIDDLE_MM = (_MNI_LOW_MM + _MNI_HIGH_MM) / 2

# Affines are compared in steps of 1/4096 mm. A power of two: spacings such as 0.9375 or 0.1 mm lie
# on a step or well inside one, never on the edge between two, so the 1e-5 mm that a file's float32
# loses cannot part grids that are the same.
_STEPS_PER_MM = 4096

_SPACINGS_MM = (0.01, 100.0)
_SPACES = ("scanner", "aligned", "talairach", "mni", "template")
_HEADER_BYTES = nib.Nifti2Header.template_dtype.itemsize  # the longer one
# The length of its header, in either byte order: how a NIfTI-2 file begins.
_NIFTI_2 = tuple(_HEADER_BYTES.to_bytes(4, order) for order in ("little", "big"))
_CHECKED_AT_ONCE = 16
_HAIR_VOXELS = 1e-4
_FWHM_PER_SIGMA = np.sqrt(8 * np.log(2))


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular grid of voxels in space.

    Two grids are equal, and have the same hash, if their shapes are and their affines agree to
    1/4096 mm, whatever the space is called.

    Attributes
    ----------
    shape : tuple of int
        Number of voxels along x, y, z.
    affine : ndarray of shape (4, 4)
        Maps voxel indices to millimetres, as in a NIfTI header.
    space : str
        What the millimetres are counted in, in NIfTI's words: ``"scanner"``, ``"aligned"`` (to
        another scan, the default), ``"talairach"``, ``"mni"`` or ``"template"``. `save` writes it,
        `read` brings it back.

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
    space: str = "aligned"

    def __post_init__(self):
        affine = np.asarray(self.affine, dtype=float)
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"a grid has three axes of at least one voxel, got {self.shape}")
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise ValueError(f"expected a 4x4 affine of finite numbers, got {affine.tolist()}")
        if abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise ValueError(f"expected an invertible affine, got {affine.tolist()}")
        if self.space not in _SPACES:
            raise ValueError(f"space is {self.space!r}; expected one of {_SPACES}")
        affine = affine.copy()
        affine.setflags(write=False)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "affine", affine)

    def __eq__(self, other):
        return isinstance(other, Grid) and self._key() == other._key()

    def __hash__(self):
        return hash(self._key())

    def _key(self) -> tuple:
        steps = np.rint(self.affine * _STEPS_PER_MM).astype(np.int64)
        return self.shape, *steps.ravel().tolist()

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Edge lengths of one voxel in millimetres."""
        return tuple(float(s) for s in np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel in cubic millimetres."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def is_native(self) -> bool:
        """Whether it is a grid of `native`, for scans that are not registered."""
        return self.space == "scanner" and self == native(self.spacing_mm[0], self.shape)

    @property
    def is_rigid(self) -> bool:
        """Whether it is a grid of `rigid`, for heads that keep their size."""
        return self.space == "aligned" and self == rigid(self.spacing_mm[0], self.shape)

    def millimetres(self, voxels) -> np.ndarray:
        """Turn voxel indices (..., 3) into millimetres (..., 3)."""
        return np.asarray(voxels, dtype=float) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def voxels(self, millimetres) -> np.ndarray:
        """Turn millimetres (..., 3) into voxel indices (..., 3), not rounded."""
        inverse = np.linalg.inv(self.affine)
        return np.asarray(millimetres, dtype=float) @ inverse[:3, :3].T + inverse[:3, 3]

    def upright(self) -> "Grid":
        """Return the same voxels in RAS+ order, the order that `read` brings an array into."""
        turns = nib.io_orientation(self.affine)
        affine = self.affine @ nib.orientations.inv_ornt_aff(turns, self.shape)
        shape = np.array(self.shape)[np.argsort(turns[:, 0])]
        return Grid(tuple(shape.tolist()), affine, self.space)

    def centers_mm(self) -> Float[Tensor, "3 x y z"]:
        """Return the position of every voxel's centre in millimetres."""
        indices = np.stack(np.meshgrid(*map(np.arange, self.shape), indexing="ij"), axis=-1)
        return torch.from_numpy(np.moveaxis(self.millimetres(indices), -1, 0).copy()).float()


def mni(spacing_mm: float = 4.0, shape: tuple[int, int, int] | None = None) -> Grid:
    """Return a grid in MNI152 space, by default the course's.

    Parameters
    ----------
    spacing_mm : float
        Edge length of a voxel, default 4 mm (48x56x48 voxels).
    shape : tuple of int, optional
        Number of voxels along x, y, z, about the middle of the course's field of view: fewer are a
        centre crop, more are padding. Default: all of the field of view, 192x224x192 mm, which the
        spacing must then divide.

    Raises
    ------
    ValueError
        If the spacing is no positive number, or without a shape does not divide the field of view.

    Examples
    --------
    >>> from helpers import grids
    >>> grids.mni(2.0).shape, grids.mni(2.0, (80, 96, 80)).millimetres((0, 0, 0)).tolist()
    ((96, 112, 96), [-79.0, -113.0, -67.0])
    """
    return _about(MIDDLE_MM, spacing_mm, shape, "mni")


def rigid(spacing_mm: float = 4.0, shape: tuple[int, int, int] | None = None) -> Grid:
    """Return a grid for brains that are turned and shifted onto the template, and keep their size.

    Its millimetres are a brain's own, counted from `MIDDLE_MM`. No grid of `mni` lies so.

    Parameters
    ----------
    spacing_mm, shape
        As of `mni`.

    Raises
    ------
    ValueError
        As `mni`.

    Examples
    --------
    >>> from helpers import grids
    >>> grid = grids.rigid(4.0)
    >>> grid.shape, grid.millimetres((0, 0, 0)).tolist(), grid.is_rigid
    ((48, 56, 48), [-94.0, -110.0, -94.0], True)
    """
    return _about(np.zeros(3), spacing_mm, shape, "aligned")


def _about(
    middle_mm: np.ndarray, spacing_mm: float, shape: tuple[int, int, int] | None, space: str
) -> Grid:
    if not 0 < spacing_mm < np.inf:
        raise ValueError(f"spacing_mm must be a positive number, got {spacing_mm}")
    if shape is None:
        counts = FIELD_OF_VIEW_MM / spacing_mm
        if np.any(np.abs(counts - np.round(counts)) > 1e-6):
            raise ValueError(
                f"spacing_mm must divide 192, 224 and 192 mm without a rest (1, 2, 4 or 8 do), "
                f"got {spacing_mm}; with another spacing, say the shape"
            )
        shape = tuple(np.round(counts).astype(int).tolist())
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    # The first voxel's centre lies half a field of view from the middle, less half a voxel.
    affine[:3, 3] = middle_mm - (np.array(shape) - 1) / 2 * spacing_mm
    return Grid(shape, affine, space)


def native(spacing_mm: float, shape: tuple[int, int, int]) -> Grid:
    """Return a grid about the middle of a brain that is not registered to anything.

    Its millimetres are counted along the scan's own axes, from the middle of the brain, where the
    voxel n // 2 of each axis lies. No grid of `mni` lies so.

    Raises
    ------
    ValueError
        If the spacing is no positive number.

    Examples
    --------
    >>> from helpers import grids
    >>> grid = grids.native(2.0, (80, 96, 81))
    >>> grid.millimetres((40, 48, 40)).tolist(), grid.is_native
    ([0.0, 0.0, 0.0], True)
    """
    if not 0 < spacing_mm < np.inf:
        raise ValueError(f"spacing_mm must be a positive number, got {spacing_mm}")
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = -spacing_mm * (np.array(shape) // 2)
    return Grid(shape, affine, "scanner")


def read(path: str | Path) -> tuple[Float[np.ndarray, "x y z"], Grid]:
    """Read a NIfTI file as a RAS+ array and its grid.

    A file is read to its last byte. A ``.nii.gz`` carries a checksum, so a cut or flipped bit in
    it cannot pass; a ``.nii`` has none, so that only its length can be verified.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    BrokenScanError
        If the file is cut, longer than its header says, fails its checksum, or breaks one of the
        rules of `read_grid`.
    """
    path = _existing(path)
    with _damage_named(path):
        content = path.read_bytes()
        if path.name.endswith(".gz"):
            content = gzip.decompress(content)  # to the end, checksum and length included
        header = _header(content)
        grid = _grid(header, path)
        voxels = int(np.prod(grid.shape, dtype=object))  # Python's numbers do not overflow
        expected = header.get_data_offset() + voxels * header.get_data_dtype().itemsize
        if len(content) != expected:
            raise BrokenScanError(
                f"{path} is damaged: its header asks for {expected} bytes, it has {len(content)}"
            )
        image = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
        stored = image.from_bytes(content).dataobj
        with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite
            data = np.asarray(stored, dtype=np.float32).reshape(grid.shape)
    return nib.apply_orientation(data, nib.io_orientation(grid.affine)), grid.upright()


def read_grid(path: str | Path) -> Grid:
    """Read from a NIfTI file's header where its voxels lie, in the order of the file.

    The voxels are not looked at, so it takes a millisecond, and damage behind the header goes
    unnoticed. ``read_grid(path).upright()`` is the grid that `read` returns. The rules:

    - One volume. Further axes may only have length 1, as in 4D files of one volume.
    - The header must say where the voxels lie: its sform counts, without one its qform; a header
      with neither (both codes 0) could have left and right exchanged and is refused.
    - Sheared affines are taken as they are; `resample` goes through them. Voxels measure 0.01 to
      100 mm along three different axes.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    BrokenScanError
        If the header is damaged or breaks a rule.
    """
    path = _existing(path)
    with (
        _damage_named(path),
        (gzip.open if path.name.endswith(".gz") else open)(path, "rb") as file,
    ):
        return _grid(_header(file.read(_HEADER_BYTES)), path)


def save(volume, grid: Grid, path: str | Path) -> Path:
    """Write one volume as NIfTI with the grid's affine; an older file survives a failure.

    The sform carries the affine and the code of ``grid.space`` (4 for ``"mni"``). So does the
    qform, which some programs prefer, unless the affine is sheared: a qform cannot say that.

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
    image = nib.Nifti1Image(array, grid.affine)
    image.set_sform(grid.affine, code=grid.space)
    image.set_qform(grid.affine, code=grid.space)
    if not np.allclose(image.get_qform(), grid.affine, atol=1e-3):
        image.set_qform(None, code="unknown")
    image.header.set_xyzt_units("mm")
    with runtime.replacing(path) as unfinished:
        nib.save(image, unfinished)
    return path


def resample(
    volume: Float[np.ndarray, "x y z"], source: Grid, target: Grid, *, nearest: bool = False
) -> Float[np.ndarray, "x2 y2 z2"]:
    """Bring a volume onto another grid through both affines, in whatever order their axes are.

    Going to larger voxels, the volume is smoothed first, so that detail that the target grid
    cannot hold does not fold back into it as noise (aliasing).

    Parameters
    ----------
    nearest : bool
        Take the nearest voxel instead of interpolating: for labels and atlases.
    """
    data = np.asarray(volume, dtype=np.float32)
    if not nearest:
        # A Gaussian as wide (FWHM) as the target's voxel is along each axis of the source, in
        # source voxels, less the blur of one voxel that the source already has.
        to_source = np.linalg.inv(source.affine[:3, :3]) @ target.affine[:3, :3]
        extent = np.linalg.norm(to_source, axis=1)
        fwhm = np.sqrt(np.clip(np.square(extent) - 1, 0, None))
        for axis, sigma in enumerate(fwhm / _FWHM_PER_SIGMA):
            if sigma > 0:
                data = ndimage.gaussian_filter1d(data, sigma, axis=axis)
    moved = nilearn_image.resample_img(
        nib.Nifti1Image(data, source.affine),
        target_affine=target.affine,
        target_shape=target.shape,
        interpolation="nearest" if nearest else "continuous",
        force_resample=True,
        copy_header=True,
    )
    return np.asarray(moved.dataobj, dtype=np.float32)


def widened(grid: Grid) -> Grid:
    """Return a grid that is larger by a hair: its outermost voxels lie 1/10000 voxel further out.

    `resample` gives 0 beyond the centre of the outermost voxel. Where the voxels of two grids
    coincide, the last digit of an affine would otherwise say whether the outermost count.

    Examples
    --------
    >>> from helpers import grids
    >>> grid = grids.native(2.0, (21, 31, 41))
    >>> grid.voxels(grids.widened(grid).millimetres([(0, 15, 40)])).round(6).tolist()
    [[-0.0001, 15.0, 40.0001]]
    """
    last = np.array(grid.shape) - 1.0
    scale = 1 + 2 * _HAIR_VOXELS / last.clip(1)
    stretch = np.diag([*scale, 1.0])
    stretch[:3, 3] = last / 2 * (1 - scale)
    return Grid(grid.shape, grid.affine @ stretch, grid.space)


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
    # The smallest and the largest voxel say both, and need no copy. Some at a time: volumes that do
    # not lie one behind the other are copied to be flat.
    parts = volumes.detach().split(_CHECKED_AT_ONCE)
    low, high = (torch.cat(ends) for ends in zip(*map(_ends, parts), strict=True))
    finite = low.isfinite() & high.isfinite()  # NaN is handed on
    if not finite.all():
        where = torch.nonzero(~finite).flatten().tolist()
        raise ValueError(f"volumes {where} hold NaN or infinite voxels; mend or drop these scans")
    constant = low == high
    if constant.any():
        where = torch.nonzero(constant).flatten().tolist()
        raise ValueError(f"volumes {where} are constant, so there is nothing to see in them")


def _ends(volumes: Tensor) -> tuple[Tensor, Tensor]:
    return volumes.flatten(1).aminmax(dim=1)


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.exists():  # also a link to content that was never fetched (DataLad)
        raise FileNotFoundError(f"{path} does not exist, or is a link that leads nowhere")
    if not path.name.endswith((".nii", ".nii.gz")):
        raise BrokenScanError(f"{path} is no NIfTI file: expected a name ending in .nii or .nii.gz")
    return path


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Say which file it is that nibabel, zlib, numpy or the system cannot read."""
    try:
        yield
    except BrokenScanError:
        raise
    except Exception as error:  # each raises its own kinds
        if isinstance(error, OSError) and error.strerror:
            raise BrokenScanError(f"{path} cannot be read: {error.strerror}") from error
        raise BrokenScanError(f"{path} is damaged or not a NIfTI image: {error}") from error


def _header(content: bytes) -> nib.Nifti1Header:
    """Return the header with which the content of a file begins."""
    kind = nib.Nifti2Header if content[:4] in _NIFTI_2 else nib.Nifti1Header
    needed = kind.template_dtype.itemsize
    if len(content) < needed:
        raise ValueError(f"it holds {len(content)} bytes, a header alone has {needed}")
    return kind(content[:needed])


def _grid(header: nib.Nifti1Header, path: Path) -> Grid:
    """Return the grid that a header describes, in the order of the file."""
    shape = header.get_data_shape()
    if len(shape) < 3 or any(n != 1 for n in shape[3:]):
        raise BrokenScanError(
            f"{path} has shape {shape}; expected one 3D volume. Save the volume that you mean alone"
        )
    if header.get_data_dtype().kind not in "iuf":
        raise BrokenScanError(
            f"{path} holds {header.get_data_dtype()}; expected one real number a voxel"
        )
    affine, code = header.get_sform(coded=True)
    if code == 0:
        affine, code = header.get_qform(coded=True)
    if code == 0:
        raise BrokenScanError(
            f"{path} does not say where its voxels lie (sform and qform codes are 0), so that left "
            f"and right cannot be known; convert the scan again from DICOM, or set the sform if "
            f"you know it"
        )
    grid = Grid(tuple(shape[:3]), affine, nib.nifti1.xform_codes.label[int(code)])
    low, high = _SPACINGS_MM
    turned = nib.io_orientation(affine)
    if not low <= min(grid.spacing_mm) <= max(grid.spacing_mm) <= high or np.isnan(turned).any():
        raise BrokenScanError(
            f"{path} has voxels of {grid.spacing_mm} mm along axes {affine[:3, :3].tolist()}; "
            f"expected {low} to {high:g} mm along three different axes"
        )
    return grid
