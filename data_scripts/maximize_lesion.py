"""Prove activation maximization on planted shapes: does the picture of "cube" show a cube?

For every lesion class and seed one picture by `helpers.activation_maximization.recipes.readable`,
of the trained network and of an untrained one, matched with the four shapes. Beside it: what 500
subjects reach, fine detail, agreement across seeds, the most similar subject.

    python data_scripts/maximize_lesion.py

A run that was interrupted goes on where it stopped, from the folder given by ``--parts``.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch

from helpers import anatomy, cohorts, models, results
from helpers.activation_maximization import (
    activation,
    class_margin,
    logit,
    recipes,
)
from helpers.activation_maximization.network import OUTPUT, watched
from helpers.cohorts.shapes import SHAPES
from helpers.evaluation import matching, quantities

SEEDS = range(5)
STARTS = {"trained": 3, "untrained": 1}
UNTRAINED_SEED, SUBJECT_SEED, SUBJECTS = 7, 600, 500


def main() -> None:
    """Make the pictures, match them, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=Path, default=Path("runs/maximize_lesion"))
    parts = parser.parse_args().parts
    brain, trained = anatomy.template(), models.pretrained("lesion")
    trained = trained.to(memory_format=torch.channels_last_3d)  # the same numbers, faster
    card = trained.card
    untrained = models.build(
        card["network"], len(card["classes"]), brain.grid.shape, seed=UNTRAINED_SEED
    ).eval()
    networks = {"trained": trained, "untrained": untrained}
    louder = {"trained": 1.0, "untrained": _loudness(trained, brain) / _loudness(untrained, brain)}
    rows, pictures = [], {"trained": [], "untrained": []}
    for name, network in networks.items():
        for seed in SEEDS:
            for target, shape in enumerate(SHAPES, start=1):
                found = results.part(
                    parts / f"{name}-{seed}-{shape}.safetensors",
                    picture, network, target, brain, seed, STARTS[name], louder[name],
                )  # fmt: skip
                pictures[name].append(found.pop("deviation"))
                rows.append({"network": name, "seed": seed, "class": shape, **found})
                print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    pictures = {name: torch.stack(found) for name, found in pictures.items()}
    met = results.part(parts / "people.safetensors", people, trained, pictures["trained"], brain)
    table = table.join(_of_people(met, table))
    results.write("feature_lesion", _summary(table, pictures, louder["untrained"]))


def picture(network, target: int, brain, seed: int, starts: int, louder: float) -> dict:
    """Return the quantities and the deviation (1 x y z) of one picture."""
    objective = louder * class_margin(target)
    found = recipes.readable(network, objective, brain, seed=seed, starts=starts)
    deviation = found.volume - brain.t1
    fits = matching.match_shapes(deviation, brain.grid, brain.mask)
    best = fits.loc[fits["best"]].iloc[0]
    return {
        "shown": best["shape"],
        **{
            f"r_{fit.shape}": fit.correlation for fit in fits[["shape", "correlation"]].itertuples()
        },
        **{axis: int(best[axis]) for axis in "xyz"},
        "margin": float(activation(network, class_margin(target), found.volume)),
        "logit": float(activation(network, logit(target), found.volume)),
        "fine_share": float(quantities.fine_share(deviation)),
        "steps": len(found.history),
        "deviation": deviation[0],
    }


def _loudness(network, brain) -> float:
    """Return how strongly a network's margins answer to voxels.

    The logits of an untrained network hardly move, so any penalty would win. Its objective is
    made as loud as that of the trained one.
    """
    with watched(network, [OUTPUT]) as look:
        volume = brain.t1[None].clone().requires_grad_()
        margins = torch.cat([class_margin(k).function(look(volume)) for k in range(1, 5)])
        return float(torch.autograd.grad(margins.sum(), volume)[0].abs().mean())


def people(network, pictures: torch.Tensor, brain) -> dict:
    """Return what excites the network most among 500 subjects, and who is nearest to a picture."""
    cohort = cohorts.simulate("lesion", SUBJECTS, SUBJECT_SEED, progress=True)
    highest = {
        kind.__name__: [float(activation(network, kind(k), cohort.volumes).max())
                        for k in range(1, 5)]
        for kind in (class_margin, logit)
    }  # fmt: skip
    nearest = quantities.nearest_subject(pictures + brain.t1, cohort.volumes, brain.mask)
    nearest["diagnosis"] = cohort.participants["diagnosis"][nearest["subject"]].tolist()
    return {**highest, "nearest": nearest}


def _of_people(met: dict, table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the trained network's pictures."""
    ours = table["network"] == "trained"
    target = table.loc[ours, "class"].map(list(SHAPES).index)
    return pd.DataFrame(
        {
            "highest_margin_of_subjects": [met["class_margin"][k] for k in target],
            "highest_logit_of_subjects": [met["logit"][k] for k in target],
            "nearest_subject_r": met["nearest"]["correlation"].to_numpy(),
            "nearest_subject": met["nearest"]["diagnosis"].to_numpy(),
        },
        index=table.index[ours],
    )


def _summary(table: pd.DataFrame, pictures: dict, louder: float) -> dict:
    """Return what the chapter reads."""
    table["right"] = table["shown"] == table["class"]
    right = table.groupby(["network", "seed"])["right"].sum().unstack("network")
    boxes = torch.stack([matching.around(d, (row.x, row.y, row.z)) for d, row in zip(
        torch.cat(list(pictures.values())), table.itertuples(), strict=True)])  # fmt: skip
    agreement = {
        name: {
            shape: quantities.mean_correlation(
                boxes[((table["network"] == name) & (table["class"] == shape)).to_numpy()],
                torch.ones(1, *boxes.shape[2:], dtype=torch.bool),
            )
            for shape in SHAPES
        }
        for name in pictures
    }
    return {
        "what": "One optimised picture for each lesion class and seed, matched with four shapes.",
        "command": "python data_scripts/maximize_lesion.py",
        "seeds": {
            "pictures": list(SEEDS),
            "subjects": SUBJECT_SEED,
            "untrained_network": UNTRAINED_SEED,
        },
        "recipe": "helpers.activation_maximization.recipes.readable",
        "starts": STARTS,
        "subjects": SUBJECTS,
        "untrained_objective_times": louder,
        "right_of_4": {name: right[name].tolist() for name in right},
        "agreement": agreement,
        "rows": table.round(4).astype(object).where(table.notna(), None).to_dict("records"),
        "boxes": results.pack(boxes[: len(pictures["trained"])]),
        "untrained_boxes": results.pack(boxes[len(pictures["trained"]) :]),
    }


if __name__ == "__main__":
    main()
