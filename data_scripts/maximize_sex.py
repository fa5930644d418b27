"""The hard case: a concept that is spread over the brain, in voxel space and in warp space.

The class "male" of the made-up sex cohort is maximized for two networks together, once by painting
voxels, once by deforming the template. The log expansion of the deformation is compared with the
difference that was planted: the cosine over the brain, and the sign in each structure. The recipe
was chosen on this task; the tasks atrophy and alcohol, which had no say, follow unchanged.

    python data_scripts/maximize_sex.py

A run that was interrupted goes on where it stopped, from the folder given by ``--parts``.
"""

import argparse
from pathlib import Path

import torch

from helpers import anatomy, cohorts, fields, models, results
from helpers.activation_maximization import (
    activation,
    class_margin,
    images,
    maximize,
    recipes,
    regularizers,
)
from helpers.cohorts.deformations import STRUCTURES, Deformation
from helpers.evaluation import quantities

NETWORKS = {"sex": (0, 1), "atrophy": (0, 1), "alcohol": (0, 1)}
SEEDS = range(3)
SUBJECT_SEED, SUBJECTS = 600, 100


def main() -> None:
    """Deform, paint, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=Path, default=Path("runs/maximize_sex"))
    parts = parser.parse_args().parts
    brain, rows, maps = anatomy.template(), [], []
    for task, seeds in NETWORKS.items():
        network = together(task, seeds)
        truth = planted(task, brain)
        for seed in SEEDS if task == "sex" else SEEDS[:1]:
            reach = results.part(parts / f"{task}-{seed}.safetensors", warp, network, brain, seed)
            expansion = reach.pop("log_expansion")
            rows.append({"task": task, "space": "warp", "seed": seed,
                         **score(expansion[0], truth, task, brain), **reach})  # fmt: skip
            maps.append(expansion)
            print(rows[-1], flush=True)
    network, truth = together("sex", NETWORKS["sex"]), planted("sex", brain)
    for name, part in (("free", ()), ("smooth", (regularizers.blur_gradient(2.0),))):
        start = images.noise(brain.grid.shape, sd=0.01)
        image = images.Deviation(brain.t1[None], start, mask=brain.mask[None])
        found = maximize(network, class_margin(1), image=image, regularizers=part,
                         steps=60, learning_rate=0.02)  # fmt: skip
        deviation = found.volume - brain.t1
        rows.append({"task": "sex", "space": f"voxels, {name}", "seed": 0,
                     **score(deviation[0], truth, "sex", brain),
                     **reached(network, found, brain)})  # fmt: skip
        maps.append(deviation)
        print(rows[-1], flush=True)
    people = cohorts.simulate("sex", SUBJECTS, SUBJECT_SEED)
    highest = float(activation(network, class_margin(1), people.volumes).max())
    results.write(
        "feature_sex",
        {
            "what": "Pictures of a made-up, distributed concept, scored against what was planted.",
            "command": "python data_scripts/maximize_sex.py",
            "seeds": {"pictures": list(SEEDS), "networks": NETWORKS, "subjects": SUBJECT_SEED},
            "recipe": "helpers.activation_maximization.recipes.warped",
            "subjects": SUBJECTS,
            "highest_margin_of_subjects": highest,
            "agreement_of_warps": quantities.mean_correlation(
                torch.cat(maps[: len(SEEDS)]), brain.mask
            ),
            "rows": rows,
            "maps": {
                "sex": results.pack(maps[0] * brain.mask),
                "voxels": results.pack(maps[-2] * brain.mask),
                "voxels, smooth": results.pack(maps[-1] * brain.mask),
            },
        },
    )


def warp(network, brain, seed: int) -> dict:
    """Return the log expansion of the deformation that the network wants, and its margins."""
    found = recipes.warped(network, class_margin(1), brain, seed=seed)
    expansion = fields.log_expansion(found.image.displacement().detach())
    return {"log_expansion": expansion, **reached(network, found, brain)}


def together(task: str, seeds) -> models.Ensemble:
    """Return the networks of a task as one, channels last in memory: the same, faster."""
    networks = [models.pretrained(task, seed=seed) for seed in seeds]
    return models.Ensemble(networks).to(memory_format=torch.channels_last_3d).eval()


def planted(task: str, brain) -> torch.Tensor:
    """Return the log expansion (1 x y z) from class 0 to class 1, but for head size."""
    whole = Deformation(STRUCTURES[task], 1.0)
    return fields.log_expansion(whole.displacement(brain.grid))[0]


def score(found: torch.Tensor, truth: torch.Tensor, task: str, brain) -> dict:
    """Return the cosine, and in how many structures the mean has the right sign.

    No mean over the brain is subtracted, as in `helpers.evaluation.own_deviation`: 0 says that
    tissue has kept its volume.
    """
    inside = brain.mask
    right, answers = 0, {}
    places = cohorts.planted_structures(task, brain.grid)
    for structure in STRUCTURES[task]:
        mean = float(found[:, places[structure.name]].mean())
        answers[structure.name] = round(mean, 4)
        right += mean * structure.log_expansion > 0
    return {
        "cosine": round(float(torch.cosine_similarity(found[inside], truth[inside], dim=0)), 4),
        "right_signs": right,
        "structures": len(STRUCTURES[task]),
        "answers": answers,
    }


def reached(network, found, brain) -> dict:
    """Return the margin of the template and of the picture, unmoved."""
    before, after = (float(activation(network, class_margin(1), v))
                     for v in (brain.t1[None], found.volume))  # fmt: skip
    return {"margin_before": before, "margin_after": after}


if __name__ == "__main__":
    main()
