"""Networks whose answer is not the volume's alone are refused, all others pass."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.networks import nets
from torch import nn

from helpers import models
from helpers.models.subjectwise import _Steps

SHAPE = (24, 26, 30)


class Net(nn.Module):
    """A small classifier with one step of its own in the middle."""

    def __init__(self, step):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.conv, self.linear = nn.Conv3d(1, 4, 3), nn.Linear(4, 3)
        self.step = step

    def forward(self, volumes):
        features = self.step(self.conv(volumes))
        return self.linear(features.mean((2, 3, 4)))


def check(model):
    volume = torch.rand(1, 1, *SHAPE, generator=torch.Generator().manual_seed(1))
    with models.frozen(model) as network:
        return models.check_subjectwise(network, volume), model(volume)


@pytest.mark.parametrize(
    "step",
    [
        nn.BatchNorm3d(4, track_running_stats=False),
        lambda x: F.batch_norm(x, None, None, training=True),
        lambda x: x.softmax(0),
        lambda x: x - x.mean(0),
        lambda x: x + 0.1 * x.amax(0, keepdim=True),
        lambda x: x / x.norm(),
        lambda x: x - x.mean(),
        lambda x: x + x.sum((0, 2), keepdim=True) / 1e3,
        lambda x: x + F.linear(x.flatten(1), x.flatten(1)).mean(1).view(-1, 1, 1, 1, 1),
        lambda x: torch.cat([x, x.flip(0)], 0)[: len(x)] + x.roll(1, 0),
        lambda x: torch.cat([x[:, :2], x[:, 2:]], dim=0).view(-1, 4, *x.shape[2:]),
    ],
    ids=range(11),
)  # fmt: skip
def test_a_batch_that_mixes_subjects_is_refused(step):
    with pytest.raises(ValueError, match="change by .* when another one is beside it in the batch"):
        check(Net(step))


@pytest.mark.parametrize(
    "step",
    [
        lambda x: F.dropout(x, 0.5),
        lambda x: F.dropout3d(x, 0.1, training=True),
        lambda x: x + 0.01 * torch.randn_like(x),
        lambda x: x + float(np.random.rand()),  # noqa: NPY002
        lambda x: x * random.random(),
        lambda x: F.rrelu(x, training=True),
    ],
    ids=range(6),
)
def test_random_numbers_in_evaluation_are_refused(step):
    with pytest.raises(ValueError, match="draws random numbers in evaluation mode"):
        check(Net(step))


@pytest.mark.parametrize(
    "step",
    [
        nn.Sequential(nn.BatchNorm3d(4), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Dropout3d()),
        nn.InstanceNorm3d(4),
        nn.GroupNorm(2, 4),
        nn.RReLU(),
        lambda x: x.view(x.shape[0], -1).view(x.shape),
        lambda x: x.permute(0, 2, 3, 4, 1).softmax(-1).permute(0, 4, 1, 2, 3),
        lambda x: x - x.mean(dim=(1, 2, 3, 4), keepdim=True),
        lambda x: torch.cat([x, x.flip(2)], dim=1)[:, :4],
    ],
    ids=range(8),
)
def test_ordinary_networks_pass(step):
    logits, alone = check(Net(step))
    torch.testing.assert_close(logits, alone)


@pytest.mark.parametrize("name", ["course", "kan2020", "liu2021", "resnet10"])
def test_the_state_of_the_random_generators_is_left(name):
    before = torch.get_rng_state()
    check(models.build(name, 3, SHAPE))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("model", "passes"),
    [
        (models.build("course"), 1),
        (models.build("kan2020", 3, SHAPE), 1),
        (models.build("liu2021", 3, SHAPE), 1),
        (nets.DenseNet(3, 1, 3, 4, 4, (2, 2)), 1),
        (Net(lambda x: x.flip(2)), 2),
    ],
    ids=range(5),
)
def test_what_is_known_costs_one_pass_of_two_volumes(model, passes):
    sizes = []
    model.eval().register_forward_hook(lambda m, inputs, output: sizes.append(len(inputs[0])))
    volume = torch.rand(1, 1, *SHAPE)
    with models.frozen(model) as network:
        models.check_subjectwise(network, volume)
    assert sizes == [2, 1][:passes]


def test_weights_from_the_volumes_are_no_weights():
    """`linear(x, x)` compares every subject with every other."""
    features = torch.rand(2, 5, requires_grad=True)
    weights = torch.rand(3, 5)
    with _Steps() as steps:
        F.linear(features, weights)
    assert not steps.unknown
    with _Steps() as steps:
        F.linear(features, features)
    assert steps.unknown


def test_a_batch_size_that_is_written_down_is_named():
    with pytest.raises(ValueError, match="takes a volume alone and fails on two.*names the size"):
        check(Net(lambda x: x.view(1, 4, *x.shape[2:])))


def test_logits_that_are_not_finite():
    model = Net(nn.Identity())
    with torch.no_grad():
        model.linear.bias[1] = float("nan")
    with pytest.raises(ValueError, match="look for broken weights"):
        check(model)
