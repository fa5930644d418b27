"""Score maps on both truths: where the effect was planted, and what the network makes of it.

A map may be smooth or rough and positive or signed, as its method likes. So that no method wins by
such a habit, every map is scored signed and by its size, and smoothed by the width that serves it
best, which is chosen on other people and other networks.
"""

import warnings
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from helpers import cohorts, fields
from helpers.cohorts import Cohort
from helpers.evaluation.bootstrap import intervals
from helpers.evaluation.part_scores import FEWEST_PARTS, SAME, part_mass, within_person
from helpers.evaluation.pointing import localization
from helpers.evaluation.transport import earth_movers_distance

FORMS = ("signed", "absolute")
WIDTHS = (0, 1, 2, 3)  # voxels
_RESAMPLES = 1000


def smoothed(
    maps: Float[Tensor, "subject 1 x y z"],
    *,
    form: str,
    width: float,
    within: Bool[Tensor, "subject 1 x y z"],
) -> Float[Tensor, "subject 1 x y z"]:
    """Smooth maps, or their sizes, within the brain, and leave out what lies in the air.

    A voxel becomes the weighted mean of its neighbours in the brain. Air counts as nothing, not as
    zero: otherwise smoothing would dim the rim, and a map of random numbers would point to the
    middle of the brain, where planted structures lie.

    Parameters
    ----------
    maps : tensor of shape (subject, 1, x, y, z)
    form : str
        ``"signed"``: neighbours of opposite sign cancel. ``"absolute"``: the size is taken first.
    width : float
        Standard deviation of the Gaussian in voxels; 0 smooths nothing.
    within : boolean tensor of the same shape
        Voxels that count. What a map has outside is lost before it is smoothed.

    Raises
    ------
    ValueError
        If the form is unknown.

    Examples
    --------
    >>> import torch
    >>> from helpers.evaluation import two_truths
    >>> pair = torch.zeros(1, 1, 16, 20, 24)
    >>> pair[..., 8, 10, 12:14] = torch.tensor([1.0, -1.0])
    >>> brain = torch.ones_like(pair, dtype=torch.bool)
    >>> for form in two_truths.FORMS:
    ...     found = two_truths.smoothed(pair, form=form, width=2.0, within=brain)
    ...     print(form, round(float(found.sum()), 2))
    signed 0.0
    absolute 2.0
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {FORMS}, got {form!r}")
    maps = (maps.abs() if form == "absolute" else maps) * within
    if width:
        share = fields.gaussian_blur(within.to(maps), width)  # of the weights, in the brain
        maps = fields.gaussian_blur(maps, width) / share.clamp(min=torch.finfo(share.dtype).tiny)
    return maps * within


def sweep(
    maps: Float[Tensor, "subject 1 x y z"], cohort: Cohort, worth: pd.DataFrame
) -> pd.DataFrame:
    """Return how well each form and width serves a method, on people it will not be scored on.

    Parameters
    ----------
    maps : tensor of shape (subject, 1, x, y, z)
    cohort : Cohort
        Simulated people who carry an effect.
    worth : DataFrame
        From `reliance`, of one network and these people.

    Returns
    -------
    DataFrame
        One row a form and width: ``form``, ``width``, ``planted`` (mean average precision) and
        ``reliance`` (mean rank correlation within a person; where people have too few parts for
        one, the average precision again).
    """
    brain = cohort.volumes != 0
    rows = []
    for form in FORMS:
        for width in WIDTHS:
            found = smoothed(maps, form=form, width=width, within=brain)
            planted = _quietly(localization, found, cohort.truth.mask & brain, within=brain)
            row = {
                "form": form,
                "width": width,
                "planted": planted["average_precision"].mean(),
            }
            mass = part_mass(found, cohort)
            row["reliance"] = (
                within_person(mass, worth, column="signed")["spearman"].mean()
                if _orders_parts(mass)
                else row["planted"]
            )
            rows.append(row)
    return pd.DataFrame(rows)


def score(
    maps: Float[Tensor, "subject 1 x y z"],
    cohort: Cohort,
    worth: pd.DataFrame,
    *,
    form: str,
    widths: dict[str, float],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score one method's maps of one network on both truths.

    Parameters
    ----------
    maps, cohort, worth
        As for `sweep`.
    form : str
        See `smoothed`.
    widths : dict
        Width for each truth, ``"planted"`` and ``"reliance"``.

    Returns
    -------
    people : DataFrame
        One row a person. Against the planted place: ``average_precision``, ``voxel_auc``,
        ``pointing_game``, ``planted_mm`` (earth mover's distance) and, of the map as it came,
        ``share_outside``. Against the network's use of the parts: ``within_spearman`` and
        ``within_pearson``, where a person has three parts or more, and ``reliance_mm``.
    mass : DataFrame
        From `part_mass`, for correlations across people.
    """
    brain = cohort.volumes != 0
    planted = cohort.truth.mask & brain
    found = smoothed(maps, form=form, width=widths["planted"], within=brain)
    table = _quietly(localization, found, planted, within=brain)
    people = table[["average_precision", "voxel_auc", "pointing_game"]].copy()
    people.insert(0, "participant_id", cohort.participants["participant_id"].to_numpy())
    people["share_outside"] = _quietly(localization, maps, planted, within=brain)["share_outside"]
    people["planted_mm"] = _distance(found, planted.float(), cohort)
    found = smoothed(maps, form=form, width=widths["reliance"], within=brain)
    mass = part_mass(found, cohort)
    # The sum in a part of sizes is the size; of a signed map, it is what has not cancelled out.
    if _orders_parts(mass):
        order = within_person(mass, worth, column="signed").set_index("participant_id")
        for name in ("spearman", "pearson"):
            people[f"within_{name}"] = people["participant_id"].map(order[name])
    people["reliance_mm"] = _distance(found, _worth_map(cohort, worth), cohort)
    return people, mass[["participant_id", "part", "voxels", "signed"]]


def summarise(scored: Mapping, worth: Mapping, form: str) -> dict:
    """Return mean and 95 % interval of each measure, over networks and people crossed.

    Parameters
    ----------
    scored : mapping from network to mapping
        With the tables ``"people"`` and ``"mass"`` of `score`, each with a column ``form``.
    worth : mapping from network to DataFrame
        From `reliance`.
    form : str
        Which rows of the tables are asked for.

    Returns
    -------
    dict
        ``"measures"``: mean, low and high of each measure of a person, and of ``across_pearson``,
        the mean over the parts of ``"structures"``: for each part, the correlation over people
        of the map in it with what it is worth, a voxel.
    """
    people, mass, value = (
        pd.concat(tables, names=["network"]).reset_index("network")
        for tables in (
            {seed: part["people"] for seed, part in scored.items()},
            {seed: part["mass"] for seed, part in scored.items()},
            {seed: table.drop(columns="network") for seed, table in worth.items()},
        )
    )
    people, mass = (table[table["form"] == form] for table in (people, mass))
    found = intervals(people, by=["form"], clusters=["network", "participant_id"])
    measures = {
        row["measure"]: [round(row[name], 4) for name in ("mean", "low", "high")]
        for row in found.to_dict("records")
    }
    across = _across(mass, value)
    return {"measures": {**measures, "across_pearson": across.pop("all")}, "structures": across}


def _orders_parts(mass: pd.DataFrame) -> bool:
    return bool(mass.groupby("participant_id")["part"].nunique().max() >= FEWEST_PARTS)


def _worth_map(cohort: Cohort, worth: pd.DataFrame) -> Tensor:
    """Return maps in which each part holds the size of what it is worth, evenly spread."""
    sizes = worth.set_index(["participant_id", "part"])["value"].abs()
    maps = torch.zeros_like(cohort.volumes)
    for i, name in enumerate(cohort.participants["participant_id"]):
        for part, place in cohorts.part_places(cohort, i).items():
            maps[i][place] += float(sizes.get((name, part), 0.0)) / float(place.sum())
    return maps * (cohort.volumes != 0)


def _distance(maps: Tensor, truth: Tensor, cohort: Cohort) -> np.ndarray:
    table = _quietly(
        earth_movers_distance, maps, truth, within=cohort.volumes != 0, grid=cohort.grid
    )
    return table["distance_mm"].to_numpy()


def _quietly(scored, *arguments, **options):
    """Score maps that are zero as a guess, without a word: a leaderboard counts them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return scored(*arguments, **options)


def _across(mass: pd.DataFrame, worth: pd.DataFrame) -> dict[str, list[float]]:
    """Correlate the mass in each part with its worth over people; ``"all"`` is the mean of parts.

    People and networks are drawn anew for the interval, crossed as in `evaluation.intervals`.
    """
    keys = ["network", "participant_id", "part"]
    both = mass.merge(worth[[*keys, "value"]], on=keys, how="left").fillna({"value": 0.0})
    names = list(dict.fromkeys(both["part"]))
    x, y = (
        both.assign(a_voxel=both[column] / both["voxels"])
        .pivot(index=keys[:2], columns="part", values="a_voxel")[names]
        .to_numpy()
        .reshape(both["network"].nunique(), -1, len(names))
        for column in ("signed", "value")
    )
    random, (networks, people, _) = np.random.default_rng(0), x.shape
    drawn = [_correlation(x, y)]
    for _ in range(_RESAMPLES):
        which = np.ix_(
            random.integers(networks, size=networks), random.integers(people, size=people)
        )
        drawn.append(_correlation(x[which], y[which]))
    of_parts = np.array(drawn).mean(1)  # resample, part
    columns = {**dict(zip(names, of_parts.T, strict=True)), "all": of_parts.mean(1)}
    return {
        name: [round(float(v), 4) for v in (found[0], *np.percentile(found[1:], [2.5, 97.5]))]
        for name, found in columns.items()
    }


def _correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return Pearson's r over people, for each network and part; 0 where one does not vary."""
    largest = [np.abs(values).max(1, keepdims=True) for values in (x, y)]
    x, y = (values - values.mean(1, keepdims=True) for values in (x, y))
    varies = [
        np.ptp(values, axis=1) > SAME * most[:, 0]
        for values, most in zip((x, y), largest, strict=True)
    ]
    size = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    return np.divide((x * y).sum(1), size, out=np.zeros_like(size), where=np.logical_and(*varies))
