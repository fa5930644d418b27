"""Do simulators see what is wrong with this brain? Scores on people whom nobody has met.

Every patient has structures of her own that are ill, each in a strength of its own. A
row of the table is one way to say what the disease did to a person: three simulators (each with
people, weights and teachers of its own), one person after the other optimized with the same
teachers, the published network, the course's first simulator, the velocity that a simulator starts
from, and rivals that know the same: the blurred gradient of the same teachers, for each person and
as a mean of the group, and the t-map of the people that the simulators have learned from. The last
row is a ceiling: what a simulator could say at best in its language of doses.

    TASKS="mixed mixed_alcohol"
    python data_scripts/train_simulators.py $TASKS --seeds 0 1 2
    python data_scripts/train_simulators.py $TASKS --kind liu2021 --seeds 0 1 2 --folder runs/rivals
    python data_scripts/train_simulators.py $TASKS --kind first --seeds 0 1 2 --folder runs/rivals
    python data_scripts/score_simulators.py $TASKS --rivals runs/rivals

A run that was interrupted goes on where it stopped, from the files in ``--folder``. With
``--kinds``, the rows of all others stay as they are.
"""

import argparse
import functools
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from train_simulators import (
    PEOPLE,
    SEEDS,
    SUBJECT_SEED,
    SUBJECTS,
    TASKS,
    classifiers_of,
    people_of,
    teachers,
)

from helpers import attribution, evaluation, fields, models, results, warping
from helpers.cohorts import Cohort
from helpers.warping import potentials
from helpers.warping.simulators import FURTHER, Simulation, deform

HELD_OUT_SEED, HELD_OUT_SUBJECTS = 820, 60
CHOICE_SEED, CHOICE_SUBJECTS = 825, 40  # on whom the width of a blur is chosen
WIDTHS = (1.0, 1.5, 2.0, 3.0, 4.0)
GROUP = 100  # patients whose gradients are averaged
LARGE_SHARE = 0.1  # of a decision: structures whose slope is a goal
RESAMPLES = 300
FITTING_STEPS = 200
STRENGTHS = (0.1, 0.2, 0.4)  # log expansion: about 10, 20 and 50 % of volume
STRENGTH_NAMES = ("up to 0.1", "0.1 to 0.2", "0.2 to 0.4", "more than 0.4")
SIMULATORS = ("course", "liu2021", "first")
KINDS = (
    *SIMULATORS,
    "optimized for each person",
    "the common start alone",
    "gradient, blurred",
    "gradient, blurred, mean of the group",
    "t-map of the group",
    "doses fitted to the truth",
)


def main() -> None:
    """Score task by task, kind by kind and seed by seed; write means and intervals."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="+", choices=TASKS)
    parser.add_argument("--folder", type=Path, default=Path("runs/simulators"))
    parser.add_argument("--rivals", type=Path, default=Path("runs/rivals"))
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    arguments = parser.parse_args()
    written = results.FOLDER / "simulators.json"
    before = results.read("simulators")["tasks"] if written.exists() else {}
    found = {
        task: kept(before.get(task, {}), scored(task, arguments), arguments.kinds)
        for task in arguments.tasks
    }
    results.write(
        "simulators",
        {
            "what": "What simulators and their rivals say of simulated people whom nobody has met.",
            "command": shlex.join(["python", *sys.argv]),
            "seeds": {"subjects": HELD_OUT_SEED, "choice": CHOICE_SEED, "simulators": list(SEEDS)},
            "subjects": HELD_OUT_SUBJECTS,
            "tasks": {**before, **found},
        },
    )


def scored(task: str, arguments) -> dict:
    """Return every measure of every kind for one task."""
    held_out = people_of(task, HELD_OUT_SUBJECTS, HELD_OUT_SEED)
    patients, folder = held_out[held_out.labels == 1], arguments.folder / task
    uses = results.part(folder / "reliance.safetensors", reliance, task, patients)["worth"]
    persons, structures = [], []
    for kind in arguments.kinds:
        for seed in SEEDS:
            network = simulator(kind, task, seed, arguments.rivals)
            entrant = Entrant(kind, task, seed, network, teachers(task, seed))
            part = folder / f"{kind} {seed}.safetensors"
            tables = results.part(part, score, entrant, held_out, judges(task, seed))
            persons.append(tables["persons"].assign(kind=kind, seed=seed))
            structures.append(tables["structures"].assign(kind=kind, seed=seed))
    return summarise(pd.concat(persons), pd.concat(structures), uses)


class Entrant(NamedTuple):
    """One row's way to say what the disease did, with the people and teachers of one seed."""

    kind: str
    task: str
    seed: int
    network: torch.nn.Module | None
    teachers: list[torch.nn.Module]


def reliance(task: str, patients: Cohort) -> dict[str, pd.DataFrame]:
    """Return the Shapley values of every seed's classifiers."""
    seeds = [k for seed in SEEDS for k in classifiers_of(seed)]
    networks = {k: models.pretrained(task, seed=k) for k in seeds}
    return {"worth": evaluation.reliance(networks, patients)}


def simulator(kind: str, task: str, seed: int, rivals: Path) -> torch.nn.Module | None:
    """Return the simulator of a kind and seed, if the kind is one."""
    if kind in ("course", "the common start alone", "doses fitted to the truth"):
        return warping.pretrained(task, seed=seed)
    if kind in SIMULATORS:
        return warping.pretrained(f"{task}-{kind}", seed=seed, folder=rivals)
    return None


def kept(before: dict, found: dict, kinds: list[str]) -> dict:
    """Return the tables of a task with the rows of kinds that were not asked for now."""
    tables = {}
    for name, rows in found["tables"].items():
        others = [row for row in before.get("tables", {}).get(name, []) if row["kind"] not in kinds]
        tables[name] = sorted(rows + others, key=lambda row: KINDS.index(row["kind"]))
    return {**found, "tables": tables}


def judges(task: str, seed: int) -> dict[str, list[torch.nn.Module]]:
    """Return the classifiers that took no part: as they came, and hardened."""
    others = [k for other in SEEDS if other != seed for k in classifiers_of(other)]
    return {
        "as they came": [models.pretrained(task, seed=k) for k in others],
        "hardened": [
            models.pretrained(f"{task}-hardened", seed=k, folder=warping.WEIGHTS) for k in others
        ],
    }


def score(entrant: Entrant, people: Cohort, judges: dict) -> dict[str, pd.DataFrame]:
    """Return one row a person, and one row a person and structure."""
    ill, brain = people.labels == 1, (people.volumes != 0).float().mean(0)[0] > 0.5
    if entrant.kind == "doses fitted to the truth":
        removed = fitted(entrant.network, people.truth.log_expansion)
    else:
        removed = answer(entrant, people.volumes, "remove")
    found = -removed.log_expansion if isinstance(removed, Simulation) else removed
    size = found.abs()[:, 0, brain]
    persons = pd.DataFrame({"subject": range(len(people)), "label": people.labels})
    own = evaluation.own_deviation(found[ill], people.truth.log_expansion[ill], brain)
    outside = (size * ~people.truth.mask[:, 0, brain]).sum(1) / size.sum(1).clamp_min(1e-12)
    persons = persons.join(own.set_index(persons.index[ill.numpy()]))
    persons.loc[ill.numpy(), "cosine"] = cosines(
        found[ill], people.truth.log_expansion[ill], brain
    ).numpy()
    persons["size"], persons["outside"] = size.mean(1), outside.where(ill, torch.nan)
    if isinstance(removed, Simulation):
        well, volumes = ~ill, removed.volumes.clone()
        injected = answer(entrant, people.volumes[well], "inject")
        volumes[well] = injected.volumes
        folded = fields.folding_fraction(removed.displacement)
        folded[well] = folded[well].maximum(fields.folding_fraction(injected.displacement))
        persons["folded"] = folded
        persons.loc[well.numpy(), "injected size"] = (
            injected.log_expansion.abs()[:, 0, brain].mean(1).numpy()
        )
        for name, networks in judges.items():
            persons[f"changes its mind, {name}"] = changed(networks, people, volumes)
        if entrant.kind in SIMULATORS:
            back = answer(entrant, injected.volumes, "remove")
            way = fields.compose(injected.displacement, back.displacement)
            healthy = people.volumes[well]
            persons.loc[well.numpy(), "there and back"] = error(healthy, way, healthy)
            patients = people.volumes[ill]
            half = answer(entrant, patients, "remove", 0.5)
            rest = answer(entrant, half.volumes, "remove")
            way = fields.compose(half.displacement, rest.displacement)
            persons.loc[ill.numpy(), "in two steps"] = error(patients, way, removed.volumes[ill])
    return {"persons": persons, "structures": evaluation.by_structure(found, people)}


def answer(entrant: Entrant, volumes: Tensor, direction: str, strength: float = 1.0):
    """Return a simulation, or a map in units of its own, of what the disease did."""
    kind, task, seed, network, classifiers = entrant
    if kind == "optimized for each person":
        return warping.optimize(classifiers, volumes, learners(task, seed), direction)
    if kind == "the common start alone":
        one = FURTHER * warping.DIRECTIONS[direction] * network.common
        return together(
            lambda v: deform(v, one.expand(len(v), -1, -1, -1), network.blur_voxels), volumes
        )
    if kind in SIMULATORS:
        return together(lambda v: network(v, direction, strength), volumes)
    width, sign = chosen_blur(kind, task, seed)
    return sign * fields.gaussian_blur(picture(kind, task, seed, volumes), width)


def picture(kind: str, task: str, seed: int, volumes: Tensor) -> Tensor:
    """Return maps in units of their own, as they come."""
    if kind == "t-map of the group":
        group = learners(task, seed)
        rivals = evaluation.label_aware_rivals(group.volumes, group.labels, 1)
        return rivals["t-map"](volumes)
    if kind.endswith("mean of the group"):
        return group_gradient(task, seed).expand_as(volumes)
    return gradient(teachers(task, seed), volumes)


def fitted(network, planted: Tensor) -> Tensor:
    """Return the log expansions of the doses that come closest to what was planted."""
    goal = potentials.pad(planted)[:, 0, ::2, ::2, ::2]
    doses = torch.zeros(len(planted), *network.common.shape, requires_grad=True)
    optimizer = torch.optim.Adam([doses], lr=0.05)
    for _ in range(FITTING_STEPS):
        optimizer.zero_grad()
        rest = potentials.expansion(network.common * doses, network.blur_voxels) - goal
        rest.square().sum().backward()
        optimizer.step()
    found = (network.common * doses).detach().split(8)
    shape = tuple(planted.shape[2:])
    moves = [potentials.displacement(part, shape, network.blur_voxels) for part in found]
    return torch.cat([fields.log_expansion(move) for move in moves])


@torch.no_grad()
def together(simulate, volumes: Tensor) -> Simulation:
    """Return simulations of many people, a few at a time."""
    parts = [simulate(v)[:2] for v in volumes.split(8)]
    return Simulation(*(torch.cat(part) for part in zip(*parts, strict=True)))


def gradient(classifiers: list, volumes: Tensor) -> Tensor:
    """Return the mean gradient of the teachers' margin of the disease, in units of its size."""
    maps = [
        attribution.gradient(net, volumes, 1) - attribution.gradient(net, volumes, 0)
        for net in classifiers
    ]
    return sum(m / m.flatten(1).std(1).mean() for m in maps) / len(maps)


@functools.cache
def group_gradient(task: str, seed: int) -> Tensor:
    """Return the mean gradient over some of the patients whom the simulators have learned from."""
    known = learners(task, seed)
    return gradient(teachers(task, seed), known.volumes[known.labels == 1][:GROUP]).mean(0)


@functools.cache
def chosen_blur(kind: str, task: str, seed: int) -> tuple[float, float]:
    """Return the blur and the sign with which maps serve other people best."""
    others = people_of(task, CHOICE_SUBJECTS, CHOICE_SEED)
    ill = others[others.labels == 1]
    brain = (ill.volumes != 0).float().mean(0)[0] > 0.5
    maps, planted = picture(kind, task, seed, ill.volumes), ill.truth.log_expansion

    def worth(width: float, sign: float) -> float:
        found = sign * fields.gaussian_blur(maps, width)
        own = evaluation.own_deviation(found, planted, brain)["own"]
        return float(own.mean() + cosines(found, planted, brain).mean())

    return max(((w, s) for w in WIDTHS for s in (1.0, -1.0)), key=lambda choice: worth(*choice))


def cosines(found: Tensor, planted: Tensor, brain: Tensor) -> Tensor:
    """Return how well each person's map agrees with what was planted, the group's part with it."""
    return torch.cosine_similarity(found[:, 0, brain], planted[:, 0, brain], dim=1)


@functools.cache
def learners(task: str, seed: int) -> Cohort:
    """Return the people whom the simulators of a seed have learned from."""
    return people_of(task, SUBJECTS, SUBJECT_SEED + PEOPLE * seed)


def changed(networks: list, people: Cohort, volumes: Tensor) -> Tensor:
    """Return the share of those networks that were right before and say the other class now."""
    before, after = (
        torch.stack([models.predict(net, v).argmax(1) for net in networks])
        for v in (people.volumes, volumes)
    )
    right = before == people.labels
    return ((after != before) & right).sum(0) / torch.where(right.any(0), right.sum(0), torch.nan)


def error(volumes: Tensor, way: Tensor, goal: Tensor) -> np.ndarray:
    """Return the mean squared difference of brains that went a way from where they should be."""
    return (fields.warp(volumes, way) - goal).square().flatten(1).mean(1).numpy()


def measures(persons: pd.DataFrame, structures: pd.DataFrame, large: set) -> dict[str, float]:
    """Return every measure of one kind; rows may come several times, as a bootstrap draws them."""
    ill, well = persons[persons["label"] == 1], persons[persons["label"] == 0]
    tables = [
        evaluation.structure_scores(part) for _, part in structures.groupby("draw", sort=False)
    ]
    each = sum(table["correlation"].drop("all") for table in tables) / len(tables)
    slopes = sum(table["slope"].drop("all") for table in tables) / len(tables)
    found = {
        "cosine": ill["cosine"].mean(),
        "own deviation": ill["own"].mean(),
        "other people's deviation": ill["others"].mean(),
        "correlation of a structure, mean": each.mean(),
        "correlation of a structure, worst": each.min(),
        "ill structures, AUC": np.mean([table.loc["all", "auc"] for table in tables]),
        "slope, smallest of large shares": slopes[list(large)].min(),
        "slope, largest of large shares": slopes[list(large)].max(),
        "share between persons": ill["between"].mean(),
        "share outside": ill["outside"].mean(),
    }
    if "injected size" in persons and well["injected size"].notna().all():
        found["healthy: removed over injected"] = well["size"].mean() / well["injected size"].mean()
    for column in persons.columns[persons.columns.str.startswith("changes")]:
        found[f"{column}, remove"] = ill[column].mean()
        found[f"{column}, inject"] = well[column].mean()
    for column in ("there and back", "in two steps"):
        found[column] = persons[column].mean() if column in persons else np.nan
    found["folded voxels"] = persons["folded"].max() if "folded" in persons else np.nan
    return found


def summarise(persons: pd.DataFrame, structures: pd.DataFrame, uses: pd.DataFrame) -> dict:
    """Return each kind's measures with intervals over simulators and people."""
    shares = uses.groupby("part")["value"].sum() / uses["value"].sum()
    large = set(shares.index[shares >= LARGE_SHARE])
    tables = {"measures": [], "each seed": [], "by strength": [], "network's own use": []}
    for kind, mine in persons.groupby("kind", sort=False):
        parts = structures[structures["kind"] == kind]
        found = pd.Series(measures(*_drawn(mine, parts, None), large)).dropna()
        random = np.random.default_rng(0)
        drawn = pd.DataFrame(
            [measures(*_drawn(mine, parts, random), large) for _ in range(RESAMPLES)]
        )
        low, high = np.nanpercentile(drawn[found.index], [2.5, 97.5], axis=0)
        values = pd.DataFrame({"mean": found, "low": low, "high": high}).round(6)
        tables["measures"].append(values.rename_axis("measure").reset_index().assign(kind=kind))
        tables["by strength"].append(by_strength(parts).assign(kind=kind))
        for seed, part in parts.groupby("seed", sort=False):
            one = mine[mine["seed"] == seed].assign(draw=0)
            values = pd.Series(measures(one, part.assign(draw=0), large), name="value")
            values = values.dropna().round(6).rename_axis("measure").reset_index()
            tables["each seed"].append(values.assign(kind=kind, seed=seed))
            agreed = _agreement(part, uses[uses["network"].isin(classifiers_of(seed))])
            agreed = pd.DataFrame([agreed]).round(3)
            tables["network's own use"].append(agreed.assign(kind=kind, seed=seed))
    return {
        "shares": shares.round(3).to_dict(),
        "tables": {name: pd.concat(rows).to_dict("records") for name, rows in tables.items()},
    }


def by_strength(structures: pd.DataFrame) -> pd.DataFrame:
    """Return what is found of weak and of strong effects, and in how many they stand out.

    A structure stands out if more is found there than in 95 of 100 people without the disease.
    """
    parts = []
    for _, part in structures.groupby(["seed", "structure"], sort=False):
        sign = np.sign(part["planted"].sum())
        usual = (sign * part.loc[part["label"] == 0, "found"]).quantile(0.95)
        ill = part[part["label"] == 1]
        planted, found = sign * ill["planted"], sign * ill["found"]
        strength = pd.cut(planted, [-np.inf, *STRENGTHS, np.inf], labels=STRENGTH_NAMES)
        strength = strength.astype(str).where(ill["ill"], "spared")
        parts.append(
            pd.DataFrame(
                {"strength": strength, "planted": planted, "found": found, "out": found > usual}
            )
        )
    groups = pd.concat(parts).groupby("strength")
    table = groups[["planted", "found"]].mean().join(groups["out"].mean().rename("stands out"))
    table = table.join(groups.size().rename("structures"))
    table = table.loc[[name for name in ("spared", *STRENGTH_NAMES) if name in table.index]]
    return table.round(3).reset_index()


def _drawn(persons: pd.DataFrame, structures: pd.DataFrame, random) -> tuple:
    """Return the rows of seeds and people drawn with replacement, or of all of them."""
    seeds = persons["seed"].unique()
    people = {label: part["subject"].unique() for label, part in persons.groupby("label")}
    if random is not None:
        seeds = random.choice(seeds, len(seeds))
        people = {label: random.choice(who, len(who)) for label, who in people.items()}
    who = np.concatenate(list(people.values()))
    found = []
    for draw, seed in enumerate(seeds):
        one = persons[persons["seed"] == seed].set_index("subject").loc[who].reset_index()
        parts = structures[structures["seed"] == seed].set_index("subject").loc[who].reset_index()
        found.append((one.assign(draw=draw), parts.assign(draw=draw)))
    return tuple(pd.concat(tables) for tables in zip(*found, strict=True))


def _agreement(structures: pd.DataFrame, uses: pd.DataFrame) -> dict[str, float]:
    """Return how the size found in structures goes with what the teachers make of them."""
    worth = uses.pivot_table(index="participant_id", columns="part", values="value").fillna(0.0)
    ill = structures[structures["label"] == 1]
    found = ill.pivot(index="subject", columns="structure", values="found").abs()
    worth = worth.loc[sorted(worth.index)][found.columns]
    with np.errstate(invalid="ignore"):  # of a map that is the same everywhere, or for everybody
        within = [np.corrcoef(f, w)[0, 1] for f, w in zip(found.values, worth.values, strict=True)]
        across = [
            np.corrcoef(f, w)[0, 1] for f, w in zip(found.values.T, worth.values.T, strict=True)
        ]
    return {
        "within a person": float(np.nan_to_num(within).mean()),
        "across people": float(np.nan_to_num(across).mean()),
    }


if __name__ == "__main__":
    main()
