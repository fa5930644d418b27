"""Scans in their own space: MONAI is the oracle of what the network reads and of where it lies."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation, Spacing
from scipy import ndimage
from scipy.spatial.transform import Rotation

from helpers import anatomy, cohorts, grids
from helpers.cohorts import native
from helpers.cohorts.real_brains import STUDY_MASKS
from helpers.cohorts.scans import Scan, to_scan
from helpers.errors import BrokenScanError
from helpers.grids import Grid

# An oblique head on unequal voxels, off the middle of the field.
TURN = Rotation.from_euler("xyz", [11, -7, 9], degrees=True).as_matrix()
AFFINE = np.eye(4)
AFFINE[:3, :3] = TURN @ np.diag([2.9, 3.3, 3.1])
AFFINE[:3, 3] = np.array([14.0, -31, 22]) - AFFINE[:3, :3] @ [28, 33, 27]
OWN = Grid((62, 71, 65), AFFINE, "scanner")
SHAPE = (60, 82, 67)
SPACING_MM = 2.5  # finer than the scan: nothing is smoothed, as MONAI smooths nothing
_SIDES = (("L", "R"), ("P", "A"), ("I", "S"))


@pytest.fixture(scope="module")
def brain():
    """A brain with unequal halves on the scan's voxels, and its mask."""
    template = anatomy.template(grids.mni(2.0))
    t1 = template.t1[0].numpy() * (1 + template.grid.centers_mm()[0].numpy() / 400)
    mask = template.mask[0].numpy() & (template.grid.centers_mm()[2].numpy() > -45)
    there = Grid(OWN.shape, OWN.affine)
    data = 400 * grids.resample(t1.astype(np.float32), template.grid, there)
    inside = grids.resample(100 * mask.astype(np.float32), template.grid, there) > 50
    return data.clip(1), inside


@pytest.fixture(scope="module")
def files(tmp_path_factory, brain):
    """The head with a wall of noise around the brain, and the mask."""
    place = tmp_path_factory.mktemp("native")
    return [
        grids.save(values.astype(np.float32), OWN, place / f"{name}.nii.gz")
        for name, values in zip(("head", "mask"), brain, strict=True)
    ]


def as_monai_reads(brain):
    """The brain as MONAI's transforms bring it to the network, and the affine of its voxels."""
    data, inside = brain
    order = nib.io_orientation(OWN.affine)
    assert np.array_equal(order, [[0, 1], [1, 1], [2, 1]])
    volume = MetaTensor(torch.from_numpy(data)[None], affine=torch.from_numpy(OWN.affine.copy()))
    volume = Spacing(SPACING_MM, mode=3, padding_mode="constant")(
        Orientation("RAS", labels=_SIDES)(volume)
    )
    middle = np.array(ndimage.center_of_mass(inside)) * OWN.spacing_mm / SPACING_MM
    start = np.round(middle).astype(int) - np.array(SHAPE) // 2
    kept = np.zeros(SHAPE, dtype=np.float32)
    low, high = np.maximum(start, 0), np.minimum(start + SHAPE, volume.shape[1:])
    into = tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))
    of = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    kept[into] = volume[0].numpy()[of]
    affine = volume.affine.numpy() @ np.block(
        [[np.eye(3), start[:, None]], [np.zeros(3), np.ones(1)]]
    )
    return kept, affine


def test_the_network_reads_what_monai_gave_it(brain, files):
    expected, affine = as_monai_reads(brain)
    grid = grids.native(SPACING_MM, SHAPE)
    volume, report = native.centred(files[0], grid, mask=files[1])
    np.testing.assert_allclose(report.in_scan(grid).affine, affine, atol=1e-4)
    inside = volume[0].numpy() > 0
    deep = ndimage.binary_erosion(inside, iterations=2)
    assert deep.sum() > 40_000
    scaled = expected / np.median(expected[inside])
    np.testing.assert_allclose(volume[0].numpy()[deep], scaled[deep], atol=0.01)
    # Neither mirrored nor one voxel off.
    for other in (scaled[::-1], scaled[:, ::-1], np.roll(scaled, 1, 0), np.roll(scaled, 1, 2)):
        assert np.abs(volume[0].numpy()[deep] - other[deep]).max() > 0.1
    assert report.cut_off == 0
    assert float(volume[volume > 0].median()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("axes", ["LAS", "PSR", "IRA", "LPI"])
def test_the_order_of_the_axes_in_a_file_does_not_matter(tmp_path, files, axes):
    grid = grids.native(4.0, (40, 46, 38))
    volume, report = native.centred(files[0], grid, mask=files[1])
    change = nib.orientations.ornt_transform(
        nib.io_orientation(OWN.affine), nib.orientations.axcodes2ornt(axes)
    )
    turned = nib.load(files[0]).as_reoriented(change)
    assert "".join(nib.aff2axcodes(turned.affine)) == axes
    nib.save(turned, tmp_path / "turned.nii.gz")
    again, other = native.centred(tmp_path / "turned.nii.gz", grid, mask=files[1])
    torch.testing.assert_close(again, volume, atol=1e-4, rtol=0)
    ramp = grid.centers_mm()[:1] + 2 * grid.centers_mm()[1:2]
    back, expected = to_scan(ramp, other, grid), to_scan(ramp, report, grid)
    straight = nib.apply_orientation(back, nib.io_orientation(turned.affine))
    assert back.shape == turned.shape
    np.testing.assert_allclose(straight, expected, atol=1e-2)


def test_there_and_back_a_place_stays_where_it_is(files):
    """A map is the place itself: on the scan's voxels it says where they are."""
    grid = grids.native(4.0, (40, 46, 38))
    _, report = native.centred(files[0], grid, mask=files[1])
    mm = OWN.centers_mm().numpy()
    voxels = np.moveaxis(report.in_scan(grid).voxels(np.moveaxis(mm, 0, -1)), -1, 0)
    within = np.all(
        [(v > 3) & (v < n - 4) for v, n in zip(voxels, grid.shape, strict=True)], axis=0
    )
    assert within.sum() > 20_000
    for axis, places in enumerate(report.in_scan(grid).centers_mm()):
        back = to_scan(places[None], report, grid)
        np.testing.assert_allclose(back[within], mm[axis][within], atol=0.1)


def test_equal_spacings_need_no_interpolation():
    name = "sub-03"  # 10 degrees oblique
    folder = cohorts.real_study()
    scan = folder / f"{name}/anat/{name}_T1w.nii.gz"
    data, source = grids.read(scan)
    grid = grids.native(2.0, (90, 100, 85))
    volume, report = native.centred(scan, grid)
    start = np.round(report.in_scan(grid).voxels(source.millimetres((0, 0, 0)))).astype(int)
    where = tuple(slice(a, a + n) for a, n in zip(start, data.shape, strict=True))
    expected = np.zeros(grid.shape)
    expected[where] = data / np.median(data[data > 0])
    np.testing.assert_allclose(volume[0].numpy(), expected, atol=5e-4)
    middle = ndimage.center_of_mass(volume[0].numpy() > 0)
    assert np.abs(np.array(middle) - np.array(grid.shape) // 2).max() <= 0.51
    np.testing.assert_allclose(
        to_scan(volume, report, grid), data / np.median(data[data > 0]), atol=1e-3
    )


@pytest.mark.parametrize("name", ["sub-03", "sub-04", "sub-64"])
def test_where_voxels_coincide_the_outermost_count(name):
    grid = grids.native(2.0, (51, 60, 50))  # the brain is larger
    _, report = native.centred(cohorts.real_study() / f"{name}/anat/{name}_T1w.nii.gz", grid)
    back = to_scan(torch.full((1, *grid.shape), 3.0), report, grid)
    first = np.round(report.native.voxels(report.in_scan(grid).millimetres((0, 0, 0)))).astype(int)
    expected = np.zeros(report.native.shape)
    expected[tuple(slice(a, a + n) for a, n in zip(first, grid.shape, strict=True))] = 3
    assert expected.sum() == 3 * np.prod(grid.shape)
    np.testing.assert_allclose(back, expected, atol=1e-3)


def test_a_stripped_scan_needs_no_mask(tmp_path, brain):
    data, inside = brain
    scan = grids.save((data * inside).astype(np.float32), OWN, tmp_path / "a.nii.gz")
    mask = grids.save(inside.astype(np.float32), OWN, tmp_path / "m.nii.gz")
    grid = grids.native(4.0, (40, 46, 38))
    alone, masked = (native.centred(scan, grid, mask=m) for m in (None, mask))
    assert torch.equal(alone[0], masked[0])
    assert np.array_equal(alone[1].to_mni, masked[1].to_mni)


def test_a_mask_on_other_voxels(tmp_path, files):
    grid = grids.native(4.0, (40, 46, 38))
    volume, _ = native.centred(files[0], grid, mask=files[1])
    straight = np.diag([1.7, 1.6, 1.8, 1])
    straight[:3, 3] = -100
    elsewhere = Grid((120, 140, 118), straight)
    mask, source = grids.read(files[1])
    finer = grids.resample(mask, source, elsewhere, nearest=True)
    path = grids.save(finer, elsewhere, tmp_path / "finer.nii.gz")
    other, _ = native.centred(files[0], grid, mask=path)
    a, b = volume > 0, other > 0
    assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.97


@pytest.mark.parametrize("shape", [(40, 46, 20), (24, 46, 38), (40, 24, 38)])
def test_what_is_cut_off_is_counted(files, brain, shape):
    grid = grids.native(4.0, shape)
    volume, report = native.centred(files[0], grid, mask=files[1])
    whole, _ = native.centred(files[0], grids.native(4.0, (60, 60, 60)), mask=files[1])
    seen = int((volume > 0).sum()) / int((whole > 0).sum())
    assert 0.05 < report.cut_off < 0.5
    assert report.cut_off == pytest.approx(1 - seen, abs=0.01)


def test_scans_that_are_refused(tmp_path, files, brain):
    head, mask = files
    data, inside = brain
    grid = grids.native(4.0, (40, 46, 38))

    def refused(message, scan=head, grid=grid, mask=mask):
        with pytest.raises(BrokenScanError, match=message):
            native.centred(scan, grid, mask=mask)

    def saved(values, where=OWN):
        return grids.save(np.asarray(values, dtype=np.float32), where, tmp_path / "it.nii.gz")

    refused(r"measures 8\.5 litres, as a whole head does.*--masks", mask=None)
    refused(r"its mask holds 8\.5 litres; expected a brain of 0\.2 to 2\.4", mask=saved(inside + 1))
    refused("its mask holds 0 litres", mask=saved(inside * 0))
    refused(
        r"[5-9].% of the brain does not fit .* 40 x 46 x 38 mm.*card",
        grid=grids.native(1.0, grid.shape),
    )
    stripped = grids.save((data * inside).astype(np.float32), OWN, tmp_path / "stripped.nii.gz")
    near, far = OWN.affine.copy(), OWN.affine.copy()
    near[:3, 3] += 60
    far[:3, 3] += 900
    shifted = saved(inside, Grid(OWN.shape, near))
    refused("does not lie on the brain: the scan is 0 in", scan=stripped, mask=shifted)
    refused("empty where the scan is", mask=saved(inside, Grid(OWN.shape, far)))
    refused("z-scores", scan=saved((data - 300) / 100))


def test_a_cohort_in_native_space(tmp_path):
    grid = grids.native(8.0, (24, 28, 24))
    cohort = cohorts.from_bids(
        cohorts.real_study(), "sex", grid=grid, masks=STUDY_MASKS, cache=tmp_path, progress=False
    )
    assert cohort.volumes.shape == (12, 1, *grid.shape)
    assert cohort.participants["template_correlation"].isna().all()
    assert not list(tmp_path.iterdir())
    name = cohort.participants["participant_id"].iloc[3]
    scan = cohorts.real_study() / f"{name}/anat/{name}_T1w.nii.gz"
    own = to_scan(cohort.volumes[3], cohort.reports[3], grid)
    data, _ = grids.read(scan)
    assert np.corrcoef(own.ravel(), data.ravel())[0, 1] > 0.85


def test_the_segmentation_stands_in_for_the_mask_in_native_space_only(tmp_path, files):
    head, mask = files
    grid = grids.native(4.0, (40, 46, 38))
    own = Scan(head, segmentation=mask)
    volume, _ = own.on(grid, tmp_path / "cache")
    assert torch.equal(volume, native.centred(head, grid, mask=mask)[0])
    assert own.key(grid) != Scan(head).key(grid)
    assert own.key(grids.mni()) == Scan(head).key(grids.mni())
    assert not (tmp_path / "cache").exists()
    with pytest.raises(BrokenScanError, match="its mask is missing: expected"):
        Scan(head, segmentation=tmp_path / "no.nii.gz").on(grid, tmp_path / "cache")
