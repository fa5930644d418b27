"""The committed leaderboard is of the networks that ship, and nobody is missing on it."""

import runpy
import sys
from pathlib import Path

import pytest

from helpers import keyed, models, results
from helpers.evaluation import two_truths

SCRIPTS = Path(__file__).parents[2] / "data_scripts"


@pytest.fixture(scope="module")
def program():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(SCRIPTS), *sys.path])
        yield runpy.run_path(str(SCRIPTS / "benchmark.py"))


@pytest.fixture(scope="module")
def board():
    return results.read("leaderboard")


def measured(board, task, method, form="absolute"):
    (row,) = (
        row
        for row in board["rows"]
        if (row["task"], row["method"], row["form"]) == (task, method, form)
    )
    return row["measures"]


def test_its_networks_are_those_that_ship(program, board):
    assert board["tasks"].keys() == program["NETWORKS"].keys()
    for task, seeds in program["NETWORKS"].items():
        found = {k: facts["sha256"] for k, facts in board["tasks"][task]["networks"].items()}
        assert found == {
            str(seed): keyed.fingerprint(models.pretrained(task, seed=seed)) for seed in seeds
        }


def test_every_entrant_has_both_forms_on_every_task_and_none_failed(program, board):
    assert not [row for row in board["rows"] if "problem" in row]
    found = sorted((row["task"], row["method"], row["form"]) for row in board["rows"])
    assert found == sorted(
        (task, method, form)
        for task in program["NETWORKS"]
        for method in program["entrants"](task)
        for form in two_truths.FORMS
    )


def test_random_numbers_know_neither_truth(board):
    """A score that random numbers win would be no score."""
    for task in board["tasks"]:
        measures = measured(board, task, "random numbers")
        assert measures["average_precision"][0] < 0.2
        assert measures["voxel_auc"][0] == pytest.approx(0.5, abs=0.02)
        for name in {"within_pearson", "across_pearson"} & measures.keys():
            assert abs(measures[name][0]) < 0.2
