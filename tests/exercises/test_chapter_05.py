import pytest
import torch
from torch import nn

from helpers import attribution, exercises, models


def verdict(name, answer, capsys) -> bool:
    exercises.check(name, answer)
    said = capsys.readouterr().out
    assert ("right." in said) != ("not yet" in said)
    return "right." in said


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("5.1", (1, 0)),
        ("5.1", torch.tensor([1.0, 0.0])),
        ("5.2", ("block1", 8)),
        ("5.2", ["block1", 8.0]),
        ("5.3", "c"),
        ("5.3", "(C)"),
        ("5.4", "a"),
        ("5.4", "A."),
    ],
)
def test_right_answers(name, answer, capsys):
    assert verdict(name, answer, capsys)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("5.1", (1, -3)),  # forgets the ReLU
        ("5.1", (2, 0)),  # adds the gradients up, no mean
        ("5.1", (2, 3)),  # gradients voxel by voxel, and their magnitude
        ("5.1", 1),
        ("5.2", ("block1", 4)),  # forgets the pooling
        ("5.2", ("block4", 32)),
        ("5.2", "block1"),
        ("5.3", "a"),
        ("5.3", "b"),
        ("5.4", "b"),
        ("5.4", "c"),
    ],
)
def test_tempting_wrong_answers(name, answer, capsys):
    assert not verdict(name, answer, capsys)


class Toy(nn.Module):
    """Two channels with two places each, and the gradients that the exercise gives."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Conv3d(1, 2, 1, bias=False), nn.ReLU())
        self.layer[0].weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1, 1)

    def forward(self, volumes):
        slopes = torch.tensor([[1.0, 0.0], [0.0, -2.0]]).view(1, 2, 2, 1, 1)
        return (slopes * self.layer(volumes)).sum((1, 2, 3, 4))[:, None]


def test_grad_cam_of_the_toy_layer_is_what_the_exercise_says():
    network, volume = Toy(), torch.tensor([2.0, -3.0]).view(1, 1, 2, 1, 1)
    assert network.layer(volume).flatten().tolist() == [2, 0, 0, 3]
    map_ = attribution.grad_cam(network, volume, 1, layer="layer")
    assert map_.flatten().tolist() == [1, 0]


def test_the_finest_layer_has_eight_millimetre_values():
    network = models.build("course", classes=5).eval()
    features = models.layer(network, "block1")(torch.zeros(1, 1, 48, 56, 48))
    assert 4.0 * 48 / features.shape[2] == 8.0
