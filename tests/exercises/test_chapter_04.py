import pytest
import torch

from helpers import evaluation, exercises, models


def verdict(name, answer, capsys) -> bool:
    exercises.check(name, answer)
    said = capsys.readouterr().out
    assert ("right." in said) != ("not yet" in said)
    return "right." in said


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("4.1", "b"),
        ("4.1", "B)"),
        ("4.2", 0.7),
        ("4.2", torch.tensor(0.7)),
        ("4.3", ("block1", 8)),
        ("4.3", ["block1", 8.0]),
        ("4.4", 0.946),
        ("4.4", 1 - 2 * 0.027),
    ],
)
def test_right_answers(name, answer, capsys):
    assert verdict(name, answer, capsys)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("4.1", "a"),
        ("4.1", "c"),
        ("4.2", 0.5),  # signed: 1 of 2
        ("4.2", 7),  # not divided by the total
        ("4.2", 2 / 6),  # the share of voxels
        ("4.3", ("block1", 4)),  # forgets the pooling
        ("4.3", ("block4", 32)),
        ("4.3", "block1"),
        ("4.4", 0.0),  # the Dice
        ("4.4", 0.973),  # one mask only
        ("4.4", 0.054),
    ],
)
def test_tempting_wrong_answers(name, answer, capsys):
    assert not verdict(name, answer, capsys)


def test_the_toy_map_scores_as_the_exercise_says():
    toy_map = torch.tensor([1.0, -3.0, 0.0, 4.0, -1.0, 1.0]).view(1, 1, 6, 1, 1)
    planted = torch.tensor([0, 1, 0, 1, 0, 0]).bool().view(1, 1, 6, 1, 1)
    score = evaluation.localization(toy_map, planted)
    assert score["relevance_mass"].item() == pytest.approx(0.7)


def test_the_finest_layer_has_eight_millimetre_values():
    network = models.build("course", classes=5).eval()
    features = models.layer(network, "block1")(torch.zeros(1, 1, 48, 56, 48))
    assert 4.0 * 48 / features.shape[2] == 8.0
