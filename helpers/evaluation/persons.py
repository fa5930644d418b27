"""Does a map show what *this* person has, or what the group has?

A map of the group alone, shown to everybody, can agree well with what was planted in each. So the
group is taken out: here only that counts by which a person differs from the others. Maps are signed
(grown above 0, shrunk below) and have a zero of their own, so no mean over the brain is subtracted.
"""

import numpy as np
import pandas as pd
import torch.nn.functional as F
from jaxtyping import Bool, Float
from sklearn.metrics import roc_auc_score
from torch import Tensor

from helpers.cohorts import Cohort

_CORE = 0.5  # of a structure's radius: no two of these balls overlap
_NO_VARIATION = 0.005  # log expansion: less than half a per cent between healthy people is none


def own_deviation(
    found: Float[Tensor, "subject 1 x y z"],
    planted: Float[Tensor, "subject 1 x y z"],
    within: Bool[Tensor, "x y z"],
) -> pd.DataFrame:
    """Return how well each person's deviation from the group's mean map is found.

    Parameters
    ----------
    found, planted : tensor of shape (subject, 1, x, y, z)
        Log expansions of patients, 3 or more: what a method says the disease did, and what it did.
    within : boolean tensor of shape (x, y, z)
        The voxels that count.

    Returns
    -------
    DataFrame
        One row a person: ``own``, the cosine of what was found of her deviation with what was
        planted of it (1 is right, 0 is nothing; 0 as well if everybody gets the same map);
        ``others``, the mean cosine with the planted deviations of the other people; ``between``,
        the energy (sum of squares) in which her map differs from the mean map, in units of the
        mean energy of a map. Its mean over people is the share of the energy, 0 to 1, by which
        maps differ between people.

    Raises
    ------
    ValueError
        If shapes differ, there are fewer than 3 people or numbers are not finite.

    Examples
    --------
    >>> import torch
    >>> from helpers import evaluation
    >>> planted = torch.randn(5, 1, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    >>> within = torch.ones(4, 5, 6, dtype=torch.bool)
    >>> evaluation.own_deviation(planted, planted, within)["own"].round(2).tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    if found.shape != planted.shape or len(found) < 3:
        raise ValueError(
            f"expected what was found and planted for the same 3 people or more, got "
            f"{tuple(found.shape)} and {tuple(planted.shape)}"
        )
    if not (found.isfinite().all() and planted.isfinite().all()):
        raise ValueError("maps hold NaN or infinite values")
    maps = [m[:, 0, within].double() for m in (found, planted)]
    deviations = [m - m.mean(0) for m in maps]
    cosines = F.normalize(deviations[0], dim=1) @ F.normalize(deviations[1], dim=1).T
    own, people = cosines.diag(), len(found)
    energy = maps[0].square().sum(1).mean().clamp_min(1e-12)
    return pd.DataFrame(
        {
            "own": own,
            "others": (cosines.sum(1) - own) / (people - 1),
            "between": deviations[0].square().sum(1) / energy,
        }
    )


def by_structure(found: Float[Tensor, "subject 1 x y z"], cohort: Cohort) -> pd.DataFrame:
    """Return what was found and planted in the middle of each structure of each person.

    Parameters
    ----------
    found : tensor of shape (subject, 1, x, y, z)
        Log expansions that a method ascribes to the disease.
    cohort : Cohort
        The same people, simulated with a deformation.

    Returns
    -------
    DataFrame
        One row a person and structure: ``subject``, ``label``, ``structure``, ``found`` and
        ``planted``, mean log expansions within half of the radius, and ``ill``, whether anything
        was planted there.

    Raises
    ------
    ValueError
        If maps and cohort do not fit, or nothing was planted.
    """
    if found.shape != cohort.volumes.shape or cohort.truth is None or cohort.parameters is None:
        raise ValueError(
            f"expected one map for each of the simulated people, {tuple(cohort.volumes.shape)}; "
            f"got {tuple(found.shape)}"
        )
    rows = []
    for subject, drawn in enumerate(cohort.parameters):
        for structure in drawn.deformation.structures:
            core = structure.ball(cohort.grid, within=_CORE)
            rows.append(
                {
                    "subject": subject,
                    "label": int(cohort.labels[subject]),
                    "structure": structure.name,
                    "found": float(found[subject][core].mean()),
                    "planted": float(cohort.truth.log_expansion[subject][core].mean()),
                    "ill": drawn.deformation.strength * structure.share > 0,
                }
            )
    return pd.DataFrame(rows)


def structure_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Return how well the structures of people are told apart.

    Parameters
    ----------
    table : DataFrame
        Of `by_structure`, with people of both classes.

    Returns
    -------
    DataFrame
        One row a structure: ``correlation`` over patients of what was found with what was planted
        (0 if all get the same), ``slope`` of what was found on what was planted, and ``auc``: of
        the patients, are those found who are ill in this structure? The score is what was found in
        standard deviations of what was found in people without the disease, with the sign of what
        is planted. The row ``all`` has the mean correlation, the mean slope and the AUC over all
        structures of all patients together: which of a person's structures are ill?

    Examples
    --------
    >>> from helpers import cohorts, evaluation
    >>> people = cohorts.simulate("mixed", subjects=12)
    >>> table = evaluation.by_structure(people.truth.log_expansion, people)
    >>> float(evaluation.structure_scores(table).loc["all", "correlation"])
    1.0
    """
    rows, scores = {}, []
    for structure, part in table.groupby("structure", sort=False):
        ill, well = part[part["label"] == 1], part[part["label"] == 0]
        sign = np.sign(ill["planted"].sum())
        scale = max(float(well["found"].std(ddof=0)), _NO_VARIATION)
        score = sign * (ill["found"] - well["found"].mean()) / scale
        varies = ill["found"].std() > 1e-9
        rows[structure] = {
            "correlation": float(ill["found"].corr(ill["planted"])) if varies else 0.0,
            "slope": float(np.cov(ill["found"], ill["planted"])[0, 1] / ill["planted"].var()),
            "auc": _auc(ill["ill"], score),
        }
        scores.append((ill["ill"], score))
    found = pd.DataFrame(rows).T
    whole = _auc(*(pd.concat(column) for column in zip(*scores, strict=True)))
    return pd.concat([found, pd.DataFrame([{**found.mean(), "auc": whole}], index=["all"])])


def _auc(truth: pd.Series, score: pd.Series) -> float:
    return float(roc_auc_score(truth, score)) if truth.nunique() == 2 else float("nan")
