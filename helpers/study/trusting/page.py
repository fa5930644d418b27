"""The page about a planted effect: what was planted, who found it, and what that does not say."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
from torch import Tensor

from helpers import cohorts, viewers
from helpers.cohorts import Cohort
from helpers.study.pages import Page
from helpers.study.trusting import judging
from helpers.study.trusting.planting import Effect

# Above it, most of a map is still there when the network has forgotten everything.
_STAYS = 0.5
_NAMES = {
    "average_precision": "average precision",
    "voxel_auc": "voxel AUC",
    "relevance_rank": "truth among strongest",
}


@dataclass(frozen=True, eq=False)
class Trial:
    """All that a run has found.

    Attributes
    ----------
    name : str
        Of the study's folder.
    effect : Effect
    cohort : Cohort
        Whom was tested, each once.
    settings : dict
    network : dict
        From `judging.network_scores`.
    refused : str
        Why there is no verdict; empty if there is one.
    scores : DataFrame
        From `judging.summarised`.
    randomization : DataFrame
        How alike maps stay while the network forgets.
    unasked : str
        Why that was not asked; empty if it was.
    reliance : DataFrame
        What each planted part is worth.
    maps : dict of str to tensor of shape (1, x, y, z)
        Of the first person who has the effect.
    """

    name: str
    effect: Effect
    cohort: Cohort
    settings: Mapping
    network: Mapping
    refused: str
    scores: pd.DataFrame
    randomization: pd.DataFrame
    unasked: str
    reliance: pd.DataFrame
    maps: Mapping[str, Tensor]

    @property
    def trained(self) -> bool:
        """Whether the networks were trained here."""
        return "weights" not in self.settings


def page(trial: Trial) -> Page:
    """Return the page, to be read in two minutes."""
    methods = trial.scores[trial.scores["kind"] == judging.METHOD]
    found = methods["map"][methods["verdict"] == judging.FOUND].tolist()
    if trial.refused:
        lead = "There is no verdict."
    elif found:
        lead = f"Yes, for this effect: {_listed(found)}, of {len(methods)} methods asked."
    else:
        lead = f"None of the {len(methods)} methods asked did so better than every rival."
    made = Page(
        "Do the maps find what was planted?",
        f"{lead} A known effect was planted into the scans of {trial.name}, and heat maps of a "
        f"network were scored against it, beside maps that have never seen the network.",
    )
    if trial.refused:
        made.warn(f"No conclusion can be drawn: {trial.refused}. {_remedy(trial)}")
    _planted(made, trial)
    _network(made, trial)
    _verdicts(made, methods, trial)
    _scores(made, trial)
    _randomization(made, trial)
    _reliance(made, trial)
    _limits(made, trial)
    return made


def _remedy(trial: Trial) -> str:
    more = "Take more people or a larger effect"
    if trial.trained:
        more += ", or train longer"
        if not trial.settings["draws"]:
            more += ", or draw the effect several times in each"
    else:
        more += ", or a network that has learned this effect in scans like these"
    return f"{more}. The scores below are shown, and say nothing."


def _planted(made: Page, trial: Trial) -> None:
    people, planted = trial.network["people"], trial.network["planted"]
    kinds = trial.cohort.classes[1:]
    shaped = f", a {' or '.join(kinds)} in turn" if len(kinds) > 1 else ""
    words = trial.effect.words[0].upper() + trial.effect.words[1:]
    made.section(
        "What was planted",
        f"{words}{shaped}: into {planted} of {people} people, one scan of each. A coin decided "
        f"who. The study's own labels were not used, so "
        f"whatever people differ in (age, sex, illness, scanner) goes with the effect by chance "
        f"only: confounds are broken by design.",
    )
    first = int((trial.cohort.labels > 0).nonzero()[0, 0])
    truth = (trial.cohort.truth.mask | trial.cohort.truth.shortcut)[first]
    who = trial.cohort.participants["participant_id"][first]
    grid = trial.cohort.grid
    twins = cohorts.twins(trial.cohort, first).volumes
    made.figure(
        viewers.montage(
            twins[[0, -1]],
            ["without the effect", "with it, as tested"],
            grid=grid,
            masks=[truth] * 2,
            title=f"{who}, the first who has it: outlined is where it is",
        )
    )
    # Each by its own strength: methods have no common unit.
    maps = {name: one / one.abs().max().clamp_min(1e-20) for name, one in trial.maps.items()}
    made.figure(
        viewers.montage(
            [trial.cohort.volumes[first]] * len(maps),
            list(maps),
            grid=grid,
            overlays=list(maps.values()),
            masks=[truth] * len(maps),
            limit=1.0,
            overlay_label="map / its max",
            title="Maps of the same person",
            columns=3,
        )
    )
    if trial.refused:
        made.text("The maps are of a network of which nothing can be concluded.")


def _network(made: Page, trial: Trial) -> None:
    found = trial.network
    if not trial.trained:
        who = (
            "The given network was asked about everybody. Whether it has seen these people in its "
            "training, this page cannot know."
        )
    else:
        who = (
            f"{trial.settings['folds']} networks ({trial.settings['network']}) were trained, each "
            f"without one fold of people, and each person is tested and explained by the network "
            f"that has not seen her. "
        )
        who += (
            f"It was shown the people of the other folds {trial.settings['draws']} times with the "
            f"effect, drawn anew each time, and as often without it."
            if trial.settings["draws"]
            else "It was shown the people of the other folds once, half of them with the effect."
        )
    made.section("Does the network see it?", who)
    sees = "It sees the effect" if found["sees"] else "It does not clearly see the effect"
    made.text(
        f"{sees}: AUC {found['auc']:.2f}, 95 % interval {found['auc_low']:.2f} to "
        f"{found['auc_high']:.2f} (0.5 is guessing; p = {found['auc_p']:.2g}); balanced accuracy "
        f"{found['balanced_accuracy']:.2f} ({found['balanced_accuracy_low']:.2f} to "
        f"{found['balanced_accuracy_high']:.2f})."
    )


def _verdicts(made: Page, methods: pd.DataFrame, trial: Trial) -> None:
    made.section(
        "Verdict",
        f"A method finds the effect if its average precision is above that of every rival and of "
        f"guessing, person by person, each time with a 95 % interval of the difference above 0 "
        f"({trial.network['planted']} people, 1,000 bootstrap samples).",
    )
    table = pd.DataFrame({"method": methods["map"], "verdict": methods["verdict"]})
    table["hardest rival"] = methods["hardest"]
    table["ahead of it by"] = [_interval(row, "ahead", 3) for row in methods.to_dict("records")]
    made.table(table, "Each method, judged by itself")
    if not trial.refused:
        for because, those in methods.groupby("because", sort=False)["map"]:
            made.text(f"{_listed(those.tolist())}: {because}.")
        if any(judging.BLIND in because for because in methods["because"]):
            made.text(
                "Where a blind rival is level, the effect stands out by itself, and a map that "
                "points to it may owe nothing to the network. A fainter effect is the harder test."
            )


def _scores(made: Page, trial: Trial) -> None:
    made.section(
        "Scores",
        "Blind rivals look at the scan alone. Label-aware rivals have seen scans and labels of the "
        "other folds, the same that a network of this person was trained on, and show everybody "
        "one map. Nobody is scored by a rival that has learned from her."
        if trial.trained
        else "Blind rivals look at the scan alone. Label-aware rivals have seen scans and labels "
        "of the other folds, and show everybody one map. The given network has learned from other "
        "people, fewer or more.",
    )
    if trial.refused:
        made.warn("These scores say nothing: see above.")
    rows = trial.scores.to_dict("records")
    table = trial.scores[["map", "kind"]].copy()
    for measure, name in _NAMES.items():
        decimals = 3 if measure == judging.MEASURE else 2
        table[name] = [_interval(row, measure, decimals) for row in rows]
    share = trial.scores["share_outside"]
    table["outside"] = [f"{value:.0%}" if pd.notna(value) else "" for value in share]
    made.table(table, "Means over people who have the effect, with 95 % intervals")
    made.text(
        "Average precision decides; it was chosen before any score was seen. Maps are scored by "
        "their absolute values, as they come, without smoothing. Outside is the share of a map's "
        "size that lies outside the brain."
    )


def _randomization(made: Page, trial: Trial) -> None:
    made.section(
        "Do the maps depend on what the network has learned?",
        "One network forgets, layer by layer from the top, until it is untrained. Maps should "
        "change: the rank correlation with the trained network's map should fall.",
    )
    if trial.unasked:
        made.warn(f"This could not be asked: {trial.unasked}.")
        return
    table = trial.randomization
    last = table[table["step"] == table["step"].max()].copy()
    steps, people = int(table["step"].max()), int(table["people"].max())
    last["when all is forgotten"] = [
        _interval(row, "correlation") for row in last.to_dict("records")
    ]
    half = table[table["correlation"] < _STAYS].groupby("method")["step"].min()
    last["below 0.5 from step"] = (
        last["method"].map(half).fillna(-1).astype(int).replace(-1, "never")
    )
    made.table(
        last[["method", "when all is forgotten", "below 0.5 from step"]],
        f"Correlation with the trained network's map; {steps} steps, {people} people",
    )
    stay = last["method"][last["correlation"] >= _STAYS].tolist()
    if stay:
        made.warn(
            f"The maps of {_listed(stay)} are much the same when the network has forgotten "
            f"everything, so they show the scan more than the network."
        )


def _reliance(made: Page, trial: Trial) -> None:
    made.section(
        "What does the network itself make of it?",
        "Twins of each person, with and without each planted part, and nothing else changed: what "
        "the part adds to the network's lead for the right class, in logits (exact Shapley value). "
        "No map is involved.",
    )
    table = trial.reliance
    rows = table.to_dict("records")
    shown = table[["part"]].copy()
    shown["logits"] = [_interval(row, "value") for row in rows]
    if len(table) > 1:
        shown["share"] = [f"{row['share']:.0%}" for row in rows]
    shown["people"] = table["people"]
    made.table(shown, "Worth of each part, with 95 % intervals over people")


def _limits(made: Page, trial: Trial) -> None:
    made.section("What this does not say")
    made.text(
        "The effect is a simulation, one kind of effect of one size. A method that finds it may "
        "miss another effect, and a real disease is nothing of what was planted here. A method "
        "that does not find it may find another."
    )
    made.text(
        "Each method is judged by itself at 95 %; of many, one may pass by luck. One seed was used "
        "for coin, places and training. Intervals are over people, not over networks trained anew."
    )
    if trial.effect.name == "shrink":
        made.text(
            "The region lies where the atlas has it. Scans are registered by an affine, so in one "
            "person and another it is some millimetres off. All scans were interpolated once more, "
            "with the effect or without. Truth is where tissue shrank or grew by a quarter of the "
            "strongest at least."
        )
    said = {name: value for name, value in trial.settings.items() if value is not None}
    said["methods"] = ", ".join(said["methods"])
    settings = pd.DataFrame({"setting": list(said), "value": list(map(str, said.values()))})
    made.section("Settings")
    made.table(settings, "With these, the same page is made again")


def _interval(row: Mapping, measure: str, decimals: int = 2) -> str:
    numbers = [row[f"{measure}{end}"] for end in ("", "_low", "_high")]
    if pd.isna(numbers[0]):
        return ""
    value, low, high = (f"{number:.{decimals}f}" for number in numbers)
    return f"{value} ({low} to {high})"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
