"""Random networks and a measure of difference, shared by the tests of the attribution methods."""

import torch
import torch.nn.functional as F
from torch import nn

from helpers import models

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


def relative(ours, oracle):
    """Return the largest difference, as a share of the oracle's largest value, over subjects."""
    assert ours.shape == oracle.shape
    largest = oracle.detach().flatten(1).abs().amax(1)
    assert (largest > 0).all(), "a comparison with nothing proves nothing"
    return float(((ours - oracle).detach().flatten(1).abs().amax(1) / largest).max())
