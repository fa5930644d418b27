r"""Bring every T1-weighted scan of a folder into MNI space, and list the ones that fail.

Writes one NIfTI file and one report a scan into OUT, and ``scans.csv`` about all of them. Run it
again after an interruption: finished scans are not done twice. A cohort then loads in a moment:
``cohorts.from_bids(FOLDER, "sex", cache=OUT, masks=...)`` with the same spacing and masks.

The exit code is 0 if every scan is there; 1 if some are broken; 2 if the run cannot be done as
asked (a wrong argument, a full disk); 130 after Ctrl+C.

    python data_scripts/preprocess.py my_study my_study_4mm
    python data_scripts/preprocess.py ixi ixi_2mm --spacing-mm 2 \
        --masks "derivatives/dlmuse/{participant_id}_dseg.nii.gz"
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import joblib
import pandas as pd

from helpers import grids, runtime
from helpers.cohorts.report import QUALITY
from helpers.cohorts.scans import find_scans, prepare

# What a scan's name is followed by in OUT, with ten letters that stand for its content.
ENDING = "_space-MNI152_desc-0123456789_T1w.nii.gz"


def main(arguments: Sequence[str] | None = None) -> int:
    """Preprocess a folder; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="BIDS folder, or one with NIfTI files in it")
    parser.add_argument("out", type=Path, help="where the volumes go")
    parser.add_argument("--spacing-mm", type=float, default=4.0, help="voxel size: 1, 2, 4 or 8")
    parser.add_argument(
        "--masks", help="brain masks or parcellations in FOLDER, with {participant_id} in the path"
    )
    parser.add_argument(
        "--n-procs",
        type=int,
        default=joblib.cpu_count(),
        help="scans at the same time, each with about 1 GB of memory; default: one a core",
    )
    options = parser.parse_args(arguments)
    try:
        table = preprocess(options)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "stopped; the same command goes on from here\n")
    broken = table[table["problem"].notna()]
    print(f"{len(table) - len(broken)} of {len(table)} scans are in {options.out}")
    for row in broken.to_dict("records"):
        print(f"failed: {row['scan']}: {row['problem']}", file=sys.stderr)
    return 1 if len(broken) else 0


def preprocess(options: argparse.Namespace) -> pd.DataFrame:
    """Preprocess what is not done yet; write and return the table."""
    grid = grids.mni(options.spacing_mm)
    scans = find_scans(options.folder, masks=options.masks, endings=[ENDING])
    if options.out.resolve() == options.folder.resolve():
        raise ValueError(f"files in the folder of the scans would pass for scans: {options.out}")
    rows = []
    with closing(prepare(scans, grid, options.out, n_procs=options.n_procs)) as prepared:
        for scan, found in zip(scans, prepared, strict=True):
            row = {
                "participant_id": scan.participant_id,
                "session": scan.session,
                "scan": scan.file,
            }
            if isinstance(found, str):
                row["problem"] = found
            else:
                row |= {"file": scan.kept_name(grid), **found[1].quality()}
            rows.append(row)
    columns = ["participant_id", "session", "scan", "file", *QUALITY, "problem"]
    table = pd.DataFrame(rows).reindex(columns=columns)
    with runtime.replacing(options.out / "scans.csv") as unfinished:
        table.to_csv(unfinished, index=False)
    return table


if __name__ == "__main__":
    sys.exit(main())
