"""Write a simulated cohort as a BIDS folder, to use it with other software.

Each subject gets a T1-weighted volume and, under ``derivatives/truth``, the mask of what was
planted. The same seed writes the same brains.

    python data_scripts/simulate_cohort.py lesion OUT --subjects 50 --seed 0
"""

import argparse
from pathlib import Path

from helpers import cohorts, grids, runtime
from helpers.cohorts.tasks import TASKS


def main() -> None:
    """Simulate, then write volumes, masks, participants and a description."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=sorted(TASKS))
    parser.add_argument("out", type=Path, help="folder to write; it is made if missing")
    parser.add_argument("--subjects", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--spacing-mm", type=float, default=runtime.profile().spacing_mm)
    arguments = parser.parse_args()
    cohort = cohorts.simulate(
        arguments.task,
        arguments.subjects,
        arguments.seed,
        grid=grids.mni(arguments.spacing_mm),
        progress=True,
    )
    table = cohort.participants
    table["participant_id"] = "sub-" + table["participant_id"].str.replace("-", "")
    for i, name in enumerate(table["participant_id"]):
        scan = arguments.out / name / "anat" / f"{name}_T1w.nii.gz"
        truth = arguments.out / "derivatives" / "truth" / name / "anat"
        grids.save(cohort.volumes[i], cohort.grid, scan)
        grids.save(cohort.truth.mask[i], cohort.grid, truth / f"{name}_mask.nii.gz")
        if cohort.truth.log_expansion is not None:
            expansion = truth / f"{name}_logexpansion.nii.gz"
            grids.save(cohort.truth.log_expansion[i], cohort.grid, expansion)
    description = {
        "Name": f"Simulated brains, task {arguments.task}, seed {arguments.seed}",
        "BIDSVersion": "1.9.0",
        "DatasetType": "raw",
        "Authors": ["Simulated from the MNI152 template; nobody was scanned"],
    }
    runtime.write_json(arguments.out / "dataset_description.json", description)
    with runtime.replacing(arguments.out / "participants.tsv") as unfinished:
        table.to_csv(unfinished, sep="\t", index=False)
    print(f"wrote {len(cohort)} subjects to {arguments.out}")


if __name__ == "__main__":
    main()
