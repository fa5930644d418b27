"""Does a map tell which of the planted parts the network uses, and how much?

The place of an effect is one truth, the network's own use of it another (`reliance`). Here maps are
scored against the second: within a person, is the map strong in the parts that carry much of the
decision? And of one part, is it stronger in those people for whom the part carries more?

Both are taken a voxel. A large structure gets much of any map, also of one that is the same
everywhere, and often carries much of the decision: whole sums would agree for its size alone.

References
----------
Clark, Wilming, Haufe (2024), XAI-TRIS: the earth mover's distance of a map from the truth.
"""

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import pearsonr, spearmanr
from torch import Tensor

from helpers import cohorts
from helpers.cohorts import Cohort
from helpers.evaluation.masks import counted

FEWEST_PARTS = 3  # below, a correlation within a person says nothing
SAME = 1e-6  # sums over voxels that differ by less differ by rounding


def part_mass(
    maps: Float[Tensor, "subject 1 x y z"], cohort: Cohort, *, within: float = 1.0
) -> pd.DataFrame:
    """Return how much of each person's map lies in each planted part.

    Parameters
    ----------
    maps : tensor of shape (subject, 1, x, y, z)
        One a person of the cohort.
    cohort : Cohort
        Simulated, or planted into real scans.
    within : float
        As for `helpers.cohorts.part_places`.

    Returns
    -------
    DataFrame
        One row a person and part: ``participant_id``, ``part``, ``voxels`` (of the part),
        ``signed`` (sum of the map in the part), ``absolute`` (sum of its size) and ``share`` (of
        the size of the whole map, air left out; 0 for an empty map).

    Raises
    ------
    ValueError
        If maps and cohort do not fit, maps hold NaN, or a person was not simulated.

    Examples
    --------
    >>> from helpers import attribution, cohorts, evaluation, models
    >>> patients = cohorts.simulate("atrophy", subjects=2)
    >>> maps = attribution.gradient(models.pretrained("atrophy"), patients.volumes, 1)
    >>> list(evaluation.part_mass(maps, patients)["part"])[:2]
    ['hippocampus left', 'hippocampus right']
    """
    if maps.shape != cohort.volumes.shape:
        raise ValueError(
            f"expected one map a person, {tuple(cohort.volumes.shape)}, got {tuple(maps.shape)}"
        )
    counted(maps, None)
    rows = []
    for subject in range(len(cohort)):
        one, brain = maps[subject].double(), cohort.volumes[subject] != 0
        places = cohorts.part_places(cohort, subject, within=within)
        for place in places.values():
            brain = brain | place  # a tag lies beside the head
        whole = float(one[brain].abs().sum())
        for part, place in places.items():
            absolute = float(one[place].abs().sum())
            rows.append(
                {
                    "participant_id": cohort.participants["participant_id"][subject],
                    "part": part,
                    "voxels": int(place.sum()),
                    "signed": float(one[place].sum()),
                    "absolute": absolute,
                    "share": absolute / whole if whole > 0 else 0.0,
                }
            )
    return pd.DataFrame(rows)


def within_person(
    mass: pd.DataFrame, truth: pd.DataFrame, *, column: str = "absolute"
) -> pd.DataFrame:
    """Correlate, in each person, the map in the parts with what the parts are worth, a voxel.

    Parameters
    ----------
    mass : DataFrame
        From `part_mass`.
    truth : DataFrame
        From `reliance`, of one network. A part without a row is worth nothing.
    column : str
        ``"absolute"`` or ``"signed"``.

    Returns
    -------
    DataFrame
        One row a person who carries a part and has three parts or more: ``participant_id``,
        ``parts``, ``pearson`` and ``spearman``. Where a map is the same in all parts, 0: it tells
        nothing.

    Raises
    ------
    ValueError
        If the truth is of several networks, or nobody has parts enough.
    """
    both = _joined(mass, truth)
    carriers = both[both["participant_id"].isin(truth["participant_id"])]
    rows = [
        {"participant_id": person, "parts": len(of_one), **_correlations(of_one, column)}
        for person, of_one in carriers.groupby("participant_id", sort=False)
        if len(of_one) >= FEWEST_PARTS
    ]
    if not rows:
        raise ValueError(
            f"nobody has {FEWEST_PARTS} planted parts or more, so nothing can be ordered within a "
            f"person; score against the planted place instead, with localization"
        )
    return pd.DataFrame(rows)


def across_people(
    mass: pd.DataFrame, truth: pd.DataFrame, *, column: str = "absolute"
) -> pd.DataFrame:
    """Correlate, for each part, the map in it with what it is worth, a voxel, over people.

    Parameters
    ----------
    mass, truth, column
        As for `within_person`. Someone who does not carry the part counts with a worth of 0.

    Returns
    -------
    DataFrame
        One row a part: ``part``, ``people``, ``pearson`` and ``spearman``.
    """
    both = _joined(mass, truth)
    return pd.DataFrame(
        [
            {"part": part, "people": len(of_one), **_correlations(of_one, column)}
            for part, of_one in both.groupby("part", sort=False)
        ]
    )


def _joined(mass: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    if truth["network"].nunique() != 1:
        raise ValueError(
            f"expected the truth of one network, got {truth['network'].unique().tolist()}; "
            f"maps of one network are compared with its own use of the parts"
        )
    for name, table in (("mass", mass), ("truth", truth)):
        twice = table.loc[table.duplicated(["participant_id", "part"]), "participant_id"]
        if len(twice):
            raise ValueError(
                f"{twice.iloc[0]} comes twice in the {name}; of people with several rows (a "
                f"matched cohort, several visits) score one: cohort[cohort.labels == 1]"
            )
    worth = truth[["participant_id", "part", "value"]]
    both = mass.merge(worth, on=["participant_id", "part"], how="left").fillna({"value": 0.0})
    amounts = ["signed", "absolute", "value"]
    return both.assign(**both[amounts].div(both["voxels"], axis=0))


def _correlations(of_one: pd.DataFrame, column: str) -> dict[str, float]:
    mass, value = of_one[column].to_numpy(), of_one["value"].to_numpy()
    if any(np.ptp(numbers) <= SAME * np.abs(numbers).max() for numbers in (mass, value)):
        return {"pearson": 0.0, "spearman": 0.0}
    return {
        "pearson": float(pearsonr(mass, value).statistic),
        "spearman": float(spearmanr(mass, value).statistic),
    }
