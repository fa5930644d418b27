"""Train the simulators that ship with the course, and write their weights and cards.

First two of the task's classifiers are trained on with disturbances, until their change of mind is
about anatomy. Then a simulator learns from the four of them, as they came and hardened. Simulator,
classifiers and the people of all differ from seed to seed, so the classifiers of the other seeds
can judge a simulator without having taken part. On two cores, hardening takes about two minutes
a classifier, a simulator about a quarter of an hour.

    python data_scripts/train_simulators.py mixed mixed_alcohol --seeds 0 1 2

The same people and teachers train the published simulator and the course's first one, as rivals:

    python data_scripts/train_simulators.py mixed --kind liu2021 --seeds 0 1 2 --folder runs/rivals
    python data_scripts/train_simulators.py mixed --kind first --seeds 0 1 2 --folder runs/rivals
"""

import argparse
from pathlib import Path

import torch
from train_models import RECIPES, TRAIN_SEED, simulates, versions

from helpers import cohorts, models, warping

# Every patient has structures of her own that are ill, each in a strength of its own.
TASKS = {"mixed": {}, "mixed_alcohol": {"structures": "alcohol"}}
SEEDS = (0, 1, 2)
PEOPLE = 10  # from one seed's cohorts to the next one's
HARDENING_SUBJECTS = 800
HARDENING = {"epochs": 4, "learning_rate": 5e-4}
SUBJECTS, SUBJECT_SEED = 1600, 700
TRAINING = {
    "course": {"epochs": 2, "batch_size": 2, "learning_rate": 3e-3, "strengths": {"logit": 0.5}},
    "liu2021": {"epochs": 2, "batch_size": 4, "learning_rate": 2e-4},
    "first": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3},
}


def main() -> None:
    """Train every task and seed named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="+", choices=TASKS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], choices=SEEDS)
    parser.add_argument("--kind", default="course", choices=TRAINING)
    parser.add_argument("--folder", type=Path, default=warping.WEIGHTS, help="where to write")
    parser.add_argument(
        "--checkpoints", type=Path, default=Path("runs"), help="where to resume from"
    )
    arguments = parser.parse_args()
    for task in arguments.tasks:
        for seed in arguments.seeds:
            if arguments.kind == "course":
                for classifier in classifiers_of(seed):
                    harden(task, classifier, arguments)
            train_one(task, seed, arguments)


def people_of(task: str, subjects: int, seed: int, **options) -> cohorts.Cohort:
    """Return people of a task, simulated."""
    options = {**TASKS[task], **options}
    return cohorts.simulate(simulates(task), subjects, seed, progress=True, **options)


def harden(task: str, seed: int, arguments) -> None:
    """Train a shipped classifier on with disturbances; what was finished before is read."""
    own = TRAIN_SEED + PEOPLE * seed
    model = models.pretrained(task, seed=seed)
    history = models.train(
        model,
        people_of(task, HARDENING_SUBJECTS, own, **RECIPES[task]["cohort"]),
        augment=warping.disturbances,
        seed=seed,
        checkpoint=arguments.checkpoints / f"hardened-{task}-{seed}.safetensors",
        **HARDENING,
    )
    print(f"hardened {task} {seed}\n{history.round(3).to_string(index=False)}", flush=True)
    minutes = round(history["seconds"].sum() / 60, 1)
    card = {
        **model.card,
        "task": f"{task}-hardened",
        "hardening": {**HARDENING, "subjects": HARDENING_SUBJECTS, "minutes": minutes},
        "command": f"python data_scripts/train_simulators.py {task} --seeds {seed % len(SEEDS)}",
        "versions": versions(),
    }
    for score in ("held_out", "shares"):
        del card[score]  # those were the scores before
    models.save_pretrained(
        model.cpu(), f"{task}-hardened", card, seed=seed, folder=arguments.folder
    )


def classifiers_of(seed: int) -> tuple[int, int]:
    """Return the seeds of the two classifiers that teach the simulators of a seed."""
    return seed, seed + len(SEEDS)


def teachers(task: str, seed: int, folder: Path = warping.WEIGHTS) -> list[torch.nn.Module]:
    """Return the classifiers that teach the simulators of a seed, each hardened and as it came."""
    return [
        classifier
        for k in classifiers_of(seed)
        for classifier in (
            models.pretrained(f"{task}-hardened", seed=k, folder=folder),
            models.pretrained(task, seed=k),
        )
    ]


def train_one(task: str, seed: int, arguments) -> None:
    """Train one simulator and write weights and card."""
    people_seed = SUBJECT_SEED + PEOPLE * seed
    cohort = people_of(task, SUBJECTS, people_seed)
    training = TRAINING[arguments.kind]
    folder = arguments.folder if arguments.kind == "course" else warping.WEIGHTS
    classifiers = teachers(task, seed, folder)
    eyes = {"eyes": len(classifiers)} if arguments.kind == "course" else {}
    options = {"name": arguments.kind, "shape": list(cohort.grid.shape), **eyes}
    name = task if arguments.kind == "course" else f"{task}-{arguments.kind}"
    simulator, history = warping.train_simulator(
        classifiers,
        cohort,
        simulator=warping.build(**options, seed=seed),
        seed=seed,
        checkpoint=arguments.checkpoints / f"simulator-{name}-{seed}.safetensors",
        **training,
    )
    print(f"simulator {name} {seed}\n{history.round(4).to_string(index=False)}", flush=True)
    kind = "" if arguments.kind == "course" else f" --kind {arguments.kind}"
    card = {
        "task": task,
        "what": "Trained on simulated brains; shows nothing about any patient.",
        "simulator": options,
        "spacing_mm": cohort.grid.spacing_mm[0],
        "training": {
            "subjects": SUBJECTS,
            "seed": people_seed,
            "weights_seed": seed,
            "teachers": [
                name
                for k in classifiers_of(seed)
                for name in (f"{task}-hardened {k}", f"{task} {k}")
            ],
            **training,
            "minutes": round(history["seconds"].sum() / 60, 1),
            "last_epoch": history.round(4).to_dict("records")[-1],
        },
        "command": f"python data_scripts/train_simulators.py {task}{kind} --seeds {seed}",
        "versions": versions(),
    }
    warping.save_pretrained(simulator, name, card, seed=seed, folder=arguments.folder)


if __name__ == "__main__":
    main()
