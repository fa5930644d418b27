"""Oracles: Captum's layer activations, the softmax, closed forms."""

import pytest
import torch
from captum.attr import LayerActivation
from torch import nn

from helpers import models
from helpers.activation_maximization import (
    Objective,
    activation,
    channel_mean,
    class_margin,
    diversity,
    logit,
    unit,
)
from helpers.activation_maximization.network import OUTPUT

SHAPE = (16, 20, 24)


@pytest.fixture(scope="module")
def model():
    return models.build("course", 4, SHAPE, seed=1).eval()


@pytest.fixture(scope="module")
def volumes():
    return torch.rand(3, 1, *SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def features(model, volumes):
    return LayerActivation(model, model.block2).attribute(volumes).detach()


class Viewed(nn.Module):
    def forward(self, features):
        return features.view(len(features), -1)


def test_logit_and_margin_are_those_of_the_softmax(model, volumes):
    logits = model(volumes).detach()
    torch.testing.assert_close(activation(model, logit(2), volumes), logits[:, 2])
    probability = logits.double().softmax(1)[:, 2]
    torch.testing.assert_close(
        activation(model, class_margin(2), volumes).double(), torch.logit(probability)
    )


def test_an_index_for_every_image(model, volumes):
    logits = model(volumes).detach()
    chosen = activation(model, logit([2, 0, 3]), volumes)
    torch.testing.assert_close(chosen, logits[range(3), [2, 0, 3]])
    margins = torch.stack(
        [activation(model, class_margin(k), volumes)[i] for i, k in enumerate([2, 0, 3])]
    )
    torch.testing.assert_close(activation(model, class_margin([2, 0, 3]), volumes), margins)


def test_layer_objectives_read_what_captum_reads(model, volumes, features):
    def ours(objective):
        return activation(model, objective, volumes)

    torch.testing.assert_close(ours(channel_mean("block2", 5)), features[:, 5].mean((1, 2, 3)))
    torch.testing.assert_close(ours(unit("block2", 5, (0, 2, 4))), features[:, 5, 0, 2, 4])
    torch.testing.assert_close(ours(unit("block2", 5)), features[:, 5, 2, 2, 3])


def test_what_an_inplace_relu_behind_the_layer_overwrites_is_kept(model, volumes):
    expected = activation(model, channel_mean("block2.0", 1), volumes)
    inplace = models.build("course", 4, SHAPE, seed=1)
    inplace.block2[1] = nn.ReLU(inplace=True)
    plain = models.build("course", 4, SHAPE, seed=1)
    plain.block2[1] = nn.ReLU()
    torch.testing.assert_close(activation(inplace, channel_mean("block2.0", 1), volumes), expected)
    torch.testing.assert_close(activation(plain, channel_mean("block2.0", 1), volumes), expected)


def test_arithmetic(model, volumes):
    def ours(objective):
        return activation(model, objective, volumes)

    a, b = logit(1), channel_mean("block2", 3)
    torch.testing.assert_close(ours(2 * a - b * 0.5), 2 * ours(a) - 0.5 * ours(b))
    torch.testing.assert_close(ours(-a), -ours(a))
    assert set((a + b).layers) == {*a.layers, "block2"}


def test_diversity_of_known_features():
    one = torch.zeros(1, 2, 1, 1, 3)
    one[0, 0, 0, 0, 0] = 2.0
    elsewhere = one.roll(1, dims=4)  # the same channel at another place: the same concept
    other = one.flip(1)  # another channel
    outputs = {"layer": torch.cat([one, elsewhere, other])}
    torch.testing.assert_close(
        diversity("layer").function(outputs), torch.tensor([-0.5, -0.5, 0.0])
    )


def test_an_own_objective_takes_a_few_lines(model, volumes, features):
    def loudest(outputs):
        return outputs["block2"].amax(dim=(1, 2, 3, 4))

    mine = Objective("loudest value", ("block2",), loudest)
    torch.testing.assert_close(activation(model, mine, volumes), features.flatten(1).amax(1))


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (logit(4), "has 4 classes, 0 to 3; there is no 4"),
        (class_margin(-1), "has 4 classes, 0 to 3; there is no -1"),
        (logit([0, 1]), "2 indices .* for a batch of 3 images"),
        (channel_mean("conv9", 0), r"no layer 'conv9'; there are \['block1'"),
        (channel_mean("block2", 16), "block2 has 16 channels, 0 to 15; there is no 16"),
        (unit("block2", 0, (0, 5, 0)), r"has \(4, 5, 6\) places, there is none at \(0, 5, 0\)"),
        (unit("classifier", 0), "has no places; use channel_mean"),
    ],
)
def test_what_does_not_exist(model, volumes, objective, message):
    with pytest.raises(ValueError, match=message):
        activation(model, objective, volumes)


def test_no_others(model, volumes):
    with pytest.raises(ValueError, match="needs two or more"):
        activation(model, diversity("block2"), volumes[:1])


def test_layers_that_are_not_passed_once(model, volumes):
    unused = models.build("course", 4, SHAPE)
    unused.extra = nn.Conv3d(1, 1, 1)
    with pytest.raises(ValueError, match="'extra' was passed 0 times"):
        activation(unused, channel_mean("extra", 0), volumes)
    shared = nn.Sequential(model, nn.ReLU())
    shared.append(shared[1])
    with pytest.raises(ValueError, match="'1' was passed 2 times"):
        activation(shared, channel_mean("1", 0), volumes)


@pytest.mark.parametrize("flatten", [nn.Flatten(), Viewed()], ids=["flatten", "view"])
@pytest.mark.parametrize("logits", [1, 2])
def test_passes_that_frozen_makes_for_itself_do_not_count(volumes, flatten, logits):
    """One logit is looked at twice, and a view reads memory as it lies: captum passes once."""
    convolution = nn.Conv3d(1, 3, 3, padding=1)
    size = 3 * volumes[0].numel()
    network = nn.Sequential(convolution, nn.ReLU(), flatten, nn.Linear(size, logits))
    expected = LayerActivation(network, convolution).attribute(volumes)[:, 1].mean((1, 2, 3))
    found = activation(network, channel_mean("0", 1), volumes)
    torch.testing.assert_close(found, expected)


def test_one_logit_is_two_classes():
    """The logit z speaks for class 1, -z for class 0; the log odds are the same."""
    z = torch.tensor([[2.0], [-1.0]])
    for objective in (logit, class_margin):
        assert objective(1).function({OUTPUT: z}).tolist() == [2, -1]
        assert objective([0, 1]).function({OUTPUT: z}).tolist() == [-2, -1]
        with pytest.raises(ValueError, match="has 2 classes, 0 to 1; there is no 2"):
            objective(2).function({OUTPUT: z})
