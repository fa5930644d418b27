"""Oracles: Captum with rules set, the rules written out with matrices, input times gradient."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import LRP, InputXGradient
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule
from networks import Functions, Modules, network, relative, volumes_for
from torch import nn

from helpers import attribution

TARGET = torch.tensor([2, 0])


@pytest.fixture
def volumes():
    return volumes_for("course")


def captum(model, volumes, target, for_convolutions=None):
    """Run Captum's LRP. It knows rules, but none for 3D unless they are set."""
    for module in model.modules():
        if isinstance(module, nn.Conv3d) and for_convolutions is not None:
            module.rule = for_convolutions()
        elif not list(module.children()) and not isinstance(module, nn.ReLU | nn.Dropout):
            module.rule = EpsilonRule(1e-13)
    return LRP(model).attribute(volumes.clone().requires_grad_(), target).detach()


def sums(maps):
    return maps.double().sum((1, 2, 3, 4))


class TestEpsilon:
    @pytest.mark.parametrize("name", ["modules", "course", "kan2020", "liu2021"])
    def test_equals_captum_with_rules_set(self, name, volumes):
        model = network(name).double()
        ours = attribution.lrp(model, volumes, TARGET, rule="epsilon", epsilon=1e-13)
        oracle = captum(model, volumes.double(), TARGET)
        assert relative(ours, oracle.float()) < 1e-4

    @pytest.mark.parametrize("name", ["course", "kan2020", "resnet10", "functions", "densenet121"])
    def test_tends_to_input_times_gradient(self, name):
        """True for any network of these layers: residual sums, lone BatchNorm, average pooling."""
        volumes, model = volumes_for(name, 1), network(name).double()
        ours = attribution.lrp(model, volumes, 1, rule="epsilon", epsilon=1e-12)
        oracle = InputXGradient(model).attribute(volumes.double().requires_grad_(), 1)
        assert relative(ours, oracle.detach().float()) < 1e-4

    def test_epsilon_takes_in_a_known_part(self):
        """One linear layer: each share is x w R / (z + epsilon)."""
        model = nn.Sequential(nn.Flatten(), nn.Linear(2 * 3 * 4, 3)).double()
        volumes = torch.rand(2, 1, 2, 3, 4)
        maps = attribution.lrp(model, volumes, 1, rule="epsilon", epsilon=0.5)
        flat, z = volumes.flatten(1).double(), model(volumes.double())[:, 1:2].detach()
        expected = flat * model[1].weight[1].detach() * z / (z + 0.5 * torch.sign(z))
        torch.testing.assert_close(maps.flatten(1), expected.float())

    def test_conserves_the_logit_where_there_are_no_offsets(self, volumes):
        model = Modules(norm=False, bias=False).double()
        maps = attribution.lrp(model, volumes, TARGET, rule="epsilon", epsilon=1e-12)
        logits = model(volumes.double()).gather(1, TARGET[:, None])[:, 0].detach()
        torch.testing.assert_close(sums(maps), logits, rtol=1e-4, atol=0)


class Small(nn.Module):
    """Small enough for matrices. The first layer meets negative voxels."""

    def __init__(self, activation=F.relu):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            self.conv1 = nn.Conv3d(1, 3, 3, padding=1)
            self.conv2 = nn.Conv3d(3, 4, 2, stride=2, bias=False)
            self.norm = nn.BatchNorm3d(4)
            self.linear = nn.Linear(4, 3)
            for value in (self.norm.weight, self.norm.bias, self.norm.running_mean):
                value.data.normal_()
            self.norm.running_var.uniform_(0.5, 2)
        self.activation = activation
        self.double().eval()

    def forward(self, volumes):
        features = self.activation(self.conv1(volumes))
        features = self.activation(self.norm(self.conv2(features)))
        return self.linear(torch.amax(features, (2, 3, 4)))


def matrix(layer, shape):
    """Return the matrix of a layer without its offset, and the offsets, by NumPy columns."""
    size = int(np.prod(shape))
    with torch.no_grad():
        offset = layer(torch.zeros(1, *shape, dtype=torch.float64)).flatten().numpy()
        columns = layer(torch.eye(size, dtype=torch.float64).view(size, *shape))
    return columns.flatten(1).numpy().T - offset[:, None], offset


def alpha_beta(weights, inputs, relevance, alpha):
    """The definition of Bach et al. (2015), without offsets, for one layer and one volume."""
    parts = weights * inputs  # (unit above, unit below)
    received = np.zeros_like(inputs)
    for part, r in zip(parts, relevance, strict=True):
        up, down = np.maximum(part, 0), np.minimum(part, 0)
        if up.sum() > 0 and down.sum() < 0:
            received += r * (alpha * up / up.sum() + (1 - alpha) * down / down.sum())
        elif up.sum() > 0:
            received += r * up / up.sum()
    return received


@pytest.mark.parametrize("activation", [F.relu, F.elu, torch.relu_], ids=["relu", "elu", "relu_"])
@pytest.mark.parametrize("alpha", [1, 2, 1.5])
def test_composite_equals_the_rules_written_out(activation, alpha):
    model, shape = Small(activation), (1, 4, 5, 6)
    volume = torch.randn(1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    volume[:, :, :2, :3] = 0  # background
    ours = attribution.lrp(model, volume, 1, alpha=alpha, epsilon=1e-12)

    act = F.elu if activation is F.elu else F.relu
    with torch.no_grad():
        first = act(model.conv1(volume))
        second = act(model.norm(model.conv2(first)))
        pooled = second.amax((2, 3, 4))
        logit = model(volume)[0, 1].item()
    weights = model.linear.weight[1].detach().numpy()
    relevance = np.zeros(second.shape[1:])
    winners = second[0].flatten(1).argmax(1).numpy()
    shares = weights * pooled[0].numpy()  # R x w / z, and z is R
    relevance.reshape(4, -1)[np.arange(4), winners] = shares
    folded, _ = matrix(lambda x: model.norm(model.conv2(x)), tuple(first.shape[1:]))
    relevance = alpha_beta(folded, first.numpy().ravel(), relevance.ravel(), alpha)
    conv1, _ = matrix(model.conv1, shape)
    expected = alpha_beta(conv1, volume.numpy().ravel(), relevance, alpha)
    assert abs(shares.sum() + model.linear.bias[1].item() - logit) < 1e-9
    assert relative(ours, torch.tensor(expected).view(1, *shape).float()) < 1e-4


class TestComposite:
    def test_z_plus_equals_captum_where_nothing_is_to_fold(self, volumes):
        model = Modules(norm=False).double()
        ours = attribution.lrp(model, volumes, TARGET, epsilon=1e-13)
        oracle = captum(
            model, volumes.double(), TARGET, lambda: Alpha1_Beta0_Rule(set_bias_to_zero=True)
        )
        assert relative(ours, oracle.float()) < 1e-4

    @pytest.mark.parametrize("name", ["modules", "course", "kan2020"])
    def test_batch_norm_is_folded(self, name, volumes):
        """The same function, fused by torch, has the same map; unfolded, Captum's differs."""
        model, fused = network(name).double(), network(name).double()
        ours = attribution.lrp(model, volumes, TARGET, alpha=2)
        fuse(fused)
        torch.testing.assert_close(fused(volumes.double()), model(volumes.double()))
        assert relative(ours, attribution.lrp(fused, volumes, TARGET, alpha=2)) < 1e-4
        unfolded = captum(
            model, volumes.double(), TARGET, lambda: Alpha1_Beta0_Rule(set_bias_to_zero=True)
        )
        z_plus = attribution.lrp(model, volumes, TARGET)
        assert relative(z_plus, unfolded.float()) > 0.05

    @pytest.mark.parametrize("alpha", [1, 2])
    @pytest.mark.parametrize("name", ["course", "kan2020", "liu2021", "resnet10"])
    def test_conserves_what_the_last_linear_layers_hand_down(self, name, alpha):
        model = network(name)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.Linear):
                    module.bias.zero_()
        volumes = volumes_for(name)  # without an empty background
        maps = attribution.lrp(model, volumes, TARGET, alpha=alpha)
        logits = model(volumes).gather(1, TARGET[:, None])[:, 0].detach().double()
        torch.testing.assert_close(sums(maps), logits, rtol=2e-3, atol=0)

    def test_z_plus_under_a_positive_logit_is_nowhere_negative(self, volumes):
        model = network("course")
        with torch.no_grad():
            model.classifier.weight.abs_()
        maps = attribution.lrp(model, volumes, 1)
        assert maps.min() >= 0
        assert maps.max() > 0

    def test_functions_and_in_place_as_modules(self, volumes):
        expected = attribution.lrp(Modules(), volumes, TARGET, alpha=2)
        for model in (Functions(), Modules(inplace=True)):
            assert relative(attribution.lrp(model, volumes, TARGET, alpha=2), expected) < 1e-5

    def test_background_gets_nothing(self, volumes):
        volumes[:, :, :, :7] = 0
        maps = attribution.lrp(network("course"), volumes, alpha=2)
        assert (maps[:, :, :, :7] == 0).all()

    def test_elu_network(self):
        volumes, model = volumes_for("eitel2022", 1), network("eitel2022")
        with torch.no_grad():
            model.hidden.bias.zero_()
            model.classifier.bias.zero_()
        maps = attribution.lrp(model, volumes, 1)
        logit = model(volumes)[:, 1].detach().double()
        torch.testing.assert_close(sums(maps), logit, rtol=2e-3, atol=0)


def fuse(module):
    """Fold each BatchNorm into the layer before it, with torch's own function."""
    children = list(module.named_children())
    for (name, layer), (next_name, norm) in itertools.pairwise(children):
        if isinstance(layer, nn.Conv3d) and isinstance(norm, nn.BatchNorm3d):
            setattr(module, name, torch.nn.utils.fuse_conv_bn_eval(layer, norm))
            setattr(module, next_name, nn.Identity())
    for _, child in children:
        fuse(child)


class Strange(nn.Module):
    """Does something odd between two convolutions."""

    def __init__(self, step, norm=False):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.linear = nn.Conv3d(1, 4, 3), nn.Linear(4, 3)
        self.step, self.norm = step, nn.BatchNorm3d(4) if norm else nn.Identity()

    def forward(self, volumes):
        features = self.norm(self.step(self.conv(volumes)))
        return self.linear(features.mean((2, 3, 4)))


def without_gradients(features):
    with torch.no_grad():
        return features - features.mean((1, 2, 3, 4), keepdim=True)


class TestRefuses:
    @pytest.mark.parametrize(
        ("step", "name"),
        [
            (F.gelu, "gelu"),
            (torch.sigmoid, "sigmoid"),
            (lambda x: x * x, "mul"),
            (lambda x: x * x.mean((1, 2, 3, 4), keepdim=True), "mul"),
            (lambda x: x.detach(), "detach"),
            (lambda x: x + x.data, "data"),
            (without_gradients, "mean"),
            (lambda x: torch.where(x > 0, x, 0 * x), "gt"),
            (lambda x: F.instance_norm(x), "instance_norm"),
            (lambda x: F.group_norm(x, 2), "group_norm"),
            (lambda x: x - 1, "sub"),
            (lambda x: torch.softmax(x, 1), "softmax"),
            (lambda x: F.interpolate(x, scale_factor=2), "interpolate"),
        ],
    )
    def test_what_it_has_no_rule_for(self, step, name, volumes):
        with pytest.raises(ValueError, match=rf"LRP has no rule for \S*{name}\S*, so its map"):
            attribution.lrp(Strange(step), volumes)

    def test_densenet_whose_batch_norm_cannot_be_folded(self):
        with pytest.raises(ValueError, match="can fold a BatchNorm only into a convolution"):
            attribution.lrp(network("densenet121"), volumes_for("densenet121", 1))

    @pytest.mark.parametrize("step", [F.relu, F.relu_, F.elu])
    def test_batch_norm_behind_an_activation_is_not_folded(self, step, volumes):
        """In place, the tensor is the convolution's own, but no longer its sum."""
        model = Strange(step, norm=True).eval()
        with pytest.raises(ValueError, match="can fold a BatchNorm only into a convolution"):
            attribution.lrp(model, volumes)
        exact = attribution.lrp(model.double(), volumes, 1, rule="epsilon", epsilon=1e-12)
        if step is not F.elu:
            oracle = InputXGradient(model).attribute(volumes.double().requires_grad_(), 1)
            assert relative(exact, oracle.detach().float()) < 1e-4

    def test_batch_statistics(self, volumes):
        model = Strange(lambda x: x)
        model.norm = nn.BatchNorm3d(4, track_running_stats=False)
        with pytest.raises(ValueError, match="another one is beside it in the batch"):
            attribution.lrp(model.eval(), volumes)

    def test_elu_in_place(self, volumes):
        with pytest.raises(ValueError, match="no rule for an ELU in place"):
            attribution.lrp(Strange(nn.ELU(inplace=True)), volumes)

    def test_options(self, volumes):
        model = network("course")
        with pytest.raises(ValueError, match="rule must be one of"):
            attribution.lrp(model, volumes, rule="gamma")
        for options in ({"alpha": 0.5}, {"epsilon": 0.0}, {"epsilon": float("nan")}):
            with pytest.raises(ValueError, match="expected alpha from 1 and epsilon above 0"):
                attribution.lrp(model, volumes, **options)
