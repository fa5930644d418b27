"""Going on after an interruption, damage on the disk, several processes."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from small_study import GRID, contents, explain, network

from helpers import attribution, grids
from helpers.study import explaining

HERE = Path(__file__).parent


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def without_traceback(out):
    """The files of an output, without what says on which lines of code an error arose."""
    found = contents(out)
    for name in [name for name in found if name.endswith("_map.json")]:
        record = json.loads(found[name])
        record.pop("traceback", None)
        found[name] = record
    return found


@pytest.fixture
def done(small, out, finished):
    """An output that is finished."""
    shutil.copytree(finished, out)
    return out


@pytest.mark.parametrize(
    "lost",
    [
        "a_desc-gradient_map.nii.gz",
        "a_space-MNI152NLin2009aSym_res-8_desc-gradient_map.nii.gz",
        "a_desc-gradient_map.png",
        "a_desc-gradient_map.json",
    ],
)
def test_what_is_lost_is_made_again_and_nothing_else(small, done, finished, calls, lost):
    (done / lost).unlink()
    assert explain(small, done) == 0
    assert len(calls) == 1
    assert contents(done) == contents(finished)


@pytest.mark.parametrize(
    ("file", "damages"),
    [
        ("a_desc-gradient_map.nii.gz", ["cut", "flipped", "emptied"]),
        (
            "a_space-MNI152NLin2009aSym_res-8_desc-gradient_map.nii.gz",
            ["cut", "flipped", "emptied"],
        ),
        ("a_desc-gradient_map.png", ["cut", "flipped", "emptied"]),
        ("a_desc-gradient_map.json", ["cut", "flipped", "emptied", "no object"]),
        ("desc-gradient_map.json", ["cut", "flipped", "emptied", "no object"]),
    ],
)
def test_what_is_damaged_is_named_and_made_again(small, done, finished, calls, file, damages):
    whole = (finished / file).read_bytes()
    half = len(whole) // 2
    damaged = {
        "cut": whole[:half],
        "flipped": whole[:half] + bytes([whole[half] ^ 128]) + whole[half + 1 :],
        "emptied": b"",
        "no object": b"[1, 2]",
    }
    for damage in damages:
        (done / file).write_bytes(damaged[damage])
        with pytest.warns(UserWarning, match=f"{file} is damaged"):
            assert explain(small, done) == 0
        assert contents(done) == contents(finished)
    # Each record says for itself with which settings it was made.
    assert len(calls) == (0 if file == "desc-gradient_map.json" else len(damages))


def test_maps_of_other_settings_are_not_taken_for_these(small, done, calls):
    """The settings that would tell them apart are lost; their records still tell."""
    (done / "desc-gradient_map.json").write_bytes(b"")
    with pytest.warns(UserWarning, match="desc-gradient_map.json is damaged"):
        assert explain(small, done, "--target=healthy") == 0
    assert len(calls) == 2
    assert (
        pd.read_csv(done / "group/desc-gradient_scans.tsv", sep="\t")["explained"] == "healthy"
    ).all()


def test_a_stopped_run_goes_on(small, out, finished, capsys, monkeypatch, calls):
    real = explaining.sheet

    def stopped(*arguments, title, **options):
        if title == "b":
            raise KeyboardInterrupt
        return real(*arguments, title=title, **options)

    with monkeypatch.context() as patch:
        patch.setattr(explaining, "sheet", stopped)
        with pytest.raises(SystemExit) as ended:
            explain(small, out)
    assert ended.value.code == 130
    assert "the same command goes on from here" in capsys.readouterr().err
    assert not (out / "b_desc-gradient_map.json").exists()
    assert explain(small, out) == 0
    assert len(calls) == 3
    assert contents(out) == contents(finished)


def test_a_changed_scan_is_explained_again(small, done, brains, calls):
    grids.save(brains[2], GRID, small / "a.nii.gz")
    explain(small, done)
    ((_, _, target),) = calls
    expected = attribution.gradient(network(), brains[2:], target)[0, 0].numpy()
    assert (grids.read(done / "a_desc-gradient_map.nii.gz")[0] == expected).all()


# Killed processes


@pytest.fixture(scope="module")
def forked(tmp_path_factory, prepared):
    """What became of processes that were killed, and the folder with what they wrote.

    They are forked after the slow imports, so that all of them together take seconds.
    """
    place = tmp_path_factory.mktemp("forked")
    done = subprocess.run(
        [
            sys.executable,
            HERE / "forked.py",
            prepared / "tiny.safetensors",
            prepared / "scans",
            place,
        ],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), place, done.stderr


def test_kill_minus_nine_at_ten_moments(forked):
    found, place, _ = forked
    assert found["killed"] >= 5
    whole = contents(place / "whole")
    assert len(whole) == 2 * 4 + 3 + 2
    assert contents(place / "killed") == whole  # no half-written file is left either


def test_nobody_waits_for_a_process_that_stops(forked):
    """One of two has a full disk; no launcher ends the other."""
    found, _, said = forked
    assert found["full"]["ended"] == [2, 2]
    assert found["full"]["seconds"] < 30
    assert said.count("process 1 of 2 ended: CannotWriteError: cannot write") == 1


def test_nobody_waits_for_a_process_that_is_dead(forked):
    found, place, _ = forked
    assert found["dead"]["ended"][0] != 0
    assert found["dead"]["ended"][1] == -9
    assert found["dead"]["seconds"] < 30
    # What the other did before is kept, and nobody did it twice.
    assert (place / "dead/a_desc-gradient_map.json").exists()
    assert not (place / "dead/b_desc-gradient_map.json").exists()


def test_the_end_of_a_larger_share_is_waited_for(forked):
    """One process is done long before the other, longer than a step of a training may take."""
    found, place, _ = forked
    assert found["slow"]["ended"] == [0, 0]
    assert contents(place / "slow") == contents(place / "whole")


# Several processes


EXPLOSIVE = """
import sys
from helpers import attribution
from helpers.command import main

def explosive(model, volumes, target, gradient=attribution.METHODS["gradient"]):
    if volumes.max() > 5:
        raise ArithmeticError("bang")
    return gradient(model, volumes, target)

if __name__ == "__main__":
    attribution.METHODS["gradient"] = explosive
    sys.exit(main())
"""


def test_two_processes_write_the_bytes_of_one(small, tmp_path, brains, monkeypatch, out):
    """One of the scans is damaged and one explodes; the other process does not wait for ever."""
    explosive = brains[0].clone()
    explosive[0, 12, 14, 12] = 6
    grids.save(explosive, GRID, small / "a.nii.gz")
    (small / "c.nii.gz").write_bytes((small / "b.nii.gz").read_bytes()[:2000])
    (tmp_path / "explosive.py").write_text(EXPLOSIVE)
    fabric = [str(Path(sys.executable).parent / "fabric"), "run"]
    done = subprocess.run(
        [
            *[*fabric, "--accelerator=cpu", "--devices=2", "--strategy=ddp"],
            *[tmp_path / "explosive.py", "explain", small, tmp_path / "two"],
            *[f"--model={tmp_path / 'tiny.safetensors'}", "--method=gradient"],
        ],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode != 0  # there are broken scans
    assert done.stdout.count("1 of 3 scans are explained") == 1, done.stderr[-3000:]
    assert done.stderr.count("broken: a.nii.gz: ArithmeticError: bang") == 1
    assert done.stderr.count("broken: c.nii.gz") == 1
    bang = runpy.run_path(str(tmp_path / "explosive.py"))["explosive"]
    monkeypatch.setitem(attribution.METHODS, "gradient", bang)
    assert explain(small, out) == 1
    assert without_traceback(tmp_path / "two") == without_traceback(out)
