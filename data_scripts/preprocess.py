r"""Bring every T1-weighted scan of a BIDS folder into MNI space, and list the ones that fail.

Writes one NIfTI file and one report a scan into OUT, and ``scans.csv`` about all of them. Run it
again after an interruption: finished scans are not done twice. A cohort then loads in a moment:
``cohorts.from_bids(FOLDER, "sex", cache=OUT, masks=...)`` with the same spacing and masks.

    python data_scripts/preprocess.py my_study my_study_4mm
    python data_scripts/preprocess.py ixi ixi_2mm --spacing-mm 2 \
        --masks "derivatives/dlmuse/{participant_id}_dseg.nii.gz"
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from helpers import grids, runtime
from helpers.cohorts import bids, preprocessing
from helpers.cohorts.report import QUALITY
from helpers.errors import BrokenScanError


def main(arguments: Sequence[str] | None = None) -> int:
    """Preprocess a folder; return 0 if every scan succeeded, else 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder", type=Path, help="BIDS folder with sub-*/[ses-*/]anat/*_T1w.nii.gz"
    )
    parser.add_argument("out", type=Path, help="where the volumes go")
    parser.add_argument("--spacing-mm", type=float, default=4.0, help="voxel size: 1, 2, 4 or 8")
    parser.add_argument(
        "--masks", help="brain masks or parcellations in FOLDER, with {participant_id} in the path"
    )
    options = parser.parse_args(arguments)
    grid = grids.mni(options.spacing_mm)
    rows = bids.find_scans(options.folder).to_dict("records")
    for row in runtime.progress(rows, label="preprocessing"):
        scan = options.folder / row["scan"]
        try:
            mask = bids.find_mask(options.folder, options.masks, row)
            _, report = preprocessing.cached(scan, options.out, grid=grid, mask=mask)
            row["file"] = preprocessing.kept_name(scan, grid, mask)
            row |= report.quality()
        except (BrokenScanError, FileNotFoundError) as error:
            row["problem"] = str(error)
    columns = ["participant_id", "session", "scan", "file", *QUALITY, "problem"]
    table = pd.DataFrame(rows).reindex(columns=columns)
    with runtime.replacing(options.out / "scans.csv") as unfinished:
        table.to_csv(unfinished, index=False)
    broken = table[table["problem"].notna()]
    print(f"{len(table) - len(broken)} of {len(table)} scans are in {options.out}")
    for row in broken.to_dict("records"):
        print(f"failed: {row['scan']}: {row['problem']}", file=sys.stderr)
    return 1 if len(broken) else 0


if __name__ == "__main__":
    sys.exit(main())
