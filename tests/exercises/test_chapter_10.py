import pytest

from helpers import exercises
from helpers.activation_maximization.regularizers import Penalty, l2


def verdict(name, answer, capsys) -> bool:
    exercises.check(name, answer)
    said = capsys.readouterr().out
    assert ("right." in said) != ("not yet" in said)
    return "right." in said


def own(function, strength=10.0):
    return Penalty("too bright", strength, function)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("10.1", "c"),
        ("10.1", "(C)"),
        ("10.2", own(lambda v: (v - 1.75).clamp_min(0).mean(dim=(1, 2, 3, 4)))),
        ("10.2", own(lambda v: (v - 1.75).relu().flatten(1).mean(1), 0.5)),
        ("10.3", "b"),
    ],
)
def test_right_answers(name, answer, capsys):
    assert verdict(name, answer, capsys)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("10.1", "a"),
        ("10.1", "b"),
        ("10.2", own(lambda v: (v - 1.75).mean(dim=(1, 2, 3, 4)))),  # rewards darkness
        ("10.2", own(lambda v: v.clamp_min(1.75).mean(dim=(1, 2, 3, 4)))),  # never zero
        ("10.2", own(lambda v: (v - 1.75).clamp_min(0).mean())),  # one number for all
        ("10.2", own(lambda v: (v - 1.75).clamp_min(0).mean(dim=(1, 2, 3, 4)), 0.0)),
        ("10.2", l2(1.0)),
        ("10.2", lambda v: (v - 1.75).clamp_min(0).mean(dim=(1, 2, 3, 4))),
        ("10.3", "a"),
        ("10.3", "c"),
    ],
)
def test_tempting_wrong_answers(name, answer, capsys):
    assert not verdict(name, answer, capsys)
