"""Oracle: nilearn's labels masker, on an atlas whose regions are known in millimetres."""

import nibabel as nib
import numpy as np
import pytest
import torch
from nilearn.maskers import NiftiLabelsMasker
from scipy.spatial.transform import Rotation

from helpers import anatomy, evaluation, grids
from helpers.grids import Grid

AFFINE = np.array([[4, 0, 0, -20], [0, 4, 0, -24], [0, 0, 4, -28], [0, 0, 0, 1]])
GRID = Grid((10, 12, 14), AFFINE, "mni")


@pytest.fixture
def maps():
    return torch.randn(3, 1, *GRID.shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def atlas():
    x, y, z = GRID.centers_mm()
    labels = torch.zeros(GRID.shape, dtype=torch.long)
    labels[(y > 0) & (z < 10)] = 7
    labels[(y < -10) & (x > 4)] = 2
    return anatomy.Atlas(GRID, labels, {2: "corner", 7: "front"})


def test_equals_nilearn(maps, atlas):
    x = GRID.centers_mm()[0]
    side = 1 + torch.sign(x).long()  # 0 left, 1 midline, 2 right
    numbered = torch.where(atlas.labels > 0, 10 * atlas.labels + side, 0)
    image = nib.Nifti1Image(numbered.int().numpy(), GRID.affine)
    masker = NiftiLabelsMasker(image, standardize=None)
    images = [nib.Nifti1Image(m[0].numpy(), GRID.affine) for m in maps]
    means = np.array([np.ravel(masker.fit_transform(image)) for image in images])
    # In the order of the numbers: 2 right, then 7 left, midline, right.
    table = evaluation.by_region(maps, GRID, atlas)
    assert table[["region", "side"]].values.tolist() == [
        ["corner", "right"],
        ["front", "left"],
        ["front", "midline"],
        ["front", "right"],
    ]
    np.testing.assert_allclose(table["mean"], means.mean(0), rtol=1e-4)
    np.testing.assert_allclose(table["sd"], means.std(0, ddof=1), rtol=1e-4)
    voxels = [int((numbered == n).sum()) for n in (22, 70, 71, 72)]
    assert table["voxels"].tolist() == voxels
    np.testing.assert_allclose(table["volume_ml"], np.array(voxels) * 0.064)


def test_a_region_whose_name_says_a_side_is_not_cut_again(maps):
    """A left region that reaches one voxel over the midline keeps that voxel, as nilearn says."""
    x, y, z = GRID.centers_mm()
    labels = torch.where(x < 0, 11, 12) * (z > 0)
    labels[5, 3, 10] = labels[6, 3, 10] = 11
    labels[(y > 10) & (z > 0)] = 3
    atlas = anatomy.Atlas(GRID, labels.long(), {3: "front", 11: "Insula_L", 12: "Insula_R"})
    table = evaluation.by_region(maps, GRID, atlas)
    assert table[["region", "side"]].values.tolist() == [
        ["front", "left"],
        ["front", "midline"],
        ["front", "right"],
        ["Insula", "left"],
        ["Insula", "right"],
    ]
    image = nib.Nifti1Image(labels.int().numpy(), GRID.affine)
    masker = NiftiLabelsMasker(image, standardize=None)
    images = [nib.Nifti1Image(m[0].numpy(), GRID.affine) for m in maps]
    means = np.array([np.ravel(masker.fit_transform(image)) for image in images])
    np.testing.assert_allclose(table["mean"][3:], means.mean(0)[1:], rtol=1e-4)


def test_a_persons_own_segmentation_on_her_own_scan(tmp_path):
    """FreeSurfer's codes, on finer voxels of a head that lies far from the scanner's middle."""
    turn = Rotation.from_euler("xyz", [8, -5, 12], degrees=True).as_matrix()
    scan, fine = np.eye(4), np.eye(4)
    scan[:3, :3], fine[:3, :3] = turn * 3.0, turn * 1.5
    scan[:3, 3] = fine[:3, 3] = [60, -20, 30]
    segmentation = np.zeros((60, 70, 64), np.int16)
    segmentation[5:20, 10:30, 20:40] = 17  # Left-Hippocampus, by its name
    segmentation[40:55, 10:30, 20:40] = 53
    segmentation[25:35, 30:40, 20:40] = 14  # 3rd-Ventricle: on both sides
    path = grids.save(segmentation, Grid(segmentation.shape, fine), tmp_path / "aparc+aseg.nii.gz")
    native = Grid((30, 35, 32), scan, "scanner")
    atlas = anatomy.atlas(native, path, names="desikan_killiany")
    maps = torch.zeros(1, 1, *native.shape)
    maps[0, 0, 3:10, 5:15, 10:20] = 2.0
    table = evaluation.by_region(maps, native, atlas).set_index(["region", "side"])["mean"]
    assert table.loc[("Hippocampus", "left")] > 1.5
    assert table.loc[("Hippocampus", "right")] == table.loc[("3rd-Ventricle", "both")] == 0
    assert len(table) == 3


def test_the_two_sides_of_a_region_stand_together(maps):
    x, y, _ = GRID.centers_mm()
    labels = 1 + (x > 0).long() * 2 + (y > 0).long()
    names = {1: "Left-A", 2: "Left-B", 3: "Right-A", 4: "Right-B"}
    table = evaluation.by_region(maps, GRID, anatomy.Atlas(GRID, labels, names))
    assert (table["region"] + table["side"]).tolist() == ["Aleft", "Aright", "Bleft", "Bright"]


def test_a_planted_side_comes_out_on_that_side(maps):
    brain = anatomy.template()
    maps = torch.zeros(2, 1, *brain.grid.shape)
    x = brain.grid.centers_mm()[0]
    maps[:, 0, x > 0] = 1.0
    table = evaluation.by_region(maps, brain.grid).set_index(["region", "side"])
    assert (table.xs("right", level="side")["mean"] == 1).all()
    assert (table.xs("left", level="side")["mean"] == 0).all()
    litres = table["volume_ml"].sum() / 1000
    assert litres == pytest.approx(float(brain.mask.sum()) * brain.grid.voxel_volume_mm3 / 1e6)


def test_one_scan_has_no_spread(maps, atlas):
    table = evaluation.by_region(maps[:1], GRID, atlas)
    assert table["sd"].isna().all()
    assert table["mean"].notna().all()


@pytest.mark.usefixtures("unchecked")
def test_bad_input(maps, atlas):
    moved = Grid(GRID.shape, GRID.affine + np.eye(4)[:, [3, 0, 1, 2]] * 0.5)
    with pytest.raises(ValueError, match="the atlas lies on another grid than the maps"):
        evaluation.by_region(maps, moved, atlas)
    with pytest.raises(ValueError, match=r"the maps have \(10, 12, 13\) voxels"):
        evaluation.by_region(maps[..., :-1], GRID, atlas)
    with pytest.raises(ValueError, match="hold NaN"):
        evaluation.by_region(maps * float("nan"), GRID, atlas)
