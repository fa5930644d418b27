import nibabel as nib
import numpy as np
import pytest
import torch

from helpers import grids
from helpers.grids import Grid


@pytest.fixture
def grid():
    affine = np.diag([3.0, 4.0, 5.0, 1.0])
    affine[:3, 3] = [-20, -30, -40]
    return Grid((16, 20, 24), affine)


def test_mni_grids_cover_the_same_field_of_view():
    for spacing_mm in (1.0, 2.0, 4.0, 8.0):
        grid = grids.mni(spacing_mm)
        np.testing.assert_allclose(grid.millimetres([-0.5] * 3), [-96, -130, -84])
        np.testing.assert_allclose(grid.millimetres(np.array(grid.shape) - 0.5), [96, 94, 108])
    assert grids.mni(4.0).shape == (48, 56, 48)
    assert grids.mni(2.0).shape == (96, 112, 96)


@pytest.mark.parametrize("spacing_mm", [0.0, -2.0, 5.0, float("nan")])
def test_mni_spacing_must_divide(spacing_mm):
    with pytest.raises(ValueError, match="must divide 192, 224 and 192"):
        grids.mni(spacing_mm)


def test_voxels_and_millimetres_match_nibabel(grid):
    points = np.random.default_rng(0).normal(size=(5, 3)) * 10
    np.testing.assert_allclose(
        grid.millimetres(points), nib.affines.apply_affine(grid.affine, points)
    )
    np.testing.assert_allclose(grid.voxels(grid.millimetres(points)), points, atol=1e-9)
    assert grid.spacing_mm == (3.0, 4.0, 5.0)
    assert grid.voxel_volume_mm3 == pytest.approx(60)
    np.testing.assert_allclose(grid.centers_mm()[:, 2, 3, 4], grid.millimetres([2, 3, 4]))


def test_grid_rejects_nonsense():
    with pytest.raises(ValueError, match="three axes"):
        Grid((4, 0, 4), np.eye(4))
    with pytest.raises(ValueError, match="invertible"):
        Grid((4, 4, 4), np.zeros((4, 4)))


def test_saved_volume_reads_back_with_its_affine(tmp_path, grid):
    volume = torch.rand(1, *grid.shape)
    path = grids.save(volume, grid, tmp_path / "map.nii.gz")
    data, read_grid = grids.read(path)
    np.testing.assert_array_equal(data, volume[0])
    assert read_grid == grid
    # nibabel alone, without our reader, sees the same affine.
    np.testing.assert_allclose(nib.load(path).affine, grid.affine)


def test_read_turns_to_ras(tmp_path):
    data = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    affine = np.diag([-2.0, 2.0, 2.0, 1.0])  # first axis runs to the left
    nib.save(nib.Nifti1Image(data, affine), tmp_path / "las.nii.gz")
    turned, grid = grids.read(tmp_path / "las.nii.gz")
    np.testing.assert_array_equal(turned, data[::-1])
    assert nib.aff2axcodes(grid.affine) == ("R", "A", "S")


def test_damaged_and_missing_scans(tmp_path, grid):
    path = grids.save(torch.rand(grid.shape), grid, tmp_path / "whole.nii.gz")
    (tmp_path / "cut.nii.gz").write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"cut\.nii\.gz is damaged"):
        grids.read(tmp_path / "cut.nii.gz")
    with pytest.raises(FileNotFoundError, match="no scan at"):
        grids.read(tmp_path / "none.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 2)), np.eye(4)), tmp_path / "4d.nii.gz")
    with pytest.raises(ValueError, match="expected one 3D volume"):
        grids.read(tmp_path / "4d.nii.gz")


def test_save_checks_shape_and_name(tmp_path, grid):
    with pytest.raises(ValueError, match="its grid"):
        grids.save(torch.rand(4, 4, 4), grid, tmp_path / "map.nii.gz")
    with pytest.raises(ValueError, match=r"\.nii or \.nii\.gz"):
        grids.save(torch.rand(grid.shape), grid, tmp_path / "map.png")


def test_resampling_keeps_a_blob_in_place_and_avoids_aliasing():
    fine = grids.mni(2.0)
    center = torch.tensor([20.0, -30.0, 10.0]).view(3, 1, 1, 1)
    blob = torch.exp(-((fine.centers_mm() - center) ** 2).sum(0) / (2 * 12.0**2)).numpy()
    coarse = grids.mni(4.0)
    moved = grids.resample(blob, fine, coarse)
    weights = torch.from_numpy(moved / moved.sum())
    found = (coarse.centers_mm() * weights).sum((1, 2, 3))
    np.testing.assert_allclose(found, center.flatten(), atol=0.1)

    checkerboard = np.indices(fine.shape).sum(0) % 2  # finer than 4 mm can hold
    grey = grids.resample(checkerboard.astype(np.float32), fine, coarse)[4:-4, 4:-4, 4:-4]
    assert grey.std() < 0.1
    labels = grids.resample(7.0 * (blob > 0.5), fine, coarse, nearest=True)
    assert set(np.unique(labels)) == {0.0, 7.0}


def test_check_volumes_names_the_subjects(grid):
    good = torch.rand(3, 1, *grid.shape)
    grids.check_volumes(good, grid)
    with pytest.raises(ValueError, match=r"a single volume needs volume\[None, None\]"):
        grids.check_volumes(good[0, 0])
    with pytest.raises(ValueError, match=r"the volumes have \(20, 16, 24\) voxels"):
        grids.check_volumes(good.transpose(2, 3), grid)
    broken = good.clone()
    broken[1, 0, 3, 4, 5] = float("nan")
    with pytest.raises(ValueError, match=r"volumes \[1\] hold NaN"):
        grids.check_volumes(broken)
    broken = good.clone()
    broken[2] = 4.0
    with pytest.raises(ValueError, match=r"volumes \[2\] are constant"):
        grids.check_volumes(broken)
