import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from helpers import anatomy, grids
from helpers.cohorts import bids, preprocessing, registration
from helpers.cohorts.intensities import standardise
from helpers.cohorts.report import Report
from helpers.cohorts.scans import Scan, to_scan
from helpers.errors import BrokenScanError, BrokenScansError
from helpers.grids import Grid
from helpers.runtime import generator

ROOT = Path(__file__).parents[2]
GRID = grids.mni(4.0)
# Odd voxels, unequal sides, an oblique head: nothing that a swapped axis could hide behind.
NATIVE = Grid(
    (83, 101, 90),
    np.array([[2.3, 0, 0, -97], [0, 2.1, 0, -118], [0, 0, 2.2, -99], [0, 0, 0, 1]]),
)
# A lamp in the right hemisphere only.
MARKER_MM = (40.0, -10.0, 20.0)


def known_affine():
    """Native millimetres to MNI millimetres: turned, sheared by unequal scaling, shifted."""
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", [8, -6, 7], degrees=True).as_matrix()
    affine[:3, :3] = turn @ np.diag([1.12, 1.05, 1.08])
    affine[:3, 3] = [9, -14, 11]
    return affine


def in_native(volume, source, *, nearest=False):
    moved = Grid(source.shape, np.linalg.inv(known_affine()) @ source.affine)
    return grids.resample(volume, moved, NATIVE, nearest=nearest)


def write_las(path, data, grid, dtype):
    """Save with the first axis running to the left and the axes in the order z, x, y."""
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = grid.shape[0] - 1
    order = [2, 0, 1]
    permute = np.eye(4)[:, [*order, 3]]
    stored = np.transpose(data[::-1], order).astype(dtype)
    image = nib.Nifti1Image(stored, grid.affine @ flip @ permute)
    assert nib.aff2axcodes(image.affine) == ("S", "L", "A")
    nib.save(image, path)
    return path


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    """A made brain with a lamp on its right, its mask, and a whole head around it."""
    folder = tmp_path_factory.mktemp("subject")
    brain = anatomy.template(grids.mni(2.0))
    t1 = brain.t1[0].numpy().copy()
    distance = np.linalg.norm(
        brain.grid.centers_mm().numpy() - np.reshape(MARKER_MM, (3, 1, 1, 1)), axis=0
    )
    t1[distance < 8] = 2.5
    mask = brain.mask[0].numpy()
    bone = ndimage.binary_dilation(mask, iterations=4)
    scalp = ndimage.binary_dilation(mask, iterations=7) & ~bone
    head = np.where(scalp, 1.4, t1)
    x, y, z = brain.grid.centers_mm().numpy()
    head[((x / 45) ** 2 + ((y + 40) / 50) ** 2 < 1) & (z < -50) & ~bone] = 0.9
    noise = torch.randn(NATIVE.shape, generator=generator(0)).numpy()
    arrays = {
        "T1w": 300 * in_native(t1, brain.grid) + 6 * noise,
        "head": 300 * in_native(head.astype(np.float32), brain.grid) + 6 * noise,
        "mask": in_native(mask.astype(np.float32), brain.grid, nearest=True),
    }
    return {
        name: write_las(
            folder / f"{name}.nii.gz",
            np.clip(array, 0, None),
            NATIVE,
            np.uint8 if name == "mask" else np.int16,
        )
        for name, array in arrays.items()
    }


@pytest.fixture(scope="module")
def result(subject):
    return preprocessing.preprocess(subject["T1w"], grid=GRID, mask=subject["mask"])


def error_mm(found):
    """Mean distance, over the template's brain, between where the two affines put a point."""
    points = GRID.millimetres(np.argwhere(anatomy.template(GRID).mask[0].numpy()))
    native = points @ np.linalg.inv(known_affine())[:3, :3].T
    native += np.linalg.inv(known_affine())[:3, 3]
    return np.linalg.norm(native @ found[:3, :3].T + found[:3, 3] - points, axis=1).mean()


def test_known_affine_is_recovered(result):
    _, report = result
    assert error_mm(report.to_mni) < 1.0
    assert report.mask_dice > 0.95
    assert report.template_correlation > 0.85
    assert report.volume_ratio == pytest.approx(np.linalg.det(known_affine()[:3, :3]), rel=0.03)


def test_left_stays_left(result):
    volume, _ = result
    brightest = np.unravel_index(int(volume[0].argmax()), GRID.shape)
    assert np.abs(GRID.millimetres(brightest) - MARKER_MM).max() < 10


@pytest.mark.parametrize(
    ("side", "masks", "message"),
    [
        (-1, None, r"head rescaled by \d\.\d\d, outside 0\.5 to 2\.5"),
        (
            1,
            "masks/{participant_id}.nii.gz",
            r"correlation with the template 0\.[34]\d, expected at",
        ),
    ],
    ids=["left, without a mask", "right, with a mask"],
)
def test_half_a_brain_in_the_scanner_is_refused(subject, tmp_path, side, masks, message):
    """A hemisphere is lost before the registration, which stretches the other to fill its place."""
    x_mm = Grid(NATIVE.shape, known_affine() @ NATIVE.affine).centers_mm()[0].numpy()
    for name, file in (("T1w", "sub-1/anat/sub-1_T1w.nii.gz"), ("mask", "masks/sub-1.nii.gz")):
        data, grid = grids.read(subject[name])
        assert grid == NATIVE
        grids.save(np.where(side * x_mm > 0, 0, data), grid, tmp_path / file)
    with pytest.raises(BrokenScansError, match=rf"sub-1_T1w\.nii\.gz: .*{message}"):
        bids.from_bids(tmp_path, None, masks=masks, cache=tmp_path / "cache", progress=False)
    assert not list(tmp_path.glob("cache/*"))


def test_background_is_zero_and_median_one(result):
    volume, _ = result
    inside = volume > 0
    assert volume.dtype == torch.float32
    assert volume.shape == (1, *GRID.shape)
    assert volume.min() == 0
    assert volume[inside].median() == pytest.approx(1, abs=0.01)
    template = anatomy.template(GRID)
    assert float((inside & template.mask).sum() / (inside | template.mask).sum()) > 0.9


def test_two_runs_give_the_same_bytes(subject, result):
    volume, report = preprocessing.preprocess(subject["T1w"], grid=GRID, mask=subject["mask"])
    assert torch.equal(volume, result[0])
    assert np.array_equal(report.to_mni, result[1].to_mni)
    assert report.mutual_information == result[1].mutual_information


def test_whole_head_without_a_mask(subject):
    volume, report = preprocessing.preprocess(subject["head"], grid=GRID)
    assert error_mm(report.to_mni) < 3.0
    assert report.mask_dice is None
    assert torch.equal(volume > 0, anatomy.template(GRID).mask & (volume > 0))


def test_noise_is_no_brain():
    noise = torch.rand((30, 34, 38), generator=generator(1)).numpy()
    scan = (noise, Grid(noise.shape, np.diag([5.0, 5, 5, 1])))
    everywhere = (np.ones_like(noise), scan[1])
    with pytest.raises(BrokenScanError, match="registration to the template failed"):
        preprocessing.preprocess(scan, mask=everywhere)


def test_upside_down_header_is_noticed(subject):
    data, grid = grids.read(subject["T1w"])
    mask, _ = grids.read(subject["mask"])
    with pytest.raises(BrokenScanError, match="orientation in the header"):
        preprocessing.preprocess((data[:, :, ::-1], grid), mask=(mask[:, :, ::-1], grid))


def test_interpolates_once(monkeypatch):
    monkeypatch.setattr(registration, "register", lambda *_, **__: (np.eye(4), 0.5))
    monkeypatch.setattr(registration, "correct_bias", lambda data, *_: data)
    brain = anatomy.template(GRID)
    sharp = brain.t1[0] * (1 + 0.2 * torch.rand(GRID.shape, generator=generator(2)))
    volume, _ = preprocessing.preprocess(
        (sharp.numpy(), GRID), grid=GRID, mask=(brain.mask[0].numpy(), GRID)
    )
    expected = standardise(sharp[None], brain.mask)
    torch.testing.assert_close(volume, expected, atol=1e-4, rtol=0)


def test_bias_field_is_evened_out():
    brain = anatomy.template(GRID)
    inside = brain.mask[0].numpy()
    white = (brain.tissues[1] > 0.8).numpy()
    t1 = 100 * brain.t1[0].numpy()
    field = np.linspace(0.4, 1.6, GRID.shape[2], dtype=np.float32)
    corrected = registration.correct_bias(t1 * field, GRID, inside)

    def unevenness(data):
        ratio = data[white] / t1[white]
        return ratio.std() / ratio.mean()

    assert unevenness(t1 * field) > 0.1
    assert unevenness(corrected) < unevenness(t1 * field) / 3


def test_standardise_works_by_volume():
    volumes = torch.rand((3, 1, 5, 6, 7), generator=generator(3)) + 0.5
    volumes[1] *= 40
    mask = torch.zeros(5, 6, 7, dtype=torch.bool)
    mask[1:4, 1:5, 1:6] = True
    ready = standardise(volumes, mask)
    assert (ready[..., ~mask] == 0).all()
    medians = ready[..., mask].median(-1).values
    torch.testing.assert_close(medians, torch.ones(3, 1))
    torch.testing.assert_close(ready[1], standardise(volumes[1] / 40, mask))


def test_standardise_follows_the_convention_of_the_template():
    brain = anatomy.template(GRID)
    torch.testing.assert_close(standardise(37 * brain.t1, brain.mask), brain.t1)


def test_standardise_says_what_is_wrong():
    volume = torch.ones(4, 5, 6)
    with pytest.raises(BrokenScanError, match="mask is empty"):
        standardise(volume, torch.zeros(4, 5, 6, dtype=torch.bool))
    with pytest.raises(BrokenScanError, match="not z-scores"):
        standardise(-volume, torch.ones(4, 5, 6, dtype=torch.bool))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data.fill(np.nan), "NaN or infinite"),
        (lambda data: data.fill(7), "constant"),
    ],
)
def test_useless_scans(damage, message):
    data = np.ones((16, 20, 24), np.float32)
    damage(data)
    with pytest.raises(BrokenScanError, match=message):
        preprocessing.preprocess((data, Grid(data.shape, np.eye(4))))


def test_slices_are_no_scan():
    data = np.random.default_rng(0).random((64, 64, 3), dtype=np.float32)
    with pytest.raises(BrokenScanError, match="whole brain, not slices"):
        preprocessing.preprocess((data, Grid(data.shape, np.eye(4))))


def test_truncated_file(subject, tmp_path):
    broken = tmp_path / "sub-1_T1w.nii.gz"
    broken.write_bytes(subject["T1w"].read_bytes()[:20_000])
    with pytest.raises(BrokenScanError, match="damaged or not a NIfTI"):
        preprocessing.preprocess(broken)


def test_mask_elsewhere(subject):
    mask, grid = grids.read(subject["mask"])
    far = grid.affine.copy()
    far[0, 3] += 1000
    with pytest.raises(BrokenScanError, match="mask is empty where the scan is"):
        preprocessing.preprocess(subject["T1w"], mask=(mask, Grid(grid.shape, far)))


REPORT = Report(NATIVE, known_affine(), 0.5, None, 0.9, 1.2, np.eye(4) + 1 / 3)


def same(first, second):
    """Compare reports, to the bit."""
    a, b = asdict(first), asdict(second)
    arrays = {"to_mni", "rough_to_mni", "native"}
    return (
        all(a[name] == b[name] for name in a.keys() - arrays)
        and np.array_equal(first.to_mni, second.to_mni)
        and np.array_equal(first.rough_to_mni, second.rough_to_mni)
        and np.array_equal(first.native.affine, second.native.affine)
        and (first.native.shape, first.native.space) == (second.native.shape, second.native.space)
    )


def test_a_report_is_read_back_as_it_was(tmp_path):
    REPORT.save(tmp_path / "report.json")
    assert same(Report.load(tmp_path / "report.json"), REPORT)
    assert REPORT.quality() == {
        "mask_dice": None,
        "template_correlation": 0.9,
        "volume_ratio": 1.2,
    }
    for damage in ("[]", "{}", '{"native": 3}', '{"to_mni": ', "\0"):
        (tmp_path / "report.json").write_text(damage)
        with pytest.raises(ValueError, match=r"report\.json is not a whole report"):
            Report.load(tmp_path / "report.json")


def test_another_grid_is_filled_without_another_registration(subject, result, monkeypatch):
    small = grids.mni(8.0)
    alone, _ = preprocessing.preprocess(subject["T1w"], grid=small, mask=subject["mask"])
    monkeypatch.setattr(registration, "register", None)
    again, report = preprocessing.preprocess(
        subject["T1w"], grid=small, mask=subject["mask"], report=result[1]
    )
    assert torch.equal(again, alone)
    assert report is result[1]


def test_a_map_of_a_cohort_finds_the_lamp_in_the_file(subject, result):
    """From the scan's file to the teaching grid and back to the order of the file's voxels."""
    volume, report = result
    stored = nib.load(subject["T1w"])
    assert report.native == Grid(stored.shape, stored.affine)
    back = to_scan(volume.clamp_min(1.4) - 1.4, report, GRID)
    lamp = np.unravel_index(back.argmax(), back.shape)
    in_mni = known_affine() @ stored.affine @ [*lamp, 1]
    assert np.abs(in_mni[:3] - MARKER_MM).max() < 8


@pytest.fixture
def counted(monkeypatch):
    """Preprocessing without the registration; counts its calls."""
    calls = []

    def quick(scan, *, grid, mask=None, report=None):
        calls.append(report)
        return anatomy.template(grid).t1, report or REPORT

    monkeypatch.setattr(preprocessing, "preprocess", quick)
    return calls


def test_cache_is_used_until_something_changes(counted, tmp_path):
    scan, cache, grid = tmp_path / "sub-1_T1w.nii.gz", tmp_path / "cache", grids.mni(8.0)
    scan.write_bytes(b"a scan")
    first, report = Scan(scan).prepare(grid, cache)
    again, kept_report = Scan(scan).prepare(grid, cache)
    assert len(counted) == 1
    assert torch.equal(first, again)
    assert same(report, kept_report)
    Scan(scan).prepare(grids.mni(4.0), cache)
    assert len(counted) == 2
    assert same(counted[1], report)  # another grid needs no second registration
    (tmp_path / "moved").mkdir()
    scan = scan.rename(tmp_path / "moved" / scan.name)
    os.utime(scan, ns=(0, 1))
    Scan(scan).prepare(grid, cache)
    assert len(counted) == 2
    scan.write_bytes(b"another scan")
    Scan(scan).prepare(grid, cache)
    assert len(counted) == 3
    mask = tmp_path / "mask.nii.gz"
    mask.write_bytes(b"a mask")
    Scan(scan, mask).prepare(grid, cache)
    assert len(counted) == 4


def test_killed_write_leaves_nothing_broken(counted, tmp_path, monkeypatch):
    scan, cache, grid = tmp_path / "sub-1_T1w.nii.gz", tmp_path / "cache", grids.mni(8.0)
    scan.write_bytes(b"a scan")

    def killed(image, path):
        path.write_bytes(b"half a fi")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(nib, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            Scan(scan).prepare(grid, cache)
    assert list(cache.iterdir()) == []
    Scan(scan).prepare(grid, cache)
    assert len(counted) == 2


@pytest.mark.parametrize("how", ["cut", "lost", "another's"])
@pytest.mark.parametrize("file", ["res-8_desc-preproc_T1w.nii.gz", "preproc_T1w.json", "xfm.json"])
def test_damaged_cache_is_made_again(counted, tmp_path, file, how):
    scan, cache, grid = tmp_path / "sub-1_T1w.nii.gz", tmp_path / "cache", grids.mni(8.0)
    scan.write_bytes(b"a scan")
    first, report = Scan(scan).prepare(grid, cache)
    (damaged,) = (path for path in cache.iterdir() if path.name.endswith(file))
    if how == "cut":
        damaged.write_bytes(damaged.read_bytes()[:30])
    elif how == "lost":
        damaged.unlink()
    elif file.endswith(".json"):
        damaged.write_text(damaged.read_text().replace('ey": "', 'ey": "0'))
    else:
        grids.save(2 * first, grid, damaged)
    assert not Scan(scan).is_prepared(grid, cache)
    again, kept_report = Scan(scan).prepare(grid, cache)
    assert len(counted) == 2
    assert torch.equal(first, again)
    assert same(kept_report, report)
    assert (counted[1] is None) == (file == "xfm.json")


def test_link_that_leads_nowhere(tmp_path):
    link = tmp_path / "sub-1_T1w.nii.gz"
    link.symlink_to(tmp_path / "never-fetched")
    with pytest.raises(FileNotFoundError, match="leads nowhere"):
        Scan(link).prepare(grids.mni(8.0), tmp_path / "cache")


def test_simulating_leaves_the_registration_alone():
    program = (
        "import sys; from helpers import cohorts, grids;"
        "cohorts.simulate('lesion', subjects=2, seed=0, grid=grids.mni(8.0), progress=False);"
        "sys.exit('SimpleITK' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
