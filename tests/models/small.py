"""A cohort and networks that train in no time: sides differ, and class 1 is brighter at one end."""

import pandas as pd
import torch
from torch import nn

from helpers.cohorts import Cohort
from helpers.grids import Grid

SHAPE = (10, 12, 14)


def cohort(subjects=16, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    volumes = 1 + 0.3 * torch.randn(subjects, 1, *SHAPE, generator=generator)
    labels = torch.arange(subjects) % 2
    volumes[labels == 1, :, :4] += 0.5
    names = pd.DataFrame({"participant_id": [f"sub-{i:03d}" for i in range(subjects)]})
    return Cohort(volumes, labels, ("well", "ill"), names, Grid(SHAPE, torch.eye(4).numpy()))


class Net(nn.Module):
    """A convolution, optionally batch normalization and dropout, one linear layer."""

    def __init__(self, *, norm=True, dropout=0.0, seed=0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv = nn.Conv3d(1, 4, 3, stride=2)
            self.norm = nn.BatchNorm3d(4) if norm else nn.Identity()
            self.dropout = nn.Dropout(dropout)
            self.out = nn.Linear(4 * 4 * 5 * 6, 2)

    def forward(self, volumes):
        features = torch.relu(self.norm(self.conv(volumes)))
        return self.out(self.dropout(features.flatten(1)))


def weights(module):
    return torch.cat([value.flatten().float() for value in module.state_dict().values()])
