import math

import pytest

from helpers import exercises


def verdict(name, answer, capsys) -> bool:
    exercises.check(name, answer)
    said = capsys.readouterr().out
    assert ("right." in said) != ("not yet" in said)
    return "right." in said


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("13.1", 22),
        ("13.1", 100 * (math.exp(0.2) - 1)),
        ("13.2", "b"),
        ("13.3", "(c)"),
    ],
)
def test_right_answers(name, answer, capsys):
    assert verdict(name, answer, capsys)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("13.1", 20),  # the logarithm taken for per cent
        ("13.1", 0.2214),  # a share
        ("13.1", 100 * (1 - math.exp(-0.2))),  # the other sign
        ("13.1", 58),  # the logarithm to base 10
        ("13.2", "a"),
        ("13.2", "c"),
        ("13.3", "a"),
        ("13.3", "b"),
    ],
)
def test_tempting_wrong_answers(name, answer, capsys):
    assert not verdict(name, answer, capsys)
