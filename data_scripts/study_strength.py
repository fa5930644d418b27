"""When do maps start to tell the truth? Networks that had much, little or next to nothing to learn.

The effect of the task ``mixed`` is made weaker and the training cohort smaller, down to nobody: an
untrained network. Of each network: does it tell new patients from controls, what does it use, and
do the maps of four methods know it? Every network is scored, also one at chance. Beside the four
stands a map that sees the scan alone.

    python data_scripts/study_strength.py

A run that was interrupted goes on where it stopped, from the folder given by ``--parts``.
"""

import argparse
import functools
import itertools
import warnings
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from helpers import attribution, cohorts, evaluation, grids, models, results

# At 8 mm a volume takes an eighth of the time, so everybody is seen more often.
TASK, NETWORK, GRID = "mixed", "course_with_places", grids.mni(8.0)
SEVERITIES = (0.25, 0.5, 0.75, 1.0)
PEOPLE = (0, 50, 200, 1000)  # to learn from; nobody leaves a network untrained
SEEDS = (0, 1, 2)  # of the people to learn from, of the first weights, of the order
METHODS = ("gradient", "lrp", "occlusion", "expected_gradients")
BLIND = "edges of the scan"
# No training, validation or card has used these seeds; those of two networks are 10 apart.
TRAIN_SEED, HELD_OUT_SEED, EXPLAINED_SEED = 1300, 1301, 1302
HELD_OUT_PEOPLE, EXPLAINED_PATIENTS = 200, 24
# All networks take as many steps, and the last one counts. Chosen on other people: the epoch of the
# lowest validation loss was, of small cohorts, the first, in which a network has hardly left its
# start.
VOLUMES, BATCH, LEARNING_RATE = 12000, 10, 1e-3


def main() -> None:
    """Train and score severity by severity, then write means and intervals."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=Path, default=Path("runs/strength_study"))
    parts = parser.parse_args().parts
    studied = [study(severity, parts) for severity in SEVERITIES]
    tables = {name: pd.concat([one[name] for one in studied]) for name in studied[0]}
    results.write("strength_study", summarise(**tables))


def study(severity: float, parts: Path) -> dict[str, pd.DataFrame]:
    """Return all that is known of the networks of one severity."""
    networks, facts = {}, []
    for seed, people in itertools.product(SEEDS, PEOPLE):
        name = f"seed {seed}, {people} people"
        print(f"severity {severity}: {name}", flush=True)
        networks[name] = trained(severity, seed, people, parts)
        facts.append({"network": name, "severity": severity, "seed": seed, "people": people})
    print(f"severity {severity}: what they use", flush=True)
    part = parts / f"severity {severity}, truth.safetensors"
    truth = results.part(part, judge, networks, severity)
    rated = []
    for name, network in networks.items():
        print(f"severity {severity}: maps, {name}", flush=True)
        part = parts / f"severity {severity}, maps, {name}.safetensors"
        maps = results.part(part, explain, network, severity)
        worth = truth["parts"][truth["parts"]["network"] == name]
        rated.append(rate(maps, worth).assign(network=name))
    tables = {**truth, "maps": pd.concat(rated)}
    return {name: table.merge(pd.DataFrame(facts)) for name, table in tables.items()}


def trained(severity: float, seed: int, people: int, parts: Path) -> nn.Module:
    """Return a network that has learned from so many people, from a file if it has before."""
    model = models.build(NETWORK, 2, GRID.shape, seed=seed).eval()
    if people > 0:
        part = parts / f"severity {severity}, network, seed {seed}, {people} people.safetensors"
        model.load_state_dict(results.part(part, learn, severity, seed, people))
    return model


def learn(severity: float, seed: int, people: int) -> dict[str, torch.Tensor]:
    """Return the weights after training."""
    model = models.build(NETWORK, 2, GRID.shape, seed=seed)
    models.train(
        model,
        learners(severity, seed)[:people],
        epochs=VOLUMES // people,
        batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        seed=seed,
        progress=False,
    )
    return model.cpu().state_dict()


@functools.lru_cache(maxsize=1)  # a smaller cohort is the beginning of a larger one
def learners(severity: float, seed: int) -> cohorts.Cohort:
    """Return the people that the networks of one seed learn from."""
    people = cohorts.simulate(
        TASK, max(PEOPLE), TRAIN_SEED + 10 * seed, grid=GRID, severity=severity
    )
    return replace(people, truth=None)  # which takes more memory than the volumes


@functools.lru_cache(maxsize=1)
def explained(severity: float) -> tuple[cohorts.Cohort, cohorts.Cohort]:
    """Return who is explained, and controls to compare with: the same heads at any severity."""
    people = cohorts.simulate(
        TASK, 2 * EXPLAINED_PATIENTS, EXPLAINED_SEED, grid=GRID, severity=severity
    )
    return people[people.labels == 1], people[people.labels == 0]


def judge(networks: dict[str, nn.Module], severity: float) -> dict[str, pd.DataFrame]:
    """Return what each network says of new people, and what each planted part is worth to it."""
    held_out = cohorts.simulate(TASK, HELD_OUT_PEOPLE, HELD_OUT_SEED, grid=GRID, severity=severity)
    scores, answers = [], []
    for name, network in networks.items():
        logits = models.predict(network, held_out.volumes)
        scores.append(models.scores(logits, held_out).assign(network=name))
        right = (logits.argmax(1) == held_out.labels).float()  # the classes are equally large
        person = held_out.participants["participant_id"]
        answers.append(
            pd.DataFrame({"network": name, "participant_id": person, "balanced_accuracy": right})
        )
    return {
        "networks": pd.concat(scores)[["network", "balanced_accuracy", "auc"]],
        "answers": pd.concat(answers),
        "parts": evaluation.reliance(networks, explained(severity)[0]),
    }


def explain(network: nn.Module, severity: float) -> dict[str, pd.DataFrame]:
    """Return how much of each map lies in each planted part, and whether it finds the place."""
    people, network = explained(severity)[0], models.centred(network, 2)
    brain = people.volumes != 0
    mass, place = [], []
    for name in (*METHODS, BLIND):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # maps that are zero score as a guess
            maps = mapped(name, network, people, severity)
            found = evaluation.localization(maps.abs(), people.truth.mask & brain, within=brain)
        mass.append(evaluation.part_mass(maps, people).assign(method=name))
        found["participant_id"] = people.participants["participant_id"]
        place.append(found[["participant_id", "average_precision"]].assign(method=name))
    return {"mass": pd.concat(mass), "place": pd.concat(place)}


def mapped(name: str, network: nn.Module, people: cohorts.Cohort, severity: float) -> torch.Tensor:
    """Return the maps of a method with its own defaults, or those that see the scan alone."""
    if name == BLIND:
        return evaluation.blind_rivals(people.volumes)[name](people.volumes)
    options = {}
    if name == "expected_gradients":
        options["baselines"] = explained(severity)[1].volumes
    return attribution.METHODS[name](network, people.volumes, people.labels, **options)


def rate(maps: dict[str, pd.DataFrame], worth: pd.DataFrame) -> pd.DataFrame:
    """Return one row a method and person: does the map know what the network uses, and where?"""
    rows = []
    for name, of_method in maps["mass"].groupby("method", sort=False):
        size, sign = (
            evaluation.within_person(of_method, worth, column=column).set_index("participant_id")
            for column in ("absolute", "signed")
        )
        known = pd.DataFrame({"reliance": size["pearson"], "reliance_signed": sign["pearson"]})
        rows.append(known.assign(method=name).reset_index())
    return pd.concat(rows).merge(maps["place"], on=["method", "participant_id"])


def summarise(
    networks: pd.DataFrame, answers: pd.DataFrame, parts: pd.DataFrame, maps: pd.DataFrame
) -> dict:
    """Return means with intervals over people and networks, drawn independently."""
    cell, clusters = ["severity", "people"], ["seed", "participant_id"]
    moved = parts.drop_duplicates([*cell, *clusters])
    moved = moved.assign(margin_moved=(moved["margin"] - moved["margin_without"]).abs())

    def means(table: pd.DataFrame, by: list[str], measures: list[str]) -> list[dict]:
        chosen = table[[*by, *clusters, *measures]]
        return evaluation.intervals(chosen, by=by, clusters=clusters).round(6).to_dict("records")

    return {
        "what": "Networks that learned from few people or of a faint effect, and their maps.",
        "command": "python data_scripts/study_strength.py",
        "task": TASK,
        "seeds": {
            "training": TRAIN_SEED,
            "held_out": HELD_OUT_SEED,
            "explained": EXPLAINED_SEED,
            "networks": list(SEEDS),
        },
        "held_out": HELD_OUT_PEOPLE,
        "explained_patients": EXPLAINED_PATIENTS,
        "training": {
            "network": NETWORK,
            "volumes": VOLUMES,
            "batch_size": BATCH,
            "learning_rate": LEARNING_RATE,
            "spacing_mm": GRID.spacing_mm[0],
        },
        "accuracy": means(answers, cell, ["balanced_accuracy"]),
        "margins": means(moved, cell, ["margin_moved"]),
        "parts": means(parts, [*cell, "part"], ["value"]),
        "maps": means(
            maps, [*cell, "method"], ["reliance", "reliance_signed", "average_precision"]
        ),
        "networks": networks.drop(columns="network").round(4).to_dict("records"),
    }


if __name__ == "__main__":
    main()
