"""The command-line programs run, and what they write can be read back."""

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import pandas as pd
import pytest

from helpers import cohorts, grids

SCRIPTS = Path(__file__).parent.parent / "data_scripts"


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, SCRIPTS / script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("script", sorted(path.name for path in SCRIPTS.glob("*.py")))
def test_every_script_explains_itself(script):
    done = run(script, "--help")
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_simulated_cohort_on_disk_is_the_one_in_memory(tmp_path):
    done = run("simulate_cohort.py", "lesion", tmp_path, "--subjects=3", "--spacing-mm=8")
    assert done.returncode == 0, done.stderr
    cohort = cohorts.simulate("lesion", 3, grid=grids.mni(8.0))
    table = pd.read_csv(tmp_path / "participants.tsv", sep="\t")
    assert table["diagnosis"].tolist() == cohort.participants["diagnosis"].tolist()
    for i, name in enumerate(table["participant_id"]):
        scan = nib.load(tmp_path / name / "anat" / f"{name}_T1w.nii.gz")
        assert (scan.get_fdata() == cohort.volumes[i, 0].numpy()).all()
        assert (scan.affine == cohort.grid.affine).all()
        mask = nib.load(tmp_path / "derivatives/truth" / name / "anat" / f"{name}_mask.nii.gz")
        assert mask.get_fdata().sum() == cohort.truth.mask[i].sum()
