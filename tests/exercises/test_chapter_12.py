import pytest
import torch

from helpers import exercises


def verdict(name, answer, capsys) -> bool:
    exercises.check(name, answer)
    said = capsys.readouterr().out
    assert ("right." in said) != ("not yet" in said)
    return "right." in said


def own(now, typical, sign):
    return (sign * (typical - now)).clamp_min(0)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("12.1", "a"),
        ("12.1", "(A)"),
        ("12.2", own),
        ("12.2", lambda n, t, s: torch.relu(s * t - s * n)),
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
        ("12.2", lambda n, t, s: s * (t - n)),  # pays for going beyond
        ("12.2", lambda n, t, s: (t - n).relu()),  # forgets the direction
        ("12.2", lambda n, t, s: (s * (n - t)).relu()),  # the other way
        ("12.2", lambda n, t, s: (t - n).abs()),  # as far back as there
        ("12.2", lambda n, t, s: (s * (t - n)).relu().mean()),
        ("12.3", "a"),
        ("12.3", "c"),
        ("12.4", "a"),
        ("12.4", "b"),
    ],
)
def test_tempting_wrong_answers(name, answer, capsys):
    assert not verdict(name, answer, capsys)
