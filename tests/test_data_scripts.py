"""The command-line programs run, and what they write can be read back."""

import runpy
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import pandas as pd
import pytest
import torch

from helpers import attribution, cohorts, grids, models, results

SCRIPTS = Path(__file__).parent.parent / "data_scripts"


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, SCRIPTS / script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("script", sorted(path.name for path in SCRIPTS.glob("*.py")))
def test_every_script_explains_itself(script, monkeypatch, capsys):
    monkeypatch.syspath_prepend(SCRIPTS)  # as Python does for a script
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit, match="^0$"):
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    assert "usage:" in capsys.readouterr().out


def test_simulated_cohort_on_disk_is_the_one_in_memory(tmp_path):
    done = run("simulate_cohort.py", "lesion", tmp_path, "--subjects=3", "--spacing-mm=8")
    assert done.returncode == 0, done.stderr
    cohort = cohorts.simulate("lesion", 3, grid=grids.mni(8.0))
    table = pd.read_csv(tmp_path / "participants.tsv", sep="\t")
    assert table["diagnosis"].tolist() == cohort.participants["diagnosis"].tolist()
    for i, name in enumerate(table["participant_id"]):
        scan = nib.load(tmp_path / name / "anat" / f"{name}_T1w.nii.gz")
        assert (scan.get_fdata() == cohort.volumes[i, 0].numpy()).all()
        assert (scan.affine == cohort.grid.affine).all()
        mask = nib.load(tmp_path / "derivatives/truth" / name / "anat" / f"{name}_mask.nii.gz")
        assert mask.get_fdata().sum() == cohort.truth.mask[i].sum()


def test_the_leaderboard_of_retrained_networks_is_a_new_one(tmp_path, monkeypatch):
    script = runpy.run_path(str(SCRIPTS / "score_methods.py"))
    cohort = cohorts.simulate("lesion", 4, grid=grids.mni(8.0))
    model = models.build("course", 5, cohort.grid.shape).eval()
    model.card = {"task": "lesion"}
    scored, written = [], []
    score = script["score"]

    def watched(name, model, cohort):
        scored.append(name)
        return score(name, model, cohort)

    names = script["main"].__globals__
    for name, value in {
        "TASKS": {"lesion": (0,)},
        "BASELINES": {"(brightness)": lambda volumes: volumes},
        "affected": lambda task: cohort[cohort.labels > 0],
        "score": watched,
        "_forgotten": lambda *_: {},
    }.items():
        monkeypatch.setitem(names, name, value)
    methods = {"gradient": attribution.METHODS["gradient"]}
    monkeypatch.setattr(attribution, "METHODS", methods)
    monkeypatch.setattr(models, "pretrained", lambda task, seed: model)
    monkeypatch.setattr(results, "write", lambda name, result: written.append(result["scores"]))
    monkeypatch.setattr(sys, "argv", ["score_methods.py", f"--parts={tmp_path}"])
    script["main"]()
    script["main"]()
    assert scored == ["gradient", "(brightness)"]
    assert written[0] == written[1]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    with pytest.warns(UserWarning, match="model is .* in the file and .* now; computed anew"):
        script["main"]()
    assert len(scored) == 4
    assert written[2] != written[0]


def test_the_leaderboard_simulates_its_people_once(monkeypatch):
    script = runpy.run_path(str(SCRIPTS / "score_methods.py"))
    small, seeds = grids.mni(8.0), []
    simulate = cohorts.simulate

    def watched(task, subjects, seed):
        seeds.append((task, seed))
        return simulate(task, min(subjects, 12), seed, grid=small)

    monkeypatch.setattr(cohorts, "simulate", watched)
    cohort = simulate("lesion", 2, grid=small)
    for seed in (0, 1):  # two networks that were trained alike
        network = models.build("course", 5, cohort.grid.shape, seed=seed).eval()
        script["explain"]("expected_gradients", network, "lesion", cohort)
        script["BASELINES"]["(distance from healthy mean)"](cohort.volumes)
    assert seeds == [("lesion", 502), ("lesion", 501)]
