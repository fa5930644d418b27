"""Judge maps by what was planted: scores, rivals, and a verdict or none.

A method has shown something if its maps point to what was planted better than every map that has
never seen the network, and only if the network sees the effect at all. No best rival is chosen: all
have to be beaten, each person by person, so nothing is chosen on those who are scored.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import mannwhitneyu
from torch import Tensor, nn

from helpers import evaluation, models, runtime
from helpers.cohorts import Cohort
from helpers.study.trusting.planting import CLASSES

MEASURE = "average_precision"
METHOD, BLIND, AWARE, CHANCE = "method", "blind rival", "label-aware rival", "chance"
FOUND, LEVEL, MISSED, NONE = "finds it", "no better than rivals", "does not find it", "no verdict"
# Of fewer, all may be ahead by chance: with a fair coin each, more than once in twenty times.
FEWEST = 6
_MEASURES = ("average_precision", "voxel_auc", "pointing_game", "relevance_mass", "relevance_rank")
_UNLIKELY = 0.025  # on one side, as of the interval of 95 %

Explain = Callable[..., Float[Tensor, "subject 1 x y z"]]


@dataclass(frozen=True, eq=False)
class Setting:
    """People with a planted effect, and networks that are asked about them.

    Attributes
    ----------
    cohort : Cohort
        Everybody once, as the coin fell; label 0 is without the effect.
    folds : tensor of shape (subject,)
        Rivals learn from the other folds, as networks do that were trained here.
    known : Cohort
        Whom rivals learn from; those of other folds only.
    known_folds : tensor of shape (known,)
    networks : list of (Module, tensor of rows)
        Who explains whom.
    card : dict
        What the networks read.
    """

    cohort: Cohort
    folds: Int[Tensor, "subject"]
    known: Cohort
    known_folds: Int[Tensor, "known"]
    networks: list[tuple[nn.Module, Int[Tensor, "row"]]]
    card: Mapping

    @property
    def planted(self) -> Bool[Tensor, "subject"]:
        """Who has the effect."""
        return self.cohort.labels > 0

    def truth(self, rows: Int[Tensor, "row"]) -> Bool[Tensor, "row 1 x y z"]:
        """Return where the effect is."""
        return self.cohort.truth.mask[rows] | self.cohort.truth.shortcut[rows]

    def seen(self, rows: Int[Tensor, "row"]) -> Float[Tensor, "row 1 x y z"]:
        """Return people as the networks read them."""
        return models.as_the_network_reads(self.cohort.volumes[rows], self.card)

    def within(self, rows: Int[Tensor, "row"]) -> Bool[Tensor, "row 1 x y z"]:
        """Return the voxels that count: the brain, and what was planted outside of it."""
        return (self.cohort.volumes[rows] != 0) | self.truth(rows)

    def ill(self) -> Iterator[tuple[nn.Module, Int[Tensor, "row"]]]:
        """Yield each network with the people who have the effect and whom it explains."""
        for network, rows in self.networks:
            rows = rows[self.planted[rows]]
            if len(rows):
                yield network, rows


def network_scores(setting: Setting, *, seed: int) -> dict[str, float | int | bool]:
    """Return how well the networks tell planted from not planted, on people new to them.

    Returns
    -------
    dict
        ``people``, ``planted``, ``auc``, ``auc_low``, ``auc_high`` (bootstrap over people),
        ``auc_p`` (one-sided, Mann and Whitney), ``balanced_accuracy`` with its interval, and
        ``sees``: whether the interval lies above 0.5 and p is below 0.025. In a handful of people
        the bootstrap alone would be sure of a lucky order.
    """
    logits = torch.empty(len(setting.cohort), len(setting.cohort.classes))
    for network, rows in setting.networks:
        logits[rows] = models.predict(network, setting.seen(rows))
    # Of several kinds of the effect, any counts.
    two = torch.stack([logits[:, 0], logits[:, 1:].logsumexp(1)], 1)
    planted = setting.planted
    either = Cohort(
        setting.cohort.volumes,
        planted.long(),
        CLASSES,
        setting.cohort.participants,
        setting.cohort.grid,
    )
    row = models.scores(two, either, seed=seed).drop(columns=["model", "subjects"]).iloc[0]
    lead = (two[:, 1] - two[:, 0]).double().numpy()
    p = mannwhitneyu(lead[planted], lead[~planted], alternative="greater").pvalue
    return {
        "people": len(planted),
        "planted": int(planted.sum()),
        **{name: float(value) for name, value in row.items()},
        "auc_p": float(p),
        "sees": bool(row["auc_low"] > 0.5 and p < _UNLIKELY),
    }


def refusal(network: Mapping) -> str:
    """Return why no conclusion can be drawn, or nothing."""
    if network["planted"] < FEWEST:
        return (
            f"only {network['planted']} people have the effect; a verdict needs {FEWEST}, or all "
            f"may be ahead by chance"
        )
    if not network["sees"]:
        return (
            f"it is not shown that the network sees the effect (AUC {network['auc']:.2f}, 95 % "
            f"interval {network['auc_low']:.2f} to {network['auc_high']:.2f}, p = "
            f"{network['auc_p']:.2g}; guessing has 0.5, and asked for is an interval above it and "
            f"p below {_UNLIKELY}), so its maps may have nothing to find"
        )
    return ""


def person_scores(
    setting: Setting, explainers: Mapping[str, Explain], *, progress: bool
) -> tuple[pd.DataFrame, dict[str, Tensor]]:
    """Score every method, rival and chance on each person who has the effect.

    Returns
    -------
    DataFrame
        One row a map and person: ``kind``, ``map``, ``subject`` and the measures of
        `helpers.evaluation.localization`.
    dict of str to tensor of shape (1, x, y, z)
        The methods' maps of the first of these people.
    """
    first, tables, shown = int(setting.planted.nonzero()[0, 0]), [], {}

    def score(kind: str, name: str, maps: Tensor, rows: Tensor) -> None:
        found = evaluation.localization(maps, setting.truth(rows), within=setting.within(rows))
        tables.append(found.assign(kind=kind, map=name, subject=rows.tolist()))

    asked = [(*one, name) for one in setting.ill() for name in explainers]
    for network, rows, name in runtime.progress(asked, label="maps", show=progress):
        maps = explainers[name](network, setting.seen(rows), setting.cohort.labels[rows])
        score(METHOD, name, maps, rows)
        if first in rows.tolist():
            shown[name] = maps[rows.tolist().index(first)]
    for rows, blind, aware in rivals(setting):
        for kind, those in ((BLIND, blind), (AWARE, aware)):
            for name, rival in those.items():
                score(kind, name, rival(setting.cohort.volumes[rows]), rows)
    table = pd.concat(tables, ignore_index=True)
    rows = torch.tensor(sorted(set(table["subject"])))
    true = setting.truth(rows).flatten(1).sum(1).tolist()
    voxels = setting.within(rows).flatten(1).sum(1).tolist()
    guesses = pd.DataFrame([guessing(*both) for both in zip(true, voxels, strict=True)])
    guesses = guesses.assign(kind=CHANCE, map="guessing", subject=rows.tolist())
    return pd.concat([table, guesses], ignore_index=True), shown


def guessing(true: int, voxels: int) -> dict[str, float]:
    """Return what a random order of the voxels scores on average, exactly.

    Average precision is a little above the share of true voxels: where few are true, a lucky one
    near the top lifts the mean.

    Parameters
    ----------
    true, voxels : int
        How many are true, and how many count.

    Examples
    --------
    >>> from helpers.study.trusting import judging
    >>> judging.guessing(1, 2)["average_precision"]  # the true one is first, or second
    0.75
    """
    share, harmonic = true / voxels, float((1 / np.arange(1, voxels + 1)).sum())
    others = (true - 1) / max(1, voxels - 1)
    return {
        **dict.fromkeys(_MEASURES, share),
        "voxel_auc": 0.5,
        "average_precision": (harmonic + others * (voxels - harmonic)) / voxels,
    }


def rivals(
    setting: Setting,
) -> Iterator[tuple[Int[Tensor, "row"], dict[str, evaluation.Rival], dict[str, evaluation.Rival]]]:
    """Yield, fold by fold, who has the effect, and rivals that have learned from other folds."""
    for fold in setting.folds.unique().tolist():
        rows = ((setting.folds == fold) & setting.planted).nonzero()[:, 0]
        if not len(rows):
            continue
        known = setting.known[setting.known_folds != fold]
        planted = (known.labels > 0).long()
        yield (
            rows,
            evaluation.blind_rivals(known.volumes[planted == 0]),
            evaluation.label_aware_rivals(known.volumes, planted, 1),
        )


def summarised(people: pd.DataFrame, refused: str, *, seed: int) -> pd.DataFrame:
    """Return one row a map: means with 95 % intervals over people, and for methods a verdict.

    Parameters
    ----------
    people : DataFrame
        From `person_scores`.
    refused : str
        Why there is to be no verdict; empty if there may be one.
    seed : int
        Of the bootstrap.

    Returns
    -------
    DataFrame
        ``kind``, ``map``, ``verdict``, ``because``; each measure with ``_low`` and ``_high``. For
        methods ``hardest``, the rival that is beaten least surely, and ``ahead`` of it in average
        precision, person by person, with its interval.
    """
    by = ["kind", "map"]
    long = evaluation.intervals(people, by=by, seed=seed)
    wide = long.pivot(index=by, columns="measure", values=["mean", "low", "high"])
    order = people[by].drop_duplicates()
    table = order.assign(verdict="", because="").set_index(by)
    for measure in (*_MEASURES, "share_outside"):
        for part, ending in (("mean", ""), ("low", "_low"), ("high", "_high")):
            table[f"{measure}{ending}"] = wide[part][measure].reindex(table.index)
    table = table.reset_index()
    ahead = _ahead(people, seed)
    kinds = dict(zip(order["map"], order["kind"], strict=True))
    for i in table.index[table["kind"] == METHOD]:
        against = ahead[ahead["method"] == table.loc[i, "map"]].set_index("rival")
        of_rivals = against.drop(index="guessing")
        hardest = of_rivals["low"].idxmin()
        table.loc[i, "hardest"] = hardest
        columns = ["ahead", "ahead_low", "ahead_high"]
        table.loc[i, columns] = of_rivals.loc[hardest, ["mean", "low", "high"]].to_list()
        said = (NONE, refused) if refused else _verdict(against, kinds)
        table.loc[i, ["verdict", "because"]] = list(said)
    return table


def _ahead(people: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return by how much each method is ahead of each rival, with intervals over people."""
    wide = people.pivot(index="subject", columns="map", values=MEASURE)
    kinds = people.drop_duplicates("map").set_index("map")["kind"]
    pairs = [
        pd.DataFrame({"method": method, "rival": rival, "ahead": wide[method] - wide[rival]})
        for method in kinds.index[kinds == METHOD]
        for rival in kinds.index[kinds != METHOD]
    ]
    both = ["method", "rival"]
    return evaluation.intervals(pd.concat(pairs).reset_index(), by=both, seed=seed)


def _verdict(against: pd.DataFrame, kinds: Mapping[str, str]) -> tuple[str, str]:
    """Say whether a method is surely ahead of all rivals, and of guessing."""
    level = against.index[against["low"] <= 0]
    if not len(level):
        return FOUND, "its maps are better than every map that has never seen the network"
    if "guessing" in level:
        return MISSED, "its maps are not clearly better than guessing"
    named = " and ".join(
        f"the {kind}{'s' if len(those) > 1 else ''} {', '.join(those)}"
        for kind in (BLIND, AWARE)
        if (those := [name for name in level if kinds[name] == kind])
    )
    return LEVEL, f"better than guessing, but not clearly better than {named}"
