"""Where do maps differ from zero, or between two groups, beyond chance?

With tens of thousands of voxels something always looks significant. The permutation test compares
each voxel with the *largest* voxel of relabelled data, which keeps the chance of any false voxel at
all (the family-wise error) at the level that was asked for.

References
----------
Winkler et al. (2014), Permutation inference for the general linear model.
Phipson, Smyth (2010), Permutation P-values should never be zero.
"""

import warnings
from dataclasses import dataclass
from itertools import count
from math import comb
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from nilearn.mass_univariate import permuted_ols
from scipy import ndimage
from torch import Tensor

from helpers import grids, runtime
from helpers.anatomy import Atlas, lateralised
from helpers.evaluation.masks import counted
from helpers.grids import Grid


@dataclass(frozen=True, eq=False)
class GroupTest:
    """What a group test found.

    Attributes
    ----------
    t : tensor of shape (1, x, y, z)
        t statistic; 0 outside the tested voxels. Positive: above zero, or higher in the group
        with the larger label.
    log10_p : tensor of shape (1, x, y, z)
        Minus the decimal logarithm of the two-sided family-wise corrected p: above 1.3 is below
        0.05.
    peaks : DataFrame
        One row a connected cluster of significant voxels of one sign, the strongest first:
        ``x_mm``, ``y_mm``, ``z_mm`` (MNI) of its strongest voxel, ``t`` and ``p`` there,
        ``voxels`` and ``volume_ml``; with an atlas, ``region`` and ``side`` of that voxel ("" where
        the atlas has none). Empty if nothing is significant.
    grid : Grid
    """

    t: Float[Tensor, "1 x y z"]
    log10_p: Float[Tensor, "1 x y z"]
    peaks: pd.DataFrame
    grid: Grid

    def save(self, folder: str | Path) -> None:
        """Write ``t.nii.gz``, ``log10_p.nii.gz`` with the grid's affine, and ``peaks.csv``."""
        folder = Path(folder)
        grids.save(self.t, self.grid, folder / "t.nii.gz")
        grids.save(self.log10_p, self.grid, folder / "log10_p.nii.gz")
        with runtime.replacing(folder / "peaks.csv") as unfinished:
            self.peaks.to_csv(unfinished, index=False)


def group_test(
    maps: Float[Tensor, "subject 1 x y z"],
    labels: Int[Tensor, "subject"] | None,
    grid: Grid,
    *,
    covariates: pd.DataFrame | None = None,
    atlas: Atlas | None = None,
    within: Bool[Tensor, "#subject 1 x y z"] | None = None,
    permutations: int = 1000,
    level: float = 0.05,
    seed: int = 0,
) -> GroupTest:
    """Test each voxel of a group's maps, with family-wise correction by permutation.

    Parameters
    ----------
    maps : tensor of shape (subject, 1, x, y, z)
        One a person, in one common space, with their signs. Smooth them first if the effect's
        place differs between people.
    labels : tensor of shape (subject,) or None
        Two groups to compare, by relabelling; None asks whether the mean differs from zero, by
        flipping the signs of whole maps.
    grid : Grid
        Where the maps' voxels are.
    covariates : DataFrame, optional
        One row a person: what else may move the maps, such as age, head size or site. Numbers count
        as they are, words as groups. Their part is taken out of maps and labels before these are
        relabelled; without labels, the mean is that at the covariates' means.
    atlas : Atlas, optional
        On ``grid``, see `helpers.anatomy.atlas`: ``peaks`` then name regions.
    within : boolean tensor of the maps' shape, or of one subject for all, optional
        Voxels to test; of masks that differ, those that all share. Default all. Voxels where all
        maps are equal are never tested.
    permutations : int
        Default 1000; p cannot fall below 1 / (permutations + 1).
    level : float
        p below which a voxel counts as significant in ``peaks``, default 0.05.
    seed : int
        Seed of the permutations.

    Returns
    -------
    GroupTest

    Raises
    ------
    ValueError
        If maps are not on the grid or hold NaN, there are fewer than 2 subjects a group, labels
        are not two groups, the masks share no voxel, or the level cannot be reached: because of
        the number of permutations, or because few maps can be relabelled in few ways only. If a
        covariate is constant or missing for somebody, two say the same, or they tell the groups
        apart, so that nobody could say what is whose.

    Warns
    -----
    UserWarning
        If maps without a negative value are tested against zero: absolute values are above zero
        also where they are noise.

    Examples
    --------
    >>> import torch
    >>> from helpers import evaluation, grids
    >>> maps = torch.randn(12, 1, 24, 28, 24, generator=torch.Generator().manual_seed(0))
    >>> maps[:, :, 20, 10, 10] += 5
    >>> found = evaluation.group_test(maps, None, grids.mni(8.0), permutations=100)
    >>> found.peaks[["x_mm", "y_mm", "z_mm"]].values.tolist()
    [[68.0, -46.0, 0.0]]
    """
    inside = counted(maps, within).all(0)
    if tuple(maps.shape[2:]) != grid.shape:
        raise ValueError(f"the maps have {tuple(maps.shape[2:])} voxels, the grid {grid.shape}")
    if not 0 < level < 1 or permutations + 1 < 1 / level:
        raise ValueError(
            f"{permutations} permutations cannot give a p below {level}; "
            f"take {int(np.ceil(1 / level))} or more and a level between 0 and 1"
        )
    tested = _tested_variable(maps, labels)
    _check_reach(level, tested)
    confounds = None if covariates is None else _confounds(covariates, tested)
    if atlas is not None and atlas.grid != grid:
        raise ValueError(
            "the atlas lies on another grid than the maps; make it with anatomy.atlas(grid, ...)"
        )
    inside = inside & (maps.amax(0) != maps.amin(0))
    if not inside.any():
        raise ValueError("no voxel lies within all masks and differs between the maps")
    result = permuted_ols(
        tested,
        maps[:, inside].double().numpy(),
        confounds,
        model_intercept=labels is not None,
        n_perm=permutations,
        two_sided_test=True,
        random_state=seed,
        output_type="dict",
    )
    t, log10_p = torch.zeros(inside.shape), torch.zeros(inside.shape)
    t[inside] = torch.from_numpy(result["t"][0]).float()
    log10_p[inside] = torch.from_numpy(result["logp_max_t"][0]).float()
    peaks = _peaks(t[0].numpy(), log10_p[0].numpy(), level, grid)
    if atlas is not None:
        names = [_region(atlas, row) for row in peaks.to_dict("records")]
        peaks[["region", "side"]] = pd.DataFrame(names, columns=["region", "side"])
    return GroupTest(t, log10_p, peaks, grid)


def _confounds(covariates: pd.DataFrame, tested: np.ndarray) -> np.ndarray:
    """Return what the covariates say as centred columns of numbers, words as one column a group."""
    if len(covariates) != len(tested):
        raise ValueError(
            f"expected one row of covariates a subject ({len(tested)}), got {len(covariates)}"
        )
    missing = covariates.columns[covariates.isna().any()].tolist()
    if missing:
        raise ValueError(
            f"the covariates {missing} are missing for some people; leave those people out, or the "
            f"covariates"
        )
    constant = covariates.columns[covariates.nunique() < 2].tolist()
    if constant or covariates.empty:
        raise ValueError(f"the covariates {constant} are the same for everybody; leave them out")
    words = covariates.select_dtypes(exclude="number").columns
    numbers = pd.get_dummies(covariates, columns=list(words), drop_first=True, dtype=float)
    numbers = (numbers - numbers.mean()) / numbers.std()
    everybody = np.ones((len(tested), 1))
    if np.linalg.matrix_rank(np.hstack([everybody, numbers])) < 1 + numbers.shape[1]:
        raise ValueError(f"of the covariates {list(numbers)}, some say the same; leave one out")
    groups = tested if tested.std() else np.empty((len(tested), 0))
    design = np.hstack([everybody, numbers, groups])
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise ValueError(
            f"the covariates {list(numbers)} tell the two groups apart, so nothing can be told "
            f"from the group alone; leave out the one that goes with the group"
        )
    if len(tested) <= design.shape[1]:
        raise ValueError(
            f"{len(tested)} people are too few for {numbers.shape[1]} covariates; take fewer"
        )
    return numbers.to_numpy()


def _region(atlas: Atlas, peak: dict) -> tuple[str, str]:
    """Return region and side of a peak, as `by_region` names them."""
    voxel = atlas.grid.voxels([peak[f"{axis}_mm"] for axis in "xyz"]).round().astype(int)
    label = int(atlas.labels[tuple(voxel)])
    if label == 0:
        return "", ""
    side = {-1: "left", 0: "midline", 1: "right"}[int(np.sign(round(peak["x_mm"], 3)))]
    return lateralised(atlas).get(label, (atlas.names[label], side))


def _tested_variable(maps: Tensor, labels: Tensor | None) -> np.ndarray:
    if labels is None:
        if len(maps) < 2:
            raise ValueError(f"a group has at least 2 subjects, got {len(maps)}")
        if not (maps < 0).any():
            warnings.warn(
                "no map has a negative value, so nearly every voxel will differ from zero, noise "
                "included; compare two groups, or subtract what chance would give",
                stacklevel=3,
            )
        return np.ones((len(maps), 1))
    if labels.shape != (len(maps),):
        raise ValueError(f"expected one label a subject ({len(maps)}), got {tuple(labels.shape)}")
    groups, counts = labels.unique(return_counts=True)
    if len(groups) != 2 or int(counts.min()) < 2:
        sizes = dict(zip(groups.tolist(), counts.tolist(), strict=True))
        raise ValueError(f"expected two groups of at least 2 subjects, got {sizes} (label: size)")
    return (labels == groups[1]).double().numpy()[:, None]


def _check_reach(level: float, tested: np.ndarray) -> None:
    """Refuse a level that no effect could reach, however strong.

    Flipping all signs, or swapping two groups of one size, gives the strength of the true labels
    again: two of all relabellings are always as strong as the strongest effect.
    """
    subjects, second = len(tested), int(tested.sum())
    if second == subjects:
        ways, alike = 2**subjects, 2
        needed = f"at least {next(n for n in count(2) if 2 / 2**n <= level)} maps"
    else:
        ways, alike = comb(subjects, second), 1 + (2 * second == subjects)
        each = next(n for n in count(2) if 2 / comb(2 * n, n) <= level)
        needed = f"more, such as {each} maps in each group"
    if alike / ways > level:
        raise ValueError(
            f"{subjects} maps can be relabelled in {ways} ways, so nothing can reach a p below "
            f"{alike / ways:.3g}; a level of {level:g} needs {needed}"
        )


def _peaks(t: np.ndarray, log10_p: np.ndarray, level: float, grid: Grid) -> pd.DataFrame:
    significant = log10_p >= -np.log10(level) - 1e-6  # a p of just the level, despite rounding
    rows = []
    for sign in (1, -1):
        # Voxels that touch by a face, an edge or a corner belong together.
        clusters, count = ndimage.label(significant & (sign * t > 0), np.ones((3, 3, 3)))
        for cluster in range(1, count + 1):
            members = clusters == cluster
            peak = np.unravel_index(np.argmax(np.where(members, np.abs(t), -1)), t.shape)
            row = dict(zip(("x_mm", "y_mm", "z_mm"), grid.millimetres(peak).tolist(), strict=True))
            row |= {
                "t": float(t[peak]),
                "p": float(10 ** -log10_p[peak]),
                "voxels": int(members.sum()),
                "volume_ml": float(members.sum() * grid.voxel_volume_mm3 / 1000),
            }
            rows.append(row)
    columns = ["x_mm", "y_mm", "z_mm", "t", "p", "voxels", "volume_ml"]
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values("t", key=np.abs, ascending=False, ignore_index=True)
