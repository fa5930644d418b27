"""Make the real brains that ship with the package from ds002748, which is in the public domain.

All scans of the folder go into one 4D file on the 4 mm teaching grid, 8 bit, with what
preprocessing said of each. The scans of the table's first three patients and first three healthy
people of each sex are shipped as they are as well, as a small BIDS folder, with masks: the
publishers stripped the skulls, so the brain is where a scan is not 0.

    python data_scripts/ship_real_brains.py ds002748
"""

import argparse
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from scipy import ndimage

from helpers import grids
from helpers.cohorts import preprocessing
from helpers.cohorts.real_brains import BRAINS, FOLDER, PARTICIPANTS, REPORTS, STUDY, STUDY_MASKS
from helpers.runtime import progress

STEP = 0.012  # of 255: standardised brains have a median of 1 and reach 2.5
OF_EACH = 3
SCAN = "{0}/anat/{0}_T1w.nii.gz"
README = """Twelve scans of OpenNeuro ds002748, version 1.0.5 (CC0), at 2 mm, skulls stripped by the
publishers. Cite: Bezmaternykh, Melnikov, Savelov et al. (2021), Brain networks connectivity in mild
to moderate depression, Neural Plasticity, 8846097. Too few for any claim about depression.
"""


def main() -> None:
    """Preprocess every scan, write the brains and the small study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="ds002748 in BIDS layout, skulls stripped")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where to write")
    arguments = parser.parse_args()
    folder, out = arguments.folder, arguments.out
    table = pd.read_csv(folder / "participants.tsv", sep="\t")
    brains, quality = [], []
    for name in progress(table["participant_id"], label="preprocessing"):
        scan = folder / SCAN.format(name)
        data, grid = grids.read(scan)
        volume, report = preprocessing.preprocess(scan, mask=(brain_of(data), grid))
        report.save(out / REPORTS / f"{name}.json")
        brains.append(volume[0].numpy())
        quality.append({key: round(value, 4) for key, value in report.quality().items()})
    levels = np.clip(np.round(np.stack(brains, axis=-1) / STEP), 0, 255).astype(np.uint8)
    levels[(levels == 0) & (np.stack(brains, axis=-1) > 0)] = 1  # only air is 0
    image = nib.Nifti1Image(levels, grids.mni().affine)
    image.header.set_slope_inter(STEP, 0)
    image.header.set_xyzt_units("mm")
    image.set_sform(image.affine, "mni")
    nib.save(image, out / BRAINS)
    table.join(pd.DataFrame(quality)).to_csv(out / PARTICIPANTS, sep="\t", index=False)
    ship_study(folder, table.groupby(["group", "sex"]).head(OF_EACH), out / STUDY)


def brain_of(stripped: np.ndarray) -> np.ndarray:
    """Return the mask of a stripped brain, with what is dark inside."""
    return ndimage.binary_fill_holes(stripped > 0).astype(np.uint8)


def ship_study(folder: Path, people: pd.DataFrame, study: Path) -> None:
    """Copy the scans of some people, and write their masks and the files of a BIDS folder."""
    for name in people["participant_id"]:
        scan = study / SCAN.format(name)
        scan.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / SCAN.format(name), scan)
        data, grid = grids.read(scan)
        grids.save(brain_of(data), grid, study / STUDY_MASKS.format(participant_id=name))
    people.to_csv(study / "participants.tsv", sep="\t", index=False)
    (study / "README").write_text(README)
    about = json.loads((folder / "dataset_description.json").read_text())
    (study / "dataset_description.json").write_text(json.dumps(about, indent=1) + "\n")
    derived = {
        "Name": "Brain masks: where the stripped scans are not 0",
        "BIDSVersion": about["BIDSVersion"],
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "data_scripts/ship_real_brains.py"}],
    }
    text = json.dumps(derived, indent=1) + "\n"
    (study / "derivatives/masks/dataset_description.json").write_text(text)


if __name__ == "__main__":
    main()
