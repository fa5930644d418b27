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
    board = results.read("leaderboard")
    # Whoever adds a method of their own keeps a green test.
    return {**board, "rows": [row for row in board["rows"] if row["kind"] != "yours"]}


def measured(board, task, method, form="absolute"):
    (row,) = (
        row
        for row in board["rows"]
        if (row["task"], row["method"], row["form"]) == (task, method, form)
    )
    return row["measures"]


def test_its_networks_are_those_that_ship(program, board):
    for task in board["tasks"]:
        seeds = program["NETWORKS"][task]
        found = {k: facts["sha256"] for k, facts in board["tasks"][task]["networks"].items()}
        assert found == {
            str(seed): keyed.fingerprint(models.pretrained(task, seed=seed)) for seed in seeds
        }


def test_every_entrant_has_both_forms_on_every_task_and_none_failed(program, board):
    assert not [row for row in board["rows"] if "problem" in row]
    found = sorted((row["task"], row["method"], row["form"]) for row in board["rows"])
    assert board["tasks"].keys() == program["NETWORKS"].keys()
    assert found == sorted(
        (task, method, form)
        for task in board["tasks"]
        for method in program["entrants"](task, program["SimulatedHeads"]())
        for form in two_truths.FORMS
    )


def test_random_numbers_know_neither_truth(board):
    """A score that random numbers win would be no score."""
    guess = {"voxel_auc": 0.5, "within_pearson": 0.0, "across_pearson": 0.0}
    for task in board["tasks"]:
        measures = measured(board, task, "random numbers")
        for name in guess.keys() & measures.keys():
            _, low, high = measures[name]
            assert low < guess[name] < high
