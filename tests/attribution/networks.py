"""Random networks and a measure of difference, shared by the tests of the attribution methods."""

from functools import cache

import torch
import torch.nn.functional as F
from monai.networks import nets
from monai.networks.blocks import SEResNetBottleneck
from torch import nn

from helpers import fields, models

SHAPE = (24, 26, 30)
# The large networks get less: their first convolutions take long.
SHAPES = {"resnet10": (16, 18, 20), "densenet121": (32, 34, 36), "eitel2022": (80, 83, 81)}


def network(name, shape=None):
    """Build a random network whose BatchNorm statistics matter."""
    if name == "modules":
        return Modules()
    if name == "functions":
        return Functions()
    return disturbed(models.build(name, 3, shape or SHAPES.get(name, SHAPE), seed=2))


def volumes_for(name, subjects=2):
    shape = SHAPES.get(name, SHAPE)
    return torch.rand(subjects, 1, *shape, generator=torch.Generator().manual_seed(1))


def disturbed(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm3d):
                channels = module.num_features
                module.running_mean.copy_(0.1 * torch.randn(channels, generator=generator))
                module.running_var.copy_(0.5 + torch.rand(channels, generator=generator))
                module.bias.copy_(0.1 * torch.randn(channels, generator=generator))
    return model.eval()


class Modules(nn.Module):
    """A small network; every activation is a module of its own, as Captum needs it."""

    def __init__(self, norm=True, inplace=False, bias=True):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(24)  # lets each class through
            self.conv1 = nn.Conv3d(1, 6, 3, padding=1, bias=bias)
            self.norm1 = nn.BatchNorm3d(6) if norm else nn.Identity()
            self.first = nn.ReLU(inplace)
            self.pool = nn.MaxPool3d(2)
            self.conv2 = nn.Conv3d(6, 8, 3, stride=2, bias=bias)
            self.norm2 = nn.BatchNorm3d(8) if norm else nn.Identity()
            self.second = nn.ReLU(inplace)
            self.mean = nn.AdaptiveAvgPool3d(1)
            self.flatten = nn.Flatten()
            self.linear1 = nn.Linear(8, 7, bias=bias)
            self.third = nn.ReLU(inplace)
            self.linear2 = nn.Linear(7, 3, bias=bias)
        disturbed(self)

    def forward(self, volumes):
        features = self.pool(self.first(self.norm1(self.conv1(volumes))))
        features = self.second(self.norm2(self.conv2(features)))
        features = self.flatten(self.mean(features))
        return self.linear2(self.third(self.linear1(features)))


class Functions(Modules):
    """The same network with the same weights, its ReLUs written in other ways."""

    def forward(self, volumes):
        features = F.max_pool3d(F.relu(self.norm1(self.conv1(volumes))), 2)
        features = F.relu_(self.norm2(self.conv2(features)))
        return self.linear2(self.linear1(features.mean((2, 3, 4))).relu())


class Small(nn.Module):
    """A stem, any body that keeps the number of channels, a mean and a linear layer."""

    def __init__(self, *body, channels=8):
        super().__init__()
        self.stem = nn.Conv3d(1, channels, 3, stride=2)
        self.body = nn.Sequential(*body)
        self.linear = nn.Linear(channels, 3)

    def forward(self, volumes):
        return self.linear(self.body(self.stem(volumes)).mean((2, 3, 4)))


class Reused(nn.Module):
    """One ReLU in place behind every layer, and a residual branch."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv3d(1, 4, 3, stride=2), nn.Conv3d(4, 4, 3, padding=1)
        self.norm, self.relu, self.linear = nn.BatchNorm3d(4), nn.ReLU(True), nn.Linear(4, 3)

    def forward(self, volumes):
        features = self.relu(self.first(volumes))
        features = features + self.relu(self.norm(self.second(features)))
        return self.linear(self.relu(features).mean((2, 3, 4)))


class Wrapped(nn.Module):
    """A network of MONAI that puts out more than logits, wrapped as the error message says."""

    def __init__(self, network, logits):
        super().__init__()
        self.network, self.logits = network, logits

    def forward(self, volumes):
        return self.logits(self.network(volumes))


def _resnet(norm):
    return nets.ResNet(
        "basic", [1, 1, 1, 1], [4, 4, 8, 8], n_input_channels=1, num_classes=3, norm=norm
    )


def _highresnet():
    def layer(name, channels, **options):
        return {"name": name, "n_features": channels, **options}

    layers = (
        layer("conv_0", 4, kernel_size=3),
        layer("res_1", 4, kernels=(3, 3), repeat=1),
        layer("res_2", 6, kernels=(3, 3), repeat=1),
        layer("conv_1", 6, kernel_size=1),
        {"name": "conv_2", "kernel_size": 1},
    )
    network = nets.HighResNet(3, 1, 3, dropout_prob=0.3, layer_params=layers)
    return Wrapped(nn.Sequential(nn.AvgPool3d(2), network), lambda x: x.mean((2, 3, 4)))


MATRIX_SHAPE = (24, 32, 16)
MATRIX = {  # name: what builds it; all are small, and what they do in training is not what counts
    "course": lambda: models.build("course", 3),
    "in place, reused": Reused,
    "resnet, batch norm": lambda: _resnet("batch"),
    "resnet, instance norm": lambda: _resnet(("instance", {"affine": True})),
    "resnet, group norm": lambda: _resnet(("group", {"num_groups": 2})),
    "densenet, dropout": lambda: nets.DenseNet(3, 1, 3, 4, 4, (2, 2), dropout_prob=0.3),
    "se-resnet": lambda: Small(nn.ReLU(), SEResNetBottleneck(3, 8, 2, 1, 2), nn.Dropout3d()),
    "efficientnet": lambda: nets.EfficientNet(
        ["r1_k3_s22_e1_i32_o8_se0.25", "r1_k3_s22_e2_i8_o8_se0.25"],
        spatial_dims=3,
        in_channels=1,
        num_classes=3,
        width_coefficient=0.25,
        depth_coefficient=1.0,
        dropout_rate=0.3,
        image_size=32,
    ),
    "highresnet, dropout": _highresnet,
    "regressor": lambda: nets.Regressor(
        (1, *MATRIX_SHAPE), (3,), (4, 6), (2, 2), dropout=0.3
    ),
    "vit, dropout": lambda: Wrapped(
        nets.ViT(
            1,
            MATRIX_SHAPE,
            (8, 8, 8),
            hidden_size=24,
            mlp_dim=32,
            num_layers=2,
            num_heads=3,
            classification=True,
            num_classes=3,
            dropout_rate=0.3,
            post_activation="none",
        ),
        lambda x: x[0],
    ),
}  # fmt: skip


@cache
def of_matrix(name):
    """Build a network of the matrix once, in evaluation mode; a blur changes a logit by 2.

    Logits of an untrained network hardly move, and far from zero their rounding would be all.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = MATRIX[name]().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.train().momentum = 1.0  # settles on the volumes
    last = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv3d)][-1]
    with torch.no_grad():
        volumes = matrix_volumes()
        model(volumes)
        model.eval()
        change = (model(volumes) - model(fields.gaussian_blur(volumes, 4.0))).abs().max()
        for parameter in last.parameters():
            parameter *= 2 / change
        if last.bias is None:
            last.bias = nn.Parameter(torch.zeros(3))
        last.bias -= model(volumes).mean(0)
    return model


def matrix_volumes():
    """Coarse patterns, as brains have them."""
    coarse = torch.rand(2, 1, 4, 5, 3, generator=torch.Generator().manual_seed(1))
    return 4 * F.interpolate(coarse - 0.5, MATRIX_SHAPE, mode="trilinear")


def relative(ours, oracle):
    """Return the largest difference, as a share of the oracle's largest value, over subjects."""
    assert ours.shape == oracle.shape
    largest = oracle.detach().flatten(1).abs().amax(1)
    assert (largest > 0).all(), "a comparison with nothing proves nothing"
    return float(((ours - oracle).detach().flatten(1).abs().amax(1) / largest).max())
