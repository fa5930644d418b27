import contextlib
import gzip
import itertools

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import ResizeWithPadOrCrop
from scipy import ndimage

from helpers import grids
from helpers.errors import BrokenScanError
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


@pytest.mark.parametrize("spacing_mm", [0.0, -2.0, float("nan"), float("inf")])
def test_mni_spacing_is_a_positive_number(spacing_mm):
    for shape in (None, (10, 10, 10)):
        with pytest.raises(ValueError, match="spacing_mm must be a positive number"):
            grids.mni(spacing_mm, shape)


@pytest.mark.parametrize("spacing_mm", [5.0, 400.0])
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
    for affine in (np.eye(3), np.full((4, 4), np.nan), np.diag([1, 1, 1, np.inf])):
        with pytest.raises(ValueError, match="4x4 affine of finite numbers"):
            Grid((4, 4, 4), affine)


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


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A small scan with structure and noise, as a scanner writes it: gzip of int16."""
    generator = np.random.default_rng(0)
    blob = np.hypot(*np.ogrid[-8:8, -10:10])[..., None] < np.linspace(3, 9, 24)
    data = (blob * (900 + 60 * generator.normal(size=(16, 20, 24)))).astype(np.int16)
    affine = np.diag([-3.0, 4.0, 5.0, 1.0])
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    image = nib.Nifti1Image(data, affine)
    image.set_qform(affine, code="scanner")
    nib.save(image, path)
    return path


def test_no_flipped_bit_changes_a_voxel(scan, tmp_path):
    whole, (data, grid) = scan.read_bytes(), grids.read(scan)
    header = whole.index(b"\0", 10) + 1  # ten bytes of gzip's own and the name of a file
    flipped, accepted = tmp_path / "flipped.nii.gz", []
    for bit in np.random.default_rng(1).choice(8 * len(whole), 150, replace=False).tolist():
        content = bytearray(whole)
        content[bit // 8] ^= 1 << (bit % 8)
        flipped.write_bytes(content)
        with contextlib.suppress(BrokenScanError):
            found, found_grid = grids.read(flipped)
            accepted.append(bit // 8)
            np.testing.assert_array_equal(found, data)
            assert found_grid == grid
    # gzip does not use the time and the name that it keeps.
    assert all(byte < header for byte in accepted), accepted


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:3000],
        lambda content: content[:-8],
        lambda content: content[:-1],
        lambda content: content[:-8] + bytes(8),
        lambda content: content[:-4] + bytes(4),
        lambda content: content + b"garbage",
        lambda content: content + gzip.compress(b"more voxels"),
        lambda content: content[10:],
        lambda content: b"",
    ],
    ids=["half", "no trailer", "byte", "crc", "length", "garbage", "member", "head", "empty"],
)
def test_damaged_gzip_is_a_broken_scan(scan, tmp_path, damage):
    (tmp_path / "cut.nii.gz").write_bytes(damage(scan.read_bytes()))
    with pytest.raises(BrokenScanError, match=r"cut\.nii\.gz is damaged"):
        grids.read(tmp_path / "cut.nii.gz")


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.nii", b"", "it holds 0 bytes, a header alone has 348"),
        ("a.nii.gz", b"", "it holds 0 bytes, a header alone has 348"),
        ("a.nii", b"no scan at all", "it holds 14 bytes, a header alone has 348"),
        ("a.nii", (540).to_bytes(4, "big") + bytes(500), "it holds 504 bytes, .* alone has 540"),
        ("a.nii", bytes(400), "data code 0 not supported"),
        ("a.nii.gz", b"no scan at all", "Not a gzipped file"),
        ("a.nii.gz", gzip.compress(bytes(range(256)) * 2)[:100], "ended before the end-of-stream"),
        ("a.nii.gz", gzip.compress(b"voxels"), "it holds 6 bytes, a header alone has 348"),
    ],
    ids=["empty", "empty gz", "text", "cut NIfTI-2", "zeros", "text gz", "cut gz", "short gz"],
)
def test_header_and_voxels_are_refused_in_the_same_words(tmp_path, name, content, fault):
    (tmp_path / name).write_bytes(content)
    said = []
    for read in (grids.read, grids.read_grid):
        with pytest.raises(
            BrokenScanError, match=f"is damaged or not a NIfTI image: .*{fault}"
        ) as e:
            read(tmp_path / name)
        said.append(str(e.value))
    assert said[0] == said[1]
    assert said[0].count(name) == 1


def test_what_the_system_does_not_let_read_is_not_called_damaged(tmp_path):
    (tmp_path / "a.nii.gz").mkdir()
    for read in (grids.read, grids.read_grid):
        with pytest.raises(BrokenScanError, match=r"/a\.nii\.gz cannot be read: Is a directory$"):
            read(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("surplus", [-1, -352, 1, 2 * 16 * 20])
def test_file_without_checksum_has_the_length_that_its_header_says(scan, tmp_path, surplus):
    content = gzip.decompress(scan.read_bytes())
    (tmp_path / "whole.nii").write_bytes(content)
    np.testing.assert_array_equal(grids.read(tmp_path / "whole.nii")[0], grids.read(scan)[0])
    (tmp_path / "odd.nii").write_bytes(
        content[:surplus] if surplus < 0 else content + bytes(surplus)
    )
    with pytest.raises(BrokenScanError, match=r"odd\.nii is damaged: its header asks for 15712"):
        grids.read(tmp_path / "odd.nii")


def test_missing_scans_and_other_files(tmp_path):
    for read in (grids.read, grids.read_grid):
        with pytest.raises(FileNotFoundError, match="does not exist, or is a link"):
            read(tmp_path / "none.nii.gz")
        (tmp_path / "scan.mgz").write_bytes(b"another format")
        with pytest.raises(BrokenScanError, match=r"scan\.mgz is no NIfTI file"):
            read(tmp_path / "scan.mgz")
        (tmp_path / "text.nii").write_text("no scan at all")
        with pytest.raises(BrokenScanError, match=r"text\.nii is damaged or not a NIfTI"):
            read(tmp_path / "text.nii")


def test_both_kinds_of_nifti_and_both_byte_orders(scan, tmp_path):
    data, grid = grids.read(scan)
    stored = nib.load(scan)
    for number, (kind, order) in enumerate(
        itertools.product((nib.Nifti1Image, nib.Nifti2Image), "<>")
    ):
        header = kind.header_class(endianness=order)
        path = tmp_path / f"{number}.nii.gz"
        nib.save(kind(np.asarray(stored.dataobj), stored.affine, header), path)
        found, found_grid = grids.read(path)
        np.testing.assert_array_equal(found, data)
        assert found_grid == grid


@pytest.mark.parametrize(("shape", "good"), [
    ((4, 5, 6, 1), True),
    ((4, 5, 6, 1, 1), True),
    ((1, 5, 6), True),
    ((4, 5, 6, 2), False),
    ((4, 5, 6, 1, 2), False),
    ((4, 5), False),
])  # fmt: skip
def test_a_scan_is_one_volume(tmp_path, shape, good):
    data = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)
    if good:
        np.testing.assert_array_equal(grids.read(path)[0], data.reshape(shape[:3]))
        assert grids.read_grid(path).shape == shape[:3]
        return
    for read in (grids.read, grids.read_grid):
        with pytest.raises(BrokenScanError, match="expected one 3D volume"):
            read(path)


def test_a_voxel_is_one_real_number(tmp_path):
    nib.save(nib.Nifti1Image(np.ones((4, 5, 6), np.complex64), np.eye(4)), tmp_path / "c.nii")
    with pytest.raises(BrokenScanError, match="holds complex64; expected one real number"):
        grids.read(tmp_path / "c.nii")


def with_codes(path, *, sform, qform, sform_code, qform_code):
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), None)
    image.header.set_sform(sform, sform_code)
    image.header.set_qform(qform, qform_code)
    nib.save(image, path)
    return path


def test_sform_before_qform_and_neither_is_refused(tmp_path):
    sform, qform = np.diag([2.0, 2, 2, 1]), np.diag([3.0, 3, 3, 1])
    for codes, expected, space in (((4, 1), sform, "mni"), ((0, 1), qform, "scanner")):
        path = with_codes(
            tmp_path / "a.nii", sform=sform, qform=qform, sform_code=codes[0], qform_code=codes[1]
        )
        grid = grids.read(path)[1]
        np.testing.assert_allclose(grid.affine, expected)
        assert grid.space == space
    path = with_codes(tmp_path / "a.nii", sform=sform, qform=qform, sform_code=0, qform_code=0)
    for read in (grids.read, grids.read_grid):
        with pytest.raises(BrokenScanError, match=r"a\.nii does not say where its voxels lie"):
            read(path)


@pytest.mark.parametrize("spacing_mm", [1e-3, 1e3, 1e30])
def test_voxels_have_a_size_that_can_be(tmp_path, spacing_mm):
    path, affine = tmp_path / "a.nii", np.diag([2.0, spacing_mm, 2.0, 1.0])
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), affine), path)
    for read in (grids.read, grids.read_grid):
        with pytest.raises(
            BrokenScanError, match=r"a\.nii has voxels of .* expected 0.01 to 100 mm"
        ):
            read(path)


def test_grid_of_the_header_is_the_grid_of_the_voxels(tmp_path):
    data = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((-1, 1), repeat=3):
            affine = np.eye(4)
            affine[:3, :3] = (np.diag(np.array(signs) * (2.0, 3.0, 4.0)))[:, order]
            affine[:3, 3] = [7, -8, 9]
            path = tmp_path / "turned.nii"
            nib.save(nib.Nifti1Image(data, affine), path)
            read_data, grid = grids.read(path)
            expected = nib.as_closest_canonical(nib.load(path))
            np.testing.assert_array_equal(read_data, expected.dataobj)
            np.testing.assert_allclose(grid.affine, expected.affine)
            stored = grids.read_grid(path)
            np.testing.assert_allclose(stored.affine, affine)
            assert stored.upright() == grid


@pytest.mark.parametrize("space", ["scanner", "aligned", "talairach", "mni", "template"])
def test_saved_codes_say_which_space(tmp_path, space):
    affine = np.array([[0.0, -3, 0, 10], [2, 0, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]])
    grid = Grid((4, 5, 6), affine, space)
    path = grids.save(torch.rand(4, 5, 6), grid, tmp_path / "a.nii.gz")
    header = nib.load(path).header
    code = nib.nifti1.xform_codes.code[space]
    assert (int(header["sform_code"]), int(header["qform_code"])) == (code, code)
    np.testing.assert_allclose(header.get_qform(), affine, atol=1e-5)
    np.testing.assert_allclose(header.get_sform(), affine, atol=1e-5)
    assert header.get_xyzt_units()[0] == "mm"
    assert grids.read(path)[1].space == space
    with pytest.raises(ValueError, match="space is 'mars'; expected one of"):
        Grid((4, 5, 6), affine, "mars")


def test_maps_in_mni_space_say_so_and_a_sheared_affine_has_no_qform(tmp_path):
    mni = grids.mni(8.0)
    header = nib.load(grids.save(torch.rand(mni.shape), mni, tmp_path / "m.nii.gz")).header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (4, 4)
    sheared = np.diag([2.0, 3, 4, 1])
    sheared[0, 1] = 1.0
    path = grids.save(torch.rand(4, 5, 6), Grid((4, 5, 6), sheared), tmp_path / "s.nii.gz")
    header = nib.load(path).header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (2, 0)
    np.testing.assert_allclose(grids.read(path)[1].affine, sheared)


def test_equal_grids_have_equal_hashes():
    # A spacing that lies on the edge between two numbers of four digits.
    affine = np.diag([0.46875, 0.9375, 1.1, 1.0])
    affine[:3, 3] = [-119.765625, -0.0, 31.7]
    grid = Grid((4, 5, 6), affine)
    stored = Grid((4, 5, 6), affine.astype(np.float32) + 0.0)
    shifted = affine.copy()
    shifted[0, 3] += 0.001
    assert grid == stored
    assert hash(grid) == hash(stored)
    assert len({grid, stored, Grid((4, 5, 6), affine, "mni")}) == 1
    others = [Grid((4, 6, 5), affine), Grid((4, 5, 6), shifted), Grid((4, 5, 6), np.eye(4))]
    assert len({grid, *others}) == 4
    assert grid != affine.tolist()


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


@pytest.fixture(scope="module")
def texture():
    """Structure at every scale, on 2 mm voxels."""
    source = Grid((48, 54, 60), np.diag([2.0, 2.0, 2.0, 1.0]))
    noise = np.random.default_rng(3).normal(size=source.shape)
    return ndimage.gaussian_filter(noise, 0.7).astype(np.float32), source


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_order_of_axes_does_not_matter(texture, order):
    data, source = texture
    straight = Grid((12, 36, 20), np.diag([8.0, 3.0, 6.0, 1.0]))
    permuted = Grid(tuple(straight.shape[axis] for axis in order), straight.affine[:, [*order, 3]])
    expected = grids.resample(data, source, straight)
    found = grids.resample(data, source, permuted)
    np.testing.assert_allclose(found, np.transpose(expected, order), atol=1e-5)
    # And out of a source whose own axes are permuted.
    turned = Grid(tuple(source.shape[axis] for axis in order), source.affine[:, [*order, 3]])
    found = grids.resample(np.transpose(data, order), turned, straight)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("turn_deg", [0.0, 30.0, 45.0])
def test_blur_is_as_wide_in_turned_voxels(turn_deg):
    """A blob spreads by the target's voxel along each axis in space, however the source lies."""
    angle = np.deg2rad(turn_deg)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    source = Grid((81, 81, 81), affine)
    center = source.millimetres([40, 40, 40]).reshape(3, 1, 1, 1)
    squared = np.square(source.centers_mm().numpy() - center)
    blob = np.exp(-squared.sum(0) / (2 * 4.0**2))
    affine = np.diag([6.0, 6.0, 3.0, 1.0])
    affine[:3, 3] = center.ravel() - [6 * 5, 6 * 5, 3 * 10]
    target = Grid((11, 11, 21), affine)
    moved = grids.resample(blob, source, target)
    squared = np.square(target.centers_mm().numpy() - center)
    spread = (moved * squared).sum((1, 2, 3)) / moved.sum()
    expected = 4.0**2 + (np.square([6.0, 6.0, 3.0]) - 1) / (8 * np.log(2))
    np.testing.assert_allclose(spread, expected, rtol=0.005)


def test_sheared_scan_is_resampled_through_its_affine():
    sheared = np.diag([2.0, 2.0, 2.0, 1.0])
    sheared[0, 1] = 0.8
    source = Grid((60, 54, 40), sheared)
    center = source.millimetres([30, 27, 20]).reshape(3, 1, 1, 1)

    def blob(grid):
        return np.exp(-np.square(grid.centers_mm().numpy() - center).sum(0) / (2 * 10.0**2))

    upright = Grid((40, 36, 40), np.diag([3.0, 3.0, 2.0, 1.0]))
    moved = grids.resample(blob(source), source, upright)
    assert np.corrcoef(moved.ravel(), blob(upright).ravel())[0, 1] > 0.999


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


@pytest.mark.parametrize("shape", [(80, 96, 80), (112, 112, 112), (96, 100, 128)])
def test_a_crop_about_the_middle_is_monais(shape):
    whole = grids.mni(2.0)
    image = MetaTensor(torch.zeros(1, *whole.shape), affine=torch.tensor(whole.affine))
    cropped = ResizeWithPadOrCrop(shape)(image)
    found = grids.mni(2.0, shape)
    np.testing.assert_allclose(found.affine, cropped.affine.numpy())
    assert found.shape == tuple(cropped.shape[1:])


def test_any_spacing_will_do_with_a_shape():
    grid = grids.mni(1.5, (128, 150, 128))
    assert grid.spacing_mm == (1.5, 1.5, 1.5)
    middle = grid.millimetres((np.array(grid.shape) - 1) / 2)
    np.testing.assert_allclose(middle, [0, -18, 12])  # of the course's field of view
    with pytest.raises(ValueError, match=r"got 1\.5; with another spacing, say the shape"):
        grids.mni(1.5)
