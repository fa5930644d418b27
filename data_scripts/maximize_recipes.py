"""Compare what makes a feature picture readable: one regularizer at a time, then together.

Each recipe makes a picture of every lesion class from the same starts, for each seed; each picture
is matched with the four shapes. Two regularizers are then tried at several strengths.

    python data_scripts/maximize_recipes.py

A run that was interrupted goes on where it stopped, from the folder given by ``--parts``.
"""

import argparse
import time
from pathlib import Path

import pandas as pd
import torch

from helpers import anatomy, models, results
from helpers.activation_maximization import (
    class_margin,
    images,
    maximize,
    recipes,
    regularizers,
    transforms,
)
from helpers.cohorts.shapes import SHAPES
from helpers.evaluation import matching, quantities

SEEDS, STEPS, LEARNING_RATE = range(2), 60, 0.03
CLASSES = [1, 2, 3, 4]
MOVES = [transforms.rotation(180), transforms.jitter(2)]
BOUNDS = {"bounds": (0.0, recipes.BRIGHTEST)}
VARIATION = regularizers.total_variation(30.0, of="deviation")
BLUR = regularizers.blur_gradient(1.0)
# What differs from plain gradient ascent on voxels.
RECIPES = {
    "nothing": {},
    "one place": {"place": True},
    "L2": {"regularizers": [regularizers.l2(100.0, of="deviation")]},
    "total variation": {"regularizers": [VARIATION]},
    "frequency penalty": {"regularizers": [regularizers.high_frequencies(300.0, of="deviation")]},
    "gradient blur": {"regularizers": [BLUR]},
    "Fourier": {"fourier": True},
    "moves": {"transforms": MOVES},
    "together, no moves": {"image": BOUNDS, "place": True, "regularizers": [VARIATION, BLUR]},
    "together": {
        "image": BOUNDS,
        "place": True,
        "regularizers": [VARIATION, BLUR],
        "transforms": MOVES,
    },
}
SWEPT_CLASS = 3  # the rod
SWEEPS = {"total variation": [0, 3, 10, 30, 100, 300], "gradient blur": [0, 0.5, 1, 1.5, 2, 3]}
REACH = 9  # voxels: the whole place


def main() -> None:
    """Make the pictures, match them, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=Path, default=Path("runs/maximize_recipes"))
    parts = parser.parse_args().parts
    brain = anatomy.template()
    network = models.pretrained("lesion").to(memory_format=torch.channels_last_3d)
    rows, boxes = [], []
    for seed in SEEDS:
        for name, options in RECIPES.items():
            part = parts / f"{name}-{seed}.safetensors"
            found = results.part(part, measured, network, brain, seed, **options)
            table = found["table"]
            table.insert(0, "seed", seed)
            table.insert(0, "recipe", name)
            print(table.round(2).to_string(), flush=True)
            rows.append(table)
            boxes.append(found["boxes"])
    table, boxes = pd.concat(rows, ignore_index=True), torch.cat(boxes)
    sweeps = {}
    for name, strengths in SWEEPS.items():
        part = parts / f"sweep {name}.safetensors"
        sweeps[name] = results.part(part, swept, network, brain, name, strengths)
        print(name, sweeps[name]["right_r"], flush=True)
    results.write("feature_recipes", _summary(table, boxes, sweeps))


def measured(network, brain, seed: int, **options) -> dict:
    """Return one row a class, and the boxes around what was matched."""
    started = time.process_time()
    found = compose(network, brain, seed, class_margin(CLASSES), len(CLASSES), **options)
    seconds = (time.process_time() - started) / STEPS / len(CLASSES)
    deviations = found.volume - brain.t1
    fits = matching.match_shapes(deviations, brain.grid, brain.mask)
    reached = recipes.moved_activation(network, class_margin(CLASSES), found.volume, MOVES)
    table = fits[fits["best"]].reset_index(drop=True)
    own = fits.pivot(index="image", columns="shape", values="correlation")[list(SHAPES)].to_numpy()
    boxes = [matching.around(d, tuple(row)) for d, row in
             zip(deviations, table[["x", "y", "z"]].to_numpy().tolist(), strict=True)]  # fmt: skip
    rows = pd.DataFrame(
        {
            "class": list(SHAPES),
            "shown": table["shape"],
            "r": own.diagonal(),
            "moved_margin": reached.tolist(),
            "objective": found.history["objective"].tail(len(CLASSES)).tolist(),
            "fine_share": quantities.fine_share(deviations).tolist(),
            "seconds": seconds,
        }
    )
    return {"table": rows, "boxes": torch.stack(boxes)}


def compose(
    network, brain, seed: int, objective, count: int, *,
    image=None, place=False, fourier=False, regularizers=(), transforms=(),
):  # fmt: skip
    """Run one recipe for a batch of ``count`` images; all recipes share starts and places."""
    start = images.noise(brain.grid.shape, seeds=[seed], sd=0.02).expand(count, -1, -1, -1, -1)
    where = recipes.one_place(brain, seed=seed) if place else None
    if fourier:
        made = images.Fourier(brain.t1 + start)
    else:
        made = images.Deviation(brain.t1[None], start, mask=where, **(image or {}))
    return maximize(
        network,
        objective,
        image=made,
        regularizers=regularizers,
        transforms=transforms,
        steps=STEPS,
        learning_rate=LEARNING_RATE,
        seed=seed,
    )


def swept(network, brain, name: str, strengths: list[float]) -> dict:
    """Return the place of one class for several strengths, and how the pictures fare."""
    places = {"image": BOUNDS, "place": True, "transforms": MOVES}
    volumes = []
    for strength in strengths:
        blur = strength if name == "gradient blur" else 1.0
        variation = strength if name == "total variation" else 30.0
        parts = [regularizers.total_variation(float(variation), of="deviation")]
        parts += [regularizers.blur_gradient(float(blur))] if blur else []
        objective = class_margin(SWEPT_CLASS)
        options = {**places, "regularizers": parts}
        volumes.append(compose(network, brain, 0, objective, 1, **options).volume)
    volumes = torch.cat(volumes)
    deviations = volumes - brain.t1
    fits = matching.match_shapes(deviations, brain.grid, brain.mask)
    middle = (recipes.one_place(brain, seed=0)[0] == 1).nonzero()[:, 1:].float().mean(0).round()
    voxel = tuple(middle.long().tolist())
    rod = fits[fits["shape"] == list(SHAPES)[SWEPT_CLASS - 1]]
    moved = recipes.moved_activation(network, class_margin(SWEPT_CLASS), volumes, MOVES)
    return {
        "strengths": strengths,
        "class": list(SHAPES)[SWEPT_CLASS - 1],
        "voxel": list(voxel),
        "right_r": rod["correlation"].round(4).tolist(),
        "shown": fits.loc[fits["best"], "shape"].tolist(),
        "moved_margin": moved.tolist(),
        "fine_share": quantities.fine_share(deviations).tolist(),
        "boxes": results.pack(
            torch.stack([matching.around(v, voxel, reach=REACH) for v in volumes])
        ),
    }


def _summary(table: pd.DataFrame, boxes: torch.Tensor, sweeps: dict) -> dict:
    """Return what the chapter reads."""
    table["right"] = table["shown"] == table["class"]
    everywhere = torch.ones(1, *boxes.shape[2:], dtype=torch.bool)
    table["agreement"] = 0.0
    for _, pair in table.groupby(["recipe", "class"]):
        table.loc[pair.index, "agreement"] = quantities.mean_correlation(
            boxes[pair.index], everywhere
        )
    columns = ["right", "r", "moved_margin", "objective", "fine_share", "agreement", "seconds"]
    means = table.groupby("recipe", sort=False)[columns].mean().reset_index()
    first = table["seed"] == SEEDS[0]
    return {
        "what": "Feature pictures of four lesion classes, each recipe with the same starts.",
        "command": "python data_scripts/maximize_recipes.py",
        "seeds": list(SEEDS),
        "steps": STEPS,
        "seconds": "of one core's time, a step and picture",
        "means": means.round(4).to_dict("records"),
        "rows": table.round(4).to_dict("records"),
        "boxes": results.pack(boxes[first.to_numpy()]),
        "sweeps": sweeps,
    }


if __name__ == "__main__":
    main()
