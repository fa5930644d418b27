import pytest
import torch

from helpers import exercises


def verdict(name, answer, capsys) -> bool:
    exercises.check(name, answer)
    said = capsys.readouterr().out
    assert ("right." in said) != ("not yet" in said)
    return "right." in said


def own(before, after, sign, margin):
    return (margin - sign * (after - before)).clamp_min(0)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("12.1", "a"),
        ("12.1", "(A)"),
        ("12.2", own),
        ("12.2", lambda b, a, s, m: torch.relu(m - s * (a - b))),
        ("12.3", "b"),
        ("12.4", "c"),
    ],
)
def test_right_answers(name, answer, capsys):
    assert verdict(name, answer, capsys)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("12.1", "b"),
        ("12.1", "c"),
        ("12.2", lambda b, a, s, m: m - s * (a - b)),  # pays for going beyond
        ("12.2", lambda b, a, s, m: (m - (a - b)).relu()),  # forgets the direction
        ("12.2", lambda b, a, s, m: (m + s * (a - b)).relu()),  # the other way
        ("12.2", lambda b, a, s, m: (m - s * (a - b)).relu().mean()),
        ("12.2", lambda b, a, s, m: torch.where(s * (a - b) > 0, 0.0, m)),  # any motion will do
        ("12.3", "a"),
        ("12.3", "c"),
        ("12.4", "a"),
        ("12.4", "b"),
    ],
)
def test_tempting_wrong_answers(name, answer, capsys):
    assert not verdict(name, answer, capsys)
