"""The command that explains a folder of scans, run on brains whose lesions are known."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from helpers import anatomy, attribution, cohorts, explain_folder, grids, models
from helpers.cohorts.report import Report
from helpers.cohorts.scans import find_scans, to_scan
from helpers.grids import Grid

SCRIPT = Path(__file__).parent.parent / "data_scripts" / "explain.py"
MAIN = runpy.run_path(str(SCRIPT))["main"]
GRID = grids.mni()

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


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The same sums in the same order as in the processes that the tests start."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
    return MAIN(["lesion", str(folder), "--method=lrp", f"--output={output}", *map(str, more)])


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


@pytest.fixture
def small(tmp_path, cohort):
    """Two scans on the model's grid, in a folder of their own."""
    for i, name in enumerate(("a", "b")):
        grids.save(cohort.volumes[i], GRID, tmp_path / f"scans/{name}.nii.gz")
    return tmp_path / "scans"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# What is written


def test_maps_lie_on_the_voxels_of_the_scans(folder, output):
    for scan in ("a.nii.gz", "b.nii"):
        original = nib.load(folder / scan)
        written = nib.load(output / f"{scan[0]}_map.nii.gz")
        assert written.shape == original.shape
        np.testing.assert_allclose(written.affine, original.affine, atol=1e-5)
        assert nib.aff2axcodes(written.affine) == nib.aff2axcodes(original.affine)
    assert nib.aff2axcodes(nib.load(folder / "a.nii.gz").affine) != ("R", "A", "S")


def distance_mm(cohort, i, place_mm):
    lesion = GRID.millimetres(np.argwhere(cohort.truth.mask[i, 0].numpy()))
    return np.linalg.norm(lesion - place_mm, axis=1).min()


@pytest.mark.parametrize(("name", "i", "to_mni"), [("a", 0, np.eye(4)), ("b", 1, TO_MNI)])
def test_the_map_is_strongest_in_the_lesion(cohort, output, name, i, to_mni):
    written = nib.load(output / f"{name}_map.nii.gz")
    values = np.abs(written.get_fdata())
    peak = np.unravel_index(values.argmax(), values.shape)
    place = (to_mni @ written.affine @ [*peak, 1])[:3]
    assert distance_mm(cohort, i, place) < 4
    # Had left and right, or front and back, been exchanged, it would not be there.
    assert distance_mm(cohort, i, place * [-1, 1, 1]) > 10
    assert distance_mm(cohort, i, place * [1, -1, 1]) > 10
    row = pd.read_csv(output / "scans.csv").set_index("name").loc[name]
    assert distance_mm(cohort, i, row[["x_mm", "y_mm", "z_mm"]].to_numpy(float)) < 4
    assert row["predicted"] == row["explained"] == cohort.classes[cohort.labels[i]]


def test_on_the_models_voxels_the_map_is_the_methods_to_the_bit(cohort, output):
    expected = attribution.lrp(models.pretrained("lesion"), cohort.volumes[:1])[0, 0].numpy()
    for name in ("a_map.nii.gz", "a_space-MNI152_map.nii.gz"):
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
    table = pd.read_csv(output / "regions.csv").set_index(["name", "region", "side"])
    assert set(table.index.get_level_values("name")) == {"a", "b"}
    values, grid = grids.read(output / "b_space-MNI152_map.nii.gz")
    atlas = anatomy.atlas(grid)
    inside = (atlas.labels == 2).numpy() & (grid.centers_mm()[0] < 0).numpy()
    row = table.loc[("b", "white matter", "left")]
    assert row["mean"] == pytest.approx(values[inside].mean(dtype=float), rel=1e-6)
    assert row["mean_absolute"] == pytest.approx(np.abs(values[inside]).mean(dtype=float), rel=1e-6)
    assert row["voxels"] == inside.sum()


def test_pictures_show_brain_and_map(output):
    for name in ("a", "b"):
        picture = np.asarray(Image.open(output / f"{name}_map.png")).astype(int)
        assert picture.shape[1] * 3 == picture.shape[0] * 4
        orange = picture[..., 0] - picture[..., 2] > 100
        grey = (np.ptp(picture, axis=-1) == 0) & (picture[..., 0] > 80)
        assert orange.sum() > 1000
        assert grey.sum() > 100_000
    assert not (output / "c_map.png").exists()


# Broken scans


def test_a_broken_scan_is_skipped_and_reported(folder, output, capsys):
    summary = json.loads((output / "summary.json").read_text())
    assert [summary[k] for k in ("scans", "explained", "broken")] == [3, 2, 1]
    assert "damaged or not a NIfTI image" in summary["problems"]["c.nii.gz"]
    table = pd.read_csv(output / "scans.csv").set_index("name")
    assert table["problem"].notna().tolist() == [False, False, True]
    assert not list(output.glob("c_*.nii.gz"))
    assert explain_study(folder, output) == 1
    printed = capsys.readouterr()
    assert "2 of 3 scans are explained" in printed.out
    assert "broken: c.nii.gz" in printed.err


def test_scans_that_are_no_standardised_brains(small, tmp_path, cohort):
    grids.save(300 * cohort.volumes[0], GRID, small / "a.nii.gz")
    grids.save(torch.full(GRID.shape, torch.nan), GRID, small / "n.nii.gz")
    (small / "l.nii.gz").symlink_to(small / "never-fetched")
    assert explain(small, tmp_path / "out") == 1
    problems = json.loads((tmp_path / "out/summary.json").read_text())["problems"]
    assert problems.keys() == {"a.nii.gz", "n.nii.gz", "l.nii.gz"}
    assert "expected about 1 in a brain" in problems["a.nii.gz"]
    assert "NaN" in problems["n.nii.gz"]
    assert "no scan at" in problems["l.nii.gz"]
    # Mended, it is explained, and the good one is not done again.
    before = (tmp_path / "out/b_map.json").stat().st_mtime_ns
    grids.save(cohort.volumes[0], GRID, small / "a.nii.gz")
    (small / "l.nii.gz").unlink()
    (small / "n.nii.gz").unlink()
    assert explain(small, tmp_path / "out") == 0
    assert (tmp_path / "out/a_map.nii.gz").exists()
    assert (tmp_path / "out/b_map.json").stat().st_mtime_ns == before


def test_a_scan_that_broke_since_keeps_no_old_map(small, tmp_path):
    assert explain(small, tmp_path / "out") == 0
    (small / "a.nii.gz").write_bytes(b"cut")
    assert explain(small, tmp_path / "out") == 1
    assert [path.name for path in (tmp_path / "out").glob("a_*")] == ["a_map.json"]
    assert set(pd.read_csv(tmp_path / "out/regions.csv")["name"]) == {"b"}


# Going on after an interruption


@pytest.fixture
def calls(monkeypatch):
    """LRP that counts its calls."""
    calls, lrp = [], attribution.lrp

    def counted(*arguments):
        calls.append(arguments)
        return lrp(*arguments)

    monkeypatch.setitem(attribution.METHODS, "lrp", counted)
    return calls


def test_a_second_run_does_nothing(folder, output, calls):
    before = contents(output)
    explain_study(folder, output)
    assert not calls
    assert contents(output) == before


@pytest.mark.parametrize(
    "lost", ["a_map.nii.gz", "a_space-MNI152_map.nii.gz", "a_map.png", "a_map.json"]
)
def test_what_is_lost_is_made_again_and_nothing_else(folder, output, calls, lost):
    before = contents(output)
    (output / lost).unlink()
    explain_study(folder, output)
    assert len(calls) == 1
    assert contents(output) == before


def test_a_killed_run_goes_on(small, tmp_path, monkeypatch, calls):
    out = tmp_path / "out"
    real = explain_folder._write_picture

    def killed(path, *arguments):
        if path.name.startswith("b"):
            raise KeyboardInterrupt
        real(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(explain_folder, "_write_picture", killed)
        with pytest.raises(KeyboardInterrupt):
            explain(small, out)
    assert not (out / "b_map.json").exists()
    assert explain(small, out) == 0
    assert len(calls) == 3
    explain(small, tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")


def test_a_changed_scan_is_explained_again(small, tmp_path, cohort, calls):
    explain(small, tmp_path / "out")
    grids.save(cohort.volumes[2], GRID, small / "a.nii.gz")
    explain(small, tmp_path / "out")
    assert len(calls) == 3
    table = pd.read_csv(tmp_path / "out/scans.csv").set_index("name")
    assert table.loc["a", "predicted"] == cohort.classes[cohort.labels[2]]


# Several processes


def test_two_processes_write_the_bytes_of_one(folder, output, tmp_path):
    fabric = [str(Path(sys.executable).parent / "fabric"), "run"]
    done = subprocess.run(
        [
            *[*fabric, "--accelerator=cpu", "--devices=2", "--strategy=ddp", str(SCRIPT)],
            *["lesion", str(folder), "--method=lrp", f"--output={tmp_path / 'two'}"],
            "--masks=masks/{participant_id}.nii.gz",
            f"--cache={output.parent / 'preprocessed'}",
        ],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode != 0  # there is a broken scan
    assert done.stdout.count("2 of 3 scans are explained") == 1, done.stderr[-3000:]
    assert done.stderr.count("broken: c.nii.gz") == 1
    assert contents(tmp_path / "two") == contents(output)


@pytest.mark.usefixtures("unchecked")  # a stand-in is no Fabric
@pytest.mark.parametrize("rank", [0, 1])
def test_each_process_takes_its_share(small, tmp_path, rank):
    class Half:
        world_size, global_rank, is_global_zero = 2, rank, rank == 0
        device = torch.device("cpu")

        def barrier(self):
            pass

    # Alone, the half run cannot end: the other half's records are missing.
    with pytest.raises(FileNotFoundError, match="_map.json"):
        explain_folder.explain_folder(
            models.pretrained("lesion"), small, tmp_path / "out", method="lrp", fabric=Half()
        )
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == [f"{'ab'[rank]}_map.png"]


# BIDS, options, wrong requests


def test_bids_folder_target_layer_and_atlas(tmp_path, cohort):
    for i, place in enumerate(("sub-1/anat/sub-1_T1w", "sub-2/ses-x/anat/sub-2_ses-x_T1w")):
        grids.save(cohort.volumes[i], GRID, tmp_path / f"bids/{place}.nii.gz")
    labels = (GRID.centers_mm()[1] > 0).float() + 1
    grids.save(labels, GRID, tmp_path / "halves.nii.gz")
    (tmp_path / "halves.csv").write_text("index,name\n1,back\n2,front\n")
    code = MAIN(
        [
            *["lesion", str(tmp_path / "bids"), "--method=grad_cam", "--layer=block4"],
            *["--target=rod", f"--atlas={tmp_path / 'halves.nii.gz'}"],
            f"--atlas-names={tmp_path / 'halves.csv'}",
        ]
    )
    assert code == 0
    output = tmp_path / "bids/derivatives/lesion-grad_cam"
    expected = attribution.grad_cam(
        models.pretrained("lesion"), cohort.volumes[:2], cohort.classes.index("rod"), layer="block4"
    )
    for i, name in enumerate(("sub-1_T1w", "sub-2_ses-x_T1w")):
        written, _ = grids.read(output / f"{name}_map.nii.gz")
        np.testing.assert_allclose(written, expected[i, 0], rtol=1e-4, atol=1e-6)
    assert set(pd.read_csv(output / "regions.csv")["region"]) == {"back", "front"}
    assert (pd.read_csv(output / "scans.csv")["explained"] == "rod").all()


def test_weights_of_ones_own(small, tmp_path, cohort):
    weights = tmp_path / "mine.safetensors"
    shutil.copy(models.WEIGHTS / "lesion.safetensors", weights)
    shutil.copy(models.WEIGHTS / "lesion.json", tmp_path / "mine.json")
    assert MAIN([str(weights), str(small), "--method=gradient"]) == 0
    written, _ = grids.read(small / "derivatives/mine-gradient/b_map.nii.gz")
    expected = attribution.gradient(models.pretrained("lesion"), cohort.volumes[1:2])
    assert np.array_equal(written, expected[0, 0].numpy())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": "tumour"}, "no pretrained weights for 'tumour'; there are"),
        ({"model": "mine.safetensors"}, "no mine.safetensors; weights lie beside a card"),
        ({"--method": "guessing"}, "invalid choice: 'guessing'"),
        ({"--target": "tumour"}, "no class 'tumour'; the model knows ['healthy', 'ball'"),
        ({"--layer": "block4"}, "gradient looks at no layer"),
        ({"--method": "grad_cam", "--layer": "top"}, "no layer 'top'; there are"),
        ({"folder": "nowhere"}, "no folder at nowhere"),
        ({"--masks": "{patient}.nii"}, "unknown placeholder 'patient'"),
        ({"--atlas": "labels.nii"}, "no scan at labels.nii"),
    ],
)
def test_wrong_requests(small, tmp_path, capsys, changed, message):
    wanted = {"model": "lesion", "folder": str(small), "--method": "gradient"}
    model, folder, *options = {**wanted, **changed}.items()
    flags = [f"{name}={value}" for name, value in options]
    with pytest.raises(SystemExit) as stopped:
        MAIN([model[1], folder[1], *flags, f"--output={tmp_path / 'out'}"])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_other_settings_need_another_folder(small, tmp_path, capsys):
    explain(small, tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(SystemExit):
        explain(small, tmp_path / "out", "--target=rod")
    assert "made with" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        explain(small, small)
    assert "would pass for scans" in capsys.readouterr().err
    assert contents(tmp_path / "out") == before


def test_a_card_that_does_not_fit(tmp_path):
    model = models.build("kan2020", 2, (58, 70, 58))
    with pytest.raises(ValueError, match=r"does not say \['classes', 'shape', 'spacing_mm'\]"):
        explain_folder.model_grid(model)
    model.card = {"classes": ["f", "m"], "shape": [58, 70, 58], "spacing_mm": 4.0}
    with pytest.raises(ValueError, match=r"the model reads \(58, 70, 58\) voxels"):
        explain_folder.model_grid(model)


def test_two_files_of_one_name(small):
    shutil.copy(small / "a.nii.gz", small / "a.nii")
    with pytest.raises(ValueError, match=r"several scans of the names \['a'\]"):
        find_scans(small)
