import pytest

from helpers import exercises
from helpers.activation_maximization import Objective, channel_mean, logit


def verdict(name, answer, capsys) -> bool:
    exercises.check(name, answer)
    said = capsys.readouterr().out
    assert ("right." in said) != ("not yet" in said)
    return "right." in said


def own(function, layers=("block4",)):
    return Objective("loudest value", layers, function)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("9.1", "b"),
        ("9.1", "(B)"),
        ("9.3", logit(3) - logit(1)),
        ("9.3", -1 * logit(1) + logit(3)),
        ("9.4", own(lambda outputs: outputs["block4"].amax(dim=(1, 2, 3, 4)))),
        ("9.4", own(lambda outputs: outputs["block4"].flatten(1).max(dim=1).values)),
        ("9.2", "a"),
    ],
)
def test_right_answers(name, answer, capsys):
    assert verdict(name, answer, capsys)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("9.1", "a"),
        ("9.1", "c"),
        ("9.3", logit(1) - logit(3)),  # the other way round
        ("9.3", logit(2) - logit(0)),  # counted without healthy
        ("9.3", logit(3)),
        ("9.3", "logit(3) - logit(1)"),
        ("9.4", own(lambda outputs: outputs["block4"].mean(dim=(1, 2, 3, 4)))),
        ("9.4", own(lambda outputs: outputs["block4"].max())),  # one number for all
        ("9.4", own(lambda outputs: outputs["block4"].amax(dim=(2, 3, 4)))),  # one a channel
        ("9.4", own(lambda outputs: outputs["block4"].amax(dim=(1, 2, 3, 4)), ("block3",))),
        ("9.4", channel_mean("block4", 0)),
        ("9.2", "b"),
        ("9.2", "c"),
    ],
)
def test_tempting_wrong_answers(name, answer, capsys):
    assert not verdict(name, answer, capsys)
