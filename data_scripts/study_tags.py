"""The tag study: does a bright tag in a map mean that the network uses the tag?

The same people are shown to three networks: in the first arm the scanner tag goes with the label,
in the second it is given by coin, in the third nobody has one. All three, and the network before
any training, then explain held-out people who carry a tag. Measured are: how well each decides,
what the tag is worth to its decision (the exact Shapley value), and how bright the tag is in its
maps, and in maps that never look at a network. After Clark, Oliveira, Wilming, Haufe (2026),
arXiv 2602.09238.

    python data_scripts/study_tags.py

A run that was interrupted goes on where it stopped, from the folder given by ``--parts``.
"""

import argparse
import functools
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from helpers import attribution, cohorts, evaluation, grids, models, results

ARMS = ("label", "random", "none")  # what the tag of the training people goes with
UNTRAINED = "untrained"
SEEDS = range(3)  # other people and other initial weights each
SPACING_MM = 8.0  # an eighth of the time of 4 mm; the tag is 8 mm wide and 19 mm long
# Chosen on other people: of 1000 volumes a network remembers the people (held-out accuracy 0.72),
# of 4000 it learns the disease (0.94). The last epoch counts, in all arms alike.
NETWORK, VOLUMES, EPOCHS, LEARNING_RATE = "course", 4000, 14, 1e-3
TRAIN_SEED = 1000  # ten more for the next seed
HELD_OUT_SEED, HELD_OUT_SUBJECTS = 1100, 200  # the same people for every network
INTENSITY = 0.5  # of the disease's spot; the task's own is 0.9, which is fainter
CARRIERS = 12  # of each class; their maps are made
COMPARED = 20  # controls that expected gradients compare with
PATIENT = 1  # the class whose lead is explained, in patients and controls


def main() -> None:
    """Train, test and explain network by network, then write means and intervals."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=Path, default=Path("runs/tag_study"))
    parts = parser.parse_args().parts
    tables = {"accuracy": [], "reliance": [], "maps": []}
    for seed in SEEDS:
        for arm in (*ARMS, UNTRAINED):

            def keep(kind, what, compute, *arguments, arm=arm, seed=seed):
                print(seed, arm, what, flush=True)
                path = parts / f"{seed} {arm} {what}.safetensors"
                table = results.part(path, compute, *arguments)["table"]
                tables[kind].append(table.assign(arm=arm, network=seed))

            model = network(arm, seed, parts)
            keep("accuracy", "accuracy", tested, model)
            keep("reliance", "reliance", relied_on, model)
            for name in attribution.METHODS:
                keep("maps", name, explained, name, model, arm, seed)
            if arm != UNTRAINED:
                keep("maps", "rivals", rivals, arm, seed)
    results.write("tag_study", summarise({name: pd.concat(t) for name, t in tables.items()}))


def network(arm: str, seed: int, parts: Path) -> nn.Module:
    """Return the network of an arm; all arms of a seed start from the same weights."""
    model = models.build(NETWORK, 2, grids.mni(SPACING_MM).shape, seed=seed)
    if arm != UNTRAINED:
        part = parts / f"{seed} {arm} network.safetensors"
        checkpoint = parts / f"{seed} {arm} checkpoint.safetensors"
        model.load_state_dict(results.part(part, trained, model, arm, seed, checkpoint))
    return model.eval()


def trained(model: nn.Module, arm: str, seed: int, checkpoint: Path) -> dict[str, Tensor]:
    """Return the weights after training on one arm's people."""
    history = models.train(
        model,
        people(arm, seed),
        epochs=EPOCHS,
        learning_rate=LEARNING_RATE,
        matched=True,
        checkpoint=checkpoint,
        seed=seed,
    )
    print(history.round(3).to_string(index=False), flush=True)
    return model.state_dict()


@functools.lru_cache(maxsize=1)  # who trained the network is asked for again by its maps
def people(arm: str, seed: int) -> cohorts.Cohort:
    """Return the training people of an arm, the same in all arms but for the tag.

    Everybody comes once in each class, and keeps a tag that is given by coin.
    """
    return simulated(arm, VOLUMES, TRAIN_SEED + 10 * seed, matched=True)


def simulated(arm: str, subjects: int, seed: int, **options) -> cohorts.Cohort:
    """Return people with the study's disease, on the study's grid."""
    return cohorts.simulate(
        "shortcut",
        subjects,
        seed,
        grid=grids.mni(SPACING_MM),
        tag="none" if arm == UNTRAINED else arm,
        intensity=INTENSITY,
        **options,
    )


@functools.cache
def held_out(tag: str) -> cohorts.Cohort:
    """Return the people who are tested, with one kind of tag."""
    return simulated(tag, HELD_OUT_SUBJECTS, HELD_OUT_SEED)


@functools.cache
def carriers() -> tuple[cohorts.Cohort, Tensor]:
    """Return held-out people with a tag, and the voxels of their brains that it left as they were.

    The tag lies beside the head. What of it lies in air is no brain, so the brain is taken from the
    same people without a tag.
    """
    tagged, plain = held_out("random"), held_out("none")
    has_tag = tagged.truth.shortcut.flatten(1).any(1)
    chosen = torch.cat([(has_tag & (tagged.labels == k)).nonzero()[:CARRIERS, 0] for k in (0, 1)])
    elsewhere = (plain.volumes != 0) & (plain.volumes == tagged.volumes)
    return tagged[chosen], elsewhere[chosen]


def tested(model: nn.Module) -> dict[str, pd.DataFrame]:
    """Return who is decided rightly, among held-out people with each kind of tag."""
    tables = []
    for tag in ARMS:
        cohort = held_out(tag)
        right = models.predict(model, cohort.volumes).argmax(1) == cohort.labels
        # Both classes are equally large: the mean over people is the balanced accuracy.
        columns = {"tag": tag, "subject": range(len(cohort)), "balanced_accuracy": right.float()}
        tables.append(pd.DataFrame(columns))
    return {"table": pd.concat(tables, ignore_index=True)}


def relied_on(model: nn.Module) -> dict[str, pd.DataFrame]:
    """Return what tag and disease add to the margin of patient over control, in logits."""
    cohort, _ = carriers()
    table = evaluation.reliance(model, cohort)
    diagnoses = cohort.participants.set_index("participant_id")["diagnosis"]
    table["diagnosis"] = table["participant_id"].map(diagnoses)
    towards = table["value"] * np.where(table["diagnosis"] == cohort.classes[PATIENT], 1, -1)
    table = table.assign(towards_patient=towards, size=towards.abs())
    columns = ["diagnosis", "part", "towards_patient", "size"]
    return {"table": table.rename(columns={"participant_id": "subject"})[["subject", *columns]]}


def explained(name: str, model: nn.Module, arm: str, seed: int) -> dict[str, pd.DataFrame]:
    """Return how bright the tag is in the maps of a method, with its own defaults.

    Expected gradients compare with controls of the network's own study, tags included.
    """
    options = {}
    if name == "expected_gradients":
        options["baselines"] = controls(arm, seed)[:COMPARED]
        options["samples"] = 2 * len(options["baselines"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # maps that are zero are counted
        lead = models.centred(model, 2)  # of patient over control, as the reliance
        maps = attribution.METHODS[name](lead, carriers()[0].volumes, PATIENT, **options)
    return {"table": brightness({name: maps})}


def rivals(arm: str, seed: int) -> dict[str, pd.DataFrame]:
    """Return how bright the tag is in maps made of the study's people, without a network.

    Who is healthy is told by the study's own controls: in the second arm half of them have a tag.
    """
    study, volumes = people(arm, seed), carriers()[0].volumes
    known = evaluation.blind_rivals(controls(arm, seed))
    known |= evaluation.label_aware_rivals(study.volumes, study.labels, PATIENT)
    return {"table": brightness({f"({name})": rival(volumes) for name, rival in known.items()})}


def controls(arm: str, seed: int) -> Tensor:
    """Return the volumes of the controls of a study."""
    study = people(arm, seed)
    return study.volumes[study.labels != PATIENT]


def brightness(maps: dict[str, Tensor]) -> pd.DataFrame:
    """Return one row a method and person: mean size of the map in the tag over that elsewhere.

    ``brighter_than`` is the share of the other voxels of the brain that are less bright than the
    tag on average. A map that is zero everywhere is ``empty`` and has no ratio.
    """
    cohort, elsewhere = carriers()
    rows = []
    for name, of_method in maps.items():
        for i, size in enumerate(of_method.abs()):
            tag, rest = size[cohort.truth.shortcut[i]].mean(), size[elsewhere[i]]
            empty = not size.any()
            rows.append(
                {
                    "method": name,
                    "diagnosis": cohort.classes[int(cohort.labels[i])],
                    "subject": i,
                    "ratio": np.nan if empty else float(tag / rest.mean()),
                    "brighter_than": np.nan if empty else float((rest < tag).float().mean()),
                    "empty": float(empty),
                }
            )
    return pd.DataFrame(rows)


def summarise(tables: dict[str, pd.DataFrame]) -> dict:
    """Return means with intervals over people and networks."""
    by = {
        "accuracy": ["arm", "tag"],
        "reliance": ["arm", "diagnosis", "part"],
        "maps": ["arm", "method", "diagnosis"],
    }
    clusters = ["network", "subject"]
    scores = {
        name: evaluation.intervals(table, by=by[name], clusters=clusters)
        .round(4)
        .to_dict("records")
        for name, table in tables.items()
    }
    return {
        "what": "A scanner tag in maps of held-out carriers, by what it went with in training.",
        "command": "python data_scripts/study_tags.py",
        "seeds": {
            "training": [TRAIN_SEED + 10 * seed for seed in SEEDS],
            "held_out": HELD_OUT_SEED,
            "weights": list(SEEDS),
        },
        "subjects": {
            "training": VOLUMES // 2,
            "held_out": HELD_OUT_SUBJECTS,
            "carriers": len(carriers()[0]),
        },
        "recipe": {
            "network": NETWORK,
            "volumes": VOLUMES,
            "epochs": EPOCHS,
            "learning_rate": LEARNING_RATE,
            "matched": True,
            "intensity": INTENSITY,
            "spacing_mm": SPACING_MM,
        },
        **scores,
    }


if __name__ == "__main__":
    main()
