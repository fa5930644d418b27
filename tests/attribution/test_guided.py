"""Oracles: Captum and MONAI, both on networks that are written so that they can see each ReLU."""

import pytest
import torch
import torch.nn.functional as F
from captum.attr import GuidedBackprop
from monai.networks.blocks.squeeze_and_excitation import ChannelSELayer
from monai.visualize import GuidedBackpropGrad
from networks import SHAPE, Functions, Modules, network, relative, volumes_for
from torch import nn

from helpers import attribution

TARGET = torch.tensor([2, 0])


@pytest.fixture
def volumes():
    # Around zero, so that the first layer's ReLUs are passed in both directions.
    return torch.randn(2, 1, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["modules", "course", "kan2020", "liu2021"])
def test_equals_captum(name, volumes):
    model = network(name)
    ours = attribution.guided_backprop(model, volumes, TARGET)
    oracle = GuidedBackprop(model).attribute(volumes.clone().requires_grad_(), TARGET)
    assert relative(ours, oracle.detach()) < 1e-4
    assert relative(ours, attribution.gradient(model, volumes, TARGET)) > 0.1


@pytest.mark.parametrize("model", [Functions(), Modules(inplace=True)], ids=["calls", "in place"])
def test_finds_every_relu_however_it_is_written(model, volumes):
    expected = attribution.guided_backprop(Modules(), volumes, TARGET)
    assert relative(attribution.guided_backprop(model, volumes, TARGET), expected) < 1e-5


def test_equals_monai_where_modules_are_named_relu(volumes):
    model = nn.Sequential()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, module in [
            ("conv1", nn.Conv3d(1, 4, 3)),
            ("relu1", nn.ReLU()),
            ("conv2", nn.Conv3d(4, 4, 3)),
            ("relu2", nn.ReLU()),
            ("pool", nn.AdaptiveMaxPool3d(1)),
            ("flatten", nn.Flatten()),
            ("linear", nn.Linear(4, 3)),
        ]:
            model.add_module(name, module)
    ours = attribution.guided_backprop(model, volumes[:1], 2)
    oracle = GuidedBackpropGrad(model)(volumes[:1].clone(), index=2)
    assert relative(ours, oracle.detach()) < 1e-4


def test_resnet_with_reused_relus():
    """MONAI's resnet passes one module twice a block. The oracle gets one module a call."""
    model, oracle, volumes = network("resnet10"), network("resnet10"), volumes_for("resnet10")
    for block in (oracle.layer1[0], oracle.layer2[0], oracle.layer3[0], oracle.layer4[0]):
        block.act = Alternating(nn.ReLU(), nn.ReLU())
    ours = attribution.guided_backprop(model, volumes, TARGET)
    theirs = GuidedBackprop(oracle).attribute(volumes.clone().requires_grad_(), TARGET)
    assert relative(ours, theirs.detach()) < 1e-4


class Alternating(nn.Module):
    """Passes its modules in turn."""

    def __init__(self, *parts):
        super().__init__()
        self.parts, self.calls = nn.ModuleList(parts), 0

    def forward(self, features):
        self.calls += 1
        return self.parts[self.calls % len(self.parts)](features)


def test_densenet_differs_from_the_gradient():
    model, volumes = network("densenet121"), volumes_for("densenet121", 1)
    guided = attribution.guided_backprop(model, volumes, 1)
    assert guided.isfinite().all()
    assert relative(guided, attribution.gradient(model, volumes, 1)) > 0.1


class Swish(torch.autograd.Function):
    """An activation with a backward step of its own, as in MONAI's EfficientNet."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, gradients):
        (x,) = ctx.saved_tensors
        return gradients * x.sigmoid() * (1 + x * (1 - x.sigmoid()))


class Other(nn.Module):
    def __init__(self, *activations):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.linear = nn.Conv3d(1, 4, 3), nn.Linear(4, 3)
        self.activations = activations

    def forward(self, volumes):
        features = self.conv(volumes)
        for activation in self.activations:
            features = activation(features)
        return self.linear(features.mean((2, 3, 4)))


@pytest.mark.parametrize(
    ("activation", "called"),
    [
        (F.elu, "elu"),
        (F.gelu, "gelu"),
        (F.silu, "silu"),
        (F.leaky_relu, "leaky_relu"),
        (F.relu6, "relu6"),
        (nn.PReLU(), "prelu"),
        (F.softplus, "softplus"),
        (F.mish, "mish"),
        (F.hardswish, "hardswish"),
        (torch.tanh, "tanh"),
        (F.softsign, "softsign"),
        (lambda x: F.glu(x, 1).repeat(1, 2, 1, 1, 1), "glu"),
        (F.hardsigmoid, "hardsigmoid"),
        (lambda x: F.rrelu(x, training=False), "rrelu"),
        (lambda x: F.threshold(x, 0.1, 0), "threshold"),
        (torch.sigmoid, "sigmoid as an activation"),
        (lambda x: x * torch.sigmoid(x), "sigmoid as an activation"),
        (lambda x: x * (1 * x.sigmoid()).view(x.shape), "sigmoid as an activation"),
        (lambda x: x * x, "mul of things that it computed"),
        (lambda x: x / (1 + x.mean(1, keepdim=True)), "div of things"),
        (lambda x: torch.div(torch.ones(1), 5 + x), "div of"),
        (lambda x: x.clamp(min=0), "clamp"),
        (lambda x: torch.maximum(x, torch.zeros(1)), "maximum"),
        (lambda x: torch.where(x > 0, x, 0), "gt"),
        (lambda x: x * (x > 0), "gt"),
        (lambda x: x * x.detach().sign(), "detach"),
        (lambda x: x * (x.data > 0), "__get__"),
        (lambda x: (x + x.abs()) / 2, "abs"),
        (Swish.apply, "sigmoid"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("relus", [[], [F.relu]], ids=["alone", "beside a ReLU"])
def test_refuses_other_activations_however_they_are_written(activation, called, relus, volumes):
    model = Other(*relus, activation)
    for method in (attribution.guided_backprop, attribution.guided_grad_cam):
        with pytest.raises(ValueError, match=f"no other activation; this one calls .*{called}"):
            method(model, volumes)


def test_refuses_networks_without_relu(volumes):
    with pytest.raises(ValueError, match="networks with ReLU; this one has none"):
        attribution.guided_backprop(Other(), volumes)
    with pytest.raises(ValueError, match="this one calls .*elu"):
        attribution.guided_backprop(network("eitel2022"), volumes_for("eitel2022", 1))


@pytest.mark.parametrize(
    "gate",
    [
        lambda x: x * torch.sigmoid(x.mean((2, 3, 4), keepdim=True)),
        lambda x: x * torch.sigmoid(x.mean((2, 3, 4))).view(*x.shape[:2], 1, 1, 1),
        lambda x: 2 * torch.sigmoid(x.mean(1, keepdim=True)) * x,
    ],
    ids=["channels", "channels, reshaped", "places"],
)
def test_sigmoid_gates_are_no_activations_to_refuse(gate, volumes):
    """The oracle is Captum; it changes the gradients of ReLU modules alone."""
    model = Other(nn.ReLU(), gate)
    model.register_module("relu", model.activations[0])
    ours = attribution.guided_backprop(model, volumes, TARGET)
    oracle = GuidedBackprop(model).attribute(volumes.clone().requires_grad_(), TARGET)
    assert relative(ours, oracle.detach()) < 1e-4


def test_squeeze_and_excitation():
    """MONAI's, with the ReLU inside the gate."""
    torch.manual_seed(0)
    model = Other(ChannelSELayer(3, 4, r=1), nn.ReLU())
    model.parts = nn.ModuleList(model.activations)
    volumes = torch.randn(2, 1, *SHAPE)
    ours = attribution.guided_backprop(model, volumes, TARGET)
    oracle = GuidedBackprop(model).attribute(volumes.clone().requires_grad_(), TARGET)
    assert relative(ours, oracle.detach()) < 1e-4
