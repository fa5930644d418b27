"""What the verbs write is BIDS: the field's validator accepts it, and it lies where it should."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from small_study import CARD, explain, main, network

from helpers import cohorts, models
from helpers.cohorts.real_brains import STUDY_MASKS

# One is called as simply as BIDS allows, the other has been there twice.
SCANS = ("sub-04/anat/sub-04", "sub-58/ses-2/anat/sub-58_ses-2_acq-mprage_run-1")
BROKEN = "sub-05/anat/sub-05"
MASKS = f"--masks={STUDY_MASKS}"
IN_MNI = "space-MNI152NLin2009aSym_res-8"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A study of two real people and a cut scan, and what two verbs write about it."""
    place = tmp_path_factory.mktemp("derivatives")
    for scan in (*SCANS, BROKEN):
        name = scan[:6]
        masks = f"derivatives/masks/{name}"
        shutil.copytree(cohorts.real_study() / masks, place / "study" / masks)
        (place / "study" / scan).parent.mkdir(parents=True)
        shutil.copy(
            cohorts.real_study() / f"{name}/anat/{name}_T1w.nii.gz",
            place / f"study/{scan}_T1w.nii.gz",
        )
    cut = place / f"study/{BROKEN}_T1w.nii.gz"
    cut.write_bytes(cut.read_bytes()[:3000])
    models.save_pretrained(network(), "tiny", CARD, folder=place)
    study, out = place / "study", place / "out"
    assert main("preprocess", study, out, "--spacing-mm=8", "--n-procs=1", MASKS) == 1
    assert explain(study, out, MASKS) == 1
    return place


@pytest.fixture(scope="module")
def out(place):
    return place / "out"


def found_wrong(folder):
    """What the BIDS validator says is wrong, and where; and what it looked at."""
    validator = Path(sys.executable).with_name("bids-validator-deno")
    command = [validator, "--ignoreWarnings", "--format=json", folder]
    done = subprocess.run(command, capture_output=True, text=True)
    said = json.loads(done.stdout)
    wrong = [(issue["code"], issue.get("location")) for issue in said["issues"]["issues"]]
    assert done.returncode == (16 if wrong else 0), done.stderr
    return wrong, said["summary"]


def test_the_validator_finds_nothing_wrong(out):
    wrong, summary = found_wrong(out)
    assert not wrong
    assert sorted(summary["subjects"]) == ["04", "58"]
    # Not everything is ignored, as maps are, for which BIDS has no words yet: volumes and what was
    # said of them, and of all.
    assert summary["totalFiles"] == 2 * len(SCANS) + 1


def test_the_validator_does_find_what_is_wrong(out, tmp_path):
    copy = shutil.copytree(out, tmp_path / "out")
    volume, heat = (f"{SCANS[0]}_{IN_MNI}_desc-{kind}.nii.gz" for kind in ("preproc_T1w", "heat"))
    (copy / volume).with_name(Path(volume).name.replace(".nii.gz", ".json")).unlink()
    (copy / heat).write_bytes(b"")
    (copy / "tables").mkdir()
    (copy / "tables/scans.tsv").write_text("name\na\n")
    wrong, _ = found_wrong(copy)
    assert ("SIDECAR_KEY_REQUIRED", f"/{volume}") in wrong
    assert ("NOT_INCLUDED", f"/{heat}") in wrong
    assert ("NOT_INCLUDED", "/tables/") in wrong


def test_the_validator_accepts_maps_in_native_space(place, tmp_path):
    models.save_pretrained(network(), "native", {**CARD, "space": "native"}, folder=place)
    out = tmp_path / "out"
    assert explain(place / "study", out, MASKS, model="native.safetensors") == 1
    wrong, summary = found_wrong(out)
    assert not wrong
    assert summary["totalFiles"] == 1  # maps, for which BIDS has no words, and nothing in MNI space
    assert not list(out.rglob("*space-*"))
    for scan in SCANS:
        raw, codes, _ = header(place / f"study/{scan}_T1w.nii.gz")
        own, own_codes, _ = header(out / f"{scan}_desc-gradient_map.nii.gz")
        np.testing.assert_allclose(own.affine, raw.affine, atol=1e-5)
        assert own_codes == codes
        said = json.loads((out / f"{scan}_desc-gradient_map.json").read_text())
        assert said["Sources"] == [f"bids:raw:{scan}_T1w.nii.gz"]


def test_the_validator_accepts_heads_that_keep_their_size(place, tmp_path):
    models.save_pretrained(network(), "rigid", {**CARD, "space": "rigid"}, folder=place)
    out = tmp_path / "out"
    assert explain(place / "study", out, MASKS, model="rigid.safetensors") == 1
    wrong, summary = found_wrong(out)
    assert not wrong
    assert summary["totalFiles"] == 2 * len(SCANS) + 1  # volumes, what is said of them, and of all
    for scan in SCANS:
        _, codes, units = header(out / f"{scan}_space-individual_res-8_desc-preproc_T1w.nii.gz")
        assert codes == (2, 2)  # aligned to another image
        assert units == "mm"
        _, codes, _ = header(out / f"{scan}_{IN_MNI}_desc-gradient_map.nii.gz")
        assert codes == (4, 4)


def header(path):
    image = nib.load(path)
    codes = image.get_sform(coded=True)[1], image.get_qform(coded=True)[1]
    return image, tuple(map(int, codes)), image.header.get_xyzt_units()[0]


@pytest.mark.parametrize("scan", SCANS)
def test_a_map_lies_where_its_scan_does(place, out, scan):
    raw, codes, units = header(place / f"study/{scan}_T1w.nii.gz")
    own, own_codes, own_units = header(out / f"{scan}_desc-gradient_map.nii.gz")
    assert own.shape == raw.shape
    np.testing.assert_allclose(own.affine, raw.affine, atol=1e-5)
    np.testing.assert_allclose(own.get_qform(), raw.get_qform(), atol=1e-3)
    assert own_codes == codes
    assert own_units == units == "mm"


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("what", ["desc-gradient_map", "desc-preproc_T1w"])
def test_what_is_in_mni_space_says_so(out, scan, what):
    image, codes, units = header(out / f"{scan}_{IN_MNI}_{what}.nii.gz")
    assert codes == (4, 4)
    assert units == "mm"
    np.testing.assert_allclose(image.affine[:3, :3], np.diag([8.0, 8.0, 8.0]))


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("sidecar", ["desc-gradient_map", f"{IN_MNI}_desc-preproc_T1w"])
def test_a_sidecar_names_its_sources(place, out, scan, sidecar):
    said = json.loads((out / f"{scan}_{sidecar}.json").read_text())
    (source,) = said["Sources"]
    _, link, file = source.split(":")
    description = json.loads((out / "dataset_description.json").read_text())
    raw = (out / description["DatasetLinks"][link] / file).resolve()
    assert raw == place / f"study/{scan}_T1w.nii.gz"


def test_the_description_names_the_program(out):
    said = json.loads((out / "dataset_description.json").read_text())
    assert said["DatasetType"] == "derivative"
    (generator,) = said["GeneratedBy"]
    assert generator["Name"] == "brain-cnns"
    assert generator["Version"]
