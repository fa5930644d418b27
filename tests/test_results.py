"""Parts of long computations are read back for the same question only."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from helpers import results
from helpers.errors import CannotWriteError


class Counted:
    """Counts how often something was really computed."""

    def __init__(self):
        self.calls = 0

    def score(self, network, *, samples=3):
        self.calls += 1
        value = float(network.weight.detach().sum()) * samples
        table = pd.DataFrame(
            {"name": ["a", "b"], "count": [1, 2], "score": [value, np.nan], "right": [True, False]}
        )
        return {"map": network.weight.detach()[:, 0], "table": table, "counts": {"n": np.int64(2)}}


@pytest.fixture
def counted():
    return Counted()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "parts" / "score.safetensors"


def test_the_second_time_it_is_read_and_the_same(counted, path):
    network = nn.Linear(2, 3)
    first = results.part(path, counted.score, network)
    again = results.part(path, counted.score, network, samples=3)
    assert counted.calls == 1
    fresh = counted.score(network)
    for found in (first, again):
        assert torch.equal(found["map"], fresh["map"])
        pd.testing.assert_frame_equal(found["table"], fresh["table"])
        assert found["counts"] == {"n": 2}


def test_after_retraining_it_is_computed_anew(counted, path):
    network = nn.Linear(2, 3)
    before = results.part(path, counted.score, network)
    with torch.no_grad():
        network.weight[2, 0] += 1e-6
    with pytest.warns(UserWarning, match="network is .* in the file and .* now; computed anew"):
        after = results.part(path, counted.score, network)
    assert not torch.equal(before["map"], after["map"])
    with pytest.warns(UserWarning, match="samples is .* computed anew"):
        results.part(path, counted.score, network, samples=4)
    assert counted.calls == 3


def test_other_code_is_computed_anew(counted, path, monkeypatch):
    network = nn.Linear(2, 3)
    results.part(path, counted.score, network)
    monkeypatch.setattr(results, "_code", lambda program: "changed")
    with pytest.warns(UserWarning, match="code is .* in the file and changed now"):
        results.part(path, counted.score, network)
    assert counted.calls == 2


def test_the_code_is_that_of_the_package_and_of_the_program(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("pass")
    before = results._code(str(program))
    assert before != results._code(None)
    results._code.cache_clear()
    assert results._code(str(program)) == before
    program.write_text("pass  # changed")
    results._code.cache_clear()
    assert results._code(str(program)) != before


def test_a_damaged_part_is_computed_anew_and_a_killed_one_leaves_nothing(counted, path):
    network = nn.Linear(2, 3)
    results.part(path, counted.score, network)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="is damaged.*computed anew"):
        results.part(path, counted.score, network)

    def killed():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        results.part(path.with_name("other"), killed)
    assert list(path.parent.iterdir()) == [path]


SCRIPTS = Path(__file__).parent.parent / "data_scripts"


@pytest.mark.parametrize(
    "script",
    [*SCRIPTS.glob("maximize_*.py"), *SCRIPTS.glob("score_*.py")],
    ids=lambda path: path.stem,
)
def test_programs_keep_their_parts_in_no_other_way(script):
    text = script.read_text()
    assert not [way for way in ("torch.load", "read_csv", "to_csv", "pickle") if way in text]


def test_a_name_that_no_file_can_have_is_one_sentence(counted, tmp_path):
    path = tmp_path / os.fsdecode(b"\xff.safetensors")
    with pytest.raises(CannotWriteError, match=r"udcff\.safetensors': its name is not UTF-8"):
        results.part(path, counted.score, nn.Linear(2, 3))
