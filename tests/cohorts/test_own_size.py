"""Heads that are turned and shifted onto the template, and keep their size and form."""

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import linalg, ndimage

from helpers import anatomy, cohorts, grids, models
from helpers.cohorts import preprocessing, scans
from helpers.cohorts.report import Report

RIGID = grids.rigid(4.0)
# From a scan's millimetres to MNI: turned by 0.2 rad about z and 0.1 about x, then made wider than
# long, and shifted.
TURN = linalg.expm(np.array([[0, -0.2, 0.0], [0.2, 0, -0.1], [0, 0.1, 0]]))
STRETCH = np.array([[1.15, 0.02, 0], [0.02, 1.05, 0.03], [0, 0.03, 1.25]])
TO_MNI = np.eye(4)
TO_MNI[:3, :3], TO_MNI[:3, 3] = STRETCH @ TURN, [7.0, -12.0, 5.0]


@pytest.fixture(scope="module")
def scan():
    """The template's brain as this person's, on voxels of unequal sides."""
    brain = anatomy.template(grids.mni(2.0))
    affine = np.diag([-2.0, 2.5, 2.0, 1.0])  # the first axis runs to the left
    affine[:3, 3] = [101.0, -110.0, -85.0]
    grid = grids.Grid((100, 92, 90), affine, "scanner")
    in_mni = grids.Grid(grid.shape, TO_MNI @ grid.affine)
    data = grids.resample(brain.t1[0].numpy(), brain.grid, in_mni).clip(0)
    mask = grids.resample(brain.mask[0].float().numpy(), brain.grid, in_mni, nearest=True)
    return data * mask * 100, mask, grid


@pytest.fixture(scope="module")
def report(scan):
    return Report(scan[2], TO_MNI, 0.5, 0.95, 0.9, float(np.linalg.det(TO_MNI[:3, :3])))


def test_a_head_keeps_its_size(scan, report):
    data, mask, grid = scan
    own_ml = mask.sum() * grid.voxel_volume_mm3 / 1000
    found = {}
    for target in (RIGID, grids.mni()):
        volume, _ = preprocessing.preprocess(
            (data, grid), grid=target, mask=(mask, grid), report=report
        )
        found[target] = int((volume > 0).sum()) * target.voxel_volume_mm3 / 1000
    assert found[RIGID] == pytest.approx(own_ml, rel=0.01)
    assert found[grids.mni()] == pytest.approx(own_ml * report.volume_ratio, rel=0.01)
    assert report.volume_ratio > 1.4


def test_nothing_but_a_rotation_and_a_shift(report):
    """Scipy's polar decomposition says which rotation; what the affine centres stays central."""
    onto = report.onto(RIGID)
    turn, _ = linalg.polar(TO_MNI[:3, :3])
    np.testing.assert_allclose(onto[:3, :3], turn, atol=1e-12)
    np.testing.assert_allclose(onto[:3, :3] @ onto[:3, :3].T, np.eye(3), atol=1e-12)
    middle = np.linalg.inv(TO_MNI) @ [*grids.MIDDLE_MM, 1]
    np.testing.assert_allclose((onto @ middle)[:3], 0, atol=1e-9)
    assert report.onto(grids.mni()) is report.to_mni


def test_without_a_mask_the_templates_is_taken_in_this_persons_size(scan, report):
    data, mask, grid = scan
    volume, _ = preprocessing.preprocess((data, grid), grid=RIGID, report=report_without(report))
    own_ml = mask.sum() * grid.voxel_volume_mm3 / 1000
    assert int((volume > 0).sum()) * 0.064 == pytest.approx(own_ml, rel=0.02)


def report_without(report):
    return Report(report.native, TO_MNI, 0.5, None, 0.9, report.volume_ratio, rough_to_mni=TO_MNI)


def test_a_place_goes_to_the_grid_and_to_the_scan_and_to_mni(scan, report):
    """A spot in the right frontal lobe: nibabel and scipy say where it has to be."""
    data, _, grid = scan
    voxel = np.array([30, 60, 55])
    spot_mm = nib.affines.apply_affine(grid.affine, voxel)
    spot = np.zeros(grid.shape, np.float32)
    spot[tuple(voxel)] = 1
    spot = ndimage.gaussian_filter(spot, 2.5)
    onto = grids.Grid(grid.shape, report.onto(RIGID) @ grid.affine)
    there = torch.from_numpy(grids.resample(spot, onto, RIGID))[None]
    back = scans.to_scan(there, report, RIGID)
    assert back.shape == data.shape
    assert np.linalg.norm(peak_mm(back, grid) - spot_mm) < 3.5
    in_mni = scans.to_mni(there, report, RIGID)
    expected = nib.affines.apply_affine(TO_MNI, spot_mm)
    assert in_mni.shape == there.shape
    assert np.linalg.norm(peak_mm(in_mni[0].numpy(), grids.mni()) - expected) < 4
    same = torch.rand(1, *grids.mni().shape)
    assert scans.to_mni(same, report, grids.mni()) is same


def peak_mm(values, grid):
    weights = np.where(values > values.max() / 2, values, 0)
    return grid.millimetres(ndimage.center_of_mass(weights))


def test_a_head_that_was_moved_already_is_not_taken_as_it_is(tmp_path, monkeypatch):
    """Its header says nothing of its size: it is registered, as any other scan."""
    brain = anatomy.template(RIGID)
    path = grids.save(brain.t1, RIGID, tmp_path / "a_T1w.nii.gz")
    found = np.diag([1.1, 1.1, 1.1, 1.0])
    found[:3, 3] = grids.MIDDLE_MM
    monkeypatch.setattr("helpers.cohorts.registration.register", lambda *_, **__: (found, 0.5))
    monkeypatch.setattr("helpers.cohorts.plausibility.check_standardised", lambda *_: 0.9)
    scan = scans.Scan(path, file=path.name)
    volume, report = scan.on(RIGID, tmp_path / "cache")
    np.testing.assert_array_equal(report.to_mni, found)
    spot = torch.zeros_like(volume)
    spot[0, 24, 30, 25] = 1
    back = scans.to_scan(spot, report, RIGID)
    assert np.unravel_index(back.argmax(), back.shape) == (24, 30, 25)


def test_no_grid_is_taken_for_another():
    shape = (41, 45, 39)
    assert RIGID.is_rigid
    assert not RIGID.is_native
    assert grids.mni() != RIGID
    for other in (grids.mni(), grids.native(4.0, shape), grids.mni(2.0, (40, 48, 40))):
        assert not other.is_rigid
    assert grids.rigid(4.0, shape).is_rigid
    assert "individual" in scans.preprocessed(RIGID)
    assert scans.preprocessed(RIGID) != scans.preprocessed(grids.mni())
    with pytest.raises(ValueError, match="must divide 192, 224 and 192 mm"):
        grids.rigid(5.0)


def test_the_template_lies_in_the_middle_of_a_rigid_grid():
    on_rigid, on_mni = anatomy.template(RIGID), anatomy.template()
    assert torch.equal(on_rigid.t1, on_mni.t1)
    assert on_rigid.grid.is_rigid


def test_brain_volume_is_not_corrected_on_a_rigid_grid():
    """There the voxels say how large a brain is, whatever else an affine would have done."""
    grid = grids.rigid(8.0)
    radius = torch.tensor([50.0, 54, 58, 62, 66, 70, 52, 56, 60, 64, 68, 72])
    distance = grid.centers_mm().square().sum(0).sqrt()
    volumes = (distance < radius[:, None, None, None]).float()[:, None]
    labels = torch.tensor([0, 0, 0, 1, 1, 1] * 2)
    voxels = volumes.flatten(1).sum(1).numpy()
    people = cohorts.real().participants.iloc[:12].assign(volume_ratio=voxels)
    sized = cohorts.Cohort(volumes, labels, ("small", "large"), people, grid)
    found = models.baselines(sized[:6], sized[6:], components=2).set_index("model")
    assert found.loc["brain volume", "auc"] == 1
