"""Score the simulators on people whom neither they nor their classifiers have met.

Does the logit move the way that was asked, also for a classifier that took no part in training?
Does the field fold, does injecting and then removing return the image? Does the mean log expansion
agree with what was planted, in every structure, and does its magnitude point to the truth better
than the maps of the attribution methods do, for the same people? Simulators that lack one part each
are trained for comparison.

    python data_scripts/score_simulators.py

A run that was interrupted goes on where it stopped, from the files in ``--folder``.
"""

import argparse
import functools
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from train_simulators import CLASSIFIERS, SUBJECT_SEED, SUBJECTS, TRAINING

from helpers import attribution, cohorts, evaluation, fields, models, results, warping

TASKS = ("atrophy", "alcohol")
HELD_OUT_SEED, HELD_OUT_SUBJECTS = 800, 80
EXPLAINED_PATIENTS = 8  # for the comparison with the attribution methods
BLUR_VOXELS = 2.0  # as the velocity of a simulator is blurred
RESAMPLES = 1000
SHIPPED = "shipped"
SIMULATOR, BLURRED_GRADIENT = "(simulator)", "(gradient, blurred)"
ABLATIONS = {  # on the first task, with the first seed's classifiers
    "no smoothness": {"strengths": {"smoothness": 0.0}},
    "no cycle": {"strengths": {"cycle": 0.0}},
    "two networks, no condition": {"kind": warping.TwoSimulators},
    "direct displacement": {"field": "displacement"},
    "classifiers as they came": {"hardened": False},
    "no smoothness, hardly a blur": {"strengths": {"smoothness": 0.0}, "blur_voxels": 0.3},
    "all of that at once": {
        "strengths": {"smoothness": 0.0, "cycle": 0.0},
        "blur_voxels": 0.3,
        "field": "displacement",
        "hardened": False,
    },
    # So slow that the velocity all brains begin with is all that they ever get.
    "the common start alone": {"training": {"epochs": 1, "learning_rate": 1e-12}},
}


def main() -> None:
    """Score simulator by simulator, then method by method; write means and intervals."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/simulators"))
    folder = parser.parse_args().folder
    people = {task: cohorts.simulate(task, HELD_OUT_SUBJECTS, HELD_OUT_SEED) for task in TASKS}
    scored, maps = [], []
    for task in TASKS:
        for seed in CLASSIFIERS:
            simulator = warping.pretrained(task, seed=seed)
            key = {"task": task, "simulator": SHIPPED, "seed": seed}
            judge, teachers = models.pretrained(task, seed=seed), teachers_of(task, seed)
            part = folder / f"{task} {SHIPPED} {seed}.safetensors"
            scored.append(results.part(part, score, simulator, people[task], judge, teachers, key))
            maps += compare(simulator, judge, people[task], task, seed, folder)
    task, seed = TASKS[0], CLASSIFIERS[0]
    cohort, judge = (
        cohorts.simulate(task, SUBJECTS, SUBJECT_SEED),
        models.pretrained(task, seed=seed),
    )
    for name, options in ABLATIONS.items():
        key = {"task": task, "simulator": name, "seed": seed}
        taught_by = teachers_of(task, seed, hardened=options.get("hardened", True))
        simulator = ablated(taught_by, cohort, options, folder / f"training {name}.safetensors")
        part = folder / f"{task} {name} {seed}.safetensors"
        scored.append(
            results.part(part, score, simulator, people[task], judge, teachers_of(task, seed), key)
        )
    subjects, groups = (
        pd.concat([one[table] for one in scored]) for table in ("subjects", "group")
    )
    tables = summarise(subjects, groups, pd.concat(maps))
    results.write("simulator_scores", {**tables, "classifiers": classifiers(people)})


def score(simulator, people, judge, teachers: list, key: dict) -> dict[str, pd.DataFrame]:
    """Return one row a subject, and one row a measure of the whole group."""
    rows, expansions = [], {}
    for direction, label, sign in (("inject", 0, 1), ("remove", 1, -1)):
        group = people[people.labels == label]
        with torch.no_grad():
            simulation = simulator(group.volumes, direction)
            back = simulator(simulation.volumes, _opposite(direction))
        round_trip = fields.compose(simulation.displacement, back.displacement)
        error = (fields.warp(group.volumes, round_trip) - group.volumes).square()
        shifts = {
            "moved": torch.stack([_shift(net, group, simulation) for net in teachers]).mean(0),
            "judge_moved": _shift(judge, group, simulation),
        }
        rows.append(
            pd.DataFrame(
                {
                    **key,
                    "subject": torch.nonzero(people.labels == label)[:, 0],
                    "direction": direction,
                    **{name: (sign * shift > 0).float() for name, shift in shifts.items()},
                    "folding": fields.folding_fraction(simulation.displacement),
                    "cycle_error": error.flatten(1).mean(1),
                }
            )
        )
        expansions[direction] = sign * simulation.log_expansion
    group = agreement_with_truth(expansions, people, key["task"])
    return {"subjects": pd.concat(rows), "group": group.assign(**key)}


def agreement_with_truth(expansions: dict[str, Tensor], people, task: str) -> pd.DataFrame:
    """Compare group means with the planted truth, with intervals over the subjects drawn."""
    brain = (people.volumes != 0).float().mean(0) > 0.5
    truth = people.truth.log_expansion[people.labels == 1][:, brain].numpy()
    parts = {name: maps[:, brain].numpy() for name, maps in expansions.items()}
    cores = cohorts.planted_structures(task, people.grid, within=0.5)
    structures = [core[brain[0]].numpy() for core in cores.values()]
    random = np.random.default_rng(0)
    drawn: list[dict] = []
    for resample in range(RESAMPLES + 1):  # the first is the cohort itself

        def mean(values: np.ndarray, first: bool = resample == 0) -> np.ndarray:
            n = len(values)
            copies = np.bincount(random.integers(n, size=n), minlength=n) if not first else 1
            return np.average(values, axis=0, weights=np.broadcast_to(copies, n))

        means = {name: mean(values) for name, values in parts.items()}
        means["both"] = (means["inject"] + means["remove"]) / 2
        planted = mean(truth)
        values = {f"signed correlation, {n}": _correlation(m, planted) for n, m in means.items()}
        values["magnitude correlation, both"] = _correlation(abs(means["both"]), abs(planted))
        for name, found in means.items():
            right = [np.sign(found[s].mean()) == np.sign(planted[s].mean()) for s in structures]
            values[f"structures with the right sign, {name}"] = float(np.mean(right))
        drawn.append(values)
    table = pd.DataFrame(drawn)
    low, high = np.percentile(table.iloc[1:], [2.5, 97.5], axis=0)
    return pd.DataFrame(
        {"measure": table.columns, "mean": table.iloc[0].to_numpy(), "low": low, "high": high}
    )


def compare(simulator, judge, people, task: str, seed: int, folder: Path) -> list[pd.DataFrame]:
    """Score the magnitude of the log expansion and of attribution maps, for the same patients."""
    patients = people[people.labels == 1][:EXPLAINED_PATIENTS]
    tables = []
    for name in (SIMULATOR, *attribution.METHODS, BLURRED_GRADIENT):
        asked = simulator if name == SIMULATOR else judge
        part = folder / f"map {task} {seed} {name}.safetensors"
        table = results.part(part, score_maps, asked, patients, name, task)["table"]
        table.insert(0, "network", seed)
        tables.append(table)
    return tables


def score_maps(asked, patients, name: str, task: str) -> dict[str, pd.DataFrame]:
    """Return one row a patient: does the magnitude of the map point to what was planted?"""
    brain = patients.volumes != 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # zero maps score as a guess
        maps = maps_of(asked, patients, name, task).abs()
        table = evaluation.localization(maps, patients.truth.mask & brain, within=brain)
    table["magnitude_correlation"] = [
        _correlation(maps[i][brain[i]].numpy(), abs(truth[brain[i]].numpy()))
        for i, truth in enumerate(patients.truth.log_expansion)
    ]
    table.insert(0, "subject", range(len(table)))
    table.insert(0, "method", name)
    table.insert(0, "task", task)
    return {"table": table}


def maps_of(asked, patients, name: str, task: str) -> Tensor:
    """Return the maps of a simulator, or of a classifier's evidence for the disease."""
    if name == SIMULATOR:
        with torch.no_grad():
            return asked(patients.volumes, "remove").log_expansion
    if name == BLURRED_GRADIENT:  # a simulator's maps are smooth; how much of its lead is this?
        gradient = attribution.METHODS["gradient"](asked, patients.volumes, 1)
        return fields.gaussian_blur(gradient.abs(), BLUR_VOXELS)
    return attribution.METHODS[name](asked, patients.volumes, 1, **_baselines(name, task))


def ablated(teachers: list, cohort, options: dict, checkpoint: Path):
    """Train a simulator that lacks one part, or go on where its training stopped."""
    kind = options.get("kind", warping.Simulator)
    simulator, _ = warping.train_simulator(
        teachers,
        cohort,
        simulator=kind(
            cohort.grid.shape,
            field=options.get("field", "velocity"),
            blur_voxels=options.get("blur_voxels", 2.0),
            seed=CLASSIFIERS[0],
        ),
        strengths=options.get("strengths"),
        seed=CLASSIFIERS[0],
        checkpoint=checkpoint,
        **{**TRAINING, **options.get("training", {})},
    )
    return simulator


def classifiers(people: dict[str, cohorts.Cohort]) -> list[dict]:
    """Return how well the classifiers read the people, as they came and hardened."""
    rows = []
    for task, cohort in people.items():
        for seed in CLASSIFIERS:
            networks = {
                "as it came": models.pretrained(task, seed=seed),
                "hardened": models.pretrained(
                    f"{task}-hardened", seed=seed, folder=warping.WEIGHTS
                ),
            }
            for name, network in networks.items():
                table = models.scores(models.predict(network, cohort.volumes), cohort, name=name)
                rows.append({"task": task, "seed": seed, **table.round(4).to_dict("records")[0]})
    return rows


def teachers_of(task: str, seed: int, *, hardened: bool = True) -> list:
    """Return the classifiers of the other seeds."""
    others = [k for k in CLASSIFIERS if k != seed]
    if not hardened:
        return [models.pretrained(task, seed=k) for k in others]
    return [models.pretrained(f"{task}-hardened", seed=k, folder=warping.WEIGHTS) for k in others]


def summarise(subjects: pd.DataFrame, groups: pd.DataFrame, maps: pd.DataFrame) -> dict:
    """Return means with intervals."""
    by_subject = subjects.drop(columns="direction")
    return {
        "what": "Simulators on held-out simulated subjects, against what was planted.",
        "command": "python data_scripts/score_simulators.py",
        "seeds": {"subjects": HELD_OUT_SEED, "simulators": list(CLASSIFIERS)},
        "subjects": HELD_OUT_SUBJECTS,
        "explained_patients": EXPLAINED_PATIENTS,
        "simulators": evaluation.intervals(
            by_subject, by=["task", "simulator"], clusters=["seed", "subject"]
        )
        .round(6)
        .to_dict("records"),
        "group_means": groups.round(4).to_dict("records"),
        "maps": evaluation.intervals(maps, by=["task", "method"], clusters=["network", "subject"])
        .round(4)
        .to_dict("records"),
    }


def _shift(model, group, simulation) -> Tensor:
    before, after = (models.predict(model, v) for v in (group.volumes, simulation.volumes))
    return (after - before) @ torch.tensor([-1.0, 1.0])


def _opposite(direction: str) -> str:
    return next(name for name in warping.DIRECTIONS if name != direction)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one, other)[0, 1]) if one.std() > 0 else 0.0


def _baselines(name: str, task: str) -> dict:
    """Let expected gradients compare with healthy people instead of a black volume."""
    if name != "expected_gradients":
        return {}
    healthy = _healthy(task)
    return {"baselines": healthy, "samples": 2 * len(healthy)}


@functools.cache  # every network compares with the same people
def _healthy(task: str) -> torch.Tensor:
    others = cohorts.simulate(task, 40, HELD_OUT_SEED + 1)
    return others[others.labels == 0].volumes


if __name__ == "__main__":
    main()
