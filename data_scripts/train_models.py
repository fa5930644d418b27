"""Train the networks that ship with the course, and write their weights and cards.

Each task has its own cohorts: training, validation and held-out subjects come from different
seeds, so they share nobody. On two cores the lesion network takes about half an hour. Another
seed starts from other weights and sees the same subjects in another order; networks of ``mixed``
have seen other people as well.

    python data_scripts/train_models.py lesion shortcut
    python data_scripts/train_models.py mixed mixed_alcohol --seeds 0 1 2 3 4 5
    python data_scripts/train_models.py atrophy alcohol sex --seeds 0 1 2
"""

import argparse
import functools
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from helpers import cohorts, evaluation, models, runtime

RECIPES = {
    "lesion": {
        "network": "course",
        "subjects": 2000,
        "epochs": 14,
        "learning_rate": 2e-3,
        "flips": (0, 1, 2),
        "cohort": {},
        "held_out": {"lesion": {}},
    },
    "shortcut": {
        "network": "course",
        "subjects": 400,
        "epochs": 6,
        "learning_rate": 2e-3,
        "cohort": {"tag": "label"},
        "held_out": {
            "tag goes with the label": {"tag": "label"},
            "tag given by coin": {"tag": "random"},
            "nobody has a tag": {"tag": "none"},
        },
    },
    **{
        task: {
            "network": "course_with_places",
            "subjects": subjects,
            "epochs": 8,
            "learning_rate": 1e-3,
            "cohort": {},
            "held_out": {task: {}},
        }
        for task, subjects in {"atrophy": 600, "alcohol": 600, "sex": 1000}.items()
    },
    "mixed": {
        "network": "course_with_places",
        "subjects": 3000,
        "epochs": 20,
        "learning_rate": 2e-3,
        "flips": (0,),  # the structures come in pairs
        # Nobody is told apart by the head, and a third of the patients have one structure alone:
        # none may be left unlearnt.
        "cohort": {"matched": True, "alone": 0.3},
        "held_out": {"mixed": {}, "one structure alone": {"alone": 1.0}},
        "own_people": True,
    },
}
# The same with other structures: strengths of their own, from one person to the next.
_ALCOHOL = {"structures": "alcohol"}
RECIPES["mixed_alcohol"] = {
    **RECIPES["mixed"],
    "simulates": "mixed",
    "cohort": {**RECIPES["mixed"]["cohort"], **_ALCOHOL},
    "held_out": {
        name: {**options, **_ALCOHOL} for name, options in RECIPES["mixed"]["held_out"].items()
    },
}
TRAIN_SEED, VALIDATION_SEED, HELD_OUT_SEED = 100, 101, 102
HELD_OUT_SUBJECTS = VALIDATION_SUBJECTS = 200
SHARES_OF_PATIENTS = 24


def main() -> None:
    """Train every task named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="+", choices=sorted(RECIPES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of weights and order")
    parser.add_argument("--folder", type=Path, default=models.WEIGHTS, help="where to write")
    parser.add_argument(
        "--checkpoints", type=Path, default=Path("runs"), help="where to resume from"
    )
    arguments = parser.parse_args()
    for task in arguments.tasks:
        recipe = RECIPES[task]
        tests = {
            name: cohorts.simulate(simulates(task), HELD_OUT_SUBJECTS, HELD_OUT_SEED, **options)
            for name, options in recipe["held_out"].items()
        }
        for seed in arguments.seeds:
            people = 10 * seed if recipe.get("own_people") else 0
            train_network(task, seed, people, tests, arguments)


def simulates(task: str) -> str:
    """Return what `cohorts.simulate` calls the task of some networks."""
    return RECIPES[task].get("simulates", task)


@functools.lru_cache(maxsize=2)  # networks of most tasks learn from the same people
def simulated(task: str, subjects: int, seed: int) -> cohorts.Cohort:
    """Return the people that networks of a task learn from."""
    options = RECIPES[task]["cohort"]
    return cohorts.simulate(simulates(task), subjects, seed, progress=True, **options)


def train_network(task: str, seed: int, people: int, tests: dict, arguments) -> None:
    """Train one network, score it on held-out subjects and write weights and card."""
    recipe = RECIPES[task]
    train = simulated(task, recipe["subjects"], TRAIN_SEED + people)
    validation = simulated(task, VALIDATION_SUBJECTS, VALIDATION_SEED + people)
    axes = recipe.get("flips")
    model = models.build(recipe["network"], len(train.classes), train.grid.shape, seed=seed)
    history = models.train(
        model,
        train,
        validation=validation,
        epochs=recipe["epochs"],
        learning_rate=recipe["learning_rate"],
        augment=functools.partial(models.flips, axes=axes) if axes else None,
        checkpoint=arguments.checkpoints / f"{task}-{seed}.safetensors",
        seed=seed,
    )
    print(history.round(3).to_string(index=False))

    ordinary, *_ = tests.values()
    held_out = {}
    for name, test in tests.items():
        score = models.scores(models.predict(model.cpu(), test.volumes), test, name=task)
        held_out[name] = {
            "cohort": {
                "task": simulates(task),
                "seed": HELD_OUT_SEED,
                **recipe["held_out"][name],
            },
            **score.drop(columns="model").round(4).to_dict("records")[0],
        }
        print(name, held_out[name])
    card = {
        "task": task,
        "what": "Trained on simulated brains; says nothing about any patient.",
        "network": recipe["network"],
        "classes": list(train.classes),
        "shape": list(train.grid.shape),
        "spacing_mm": train.grid.spacing_mm[0],
        "training": {
            "subjects": recipe["subjects"],
            "seed": TRAIN_SEED + people,
            "weights_seed": seed,
            "epochs": len(history),
            "minutes": round(history["seconds"].sum() / 60, 1),
            **({"flips": list(axes)} if axes else {}),
            **recipe["cohort"],
        },
        "held_out": held_out,
        **({"shares": shares(model, ordinary)} if recipe.get("own_people") else {}),
        "command": f"python data_scripts/train_models.py {task} --seeds {seed}",
        "versions": versions(),
    }
    models.save_pretrained(model, task, card, seed=seed, folder=arguments.folder)


def versions() -> dict[str, str | int]:
    """Return what the weights were made with."""
    device = runtime.device()
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "nilearn", "monai")},
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def shares(model, people: cohorts.Cohort) -> dict[str, float]:
    """Return how much of the decision each structure carries, over held-out patients.

    A structure's share is its Shapley value, summed over people and both sides, of the sum of all.
    """
    patients = people[people.labels == 1][:SHARES_OF_PATIENTS]
    worth = evaluation.reliance(model, patients)
    structure = worth["part"].str.removesuffix(" left").str.removesuffix(" right")
    of_each = worth.groupby(structure, sort=False)["value"].sum()
    return (of_each / of_each.sum()).round(3).to_dict()


if __name__ == "__main__":
    main()
