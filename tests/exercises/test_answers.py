"""An answer of a wrong kind gets a sentence, whatever it is and whichever exercise it is for."""

import re

import numpy as np
import pandas as pd
import pytest
import torch

from helpers import exercises
from helpers.activation_maximization import Objective
from helpers.activation_maximization.regularizers import Penalty
from helpers.exercises.checks import _exercises

ALL = sorted(_exercises(), key=lambda name: tuple(map(int, name.split("."))))
ODD = {
    "none": None,
    "object": object(),
    "empty text": "",
    "a number as text": "0.67",
    "a count as text": "55296",
    "numbers as text": ("0.2", "0.5"),
    "a word": "zebra",
    "bytes": b"b",
    "not a number": float("nan"),
    "infinite": torch.tensor([float("inf"), 1.0]),
    "complex": 1j,
    "true": True,
    "truths": [True, False],
    "no numbers": [],
    "ragged": ((1, 2), (3,)),
    "a hole": [None, 1.0],
    "a set": {1, 2},
    "a dictionary": {"a": 1},
    "a function": len,
    "a class": int,
    "a volume": torch.zeros(1, 1, 4, 5, 6),
    "an empty table": pd.DataFrame(),
    "a table": pd.DataFrame({"statistic": ["border"], "safe": [None]}),
    "a function that fails": Objective("x", ("block4",), lambda outputs: outputs["nowhere"]),
    "a function of nothing": Penalty("x", 1.0, lambda: 0),
}
SPEECH_OF_PYTHON = re.compile(
    "could not convert|invalid literal|object is not|not iterable|unpack|not supported between"
    "|has no attribute|ambiguous|inhomogeneous|must be a string or|could not read"
)


def says(capsys, name, answer) -> str:
    exercises.check(name, answer)
    return capsys.readouterr().out


@pytest.mark.parametrize("name", ALL)
def test_an_odd_answer_is_told_what_was_expected(name, capsys):
    for kind, answer in ODD.items():
        said = says(capsys, name, answer)
        assert said.startswith(f"Exercise {name}: not yet. "), (kind, said)
        assert not SPEECH_OF_PYTHON.search(said), (kind, said)
        assert " at 0x" not in said, (kind, said)
        assert _exercises()[name].hint in said, (kind, said)


@pytest.mark.parametrize(
    ("name", "answer", "sentence"),
    [
        ("1.1", 17, "Expected 3 numbers; got 17."),
        ("1.3", torch.eye(3), "Expected 4 rows of 4 numbers; got a Tensor of shape (3, 3)."),
        ("1.4", "0.67", "Expected a number; got the text '0.67'. Write numbers without"),
        (
            "3.1",
            "55296",
            "Expected a number; got the text '55296'. Write numbers without quotation",
        ),
        ("3.1", None, "Expected a number; got None, so nothing was returned."),
        ("3.3", (20, 50), "Expected 2 numbers between 0 and 1; got [20, 50]."),
        ("4.5", np.nan, "Expected a number; got nan. Print what went into it"),
        ("4.1", 2, "Expected one letter in quotation marks: a, b or c; got 2."),
        ("1.2", "up", "Expected one of the words 'left', 'right'; got the text 'up'."),
        ("2.1", {"ball": 1.0}, "Expected a dictionary with the keys ball, cube, rod, shell; got"),
        ("5.2", "block1", "Expected a layer's name and a number, such as ('block9', 64); got"),
        ("8.2", 97, "Expected a number between 0 and 1; got 97."),
        ("9.3", 3, "Expected an Objective, such as logit(0); got 3."),
        ("11.1", -19.75, "Expected a number between 0 and 100; got -19.75."),
        ("11.3", (-0.2, "True"), "Expected True or False; got the text 'True'."),
        ("12.2", 1.0, "Expected a function, its name without parentheses; got 1.0."),
    ],
)
def test_the_sentence_names_what_was_expected_and_what_came(name, answer, sentence, capsys):
    assert sentence in says(capsys, name, answer)


def test_a_function_that_fails_is_quoted(capsys):
    broken = Objective("loudest", ("block4",), lambda outputs: outputs["block5"])
    assert "stopped with KeyError: 'block5'." in says(capsys, "9.4", broken)
    shapeless = Objective("loudest", ("block4",), lambda outputs: outputs["block4"].max())
    expected = "Expected a tensor of shape (3,) from your function, one number for each; got"
    assert expected in says(capsys, "9.4", shapeless)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("1.1", [17, 27, 17]),
        ("3.1", 55_296),
        ("3.3", [0.2, 0.5]),
        ("4.2", [0, 0, 1]),
        ("4.4", [[6, -2], [4, 0]]),
        ("4.5", 0.7),
        ("5.1", [1, 0]),
        ("6.2", 6),
        ("6.3", [0.95, 3.73]),
        ("8.2", 0.97),
        ("8.3", [0, 1]),
        ("11.1", 19.75),
        ("13.1", 22.14),
    ],
)
def test_numbers_may_be_python_s_numpy_s_or_pytorch_s(name, values, capsys):
    array, tensor = np.array(values, dtype=float), torch.tensor(values, dtype=torch.float64)
    as_tuple = tuple(values) if isinstance(values, list) else values
    parts = list(tensor) if isinstance(values, list) else tensor[None]
    for answer in (as_tuple, array, array[None], tensor, tensor.clone().requires_grad_(), parts):
        assert f"Exercise {name}: right." in says(capsys, name, answer)


@pytest.mark.parametrize("folds", [True, np.bool_(True), torch.tensor(True)])
def test_a_truth_may_be_python_s_numpy_s_or_pytorch_s(folds, capsys):
    assert "right." in says(capsys, "11.3", (-0.2, folds))
