"""A network of heads that keep their size: real brains, and a network that reads one voxel."""

import json
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import linalg
from small_study import main, reader

from helpers import cohorts, grids
from helpers.cohorts.real_brains import STUDY_MASKS

SHAPE, SPACING_MM, VOXEL = (44, 54, 42), 4.0, (30, 17, 26)
PEOPLE = ("sub-03", "sub-04")  # the first lies obliquely in the scanner
MASKS = f"--masks={STUDY_MASKS}"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two people, a network, and what is explained."""
    place = tmp_path_factory.mktemp("rigid")
    for name in PEOPLE:
        for folder in (name, f"derivatives/masks/{name}"):
            shutil.copytree(cohorts.real_study() / folder, place / "study" / folder)
    network = reader(place, VOXEL, SHAPE, spacing_mm=SPACING_MM, space="rigid")
    asked = ("--method=gradient", "--target=sick", MASKS)
    assert main("explain", place / "study", place / "out", *network, *asked) == 0
    return place


def in_scan_and_mni(place, name):
    """Where the network's voxel lies, by the registration on the disk and scipy."""
    about = place / f"out/{name}/anat/{name}_from-T1w_to-MNI152NLin2009aSym_mode-image_xfm.json"
    to_mni = np.array(json.loads(about.read_text())["to_mni"])
    middle = np.array([0.0, -18.0, 12.0])  # of the course's field of view
    from_middle = (np.array(VOXEL) - (np.array(SHAPE) - 1) / 2) * SPACING_MM
    turn, _ = linalg.polar(to_mni[:3, :3])
    in_scan = turn.T @ from_middle + (np.linalg.inv(to_mni) @ [*middle, 1])[:3]
    return in_scan, (to_mni @ [*in_scan, 1])[:3]


@pytest.mark.parametrize("name", PEOPLE)
def test_the_map_is_where_the_network_looks(place, name):
    in_scan, in_mni = in_scan_and_mni(place, name)
    scan = nib.load(place / f"study/{name}/anat/{name}_T1w.nii.gz")
    written = nib.load(place / f"out/{name}/anat/{name}_desc-gradient_map.nii.gz")
    assert written.shape == scan.shape
    np.testing.assert_allclose(written.affine, scan.affine, atol=1e-5)
    np.testing.assert_allclose(middle_mm(written), in_scan, atol=0.5)
    there = f"{name}_space-MNI152NLin2009aSym_res-4x44x54x42_desc-gradient_map.nii.gz"
    written = nib.load(place / f"out/{name}/anat/{there}")
    assert written.header["sform_code"] == 4
    np.testing.assert_allclose(written.affine, grids.mni(SPACING_MM, SHAPE).affine)
    np.testing.assert_allclose(middle_mm(written), in_mni, atol=0.7)
    record = json.loads((place / f"out/{name}/anat/{name}_desc-gradient_map.json").read_text())
    said = np.array([record[f"{axis}_mm"] for axis in "xyz"])
    assert np.linalg.norm(said - in_mni) < SPACING_MM


def middle_mm(image):
    values = image.get_fdata().clip(0)
    values[values < values.max() / 4] = 0
    return nib.affines.apply_affine(
        image.affine, np.average(np.argwhere(values > 0), axis=0, weights=values[values > 0])
    )


def test_tables_and_means_are_of_mni_space(place):
    table = pd.read_csv(place / "out/group/desc-gradient_regions.tsv", sep="\t")
    assert set(table["name"]) == set(PEOPLE)
    assert set(table["side"]) == {"left", "right"}
    about = json.loads((place / "out/desc-gradient_map.json").read_text())
    assert about["space"] == "rigid"
    kept = sorted(path.name for path in (place / "out").rglob("*desc-preproc_T1w.nii.gz"))
    assert kept == [f"{n}_space-individual_res-4x44x54x42_desc-preproc_T1w.nii.gz" for n in PEOPLE]


@pytest.mark.parametrize("verb", ["trust", "simulate", "maximize"])
def test_other_verbs_refuse(place, capsys, verb):
    network = (f"--model={place}/net.py:Reader", f"--weights={place}/net.pt")
    network += (f"--card={place}/net.toml",)
    with pytest.raises(SystemExit) as stopped:
        main(verb, place / "study", place / "none", *network)
    assert stopped.value.code == 2
    assert 'keep their size (space = "rigid" in its card)' in capsys.readouterr().err
    assert not (place / "none").exists()
