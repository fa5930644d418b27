"""Does a network learn to see what is planted into 37 real people, and do maps find it then?

Each effect and seed is a run of ``brain-cnns trust`` as it is, but for the seed: another seed is
another coin, other places, other folds and other weights.

    python data_scripts/measure_trust.py --seeds 2 3

A run that is finished is read from ``--folder``.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path

import pandas as pd

from helpers import cohorts, command, grids, results

EFFECTS = {
    "lesion": "--effect lesion",
    "tag": "--effect tag",
    "hippocampi lose 20 %": "--effect shrink --atlas aal --region Hippocampus --percent 20",
    "hippocampi lose 10 %": "--effect shrink --atlas aal --region Hippocampus --percent 10",
}


def main() -> None:
    """Run every effect with every seed; write what was seen and found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--effects", nargs="+", default=list(EFFECTS), choices=EFFECTS)
    parser.add_argument("--folder", type=Path, default=Path("runs/trust"))
    arguments = parser.parse_args()
    people = cohorts.real()
    for volume, name in zip(people.volumes, people.participants["participant_id"], strict=True):
        path = arguments.folder / f"people/{name}.nii.gz"
        if not path.exists():
            grids.save(volume, people.grid, path)
    rows = [
        asked(effect, seed, arguments.folder)
        for seed in arguments.seeds
        for effect in arguments.effects
    ]
    results.write(
        "trust",
        {
            "what": "What is planted into 37 real people: seen by networks, and found by maps.",
            "command": shlex.join(["python", *sys.argv]),
            "people": len(people),
            "runs": rows,
        },
    )


def asked(effect: str, seed: int, folder: Path) -> dict:
    """Return what one run of the command has found."""
    out = folder / f"{effect.replace(' ', '-').replace('%', 'percent')}-{seed}"
    words = f"trust {folder / 'people'} {out} {EFFECTS[effect]} --seed {seed}"
    if command.main(shlex.split(words)):
        raise RuntimeError(f"brain-cnns {words} has failed")
    [summary] = (out / "group").glob("*_summary.json")
    found = json.loads(summary.read_text())
    scores = pd.read_csv(
        summary.with_name(summary.name.replace("_summary.json", "_scores.tsv")), sep="\t"
    )
    settings = ("network", "epochs", "draws", "folds")
    return {
        "effect": effect,
        "seed": seed,
        "command": f"brain-cnns trust PEOPLE OUT {EFFECTS[effect]} --seed {seed}",
        "settings": {name: found["settings"][name] for name in settings},
        "network": found["network"],
        "refused": found["refused"],
        "verdicts": found["verdicts"],
        "average_precision": scores.set_index("map")["average_precision"].round(4).to_dict(),
    }


if __name__ == "__main__":
    main()
