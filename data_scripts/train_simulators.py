"""Train the simulators that ship with the course, and write their weights and cards.

First the task's classifiers are trained on with disturbances, until their change of mind is about
anatomy. Then a simulator is trained for each seed. It learns from the hardened classifiers of the
*other* seeds, so that the classifier of its own seed can judge it without having taken part. On
two quiet cores hardening takes about three minutes a classifier, a simulator about five.

    python data_scripts/train_simulators.py atrophy alcohol --seeds 0 1 2
"""

import argparse
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from helpers import cohorts, models, warping

CLASSIFIERS = (0, 1, 2)
CLASSIFIER_SUBJECTS, CLASSIFIER_SEED = 600, 100  # whom the classifiers were trained on before
HARDENING = {"epochs": 4, "learning_rate": 5e-4}
SUBJECTS, SUBJECT_SEED = 200, 700
TRAINING = {"margin": 1.0, "epochs": 3, "batch_size": 8, "learning_rate": 1e-3}


def main() -> None:
    """Train every task and seed named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="+", choices=["atrophy", "alcohol"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], choices=CLASSIFIERS)
    parser.add_argument("--folder", type=Path, default=warping.WEIGHTS, help="where to write")
    parser.add_argument(
        "--checkpoints", type=Path, default=Path("runs"), help="where to resume from"
    )
    arguments = parser.parse_args()
    for task in arguments.tasks:
        learnt = cohorts.simulate(task, CLASSIFIER_SUBJECTS, CLASSIFIER_SEED, progress=True)
        for seed in CLASSIFIERS:
            if set(arguments.seeds) != {seed}:  # some simulator learns from it
                harden(task, seed, learnt, arguments)
        cohort = cohorts.simulate(task, SUBJECTS, SUBJECT_SEED, progress=True)
        for seed in arguments.seeds:
            train_one(task, seed, cohort, arguments)


def harden(task: str, seed: int, cohort: cohorts.Cohort, arguments) -> None:
    """Train a shipped classifier on with disturbances; what was finished before is read."""
    model = models.pretrained(task, seed=seed)
    history = models.train(
        model,
        cohort,
        augment=warping.disturbances,
        seed=seed,
        checkpoint=arguments.checkpoints / f"hardened-{task}-{seed}.safetensors",
        **HARDENING,
    )
    print(f"hardened {task} {seed}\n{history.round(3).to_string(index=False)}", flush=True)
    card = {
        **model.card,
        "task": f"{task}-hardened",
        "hardening": {**HARDENING, "minutes": round(history["seconds"].sum() / 60, 1)},
        "command": f"python data_scripts/train_simulators.py {task} --seeds {seed}",
    }
    del card["held_out"]  # those were the scores before
    models.save_pretrained(
        model.cpu(), f"{task}-hardened", card, seed=seed, folder=arguments.folder
    )


def train_one(task: str, seed: int, cohort: cohorts.Cohort, arguments) -> None:
    """Train one simulator and write weights and card."""
    teachers = [
        models.pretrained(f"{task}-hardened", seed=k, folder=arguments.folder)
        for k in CLASSIFIERS
        if k != seed
    ]
    simulator, history = warping.train_simulator(
        teachers,
        cohort,
        seed=seed,
        checkpoint=arguments.checkpoints / f"simulator-{task}-{seed}.safetensors",
        **TRAINING,
    )
    print(f"simulator {task} {seed}\n{history.round(4).to_string(index=False)}", flush=True)
    card = {
        "task": task,
        "what": "Trained on simulated brains; shows nothing about any patient.",
        "simulator": {"shape": list(cohort.grid.shape)},
        "spacing_mm": cohort.grid.spacing_mm[0],
        "training": {
            "subjects": SUBJECTS,
            "seed": SUBJECT_SEED,
            "weights_seed": seed,
            "teachers": [k for k in CLASSIFIERS if k != seed],
            "strengths": warping.STRENGTHS,
            **TRAINING,
            "minutes": round(history["seconds"].sum() / 60, 1),
            "last_epoch": history.round(4).to_dict("records")[-1],
        },
        "command": f"python data_scripts/train_simulators.py {task} --seeds {seed}",
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "nilearn", "lightning-fabric")},
            "threads": torch.get_num_threads(),
        },
    }
    warping.save_pretrained(simulator, task, card, seed=seed, folder=arguments.folder)


if __name__ == "__main__":
    main()
