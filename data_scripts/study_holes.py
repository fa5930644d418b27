"""The hole study: does a hole look like a disease, and what does removing an area tell?

Two experiments with the networks of the task ``atrophy``, on people that none of them has seen.

**Holes.** The healthy twins of patients get a hole over one lateral ventricle: a box, or the
voxels that the planted growth of this ventricle would make darker. It is filled with something
darker than the tissue, and once more with something brighter by as much. Both have the same edges.
If edges were all that counts, both would move the network alike; if it took dark for fluid, they
would move it in opposite ways. Beside them stand the same hole elsewhere, holes without a sharp
border, and the real thing: the twin whose ventricle has grown.

**Masks.** `helpers.evaluation.mask_test` with several networks, people, folds, areas and fills.

    python data_scripts/study_holes.py

A run that was interrupted goes on where it stopped, from the folder given by ``--parts``.
"""

import argparse
import functools
import itertools
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from helpers import attribution, cohorts, evaluation, fields, models, results, runtime

TASK, PATIENT = "atrophy", 1
NETWORKS = (0, 1, 2)  # trained on the same people from other first weights
# No training, validation, card or other study has used these seeds of people.
HOLE_SEED, HOLE_SUBJECTS = 540, 48  # the healthy twins of the patients, which are half of them
MASK_SEEDS, MASK_SUBJECTS = (541, 542, 543), 24
PLACE_SEED = 0  # of the holes elsewhere

BOX_VOXELS = 8  # as in chapter 6
DARKENED = 0.05  # by so much or more, growth of a ventricle darkens the voxels of its hole
SOFT_VOXELS = 1.0  # SD of a soft border
BLUR_VOXELS = 4.0  # as in chapter 6

FOLD_SEEDS = (0, 1, 2)
FRACTIONS = (0.02, 0.05, 0.1)

HOLE = ["shape", "place", "border", "fill"]
TOLD = ["measure", "mean", "low", "high"]


def main() -> None:
    """Make the holes and the masks network by network, then write means and intervals."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=Path, default=Path("runs/hole_study"))
    parts = parser.parse_args().parts
    tables = {"holes": [], "masks": []}
    for seed in NETWORKS:
        network = models.pretrained(TASK, seed=seed)
        asked = {"holes": (holes, network)}
        asked |= {f"masks {people}": (masks, network, people) for people in MASK_SEEDS}
        for what, (compute, *arguments) in asked.items():
            print(f"network {seed}: {what}", flush=True)
            path = parts / f"{seed} {what}.safetensors"
            table = results.part(path, compute, *arguments)["table"]
            tables[what.split()[0]].append(table.assign(network=seed))
    results.write("hole_study", summarise(**{name: pd.concat(t) for name, t in tables.items()}))


def holes(model: nn.Module) -> dict[str, pd.DataFrame]:
    """Return how far each hole moves the margin of patient over control, in logits."""
    rows = []
    for subject in range(len(patients())):
        facts, volumes = zip(*pictures(subject), strict=True)
        logits = models.predict(model, torch.stack(volumes))
        margins = logits[:, PATIENT] - logits[:, 1 - PATIENT]
        moved = (margins - margins[0]).tolist()  # the first is the healthy twin as it is
        rows += [{"subject": subject, **f, "change": m} for f, m in zip(facts, moved, strict=True)]
    return {"table": pd.DataFrame(rows)}


@functools.cache
def patients() -> cohorts.Cohort:
    """Return the people whose healthy twins get holes."""
    people = cohorts.simulate(TASK, HOLE_SUBJECTS, HOLE_SEED)
    return people[people.labels == PATIENT]


def pictures(subject: int) -> Iterator[tuple[dict[str, str], Float[Tensor, "1 x y z"]]]:
    """Yield the healthy twin of a patient, and then this twin with each hole."""
    people = patients()
    parts = cohorts.planted_parts(people, subject)
    ventricles = [part for part in parts if "ventricle" in part]
    present = torch.tensor([[part == one for part in parts] for one in (None, *ventricles)])
    healthy, *grown = cohorts.twins(people, subject, present=present).volumes
    structures = cohorts.part_places(people, subject)
    near = cohorts.part_places(people, subject, within=1.5)  # as far as truth reaches
    free = (healthy != 0) & ~torch.stack(list(structures.values())).any(0)
    yield {"shape": "none"}, healthy
    for k, (name, twin) in enumerate(zip(ventricles, grown, strict=True)):
        whole = {"shape": "grown twin", "place": "ventricle", "border": "none", "fill": "none"}
        yield {"ventricle": name, **whole}, twin
        inside = healthy[structures[name]]
        fluid = float(inside[inside <= inside.quantile(0.05)].mean())
        shapes = {
            "box": box(structures[name]) & (healthy != 0),
            "ventricle": darkened(healthy, twin) & near[name],
        }
        for s, (shape, hole) in enumerate(shapes.items()):
            generator = runtime.generator(PLACE_SEED, subject, k, s)
            places = {"ventricle": hole, "elsewhere": moved(hole, free, generator)}
            for place, there in places.items():
                facts = {"ventricle": name, "shape": shape, "place": place}
                for border, mask in {"sharp": there.float(), "soft": soft(there)}.items():
                    mask = mask * (healthy != 0)  # the air around the brain stays air
                    fills = filled(healthy, mask, fluid)
                    if place == "ventricle":
                        fills["grown twin"] = twin
                    for fill, value in fills.items():
                        value = torch.as_tensor(value).expand(healthy.shape)
                        holed = healthy + mask * (value - healthy)
                        what = {"border": border, "fill": fill, "voxels": int(there.sum())}
                        yield {**facts, **what, "brightness": mean_in(value, mask)}, holed


def box(structure: Bool[Tensor, "1 x y z"]) -> Bool[Tensor, "1 x y z"]:
    """Return a cube around the middle of a structure."""
    middle = structure[0].nonzero().float().mean(0)
    cube = torch.zeros_like(structure)
    corner = (middle - (BOX_VOXELS - 1) / 2).round().long().tolist()
    cube[(0, *(slice(c, c + BOX_VOXELS) for c in corner))] = True
    return cube


def darkened(
    healthy: Float[Tensor, "1 x y z"], twin: Float[Tensor, "1 x y z"]
) -> Bool[Tensor, "1 x y z"]:
    """Return the voxels of the brain that are darker in the twin."""
    return (healthy != 0) & (healthy - twin >= DARKENED)


def moved(
    hole: Bool[Tensor, "1 x y z"], free: Bool[Tensor, "1 x y z"], generator: torch.Generator
) -> Bool[Tensor, "1 x y z"]:
    """Return the hole, as it is, at a random place where all of it is free."""
    voxels = hole[0].nonzero()
    corner = voxels.amin(0)
    kernel = hole[(0, *(slice(a, b + 1) for a, b in zip(corner, voxels.amax(0), strict=True)))]
    fits = F.conv3d(free[None].float(), kernel[None, None].float())[0, 0].round() == len(voxels)
    candidates = fits.nonzero()
    if len(candidates) == 0:
        raise ValueError(f"a hole of {len(voxels)} voxels fits nowhere else in this brain")
    chosen = candidates[torch.randint(len(candidates), (1,), generator=generator)[0]]
    there = torch.zeros_like(hole)
    there[(0, *(voxels - corner + chosen).T)] = True
    return there


def soft(hole: Bool[Tensor, "1 x y z"]) -> Float[Tensor, "1 x y z"]:
    """Return a hole without a sharp border, 0 to 1; it takes as much in all."""
    return fields.gaussian_blur(hole[None].float(), SOFT_VOXELS)[0]


def filled(
    volume: Float[Tensor, "1 x y z"], mask: Float[Tensor, "1 x y z"], fluid: float
) -> dict[str, float | Tensor]:
    """Return what a hole is filled with: dark values, and those that are brighter by as much.

    By as much means: than the mean of the tissue that was there.
    """
    tissue = mean_in(volume, mask)
    dark = {"air": 0.0, "fluid": fluid, "brain": 1.0}
    bright = {f"{name}, mirrored": 2 * tissue - value for name, value in dark.items()}
    blurred = fields.gaussian_blur(volume[None], BLUR_VOXELS)[0]
    return {**dark, **bright, "mean": tissue, "blurred": blurred}


def mean_in(volume: Float[Tensor, "1 x y z"], mask: Float[Tensor, "1 x y z"]) -> float:
    """Return the mean brightness in a hole; where its border is soft, voxels count in part."""
    return float((volume * mask).sum() / mask.sum())


def masks(model: nn.Module, people: int) -> dict[str, pd.DataFrame]:
    """Return who is called right with an area kept or removed, over folds, areas and fills."""
    cohort = cohorts.simulate(TASK, MASK_SUBJECTS, people)
    maps = attribution.gradient(model, cohort.volumes, cohort.labels)
    fills = {"air": 0.0, "blurred": fields.gaussian_blur(cohort.volumes, BLUR_VOXELS)}
    tables = []
    for folds, fraction, fill in itertools.product(FOLD_SEEDS, FRACTIONS, fills):
        table = evaluation.mask_test(
            model,
            cohort.volumes,
            maps,
            cohort.labels,
            fraction=fraction,
            fill=fills[fill],
            seed=folds,
        )
        tables.append(table.assign(folds=folds, fraction=fraction, fill=fill))
    table = pd.concat(tables, ignore_index=True)
    groups = [cohort.classes[label] for label in cohort.labels.tolist()]
    table["group"] = [groups[subject] for subject in table["subject"]]
    table["subject"] = [f"{people}, {subject}" for subject in table["subject"]]
    table = table.assign(people=people, correct=table["correct"].astype(float))
    return {"table": table.drop(columns="probability")}


def halves(table: pd.DataFrame) -> pd.DataFrame:
    """Return the change of each dark fill in two halves, which add up to it.

    ``darkness`` is the half that turns round where the fill is brighter by as much; ``either_way``
    the half that stays: what was there is gone, and there are edges.
    """
    bright = table["fill"].str.endswith(", mirrored")
    pairs = table.assign(
        fill=table["fill"].str.removesuffix(", mirrored"),
        tone=bright.map({True: "bright", False: "dark"}),
    )
    keys = ["network", "subject", "ventricle", "shape", "place", "border", "fill"]
    wide = pairs.pivot(index=keys, columns="tone", values="change").dropna().reset_index()
    return wide[keys].assign(
        darkness=(wide["dark"] - wide["bright"]) / 2,
        either_way=(wide["dark"] + wide["bright"]) / 2,
    )


def runs(table: pd.DataFrame) -> pd.DataFrame:
    """Return how much the accuracies of single runs differ, and which group is called wrong more.

    A run is one network, one group of people and one seed of the folds.
    """
    test = ["action", "area", "fraction", "fill"]
    run = ["network", "people", "folds"]
    accuracy = table.groupby([*test, *run, "group"], sort=False)["correct"].mean().unstack("group")
    facts = {f"{group} {name}": (group, name) for group in accuracy for name in ("min", "max")}
    found = accuracy.groupby(test, sort=False).agg(**facts)
    control, patient = (accuracy[group] for group in ("control", "patient"))
    for name, worse in {"controls": control < patient, "patients": patient < control}.items():
        found[f"{name} worse"] = worse.groupby(test, sort=False).sum()
    found["runs"] = accuracy.groupby(test, sort=False).size()
    return found.reset_index()


def summarise(holes: pd.DataFrame, masks: pd.DataFrame) -> dict:
    """Return means with intervals over people and networks, and network by network."""
    holes = holes[holes["shape"] != "none"]
    of_mask = ["action", "area", "fraction", "fill", "group"]
    scored = {
        "holes": _means(holes.drop(columns=["voxels", "brightness"]), HOLE),
        "halves": _means(halves(holes), HOLE),
        "masks": _means(masks.drop(columns=["people", "folds"]), of_mask),
        "runs": runs(masks),
        "made_of": holes.groupby(HOLE, sort=False)[["voxels", "brightness"]]
        .mean()
        .dropna()
        .reset_index(),
    }
    return {
        "what": "Holes in healthy brains, and areas kept or removed: networks of the task atrophy.",
        "command": "python data_scripts/study_holes.py",
        "seeds": {
            "networks": list(NETWORKS),
            "people with holes": HOLE_SEED,
            "places elsewhere": PLACE_SEED,
            "people with masks": list(MASK_SEEDS),
            "folds": list(FOLD_SEEDS),
        },
        "subjects": {
            "with holes": int(holes["subject"].nunique()),
            "with masks": int(masks["subject"].nunique()),
        },
        "recipe": {
            "box_voxels": BOX_VOXELS,
            "darkened": DARKENED,
            "soft_voxels": SOFT_VOXELS,
            "blur_voxels": BLUR_VOXELS,
            "maps": "gradient",
        },
        **{name: table.round(3).to_dict("records") for name, table in scored.items()},
    }


def _means(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Return means of all networks, with intervals over networks and people, and of each."""
    together = evaluation.intervals(table, by=by, clusters=["network", "subject"])
    each = evaluation.intervals(table, by=["network", *by], clusters=["subject"])
    return pd.concat([together.assign(network="all"), each])[["network", *by, *TOLD]]


if __name__ == "__main__":
    main()
