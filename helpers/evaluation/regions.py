"""Which regions of the brain does a group of maps point to?"""

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from helpers import anatomy
from helpers.anatomy import Atlas
from helpers.evaluation.masks import counted
from helpers.grids import Grid

_SIDES = {-1: "left", 0: "midline", 1: "right"}


def by_region(
    maps: Float[Tensor, "subject 1 x y z"], grid: Grid, atlas: Atlas | None = None
) -> pd.DataFrame:
    """Average maps over each region and hemisphere, then over subjects.

    Parameters
    ----------
    maps : tensor of shape (subject, 1, x, y, z)
        In one space. The values are averaged with their signs; pass ``maps.abs()`` to ask how much
        a region matters rather than in which direction.
    grid : Grid
        Where the maps' voxels are. Only in MNI space (``grid.space``) is it known where the midline
        is; elsewhere, as on a person's own scan, sides are those that names say.
    atlas : Atlas, optional
        See `helpers.anatomy.atlas`; default the tissues of the template. It must lie on ``grid``.
        It may be a person's own segmentation, for maps on the voxels of that scan.

    Returns
    -------
    DataFrame
        One row a region and side, in the order of the atlas: ``region``; ``side``, ``"left"`` or
        ``"right"`` of the MNI midline (``"midline"`` for voxels centred on it), or what the
        region's name says (``Insula_L`` and ``Insula_R`` are the two sides of ``Insula``, one below
        the other), or ``"both"`` where neither is known; ``voxels``;
        ``volume_ml``; ``mean`` over subjects of the region's mean; ``sd``, the standard deviation
        between subjects (NaN for a single one).

    Raises
    ------
    ValueError
        If the maps or the atlas are not on the grid, or maps hold NaN.

    Examples
    --------
    >>> import torch
    >>> from helpers import evaluation, grids
    >>> table = evaluation.by_region(torch.rand(2, 1, 48, 56, 48), grids.mni())
    >>> table["region"].unique().tolist()
    ['grey matter', 'white matter', 'cerebrospinal fluid']
    """
    counted(maps, None)
    atlas = anatomy.atlas(grid) if atlas is None else atlas
    if tuple(maps.shape[2:]) != grid.shape:
        raise ValueError(f"the maps have {tuple(maps.shape[2:])} voxels, the grid {grid.shape}")
    if atlas.grid != grid:
        raise ValueError(
            "the atlas lies on another grid than the maps; make it with anatomy.atlas(grid, ...)"
        )
    values = maps[:, 0].double().numpy()
    labels = atlas.labels.numpy()
    # A hair's breadth: voxels on the midline may be off it by rounding.
    x_mm = grid.centers_mm()[0].numpy()
    sides = np.where(np.abs(x_mm) < 1e-3, 0, np.sign(x_mm)).astype(int)
    named, rows = anatomy.lateralised(atlas), {}
    for label, name in atlas.names.items():
        region, its_side = named.get(label, (name, None))
        everywhere = labels == label
        if its_side is not None:
            parts = {its_side: everywhere}
        elif grid.space == "mni":
            parts = {word: everywhere & (sides == side) for side, word in _SIDES.items()}
        else:
            parts = {"both": everywhere}
        for word, inside in parts.items():
            if not inside.any():
                continue
            of_each = values[:, inside].mean(1)
            rows.setdefault(region, []).append(
                {
                    "region": region,
                    "side": word,
                    "voxels": int(inside.sum()),
                    "volume_ml": float(inside.sum() * grid.voxel_volume_mm3 / 1000),
                    "mean": float(of_each.mean()),
                    "sd": float(of_each.std(ddof=1)) if len(of_each) > 1 else np.nan,
                }
            )
    return pd.DataFrame([row for both in rows.values() for row in both])
