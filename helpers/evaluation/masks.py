"""Sets of voxels: which ones count, which are a map's strongest, how far two sets agree.

References
----------
Dice (1945), Measures of the amount of ecologic association between species.
"""

import warnings

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers import runtime


def strongest(
    maps: Float[Tensor, "subject 1 x y z"],
    fraction: float,
    *,
    within: Bool[Tensor, "#subject 1 x y z"] | None = None,
    seed: int = 0,
) -> Bool[Tensor, "subject 1 x y z"]:
    """Return each map's strongest voxels, the same number whatever the map's scale.

    Parameters
    ----------
    maps : tensor of shape (subject, 1, x, y, z)
        Ranked by absolute value. Voxels of equal strength come in random order.
    fraction : float
        Share of the voxels that count, above 0 and at most 1; at least one voxel is returned.
    within : boolean tensor of the maps' shape, or of one subject for all, optional
        Voxels that count, for example the brain. Default all.
    seed : int
        Seed of the order among equals.

    Raises
    ------
    ValueError
        If shapes differ, maps hold NaN, no voxel counts, or the fraction is not a share.

    Warns
    -----
    UserWarning
        If maps are zero everywhere: their strongest voxels are random ones.

    Examples
    --------
    >>> import torch
    >>> from helpers import evaluation
    >>> maps = torch.arange(24.0).view(1, 1, 2, 3, 4)
    >>> evaluation.strongest(maps, 0.1).flatten().nonzero().flatten().tolist()
    [22, 23]
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be above 0 and at most 1, got {fraction}")
    inside = counted(maps, within)
    warn_of_zero_maps(maps, inside)
    chosen = torch.zeros(maps.shape, dtype=torch.bool)
    for i in range(len(maps)):
        order = ranked(maps[i], inside[i], runtime.generator(seed, i))
        chosen[i].view(-1)[order[: max(1, round(fraction * len(order)))]] = True
    return chosen


def dice(
    a: Bool[Tensor, "subject 1 x y z"], b: Bool[Tensor, "subject 1 x y z"]
) -> Float[Tensor, "subject"]:
    """Return the overlap of two masks, ``2|A and B| / (|A| + |B|)``, 0 to 1.

    Where both masks have the same number of voxels, this is the share of the one that lies in
    the other: `helpers.evaluation.localization` calls it ``relevance_rank``.

    Raises
    ------
    ValueError
        If the shapes differ or both masks of a subject are empty.

    Examples
    --------
    >>> import torch
    >>> from helpers import evaluation
    >>> a = torch.arange(1000).view(1, 1, 10, 10, 10) < 27
    >>> b = a.flip(2)  # 2.7 % of the volume as well, at its other end
    >>> float(evaluation.dice(a, b)), round(float(evaluation.dice_with_background(a, b)), 3)
    (0.0, 0.946)
    """
    _check_pair(a, b)
    sizes = (a.flatten(1).sum(1) + b.flatten(1).sum(1)).double()
    if (sizes == 0).any():
        where = torch.nonzero(sizes == 0).flatten().tolist()
        raise ValueError(f"both masks of subjects {where} are empty, so they have no overlap")
    return 2 * (a & b).flatten(1).sum(1) / sizes


def dice_with_background(
    a: Bool[Tensor, "subject 1 x y z"], b: Bool[Tensor, "subject 1 x y z"]
) -> Float[Tensor, "subject"]:
    """Return what Dice becomes if the background counts as a second class: a mistake to recognize.

    Summed over both classes, ``2|A and B| / (|A| + |B|)`` is the share of *all* voxels on which the
    masks agree, and they agree on the empty rest. Two masks of 2.7 % of the volume that share no
    voxel score 1 - 2 x 0.027 = 0.946.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    _check_pair(a, b)
    return (a == b).flatten(1).double().mean(1)


def share_outside(
    maps: Float[Tensor, "subject 1 x y z"], within: Bool[Tensor, "#subject 1 x y z"]
) -> Float[Tensor, "subject"]:
    """Return the share of each map's size, the sum of its absolute values, that lies outside.

    Parameters
    ----------
    maps : tensor of shape (subject, 1, x, y, z)
    within : boolean tensor of the maps' shape, or of one subject for all
        As a rule the brain.

    Returns
    -------
    tensor of shape (subject,)
        0 to 1; 0 for a map that is zero everywhere. Scores within the brain do not see this
        share: above a half, they speak of the smaller part of the map.

    Raises
    ------
    ValueError
        If shapes differ, maps hold NaN, or a mask is empty.

    Examples
    --------
    >>> import torch
    >>> from helpers import evaluation
    >>> maps = torch.tensor([3.0, -1, 0, 4]).view(1, 1, 1, 1, 4)
    >>> evaluation.share_outside(maps, maps < 4)
    tensor([0.5000])
    """
    inside = counted(maps, within)
    size = maps.abs().double()
    outside = (size * ~inside).flatten(1).sum(1)
    return (outside / size.flatten(1).sum(1).clamp_min(1e-300)).float()


def counted(
    maps: Float[Tensor, "subject 1 x y z"], within: Bool[Tensor, "#subject 1 x y z"] | None
) -> Bool[Tensor, "subject 1 x y z"]:
    """Check maps and return the voxels that count, one mask a subject."""
    if maps.ndim != 5 or maps.shape[1] != 1:
        raise ValueError(f"expected maps of shape (subject, 1, x, y, z), got {tuple(maps.shape)}")
    broken = torch.nonzero(~maps.flatten(1).isfinite().all(1)).flatten().tolist()
    if broken:
        raise ValueError(f"the maps of subjects {broken} hold NaN or infinite values")
    if within is None:
        return torch.ones(maps.shape, dtype=torch.bool)
    if within.ndim != 5 or within.shape[1:] != maps.shape[1:] or len(within) not in (1, len(maps)):
        raise ValueError(
            f"within must have the maps' shape {tuple(maps.shape)}, or that of one subject for "
            f"all; got {tuple(within.shape)}"
        )
    empty = torch.nonzero(~within.flatten(1).any(1)).flatten().tolist()
    if empty:
        raise ValueError(f"the masks {empty} of within are empty: no voxel would count")
    return within.expand(maps.shape)


def ranked(
    values: Float[Tensor, "1 x y z"], inside: Bool[Tensor, "1 x y z"], generator: torch.Generator
) -> Int[Tensor, "voxel"]:
    """Return the flat indices of the voxels inside, the strongest first, equals in random order."""
    voxels = inside.flatten().nonzero().flatten()
    voxels = voxels[torch.randperm(len(voxels), generator=generator)]
    strength = values.abs().flatten()[voxels]
    return voxels[strength.argsort(descending=True, stable=True)]


def warn_of_zero_maps(
    maps: Float[Tensor, "subject 1 x y z"], inside: Bool[Tensor, "subject 1 x y z"]
) -> None:
    """Warn of maps that are zero wherever it counts: they rank nothing."""
    zero = torch.nonzero(~((maps != 0) & inside).flatten(1).any(1)).flatten().tolist()
    if zero:
        # The caller of the public function that asked for this check.
        warnings.warn(
            f"the maps of subjects {zero} are zero everywhere: they say nothing, and are scored "
            f"as chance",
            stacklevel=3,
        )


def _check_pair(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"the masks need one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
