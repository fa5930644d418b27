"""The command that explains a folder of scans, run on brains whose lesions are known."""

import json
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import ndimage
from scipy.spatial.transform import Rotation
from small_study import contents, main

from helpers import anatomy, attribution, cohorts, grids, models
from helpers.cohorts.report import Report
from helpers.cohorts.scans import to_scan
from helpers.grids import Grid

GRID = grids.mni()
IN_MNI = "_space-MNI152NLin2009aSym_res-4"

# A scanner's grid: unequal sides and voxels, an oblique head, the first axis running to the left.
TURN = Rotation.from_euler("xyz", [6, -5, 7], degrees=True).as_matrix()
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = TURN @ np.diag([-2.9, 3.3, 3.1])
OBLIQUE[:3, 3] = np.array([3.0, -14, 9]) - OBLIQUE[:3, :3] @ [36, 37, 34]
NATIVE = Grid((73, 75, 69), OBLIQUE)
# Takes the scanner's millimetres to MNI millimetres: the head is smaller and lies elsewhere.
TO_MNI = np.diag([1.06, 1.03, 1.05, 1.0])
TO_MNI[:3, 3] = [-4, 6, -8]
REPORT = Report(NATIVE, TO_MNI, 0.5, None, 0.9, 1.1)


@pytest.fixture(scope="module")
def cohort():
    found = cohorts.simulate("lesion", 6, seed=7)
    return found[found.labels > 0]


def permuted(path, volume):
    """Write a volume on the model's voxels, but with the axes z, x, y and x to the left."""
    image = nib.Nifti1Image(volume[0].numpy(), GRID.affine)
    codes = (nib.orientations.axcodes2ornt(axes) for axes in ("RAS", "SLA"))
    nib.save(image.as_reoriented(nib.orientations.ornt_transform(*codes)), path)


def raw(path, volume):
    """Write a volume as a scanner might: in its own space, in its own units."""
    in_mni = Grid(NATIVE.shape, TO_MNI @ NATIVE.affine)
    data = 300 * grids.resample(volume[0].numpy(), GRID, in_mni).clip(0)
    nib.save(nib.Nifti1Image(data.astype(np.int16), NATIVE.affine), path)
    return grids.save((data > 60).astype(np.float32), NATIVE, path.parent / "masks/b.nii.gz")


def explain(folder, output, *more):
    return main("explain", folder, output, "--model=lesion", "--method=lrp", *more)


def explain_study(folder, output, *more):
    return explain(folder, output, "--masks=masks/{participant_id}.nii.gz", *more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, cohort):
    """Two good scans and a broken one."""
    folder = tmp_path_factory.mktemp("study")
    permuted(folder / "a.nii.gz", cohort.volumes[0])
    mask = raw(folder / "b.nii", cohort.volumes[1])
    (folder / "c.nii.gz").write_bytes((folder / "a.nii.gz").read_bytes()[:9_000])
    for name in ("a", "c"):  # never read: the one lies on the grid, the other is broken
        shutil.copy(mask, mask.with_name(f"{name}.nii.gz"))
    return folder


@pytest.fixture(scope="module")
def output(tmp_path_factory, folder):
    output = tmp_path_factory.mktemp("results") / "lrp"
    assert explain_study(folder, output) == 1
    return output


# What is written


def test_maps_lie_on_the_voxels_of_the_scans(folder, output):
    for scan in ("a.nii.gz", "b.nii"):
        original = nib.load(folder / scan)
        written = nib.load(output / f"{scan[0]}_desc-lrp_map.nii.gz")
        assert written.shape == original.shape
        np.testing.assert_allclose(written.affine, original.affine, atol=1e-5)
        assert nib.aff2axcodes(written.affine) == nib.aff2axcodes(original.affine)
    assert nib.aff2axcodes(nib.load(folder / "a.nii.gz").affine) != ("R", "A", "S")


def distance_mm(cohort, i, place_mm):
    lesion = GRID.millimetres(np.argwhere(cohort.truth.mask[i, 0].numpy()))
    return np.linalg.norm(lesion - place_mm, axis=1).min()


@pytest.mark.parametrize(("name", "i", "to_mni"), [("a", 0, np.eye(4)), ("b", 1, TO_MNI)])
def test_the_map_is_strongest_in_the_lesion(cohort, output, name, i, to_mni):
    written = nib.load(output / f"{name}_desc-lrp_map.nii.gz")
    values = np.abs(written.get_fdata())
    peak = np.unravel_index(values.argmax(), values.shape)
    place = (to_mni @ written.affine @ [*peak, 1])[:3]
    assert distance_mm(cohort, i, place) < 4
    # Had left and right, or front and back, been exchanged, it would not be there.
    assert distance_mm(cohort, i, place * [-1, 1, 1]) > 10
    assert distance_mm(cohort, i, place * [1, -1, 1]) > 10
    row = pd.read_csv(output / "group/desc-lrp_scans.tsv", sep="\t").set_index("name").loc[name]
    assert distance_mm(cohort, i, row[["x_mm", "y_mm", "z_mm"]].to_numpy(float)) < 4
    assert row["predicted"] == row["explained"] == cohort.classes[cohort.labels[i]]


def coloured(picture):
    with Image.open(picture) as drawn:
        pixels = np.asarray(drawn).astype(int)
    return np.ptp(pixels[pixels.shape[0] // 3 :], axis=-1) > 40  # below the text and its scale


def test_what_is_looked_at_may_be_smoothed_and_cut_the_map_stays(output, folder, tmp_path):
    explain_study(folder, tmp_path, "--smooth-mm=12")
    name = f"a{IN_MNI}_desc-lrp_map.nii.gz"
    assert (tmp_path / name).read_bytes() == (output / name).read_bytes()
    values, grid = grids.read(tmp_path / name)
    sd = 12 / 4 / np.sqrt(8 * np.log(2))
    smooth = ndimage.gaussian_filter(values.astype(float), sd, mode="nearest", truncate=4)
    peak = np.unravel_index(np.abs(smooth).argmax(), smooth.shape)
    row = pd.read_csv(tmp_path / "group/desc-lrp_scans.tsv", sep="\t").set_index("name").loc["a"]
    assert row[["x_mm", "y_mm", "z_mm"]].tolist() == grid.millimetres(peak).tolist()
    assert row["strongest"] == pytest.approx(smooth[peak], rel=1e-3)
    explain_study(folder, tmp_path / "cut", "--threshold=0.6")
    picture = "a_desc-lrp_map.png"
    assert 0 < coloured(tmp_path / "cut" / picture).sum() < 0.5 * coloured(output / picture).sum()
    cut = np.abs(values) * (np.abs(values) >= 0.6 * np.abs(values).max())
    regions = pd.read_csv(tmp_path / "cut/group/desc-lrp_regions.tsv", sep="\t").query(
        "name == 'a'"
    )
    brain = anatomy.atlas(grid).labels.numpy() > 0
    found = (regions["mean_absolute"] * regions["voxels"]).sum()
    assert found == pytest.approx(cut[brain].sum(), rel=1e-4)
    assert found < 0.5 * np.abs(values[brain]).sum()
    with pytest.raises(SystemExit):  # the folder holds pictures that were drawn otherwise
        explain_study(folder, tmp_path)
    with pytest.raises(SystemExit):
        explain_study(folder, tmp_path / "other", "--threshold=2")


def test_on_the_models_voxels_the_map_is_the_methods_to_the_bit(cohort, output):
    expected = attribution.lrp(models.pretrained("lesion"), cohort.volumes[:1])[0, 0].numpy()
    for name in ("a_desc-lrp_map.nii.gz", f"a{IN_MNI}_desc-lrp_map.nii.gz"):
        written, grid = grids.read(output / name)
        assert grid == GRID
        assert np.array_equal(written, expected)


def test_a_map_goes_back_through_the_registration():
    x, y, z = GRID.centers_mm()
    ramp = (x + 2 * y - z)[None]
    back = to_scan(ramp, REPORT, GRID)
    indices = np.stack(np.meshgrid(*map(np.arange, NATIVE.shape), indexing="ij"), -1)
    in_mni = Grid(NATIVE.shape, TO_MNI @ NATIVE.affine)
    voxels = GRID.voxels(in_mni.millimetres(indices))
    inside = ((voxels > 4) & (voxels < np.array(GRID.shape) - 5)).all(-1)
    assert inside.sum() > 50_000
    expected = in_mni.millimetres(indices) @ [1, 2, -1]
    np.testing.assert_allclose(back[inside], expected[inside], atol=0.1)
    outside = ((voxels < -1) | (voxels > np.array(GRID.shape))).any(-1)
    assert (back[outside] == 0).all()


def test_a_map_without_negative_values_keeps_none():
    cam = torch.zeros(1, *GRID.shape)
    cam[0, 20:30, 20:30, 20:30] = 1.0
    cam[0, 24, 24, 24] = 0.5
    back = to_scan(cam, REPORT, GRID)
    assert back.min() == 0
    assert back.max() == 1


def test_regions(output):
    table = pd.read_csv(output / "group/desc-lrp_regions.tsv", sep="\t").set_index(
        ["name", "region", "side"]
    )
    assert set(table.index.get_level_values("name")) == {"a", "b"}
    values, grid = grids.read(output / f"b{IN_MNI}_desc-lrp_map.nii.gz")
    atlas = anatomy.atlas(grid)
    inside = (atlas.labels == 2).numpy() & (grid.centers_mm()[0] < 0).numpy()
    row = table.loc[("b", "white matter", "left")]
    assert row["mean"] == pytest.approx(values[inside].mean(dtype=float), rel=1e-6)
    assert row["mean_absolute"] == pytest.approx(np.abs(values[inside]).mean(dtype=float), rel=1e-6)
    assert row["voxels"] == inside.sum()


def test_pictures_show_brain_and_map(output):
    for name in ("a", "b"):
        picture = np.asarray(Image.open(output / f"{name}_desc-lrp_map.png")).astype(int)
        assert picture.shape[1] * 3 == picture.shape[0] * 4
        orange = picture[..., 0] - picture[..., 2] > 100
        grey = (np.ptp(picture, axis=-1) == 0) & (picture[..., 0] > 80)
        assert orange.sum() > 1000
        assert grey.sum() > 100_000
    assert not (output / "c_desc-lrp_map.png").exists()


# Broken scans


def test_a_broken_scan_is_skipped_and_reported(folder, output, capsys):
    summary = json.loads((output / "group/desc-lrp_summary.json").read_text())
    assert [summary[k] for k in ("scans", "explained", "broken")] == [3, 2, 1]
    assert "damaged or not a NIfTI image" in summary["problems"]["c.nii.gz"]
    table = pd.read_csv(output / "group/desc-lrp_scans.tsv", sep="\t").set_index("name")
    assert table["problem"].notna().tolist() == [False, False, True]
    assert not list(output.glob("c_*.nii.gz"))
    assert explain_study(folder, output) == 1
    printed = capsys.readouterr()
    assert "2 of 3 scans are explained" in printed.out
    assert "broken: c.nii.gz" in printed.err


def test_a_second_run_does_nothing(folder, output, calls):
    before = contents(output)
    assert explain_study(folder, output) == 1
    assert not calls
    assert contents(output) == before


# BIDS and options


def test_bids_folder_target_layer_and_atlas(tmp_path, cohort):
    for i, place in enumerate(("sub-1/anat/sub-1_T1w", "sub-2/ses-x/anat/sub-2_ses-x_T1w")):
        grids.save(cohort.volumes[i], GRID, tmp_path / f"bids/{place}.nii.gz")
    labels = (GRID.centers_mm()[1] > 0).float() + 1
    grids.save(labels, GRID, tmp_path / "halves.nii.gz")
    (tmp_path / "halves.csv").write_text("index,name\n1,back\n2,front\n")
    output = tmp_path / "bids/derivatives/lesion"
    code = main(
        *["explain", tmp_path / "bids", output, "--model=lesion", "--method=grad_cam"],
        *["--layer=block4", "--target=rod", f"--atlas={tmp_path / 'halves.nii.gz'}"],
        f"--atlas-names={tmp_path / 'halves.csv'}",
    )
    assert code == 0
    expected = attribution.grad_cam(
        models.pretrained("lesion"), cohort.volumes[:2], cohort.classes.index("rod"), layer="block4"
    )
    for i, name in enumerate(("sub-1/anat/sub-1", "sub-2/ses-x/anat/sub-2_ses-x")):
        written, _ = grids.read(output / f"{name}_desc-gradcam_map.nii.gz")
        np.testing.assert_allclose(written, expected[i, 0], rtol=1e-4, atol=1e-6)
    assert set(pd.read_csv(output / "group/desc-gradcam_regions.tsv", sep="\t")["region"]) == {
        "back",
        "front",
    }
    assert (
        pd.read_csv(output / "group/desc-gradcam_scans.tsv", sep="\t")["explained"] == "rod"
    ).all()


def test_how_much_of_a_map_lies_outside_the_brain(output, cohort):
    table = pd.read_csv(output / "group/desc-lrp_scans.tsv", sep="\t").set_index("name")
    size = np.abs(grids.read(output / f"a{IN_MNI}_desc-lrp_map.nii.gz")[0])
    air = (cohort.volumes[0, 0] == 0).numpy()
    expected = size[air].sum(dtype=float) / size.sum(dtype=float)
    assert table.loc["a", "share_outside_brain"] == pytest.approx(expected, abs=1e-5)


def test_a_voxel_of_3e38_breaks_its_scan_only(tmp_path, cohort):
    hot = cohort.volumes[0].clone()
    hot[0, 22, 24, 22] = 3e38
    grids.save(hot, GRID, tmp_path / "scans/hot.nii.gz")
    grids.save(cohort.volumes[1], GRID, tmp_path / "scans/well.nii.gz")
    assert explain(tmp_path / "scans", tmp_path / "out") == 1
    table = pd.read_csv(tmp_path / "out/group/desc-lrp_scans.tsv", sep="\t").set_index("name")
    assert table["problem"].notna().to_dict() == {"hot": True, "well": False}
    assert "the largest 3e+38; expected about 1" in table.loc["hot", "problem"]
