import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from helpers import cohorts, grids
from helpers.cohorts import preprocessing
from helpers.cohorts.finding import find_scans
from helpers.cohorts.real_brains import FOLDER, STUDY_MASKS

STUDY = cohorts.real_study()
PEOPLE = pd.read_csv(STUDY / "participants.tsv", sep="\t")


@pytest.fixture(scope="module")
def brains():
    return cohorts.real()


def test_everybody_is_there_as_the_table_of_the_publishers_says(brains):
    table = brains.participants
    assert len(brains) == table["participant_id"].nunique() == 37
    sizes = table.groupby(["group", "sex"]).size().to_dict()
    assert sizes == {
        ("control", "F"): 8,
        ("control", "M"): 3,
        ("depression", "F"): 19,
        ("depression", "M"): 7,
    }
    assert table["age"].between(18, 55).all()
    assert [brains.classes[label] for label in brains.labels] == table["sex"].tolist()


def test_each_brain_lies_in_air_and_its_median_is_one(brains):
    assert brains.grid == grids.mni()
    for volume in brains.volumes[:, 0]:
        inside = volume > 0
        assert volume[inside].median() == pytest.approx(1.0, abs=0.007)
        assert 0.2 < inside.float().mean() < 0.26
        for axis in range(3):  # the template's box has room around every head
            faces = inside.movedim(axis, 0)[[0, -1]]
            assert faces.float().mean() < 0.02


@pytest.mark.parametrize("name", ["sub-03", "sub-58"])
def test_a_brain_is_what_preprocessing_makes_of_the_shipped_scan(brains, name):
    scan = STUDY / name / "anat" / f"{name}_T1w.nii.gz"
    mask = STUDY / STUDY_MASKS.format(participant_id=name)
    volume, report = preprocessing.preprocess(scan, mask=mask)
    position = brains.participants["participant_id"].tolist().index(name)
    assert (volume - brains.volumes[position]).abs().max() < 0.0061
    assert ((volume > 0) == (brains.volumes[position] > 0)).all()
    kept = brains.reports[position]
    np.testing.assert_allclose(kept.to_mni, report.to_mni, atol=1e-6)
    assert kept.native == grids.read_grid(scan)
    row = brains.participants.iloc[position]
    assert row["volume_ratio"] == pytest.approx(report.volume_ratio, abs=1e-4)
    assert row["mask_dice"] == pytest.approx(report.mask_dice, abs=1e-4)


def test_a_map_finds_its_way_to_the_scan(brains):
    """The bright voxels of the scan lie where the brain, brought back as a map, is bright."""
    name = PEOPLE["participant_id"].iloc[-1]
    position = brains.participants["participant_id"].tolist().index(name)
    back = cohorts.to_scan(brains.volumes[position], brains.reports[position], brains.grid)
    scan = nib.load(STUDY / name / "anat" / f"{name}_T1w.nii.gz").get_fdata()
    assert back.shape == scan.shape
    inside = scan > 0
    here = np.corrcoef(back[inside], scan[inside])[0, 1]
    moved = [np.roll(back, step, axis) for axis in range(3) for step in (-2, 2)]
    there = max(np.corrcoef(other[inside], scan[inside])[0, 1] for other in moved)
    assert here > 0.8
    assert there < here - 0.1


def test_the_study_is_a_folder_in_bids_with_both_groups_and_sexes():
    assert PEOPLE.groupby(["group", "sex"]).size().tolist() == [3, 3, 3, 3]
    found = find_scans(STUDY, masks=STUDY_MASKS)
    assert [one.participant_id for one in found] == PEOPLE["participant_id"].tolist()
    for one in found:
        scan, mask = nib.load(one.image), nib.load(one.mask)
        assert (mask.affine == scan.affine).all()
        data = scan.get_fdata()
        assert (mask.get_fdata()[data > 0] == 1).all()
        assert (data == 0).mean() > 0.3  # no skull, no face
    about = json.loads((STUDY / "dataset_description.json").read_text())
    assert about["License"] == "CC0"


def test_the_shipped_files_stay_small():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 5.5e6


def test_other_labels():
    by_age = cohorts.real("age", bins=[30, 40])
    ages = torch.tensor(by_age.participants["age"].tolist())
    assert (by_age.labels == (ages >= 30).long() + (ages >= 40).long()).all()
    healthy = cohorts.real("group", classes=["control"])
    assert len(healthy) == len(healthy.reports) == 11
    assert healthy.participants["group"].eq("control").all()
    assert (healthy.volumes[0] == cohorts.real("group")[healthy_row()].volumes[0]).all()
    assert cohorts.real(None).classes == ("unlabelled",)
    with pytest.raises(ValueError, match="numeric"):
        cohorts.real("age")
    with pytest.raises(ValueError, match="no column 'iq'"):
        cohorts.real("iq")


def healthy_row():
    """Return the position of the first healthy person, from the table alone."""
    table = pd.read_csv(FOLDER / "participants.tsv", sep="\t")
    return [int((table["group"] == "control").to_numpy().argmax())]
