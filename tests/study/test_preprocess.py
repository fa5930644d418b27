"""The command that preprocesses a folder: all cores, and one bad scan ends nothing."""

import errno
import hashlib
import os
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from helpers import anatomy, command, grids
from helpers.cohorts import bids, registration
from helpers.cohorts.scans import Scan
from helpers.runtime import generator
from helpers.study import Study

GRID = grids.mni(8.0)
BRAIN = anatomy.template(GRID)
NAMES = ["sub-01", "sub-02", "sub-03", "sub-04"]


@pytest.fixture
def study(tmp_path):
    """Three people, and one whose scan is cut."""
    for number, name in enumerate(NAMES):
        noise = torch.rand(GRID.shape, generator=generator(0, number))
        path = tmp_path / f"study/{name}/anat/{name}_T1w.nii.gz"
        grids.save(100 * BRAIN.t1[0] * (1 + 0.1 * noise), GRID, path)
        grids.save(BRAIN.mask[0].float(), GRID, tmp_path / f"study/masks/{name}.nii.gz")
    path.write_bytes(path.read_bytes()[:2000])
    return tmp_path / "study"


@pytest.fixture
def unregistered(monkeypatch):
    """Replace the registration, which has its own tests."""
    monkeypatch.setattr(registration, "register", lambda *_, **__: (np.eye(4), 0.5))


@pytest.fixture
def run(study, tmp_path):
    def run(*more):
        return command.main(
            ["preprocess", str(study), str(tmp_path / "out"), "--spacing-mm=8", *more]
        )

    return run


def volumes(out):
    return {
        path.relative_to(out): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in out.rglob("*.nii.gz")
    }


@pytest.mark.usefixtures("unregistered")
@pytest.mark.filterwarnings("ignore::helpers.errors.LeftOutWarning")
def test_two_processes_make_the_bytes_of_one(run, study, tmp_path, capsys):
    masks = "masks/{participant_id}.nii.gz"  # with them, the template is not needed
    assert run("--n-procs=1", f"--masks={masks}") == 1
    one = volumes(tmp_path / "out")
    table = pd.read_csv(tmp_path / "out/group/desc-preproc_scans.tsv", sep="\t")
    for name in one:  # the registrations, which are replaced in this process only, are kept
        (tmp_path / "out" / name).unlink()
    assert run("--n-procs=2", f"--masks={masks}") == 1
    assert volumes(tmp_path / "out") == one
    assert len(one) == 3
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "out/group/desc-preproc_scans.tsv", sep="\t"), table
    )
    assert table["participant_id"].tolist() == NAMES
    assert table["problem"].notna().tolist() == [False, False, False, True]
    printed = capsys.readouterr()
    assert printed.out.count("3 of 4 scans are preprocessed in") == 2
    assert "broken: sub-04/anat/sub-04_T1w.nii.gz" in printed.err
    options = {"n_procs": 2, "on_error": "skip", "progress": False}
    cohort = bids.from_bids(study, None, grid=GRID, masks=masks, cache=tmp_path / "out", **options)
    assert cohort.participants["participant_id"].tolist() == NAMES[:3]


@pytest.mark.usefixtures("unregistered")
@pytest.mark.filterwarnings("ignore::helpers.errors.LeftOutWarning")
def test_masks_are_named_once(run, study, tmp_path):
    """Without them the brains would be cut out anew, by the template's mask; others do that."""
    masks = "masks/{participant_id}.nii.gz"
    assert run("--n-procs=1", f"--masks={masks}") == 1
    kept, out = volumes(tmp_path / "out"), tmp_path / "out"
    assert Study(study, out).masks == masks
    assert run("--n-procs=1") == 1
    assert volumes(out) == kept
    assert Study(study, tmp_path / "other", preprocessed=out).masks == masks
    assert Study(study, tmp_path / "other").masks is None
    others = shutil.copytree(study, tmp_path / "others")
    assert Study(others, out).masks is None  # they have been made of other people
    shutil.copytree(study / "masks", study / "again")
    assert run("--n-procs=1", "--masks=again/{participant_id}.nii.gz") == 1
    assert Study(study, out).masks == "again/{participant_id}.nii.gz"


@pytest.mark.parametrize("error", [TypeError("a mistake"), MemoryError("too large")])
def test_an_error_in_one_scan_stops_no_other(run, study, tmp_path, monkeypatch, capsys, error):
    def exploding(scan, *arguments, real=Scan.prepare):
        if "sub-02" in scan.name:
            raise error
        return real(scan, *arguments)

    monkeypatch.setattr(Scan, "prepare", exploding)
    monkeypatch.setattr(registration, "register", lambda *_, **__: (np.eye(4), 0.5))
    assert run("--n-procs=1") == 1
    table = pd.read_csv(tmp_path / "out/group/desc-preproc_scans.tsv", sep="\t")
    assert table["problem"].notna().tolist() == [False, True, False, True]
    expected = f"{type(error).__name__}: {error} (in exploding, test_preprocess.py, line "
    assert table.loc[1, "problem"].startswith(expected)
    assert f"broken: sub-02/anat/sub-02_T1w.nii.gz: {expected}" in capsys.readouterr().err


def refused(run, capsys, *more):
    with pytest.raises(SystemExit) as stopped:
        run(*more)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said.splitlines()[-1]


@pytest.mark.usefixtures("unregistered")
def test_a_full_disk_ends_the_run(run, tmp_path, monkeypatch, capsys):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    said = refused(run, capsys, "--n-procs=1")
    assert f"cannot write {tmp_path / 'out'}/" in said
    assert said.endswith("No space left on device")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--spacing-mm=3"], "spacing_mm must divide"),
        (["--masks={person}.nii"], "unknown placeholder 'person'"),
        (["--n-procs=0"], "n_procs must be 1 or more"),
    ],
)
def test_wrong_requests(run, tmp_path, capsys, more, message):
    assert message in refused(run, capsys, *more)
    assert not (tmp_path / "out").exists()


def test_folders_that_do_not_fit(run, study, tmp_path, capsys):
    path = study / "sub-01/anat/sub-01_T1w.nii.gz"
    path.rename(path.with_name(os.fsdecode(b"sub-01_caf\xe9_T1w.nii.gz")))
    assert "is not UTF-8" in refused(run, capsys)
    (tmp_path / "out").symlink_to(study)
    for scan in study.glob("*/anat/*.gz"):
        scan.unlink()
    assert "no scan in" in refused(run, capsys)


def test_ctrl_c_ends_with_a_sentence(run, monkeypatch, capsys):
    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Scan, "prepare", stopped)
    with pytest.raises(SystemExit) as ended:
        run("--n-procs=1")
    assert ended.value.code == 130
    assert capsys.readouterr().err.endswith("stopped; the same command goes on from here\n")
