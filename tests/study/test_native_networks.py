"""A network of scans that nobody had registered: real brains, and a network that reads one voxel.

Its map is that one voxel, so it is known to the millimetre where it has to lie on each scan.
"""

import json
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from small_study import main, reader

from helpers import cohorts, grids
from helpers.cohorts.real_brains import STUDY_MASKS

# Unequal sides, one of them odd.
SHAPE, SPACING_MM, VOXEL = (44, 54, 41), 4.0, (31, 17, 26)
# The second and third lie obliquely in the scanner.
PEOPLE = ("sub-04", "sub-03", "sub-64")
MASKS = f"--masks={STUDY_MASKS}"
SEGMENTATIONS = "--segmentations=derivatives/own/{participant_id}_dseg.nii.gz"


def ask(place, verb, *more, out="out", scans="study"):
    """Run a verb with the network that reads one voxel."""
    network = (f"--model={place}/net.py:Reader", f"--weights={place}/net.pt")
    return main(verb, place / scans, place / out, *network, f"--card={place}/net.toml", *more)


def explain(place, *more, **where):
    return ask(place, "explain", "--method=gradient", "--target=sick", *more, **where)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Three people with masks and segmentations, a network beside them, and what is explained."""
    place = tmp_path_factory.mktemp("native")
    reader(place, VOXEL, SHAPE, spacing_mm=SPACING_MM, space="native")
    for name in PEOPLE:
        for folder in (name, f"derivatives/masks/{name}"):
            shutil.copytree(cohorts.real_study() / folder, place / "study" / folder)
        mask, grid = grids.read(place / "study" / STUDY_MASKS.format(participant_id=name))
        halves = 1.0 + (np.arange(mask.shape[2]) > mask.shape[2] // 2)
        own = place / f"study/derivatives/own/{name}_dseg.nii.gz"
        grids.save(halves * (mask > 0), grid, own)
    (place / "names.csv").write_text("index,name\n1,lower\n2,upper\n")
    assert explain(place, MASKS, SEGMENTATIONS, f"--segmentation-names={place}/names.csv") == 0
    return place


def expected_mm(name):
    """Where the network's voxel lies in a scan's millimetres, by counting voxels alone."""
    scan = nib.load(cohorts.real_study() / f"{name}/anat/{name}_T1w.nii.gz")
    mask = nib.load(cohorts.real_study() / STUDY_MASKS.format(participant_id=name)).get_fdata() > 0
    assert nib.aff2axcodes(scan.affine) == ("R", "A", "S")
    ratio = SPACING_MM / np.array(scan.header.get_zooms()[:3])
    middle = np.round(np.array(ndimage.center_of_mass(mask)) / ratio)
    voxel = (middle - np.array(SHAPE) // 2 + VOXEL) * ratio
    return nib.affines.apply_affine(scan.affine, voxel)


@pytest.mark.parametrize("name", PEOPLE)
def test_the_map_is_where_the_network_looks(place, name):
    scan = nib.load(place / f"study/{name}/anat/{name}_T1w.nii.gz")
    written = nib.load(place / f"out/{name}/anat/{name}_desc-gradient_map.nii.gz")
    assert written.shape == scan.shape
    np.testing.assert_allclose(written.affine, scan.affine, atol=1e-5)
    assert written.header["sform_code"] == scan.header["sform_code"]
    values = written.get_fdata().clip(0)
    heavy = np.average(np.argwhere(values > 0), axis=0, weights=values[values > 0])
    expected = expected_mm(name)
    np.testing.assert_allclose(nib.affines.apply_affine(written.affine, heavy), expected, atol=0.5)
    peak = np.unravel_index(values.argmax(), values.shape)
    np.testing.assert_allclose(nib.affines.apply_affine(written.affine, peak), expected, atol=0.1)
    record = json.loads((place / f"out/{name}/anat/{name}_desc-gradient_map.json").read_text())
    said = [record[f"{axis}_mm"] for axis in "xyz"]
    np.testing.assert_allclose(said, expected, atol=1e-3)
    assert record["explained"] == "sick"
    assert record["cut_off"] == 0
    assert record["template_correlation"] is None


def test_nothing_lies_in_mni_space(place):
    written = sorted(path.name for path in (place / "out").rglob("*") if path.is_file())
    assert not [name for name in written if "MNI" in name or name.endswith("_regions.tsv")]
    assert sum(name.endswith("_map.png") for name in written) == len(PEOPLE)
    settings = json.loads((place / "out/desc-gradient_map.json").read_text())
    assert settings["space"] == "native"


def test_regions_are_each_persons_own(place):
    table = pd.read_csv(place / "out/group/desc-gradient_ownregions.tsv", sep="\t")
    assert table["name"].tolist() == [name for name in sorted(PEOPLE) for _ in range(2)]
    assert set(table["side"]) == {"both"}
    for name in PEOPLE:
        values, _ = grids.read(place / f"out/{name}/anat/{name}_desc-gradient_map.nii.gz")
        labels, _ = grids.read(place / f"study/derivatives/own/{name}_dseg.nii.gz")
        found = table[table["name"] == name].set_index("region")["mean"]
        for label, region in ((1, "lower"), (2, "upper")):
            expected = values[labels == label].mean(dtype=float)
            assert found[region] == pytest.approx(expected, rel=1e-4)


def test_what_is_finished_is_skipped(place, capsys):
    assert explain(place, MASKS, "--dry-run") == 0
    assert "0 of 3 scans are to be done" in capsys.readouterr().out


@pytest.fixture(scope="module")
def turned(place):
    """One oblique scan in four orders of its axes, one of them mirrored in the file."""
    scan = nib.load(place / "study/sub-64/anat/sub-64_T1w.nii.gz")
    for axes in ("RAS", "LAS", "PIR", "SLA"):
        change = nib.orientations.ornt_transform(
            nib.io_orientation(scan.affine), nib.orientations.axcodes2ornt(axes)
        )
        (place / "turned").mkdir(exist_ok=True)
        nib.save(scan.as_reoriented(change), place / f"turned/{axes}.nii.gz")
    assert explain(place, scans="turned", out="turned_out") == 0  # stripped: it needs no mask
    return place / "turned_out"


@pytest.mark.parametrize("axes", ["LAS", "PIR", "SLA"])
def test_the_order_of_a_files_axes_does_not_matter(turned, axes):
    expected, grid = grids.read(turned / "RAS_desc-gradient_map.nii.gz")
    assert nib.aff2axcodes(nib.load(turned / f"{axes}_desc-gradient_map.nii.gz").affine) == tuple(
        axes
    )
    found, other = grids.read(turned / f"{axes}_desc-gradient_map.nii.gz")
    assert grid == other
    np.testing.assert_allclose(found, expected, atol=1e-4)
    table = pd.read_csv(turned / "group/desc-gradient_scans.tsv", sep="\t").set_index("name")
    columns = ["x_mm", "y_mm", "z_mm", "explained_probability"]
    np.testing.assert_allclose(
        table.loc[axes, columns].astype(float), table.loc["RAS", columns].astype(float), atol=1e-3
    )


@pytest.fixture(scope="module")
def troubled(place):
    """A head, a brain that is larger than the network's voxels, and one without a segmentation."""
    scan = place / "study/sub-04/anat/sub-04_T1w.nii.gz"
    data, grid = grids.read(scan)
    noise = np.random.default_rng(0).uniform(1, 30, data.shape)
    grids.save(np.maximum(data, noise), grid, place / "trouble/head.nii.gz")
    large = grids.Grid(grid.shape, grid.affine @ np.diag([1, 1.4, 1, 1]))
    grids.save(data, large, place / "trouble/large.nii.gz")
    (place / "trouble/own").mkdir()
    shutil.copy(
        place / "study/derivatives/own/sub-04_dseg.nii.gz", place / "trouble/own/head.nii.gz"
    )
    grids.save(1.0 * (data > 0), large, place / "trouble/own/large.nii.gz")
    return place


def test_a_head_without_a_mask_is_refused_and_named(troubled, capsys):
    assert explain(troubled, scans="trouble", out="head_out") == 1
    said = capsys.readouterr().err
    assert "broken: head.nii.gz: what is not 0 in the scan measures" in said
    assert "as a whole head does, and it has no brain mask" in said
    assert "--masks" in said


def test_the_segmentation_cuts_the_brain_out(troubled):
    own = "--segmentations=own/{participant_id}.nii.gz"
    names = f"--segmentation-names={troubled}/names.csv"
    assert explain(troubled, own, names, scans="trouble", out="own_out") == 0
    whole = grids.read(troubled / "out/sub-04/anat/sub-04_desc-gradient_map.nii.gz")[0]
    found = grids.read(troubled / "own_out/head_desc-gradient_map.nii.gz")[0]
    np.testing.assert_allclose(found, whole, atol=1e-4)
    table = pd.read_csv(troubled / "own_out/group/desc-gradient_ownregions.tsv", sep="\t")
    assert table["name"].tolist() == ["head", "head", "large"]


def test_a_brain_that_does_not_fit_is_warned_of(troubled):
    explain(troubled, scans="trouble", out="head_out")
    record = json.loads((troubled / "head_out/large_desc-gradient_map.json").read_text())
    assert 0.005 < record["cut_off"] < 0.2
    said = f"{record['cut_off']:.0%} of the brain does not fit onto the network's voxels"
    assert said in record["warnings"]


def refused(capsys, run):
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_an_atlas_is_refused(place, capsys):
    said = refused(capsys, lambda: explain(place, MASKS, "--atlas=aal", out="none"))
    assert "lies in MNI space does not lie on them" in said
    assert "--segmentations" in said
    assert not (place / "none").exists()


@pytest.mark.parametrize("verb", ["trust", "simulate", "maximize"])
def test_other_verbs_refuse(place, capsys, verb):
    said = refused(capsys, lambda: ask(place, verb, out="none"))
    assert 'not registered (space = "native" in its card)' in said
    assert "trust, simulate and maximize need a network of registered scans" in said
    assert not (place / "none").exists()


def test_no_mean_over_people(place, capsys):
    said = refused(
        capsys, lambda: main("group", place / "study", place / "out", "--method=gradient")
    )
    assert "a voxel is another place in each of them" in said
    assert "desc-gradient_ownregions.tsv" in said


def test_the_report_shows_the_rest_and_says_why(place):
    assert main("report", place / "study", place / "out") == 0
    page = (place / "out/report.html").read_text()
    assert "No mean map: the maps of gradient" in page
    assert "their mean says nothing" in page
    assert page.count("<img") == len(PEOPLE)
