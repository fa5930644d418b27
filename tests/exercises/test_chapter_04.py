import pytest
import torch
from torch import nn

from helpers import attribution, evaluation, exercises


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
        ("4.2", (0, 0, 1)),
        ("4.2", torch.tensor([0.0, 0.0, 1.0])),
        ("4.3", (0, 6, 4)),
        ("4.3", [0.0, 6.0, 4.0]),
        ("4.4", ((6, -2), (4, 0))),
        ("4.4", torch.tensor([[6.0, -2.0], [4.0, 0.0]])),
        ("4.5", 0.7),
        ("4.5", torch.tensor(0.7)),
        ("4.6", 0.946),
        ("4.6", 1 - 2 * 0.027),
    ],
)
def test_right_answers(name, answer, capsys):
    assert verdict(name, answer, capsys)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("4.1", "a"),
        ("4.1", "c"),
        ("4.2", (1, 4, 1)),  # the slope before the bend
        ("4.2", (0, 0, 4)),  # the way, not the gain
        ("4.2", (0, 0)),
        ("4.2", 1),
        ("4.3", (2, 0, 4)),  # from zeros
        ("4.3", (0, -6, 4)),  # the way backwards
        ("4.3", (2, -3, 1)),  # the gradient
        ("4.4", ((4, 0), (6, -2))),  # the rules exchanged
        ("4.4", ((3, 1), (4, 0))),  # in proportion to magnitudes
        ("4.4", (6, -2)),
        ("4.5", 0.5),  # signed: 1 of 2
        ("4.5", 7),  # not divided by the total
        ("4.5", 2 / 6),  # the share of voxels
        ("4.6", 0.0),  # the Dice
        ("4.6", 0.973),  # one mask only
        ("4.6", 0.054),
    ],
)
def test_tempting_wrong_answers(name, answer, capsys):
    assert not verdict(name, answer, capsys)


class Formula(nn.Module):
    """A "network" with one logit, that of class 1: a formula of a few voxels."""

    def __init__(self, formula):
        super().__init__()
        self.formula = formula
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, volumes):
        return self.formula(volumes.flatten(1))[:, None]


def voxels(*values):
    return torch.tensor(values).view(1, 1, -1, 1, 1)


def test_the_saturated_network_is_explained_as_the_exercise_says():
    network = Formula(lambda x: x[:, 0].clamp(max=1))
    volume = voxels(4.0, 0.0)  # a second voxel, without effect
    with pytest.warns(UserWarning, match="no voxel moves this logit"):
        slope = attribution.gradient(network, volume, 1)
    with pytest.warns(UserWarning, match="no voxel moves this logit"):
        share = attribution.input_x_gradient(network, volume, 1)
    walked = attribution.integrated_gradients(network, volume, 1, steps=400)
    assert slope.flatten().tolist() == share.flatten().tolist() == [0, 0]
    assert walked.flatten().tolist() == pytest.approx([1, 0], abs=0.01)


def test_the_dark_voxel_gets_what_the_exercise_says():
    network = Formula(lambda x: x @ torch.tensor([2.0, -3.0, 1.0]))
    volume = voxels(1.0, 0.0, 4.0)
    baseline = voxels(1.0, 2.0, 0.0)
    shares = attribution.integrated_gradients(network, volume, 1, baseline=baseline)
    assert shares.flatten().tolist() == pytest.approx([0, 6, 4], abs=1e-5)
    from_zeros = attribution.integrated_gradients(network, volume, 1)
    assert from_zeros.flatten().tolist() == pytest.approx([2, 0, 4], abs=1e-5)


@pytest.mark.parametrize(("rule", "shares"), [("epsilon", [6, -2]), ("composite", [4, 0])])
def test_lrp_shares_out_one_unit_as_the_exercise_says(rule, shares):
    network = nn.Sequential(
        nn.Conv3d(1, 1, (2, 1, 1), bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(1, 1, bias=False)
    )
    network[0].weight.data = voxels(2.0, -2.0)
    network[3].weight.data.fill_(1)
    map_ = attribution.lrp(network, voxels(3.0, 1.0), 1, rule=rule)
    assert map_.flatten().tolist() == pytest.approx(shares, abs=1e-4)


def test_the_toy_map_scores_as_the_exercise_says():
    toy, planted = voxels(1.0, -3.0, 0.0, 4.0, -1.0, 1.0), voxels(0, 1, 0, 1, 0, 0).bool()
    score = evaluation.localization(toy, planted, within=planted | True)
    assert score["relevance_mass"].item() == pytest.approx(0.7)
