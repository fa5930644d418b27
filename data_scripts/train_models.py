"""Train the networks that ship with the course, and write their weights and cards.

Each task has its own cohorts: training, validation and held-out subjects come from different
seeds, so they share nobody. On two cores the lesion network takes about half an hour.

    python data_scripts/train_models.py lesion shortcut
"""

import argparse
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from helpers import cohorts, models

RECIPES = {
    "lesion": {
        "network": "course",
        "subjects": 2000,
        "epochs": 14,
        "cohort": {},
        "held_out": {"lesion": {}},
    },
    "shortcut": {
        "network": "course",
        "subjects": 400,
        "epochs": 6,
        "cohort": {"tag": "label"},
        "held_out": {
            "tag goes with the label": {"tag": "label"},
            "tag given by coin": {"tag": "random"},
            "nobody has a tag": {"tag": "none"},
        },
    },
}
TRAIN_SEED, VALIDATION_SEED, HELD_OUT_SEED = 100, 101, 102
HELD_OUT_SUBJECTS = 200


def main() -> None:
    """Train every task named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="+", choices=sorted(RECIPES))
    parser.add_argument("--folder", type=Path, default=models.WEIGHTS, help="where to write")
    parser.add_argument(
        "--checkpoints", type=Path, default=Path("runs"), help="where to resume from"
    )
    arguments = parser.parse_args()
    for task in arguments.tasks:
        train_task(task, arguments.folder, arguments.checkpoints)


def train_task(task: str, folder: Path, checkpoints: Path) -> None:
    """Train one network, score it on held-out subjects and write weights and card."""
    recipe = RECIPES[task]
    train = cohorts.simulate(
        task, recipe["subjects"], TRAIN_SEED, progress=True, **recipe["cohort"]
    )
    validation = cohorts.simulate(task, 200, VALIDATION_SEED, progress=True, **recipe["cohort"])
    model = models.build(recipe["network"], len(train.classes), train.grid.shape)
    history = models.train(
        model,
        train,
        validation=validation,
        epochs=recipe["epochs"],
        augment=models.flips if task == "lesion" else None,
        checkpoint=checkpoints / f"{task}.safetensors",
    )
    print(history.round(3).to_string(index=False))

    held_out = {}
    for name, options in recipe["held_out"].items():
        test = cohorts.simulate(task, HELD_OUT_SUBJECTS, HELD_OUT_SEED, progress=True, **options)
        score = models.scores(models.predict(model.cpu(), test.volumes), test, name=task)
        held_out[name] = {
            "cohort": {"task": task, "seed": HELD_OUT_SEED, **options},
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
            "seed": TRAIN_SEED,
            "epochs": len(history),
            "minutes": round(history["seconds"].sum() / 60, 1),
            **recipe["cohort"],
        },
        "held_out": held_out,
        "command": f"python data_scripts/train_models.py {task}",
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "nilearn", "monai")},
        },
    }
    card["versions"]["threads"] = torch.get_num_threads()
    models.save_pretrained(model, task, card, folder=folder)


if __name__ == "__main__":
    main()
