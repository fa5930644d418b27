"""One bad scan ends nothing; what concerns all scans ends the run at once."""

import errno
import json
import os
import tempfile

import numpy as np
import pandas as pd
import pytest
import torch
from small_study import CARD, CLASSES, GRID, explain, network

from helpers import attribution, grids, study
from helpers.study import Study


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def scans(out):
    return pd.read_csv(out / "group/desc-gradient_scans.tsv", sep="\t")


def regions(out):
    return pd.read_csv(out / "group/desc-gradient_regions.tsv", sep="\t")


def problems(out):
    return json.loads((out / "group/desc-gradient_summary.json").read_text())["problems"]


def test_scans_that_are_no_standardised_brains(small, out, brains):
    grids.save(300 * brains[0], GRID, small / "a.nii.gz")
    grids.save(torch.full(GRID.shape, torch.nan), GRID, small / "n.nii.gz")
    (small / "l.nii.gz").symlink_to(small / "never-fetched")
    assert explain(small, out) == 1
    assert problems(out).keys() == {"a.nii.gz", "n.nii.gz", "l.nii.gz"}
    assert "expected about 1 in a brain" in problems(out)["a.nii.gz"]
    assert "NaN" in problems(out)["n.nii.gz"]
    assert problems(out)["l.nii.gz"] == "it does not exist, or is a link that leads nowhere"
    # Mended, it is explained, and the good one is not done again.
    before = (out / "b_desc-gradient_map.json").stat().st_mtime_ns
    grids.save(brains[0], GRID, small / "a.nii.gz")
    (small / "l.nii.gz").unlink()
    (small / "n.nii.gz").unlink()
    assert explain(small, out) == 0
    assert (out / "a_desc-gradient_map.nii.gz").exists()
    assert (out / "b_desc-gradient_map.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", ["empty", "cut", "bright"])
def test_a_broken_scan_is_named_once(small, out, capsys, brains, damage):
    scan = small / "a.nii.gz"
    if damage == "bright":
        grids.save(300 * brains[0], GRID, scan)
    else:
        scan.write_bytes(b"" if damage == "empty" else scan.read_bytes()[:900])
    assert explain(small, out) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "broken" in line]
    assert line.count("a.nii.gz") == 1
    assert line == f"broken: a.nii.gz: {problems(out)['a.nii.gz']}"
    found = scans(out).set_index("scan").loc["a.nii.gz", "problem"]
    assert found == problems(out)["a.nii.gz"]
    assert found.startswith("it lies on" if damage == "bright" else "it is damaged or not a NIfTI")


def test_a_scan_that_broke_since_keeps_no_old_map(small, out):
    assert explain(small, out) == 0
    (small / "a.nii.gz").write_bytes(b"cut")
    assert explain(small, out) == 1
    assert [path.name for path in out.glob("a_*")] == ["a_desc-gradient_map.json"]
    assert set(regions(out)["name"]) == {"b"}


def test_no_good_scan_at_all(small, out):
    for file in small.iterdir():
        file.write_bytes(b"cut")
    assert explain(small, out) == 1
    assert scans(out)["problem"].notna().all()
    assert regions(out).empty


@pytest.fixture
def explodes(monkeypatch, brains):
    """Let the method raise an error for some volumes; count its calls."""

    def install(error, which=lambda volumes: torch.equal(volumes, brains[:1])):
        calls, gradient = [], attribution.gradient

        def explosive(model, volumes, target):
            calls.append(volumes)
            if which(volumes):
                raise error
            return gradient(model, volumes, target)

        monkeypatch.setitem(attribution.METHODS, "gradient", explosive)
        return calls

    return install


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (RuntimeError("bang"), "RuntimeError: bang"),
        (ValueError("odd"), "ValueError: odd"),
        (KeyError("x"), "KeyError: 'x'"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_an_error_inside_a_method_breaks_one_scan(small, out, capsys, explodes, error, problem):
    calls = explodes(error)
    assert explain(small, out) == 1
    assert f"broken: a.nii.gz: {problem}" in capsys.readouterr().err
    table = scans(out).set_index("name")
    assert table["problem"].notna().tolist() == [True, False]
    assert table.loc["a", "problem"] == problem
    assert problems(out) == {"a.nii.gz": problem}
    assert [path.name for path in out.glob("a_*")] == ["a_desc-gradient_map.json"]
    # A mistake in the program is not swallowed: the record says where it was made.
    assert "in explosive" in json.loads((out / "a_desc-gradient_map.json").read_text())["traceback"]
    assert len(calls) == 3  # the two scans, and the template's brain to see whose fault it is


def test_what_fails_on_every_brain_ends_the_run_at_once(small, out, capsys, explodes):
    calls = explodes(ValueError("this network has no ReLU"), which=lambda volumes: True)
    with pytest.raises(SystemExit) as stopped:
        explain(small, out)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "gradient fails with this network on the template's brain as well" in said
    assert "ValueError: this network has no ReLU" in said
    assert "Traceback" not in said
    assert len(calls) == 2
    assert not (out / "group").exists()


def test_a_network_that_answers_nan_ends_the_run_at_once(small, out, capsys, monkeypatch):
    nothing = {"gradient": lambda model, volumes, target: torch.full_like(volumes, torch.nan)}
    monkeypatch.setattr(attribution, "METHODS", nothing)
    with pytest.raises(SystemExit):
        explain(small, out)
    assert "the network's answer or the map is not finite" in capsys.readouterr().err


def test_a_map_outside_the_brain_is_warned_about(small, out, monkeypatch):
    corner = torch.zeros(1, 1, *GRID.shape)
    corner[..., 0, 0, 0], corner[..., 12, 14, 12] = -3, 1
    monkeypatch.setitem(attribution.METHODS, "gradient", lambda *arguments: corner)
    assert explain(small, out) == 0
    table = scans(out)
    assert table["share_outside_brain"].tolist() == [0.75, 0.75]
    assert table["warnings"].str.contains("75% of the map lies outside the brain").all()
    assert json.loads((out / "group/desc-gradient_summary.json").read_text())["with_warnings"] == 2
    corner[..., 12, 14, 12] = 4
    assert explain(small, out.with_name("inside")) == 0
    assert scans(out.with_name("inside"))["warnings"].isna().all()


# Networks


class OneOutput(torch.nn.Module):
    """A small network with one output; what becomes of it is up to the caller."""

    def __init__(self, finish=lambda logit: logit):
        super().__init__()
        self.convolution, self.linear = torch.nn.Conv3d(1, 2, 3), torch.nn.Linear(2, 1)
        self.finish = finish
        self.card = CARD

    def forward(self, volumes):
        features = torch.relu(self.convolution(volumes)).mean((2, 3, 4))
        return self.finish(self.linear(features - 0.3))


def test_one_logit_explains_the_side_that_was_decided(small, out, brains):
    """The sigmoid of the logit is the second class's probability; its sign decides."""
    model = OneOutput()
    with torch.no_grad():  # one brain on either side
        logits = model(brains[:2])
        model.linear.bias -= logits.mean()
        z = model(brains[:2])[:, 0]
    assert z.prod() < 0
    table = study.explain(Study(small, out), model, method="gradient", progress=False)
    assert table["predicted"].tolist() == [CLASSES[int(logit > 0)] for logit in z]
    expected = torch.sigmoid(z.abs()).tolist()
    assert table["predicted_probability"].tolist() == pytest.approx(expected, abs=1e-5)
    for name, volume, logit in zip("ab", brains[:2], z, strict=True):
        seen = volume[None].clone().requires_grad_()
        (model(seen).sum() * logit.sign()).backward()
        written = grids.read(out / f"{name}_desc-gradient_map.nii.gz")[0]
        np.testing.assert_allclose(written, seen.grad[0, 0], rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(
    ("finish", "message"),
    [
        (lambda logit: (logit, logit), "the network puts out a tuple; wrap it"),
        (torch.sigmoid, "ends in a sigmoid: its one output is a probability"),
        (lambda logit: logit.expand(-1, 3), r"tells 3 classes apart, its card names \['healthy', "),
    ],
)
def test_networks_that_are_refused(small, out, finish, message):
    model = OneOutput(finish)
    with pytest.raises(ValueError, match=message):
        study.explain(Study(small, out), model, method="gradient", progress=False)
    assert not list(out.glob("*_map.nii.gz"))


def test_half_precision_weights_are_computed_in_single(small, out):
    half = network().half()
    study.explain(Study(small, out), half, method="gradient", progress=False)
    exact = network().half().float()
    other = Study(small, out.with_name("exact"))
    study.explain(other, exact, method="gradient", progress=False)
    for name in ("a_desc-gradient_map.nii.gz", "b_desc-gradient_map.nii.gz"):
        assert (out / name).read_bytes() == (out.with_name("exact") / name).read_bytes()


# The disk


def stopped_by_the_disk(small, out, capsys):
    with pytest.raises(SystemExit) as stopped:
        explain(small, out)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said.strip().splitlines()[-1]  # before it, the bar


def test_a_file_where_the_output_should_be(small, out, capsys):
    out.write_text("in the way")
    assert f"cannot write {out / 'dataset_description.json'}" in stopped_by_the_disk(
        small, out, capsys
    )


def test_a_read_only_output(small, out, capsys, monkeypatch):
    def refuse(**where):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), where["dir"])

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    said = stopped_by_the_disk(small, out, capsys)
    assert said.endswith(f"cannot write {out / 'dataset_description.json'}: Read-only file system")


@pytest.mark.parametrize(
    "file",
    [
        "a_space-MNI152NLin2009aSym_res-8_desc-gradient_map.nii.gz",
        "b_desc-gradient_map.png",
        "b_desc-gradient_map.json",
    ],
)
def test_a_disk_that_fills_up(small, out, capsys, monkeypatch, file):
    real, full = os.fsync, []

    def fsync(handle):
        if os.readlink(f"/proc/self/fd/{handle}").endswith(f"-{file[-24:]}") and not full:
            full.append(file)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    said = stopped_by_the_disk(small, out, capsys)
    assert said.endswith(f"cannot write {out / file}: No space left on device")
    assert not (out / "group").exists()
    assert explain(small, out) == 0  # with room again, it goes on
    assert np.isfinite(scans(out)["strongest"]).all()
