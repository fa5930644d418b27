"""Do two methods say the same about the same network?

Agreement is not truth: methods of one family agree with each other, also where they are wrong.
"""

from collections.abc import Mapping
from itertools import combinations

import pandas as pd
from jaxtyping import Bool, Float
from scipy.stats import spearmanr
from torch import Tensor

from helpers.evaluation.masks import counted, dice, strongest


def agreement(
    maps: Mapping[str, Float[Tensor, "subject 1 x y z"]],
    *,
    within: Bool[Tensor, "#subject 1 x y z"],
    fraction: float = 0.05,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare each pair of methods, subject by subject.

    Parameters
    ----------
    maps : mapping of str to tensor of shape (subject, 1, x, y, z)
        Maps of the same subjects by method; their absolute values are compared.
    within : boolean tensor of the maps' shape, or of one subject for all
        Voxels that count: the brain. The empty background would make every pair agree.
    fraction : float
        Share of the voxels that make the strongest area, default 0.05.
    seed : int
        Seed of the order among voxels of equal strength.

    Returns
    -------
    DataFrame
        One row a pair and subject: ``first``, ``second``, ``subject``; ``spearman``, the rank
        correlation, -1 to 1; ``dice`` of the strongest areas, 0 to 1. Maps that have nothing to
        do with each other have a correlation near 0 and a Dice near ``fraction``.

    Raises
    ------
    ValueError
        If there are fewer than two methods, shapes differ, or maps hold NaN.

    Warns
    -----
    UserWarning
        If maps are zero everywhere: their correlation is 0 and their strongest area random.

    Examples
    --------
    >>> from helpers import attribution, cohorts, evaluation, models
    >>> volumes = cohorts.simulate("lesion", subjects=2).volumes
    >>> network = models.pretrained("lesion")
    >>> methods = {"gradient": attribution.gradient, "grad_cam": attribution.grad_cam}
    >>> maps = {name: method(network, volumes) for name, method in methods.items()}
    >>> len(evaluation.agreement(maps, within=volumes != 0))
    2
    """
    if len(maps) < 2:
        raise ValueError(f"agreement needs the maps of two methods or more, got {list(maps)}")
    shapes = {name: tuple(values.shape) for name, values in maps.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"the maps of all methods need one shape, got {shapes}")
    inside = {name: counted(values, within) for name, values in maps.items()}
    areas = {}
    for number, (name, values) in enumerate(maps.items()):
        # Two maps without an opinion should not agree because they were drawn alike.
        areas[name] = strongest(values, fraction, within=within, seed=seed + number)
    rows = []
    for first, second in combinations(maps, 2):
        correlations = rank_correlation(maps[first], maps[second], inside[first])
        overlaps = dice(areas[first], areas[second]).tolist()
        for subject, (correlation, overlap) in enumerate(zip(correlations, overlaps, strict=True)):
            rows.append(
                {
                    "first": first,
                    "second": second,
                    "subject": subject,
                    "spearman": correlation,
                    "dice": overlap,
                }
            )
    return pd.DataFrame(rows)


def rank_correlation(
    first: Float[Tensor, "subject 1 x y z"],
    second: Float[Tensor, "subject 1 x y z"],
    inside: Bool[Tensor, "subject 1 x y z"],
) -> list[float]:
    """Return Spearman's correlation of the absolute values, one a subject.

    A map that is the same everywhere ranks nothing: its correlation is undefined, and 0 here.
    """
    correlations = []
    for a, b, counts in zip(first.abs(), second.abs(), inside, strict=True):
        a, b = a[counts].numpy(), b[counts].numpy()
        flat = a.min() == a.max() or b.min() == b.max()
        correlations.append(0.0 if flat else float(spearmanr(a, b).statistic))
    return correlations
