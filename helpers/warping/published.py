"""The simulator of Liu et al. (2021) as they trained it on Alzheimer's disease, written anew.

Trained as published: on z-scored volumes of 64x64x64 that the classifier gets right, 40 of one
class at a time, for some 1500 rounds of eight updates. Logit shift and slope make one update, the
cycle another; each of the two has in each direction an Adam of its own, with learning rates of 2e-4
and 1e-4 and a weight decay of 1e-4. The shift that is asked for is 12.5 of their classifier's
logits. `helpers.warping.train_simulator` takes all terms in one step, and a distance between the
classes as shift.

References
----------
Liu, Adeli, Pohl, Zhao (2021), arXiv 2102.08239, and their code, ZucksLiu/DeepInterpret, from which
facts are taken and no line.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from helpers import fields
from helpers.warping.conditional_convolution import CondConv3d
from helpers.warping.readers import Reading
from helpers.warping.simulators import Directions, Simulation, check, other_class, signs

# The slope's second factor is 0.0005 in their run on alcohol dependence.
STRENGTHS = {"logit_shift": 1.0, "slope": 0.001 * 0.04, "cycle": 1.0}


class Liu2021(nn.Module):
    """A U-Net that answers with a displacement for every voxel, conditioned in ten layers.

    Parameters
    ----------
    shape : tuple of int
        Voxels along x, y, z, 2 or more each; the bottleneck is a layer for this size only.
    seed : int
        Of the initial weights, which move tissue before any training.

    Notes
    -----
    Differences from the published code:

    - Any size, continued by its last voxels to multiples of 16; there 64x64x64. The bottleneck has
      16 inputs for each voxel of the coarsest grid; there always 1024.
    - Warping continues the border; there, zeros come in from beyond it.
    - A batch may mix directions; there, batch normalization sees one at a time.
    - ``strength`` is ours, and 0 does not ask the network.
    - One linear layer and three dropouts that are built there and never used are left out.

    Examples
    --------
    >>> from helpers import cohorts
    >>> from helpers.warping import published
    >>> people = cohorts.simulate("atrophy", subjects=2)
    >>> simulator = published.Liu2021(people.grid.shape).eval()
    >>> tuple(simulator(people.volumes, "inject").displacement.shape[:2])
    (2, 3)
    """

    def __init__(self, shape: tuple[int, int, int], *, seed: int = 0):
        super().__init__()
        if len(shape) != 3 or min(shape) < 2:
            raise ValueError(f"a simulator needs volumes of 2 voxels an axis or more, got {shape}")
        self.shape = tuple(shape)
        numbers = 16 * math.prod(-(-n // 16) for n in shape)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.down = nn.ModuleList(_Layer(*io) for io in pairwise((1, 16, 32, 64, 16, 16)))
            self.down_norms = nn.ModuleList(map(nn.BatchNorm3d, (16, 32, 64, 16)))
            self.squeeze, self.expand = nn.Linear(numbers, 512), nn.Linear(512 + 1, numbers)
            self.up = nn.ModuleList(_Layer(*io) for io in pairwise((16, 16, 64, 32, 16, 3)))
            self.up_norms = nn.ModuleList(map(nn.BatchNorm3d, (16, 64, 32, 16)))

    def displacement(
        self, volumes: Float[Tensor, "subject 1 x y z"], condition: Float[Tensor, "subject 1"]
    ) -> Float[Tensor, "subject 3 x y z"]:
        """Return the network's answer to padded volumes: a displacement in voxels, unbounded."""
        skips = [self.down[0](volumes, condition)]  # subject 16 x y z
        # 32 channels at a half, 64 at a quarter, 16 at an eighth, 16 at a sixteenth
        for norm, layer in zip(self.down_norms, self.down[1:], strict=True):
            features = F.max_pool3d(F.leaky_relu(norm(skips[-1]), 0.1), 2)
            skips.append(layer(features, condition))
        code = self.squeeze(skips[-1].flatten(1))  # subject 512
        # The condition goes through the rectifier as well: here, "remove" is 0 and not -1.
        code = self.expand(F.relu(torch.cat([code, condition], dim=1)))
        features = self.up[0](code.view_as(skips[-1]), condition) + skips[-1]
        features = _grow(self.up_norms[0](features)) + skips[-2]  # subject 16 x/8 y/8 z/8
        # 64 channels at a quarter, 32 at a half, 16 at the whole
        for norm, layer, skip in zip(self.up_norms[1:], self.up[1:-1], skips[-3::-1], strict=True):
            features = _grow(norm(layer(features, condition))) + skip
        return self.up[-1](features, condition)

    def forward(
        self,
        volumes: Float[Tensor, "subject 1 x y z"],
        direction: Directions,
        strength: float = 1.0,
    ) -> Simulation:
        """Simulate the disease into brains or out of them, as `Simulator` does."""
        check(volumes, self.shape, strength)
        sign = signs(direction, len(volumes)).to(volumes)
        if strength == 0:
            still = volumes.new_zeros(len(volumes), 3, *self.shape)
            return Simulation(volumes=volumes.clone(), displacement=still)
        padding = [side for n in self.shape[::-1] for side in (0, -n % 16)]
        answer = self.displacement(F.pad(volumes, padding, mode="replicate"), sign[:, None])
        displacement = strength * answer[(..., *map(slice, self.shape))].to(volumes.dtype)
        return Simulation(volumes=fields.warp(volumes, displacement), displacement=displacement)


def slope(displacement: Float[Tensor, "subject 3 x y z"]) -> Float[Tensor, "subject"]:
    """Return the mean absolute slope of a field."""
    return sum(displacement.diff(dim=axis).abs().flatten(1).mean(1) for axis in (2, 3, 4)) / 3


class PublishedTerms:
    """The published terms: the same shift of the logit for everybody, and back again.

    With readers in units of the class distance the shift is in these units, too.
    """

    def __init__(self, readers: Reading, margin: float = 1.0):
        self.readers, self.margin = readers, margin

    def __call__(
        self,
        network: nn.Module,
        volumes: Float[Tensor, "subject 1 x y z"],
        labels: Int[Tensor, "subject"],
        generator: torch.Generator,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return each term as a number a subject, and what classifiers say of people then."""
        asked, opposite = other_class(labels), other_class(1 - labels)
        with torch.no_grad():
            before = self.readers(volumes)
        there = network(volumes, asked)
        back = network(there.volumes, opposite).volumes
        after = self.readers(there.volumes)
        sign = signs(asked, len(asked)).to(after)
        return {
            "logit_shift": F.relu(self.margin - sign[:, None] * (after - before)).mean(1),
            "slope": slope(there.displacement),
            "cycle": (back - volumes).square().flatten(1).mean(1),
        }, after


class _Layer(CondConv3d):
    # Published: one bias, not mixed; routing that forgets a tenth of the means; Xavier's rule for
    # all experts as one tensor of six axes. CondConv3d convolves all subjects in one call, which
    # changes no number.
    def __init__(self, channels_in: int, channels_out: int):
        super().__init__(channels_in, channels_out)
        nn.init.xavier_normal_(self.kernels)
        del self.biases
        self.register_buffer("biases", torch.zeros(3, channels_out), persistent=False)
        self.bias = nn.Parameter(torch.zeros(channels_out))

    def routing(self, features: Tensor, condition: Tensor) -> Tensor:
        means = F.dropout(features.mean((2, 3, 4)), 0.1, self.training)
        return torch.sigmoid(self.router(torch.cat([means, condition], dim=1)))

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        return super().forward(features, condition) + self.bias.view(-1, 1, 1, 1)


def _grow(features: Tensor) -> Tensor:
    return F.interpolate(F.leaky_relu(features, 0.1), scale_factor=2, mode="nearest")
