"""Real anatomy without a download: the MNI152 template on any grid.

The T1 and the tissue maps are the ICBM 2009a nonlinear symmetric template (152 people averaged)
that ships inside nilearn.

References
----------
Fonov et al. (2011), Unbiased average age-appropriate atlases for pediatric studies.
"""

from dataclasses import dataclass
from functools import lru_cache

import nibabel as nib
import numpy as np
import torch
from jaxtyping import Bool, Float
from nilearn import datasets
from torch import Tensor

from helpers import grids
from helpers.grids import Grid

TISSUES = ("grey matter", "white matter", "cerebrospinal fluid")


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


@lru_cache(maxsize=4)
def _template(shape: tuple[int, int, int], affine: tuple[float, ...]) -> Anatomy:
    grid = Grid(shape, np.reshape(affine, (4, 4)))
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

    Examples
    --------
    >>> from helpers import anatomy
    >>> brain = anatomy.template()
    >>> tuple(brain.t1.shape)
    (1, 48, 56, 48)
    """
    grid = grids.mni() if grid is None else grid
    return _template(grid.shape, tuple(grid.affine.ravel().tolist()))


def _on_grid(loaded: nib.Nifti1Image, grid: Grid) -> Tensor:
    data = np.asarray(loaded.dataobj, dtype=np.float32)
    source = Grid(data.shape, loaded.affine)
    return torch.from_numpy(grids.resample(data, source, grid))
