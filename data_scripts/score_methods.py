"""Score every attribution method on planted truths: the leaderboard of chapter 7.

For each task, each network (trained alike from other initial weights) and each method: do the maps
of held-out subjects point to what was planted, and does the map change when the network's weights
are drawn anew?
Four maps that never look at the network are scored beside them.

    python data_scripts/score_methods.py

A run that was interrupted goes on where it stopped, from the folder given by ``--parts``.
"""

import argparse
import functools
import warnings
from pathlib import Path

import pandas as pd
import torch

from helpers import attribution, cohorts, evaluation, models, results

TASKS = {"lesion": (0, 1), "atrophy": (0, 1, 2), "sex": (0, 1)}  # the networks that ship
SUBJECT_SEED, SUBJECTS = 500, 8  # a seed that no training, validation or card has used
UNTRAINED_SEED, CHECKED_SUBJECTS = 7, 2  # for the randomization check


def main() -> None:
    """Score task by task and network by network, then write means and intervals."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=Path, default=Path("runs/method_scores"))
    parts = parser.parse_args().parts
    rows = []
    for task, seeds in TASKS.items():
        cohort = affected(task)
        for seed in seeds:
            model = models.pretrained(task, seed=seed)
            for name in (*attribution.METHODS, *BASELINES):
                print(task, seed, name, flush=True)
                part = parts / f"{task} {seed} {name}.safetensors"
                table = results.part(part, score, name, model, cohort)["table"]
                table.insert(0, "network", seed)
                table.insert(0, "task", task)
                rows.append(table)
    results.write("method_scores", summarise(pd.concat(rows, ignore_index=True)))


def affected(task: str) -> cohorts.Cohort:
    """Return held-out subjects who carry an effect."""
    cohort = cohorts.simulate(task, 40, SUBJECT_SEED)
    return cohort[cohort.truth.mask.flatten(1).any(1)][:SUBJECTS]


def explain(name: str, model, task: str, cohort: cohorts.Cohort) -> torch.Tensor:
    """Return the maps of each subject's true class, with the method's own defaults.

    Expected gradients compare with people instead of a black volume: without an effect, or, where
    both classes have one, of both classes.
    """
    options = {}
    if name == "expected_gradients":
        options["baselines"] = compared_with(task)
        options["samples"] = 2 * len(options["baselines"])
    return attribution.METHODS[name](model, cohort.volumes, cohort.labels, **options)


@functools.cache  # every network and its untrained twin compare with the same people
def compared_with(task: str) -> torch.Tensor:
    """Return the baselines of expected gradients."""
    people = cohorts.simulate(task, 40, SUBJECT_SEED + 2)
    return people[people.labels == 0 if task != "sex" else slice(None)].volumes


def score(name: str, model, cohort: cohorts.Cohort) -> dict[str, pd.DataFrame]:
    """Return one row a subject: localization, randomization check."""
    brain = cohort.volumes != 0
    truth = cohort.truth.mask & brain
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # maps that are zero score as a guess
        if name in BASELINES:
            maps = BASELINES[name](cohort.volumes)
        else:
            maps = explain(name, model, model.card["task"], cohort)
        table = evaluation.localization(maps, truth, within=brain)
    table.insert(0, "subject", range(len(cohort)))
    table.insert(0, "method", name)
    if name in attribution.METHODS:
        table["untrained_correlation"] = pd.Series(_forgotten(name, model, cohort, maps))
    return {"table": table}


def _forgotten(name: str, model, cohort: cohorts.Cohort, maps) -> dict[int, float]:
    """Correlate maps with those of the same network before training: the check's last step."""
    few = cohort[:CHECKED_SUBJECTS]
    card = model.card
    untrained = models.build(
        card["network"], len(card["classes"]), tuple(card["shape"]), seed=UNTRAINED_SEED
    ).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        others = explain(name, untrained, card["task"], few)
        pairs = evaluation.agreement(
            {"trained": maps[: len(few)], "untrained": others}, within=few.volumes != 0
        )
    return dict(zip(pairs["subject"], pairs["spearman"], strict=True))


def summarise(rows: pd.DataFrame) -> dict:
    """Return means with intervals over subjects and networks."""
    table = evaluation.intervals(rows, by=["task", "method"], clusters=["network", "subject"])
    return {
        "what": "Attribution maps of held-out simulated subjects against what was planted.",
        "command": "python data_scripts/score_methods.py",
        "seeds": {
            "subjects": SUBJECT_SEED,
            "networks": {task: list(seeds) for task, seeds in TASKS.items()},
        },
        "subjects": SUBJECTS,
        "scores": table.round(4).to_dict("records"),
    }


@functools.cache
def _blind() -> dict:
    """Return the maps that never look at the network, made once."""
    people = cohorts.simulate("lesion", 200, SUBJECT_SEED + 1)
    return evaluation.blind_rivals(people[people.labels == 0].volumes)


# The healthy people are simulated when the first map is asked for, not at import.
BASELINES = {
    f"({name})": lambda volumes, name=name: _blind()[name](volumes)
    for name in (
        "random numbers",
        "brightness",
        "edges of the scan",
        "distance from healthy mean",
    )
}


if __name__ == "__main__":
    main()
