"""The folded solutions of the chapters pass the checks of their own exercises."""

import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import anatomy, exercises
from helpers.activation_maximization import Objective, logit
from helpers.activation_maximization import regularizers as reg
from helpers.exercises.checks import _exercises

BOOK = Path(__file__).parents[2] / "book"
WORD = re.compile(r"^(?:\((\w)\)|\*\*(\w)\)\*\*)\.")  # (b). or **b)**.
VALUE = re.compile(r"^`([^`]+)`")
CODE = re.compile(r"^```python\n(.*?)```", re.DOTALL)


def solutions() -> dict[str, str]:
    """Return what each chapter shows under an exercise's folded solution."""
    found = {}
    for path in sorted(BOOK.glob("[01]*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        sources = ["".join(cell["source"]) for cell in cells]
        for asked, told in pairwise(sources):
            if name := re.search(r'exercises\.check\("([\d.]+)", answer\)', asked):
                shown = re.search(r"Solution</summary>\s*(.*?)</details>", told, re.DOTALL)
                found[name[1]] = shown[1] if shown else ""
    return found


SOLUTIONS = solutions()


def answer(text: str):
    """Return the answer that a solution begins with: a letter, a value, or code that makes it."""
    if letter := WORD.match(text):
        return letter[1] or letter[2]
    names = {"np": np, "torch": torch, "anatomy": anatomy, "reg": reg, "logit": logit}
    names |= {"brain": anatomy.template(), "Objective": Objective}
    if value := VALUE.match(text):
        return eval(value[1], names)
    exec(CODE.match(text)[1], names)
    return names["answer"]


def test_every_exercise_has_a_solution():
    assert set(SOLUTIONS) == set(_exercises())
    assert all(SOLUTIONS.values())


# The others are worked out in formulas, or need the cohort of their chapter.
SHORT = [
    name
    for name, text in SOLUTIONS.items()
    if any(pattern.match(text) for pattern in (WORD, VALUE, CODE))
]


@pytest.mark.parametrize("name", SHORT)
def test_the_solution_passes(name, capsys):
    exercises.check(name, answer(SOLUTIONS[name]))
    assert f"Exercise {name}: right." in capsys.readouterr().out


def test_most_solutions_are_tried():
    assert len(SHORT) > 0.7 * len(SOLUTIONS)
