"""The course's first simulator: one velocity for everybody, and how much of it each person gets.

It answers with a velocity on a coarse grid of control points: a dose of the velocity that all
share, and what this brain needs beyond. The shift of the logit that is asked for is the same for
everybody. So it shows what a *group* has and hardly looks at the person; chapter 12 measures it
beside the `Simulator` that replaced it.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from helpers import fields, runtime
from helpers.cohorts import Cohort
from helpers.warping import potentials
from helpers.warping.conditional_convolution import CondConv3d
from helpers.warping.readers import Reading
from helpers.warping.simulators import Directions, Simulation, check, other_class, placed, signs

STRENGTHS = {"logit_shift": 1.0, "smoothness": 3.0, "cycle": 10.0, "identity": 0.3}
_BLUR_VOXELS = 2.0
_INTEGRATION_STEPS = 5
_START = 1  # a random stream of the seed that the engine leaves to the simulator
_START_SUBJECTS, _START_TOGETHER = 64, 8


class VelocityNetwork(nn.Module):
    """A small U-Net with the condition in every layer, and a velocity that all brains share.

    Three layers halve the resolution, one stays, one goes back to the control points, where the
    skip connection is added. Beside the volume it sees the position of every voxel. It answers with
    how much of the `common` velocity this brain needs, from 0 to 2, and with what it needs beyond.
    """

    def __init__(self, points: tuple[int, int, int]):
        super().__init__()
        self.common = nn.Parameter(torch.zeros(3, *points))
        self.to_half = CondConv3d(4, 8, stride=2)
        self.to_quarter = CondConv3d(8, 16, stride=2)
        self.to_eighth = CondConv3d(16, 32, stride=2)
        self.middle = CondConv3d(32, 32)
        self.back_to_quarter = CondConv3d(32, 16)
        self.out = CondConv3d(16, 3)
        self.dose = nn.Linear(32 + 1, 1)
        # In the beginning nothing moves, and all brains get the same.
        for parameter in (self.out.kernels, self.out.biases, *self.dose.parameters()):
            nn.init.zeros_(parameter)

    def forward(
        self, volumes: Float[Tensor, "subject 1 x y z"], condition: Float[Tensor, "subject 1"]
    ) -> Float[Tensor, "subject 3 a b c"]:
        """Return the velocity at the control points, in voxels of the volume."""
        half = _activate(self.to_half(placed(volumes), condition))  # subject 8 x/2 y/2 z/2
        quarter = _activate(self.to_quarter(half, condition))  # subject 16 x/4 y/4 z/4
        eighth = _activate(self.to_eighth(quarter, condition))  # subject 32 x/8 y/8 z/8
        eighth = _activate(self.middle(eighth, condition))
        up = F.interpolate(eighth, quarter.shape[2:], mode="trilinear", align_corners=True)
        quarter = quarter + _activate(self.back_to_quarter(up, condition))
        dose = 2 * torch.sigmoid(self.dose(torch.cat([eighth.mean((2, 3, 4)), condition], dim=1)))
        common = (dose * condition).view(-1, 1, 1, 1, 1) * self.common
        return common + self.out(quarter, condition)


class FirstSimulator(nn.Module):
    """One velocity for everybody, a dose for each person.

    Parameters
    ----------
    shape : tuple of int
        Voxels along x, y, z, more than 8 each; it works for this size only.
    seed : int
        Of the initial weights.
    """

    def __init__(self, shape: tuple[int, int, int], *, seed: int = 0):
        super().__init__()
        self.shape = potentials.checked_shape(shape)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = VelocityNetwork(potentials.control_points(self.shape))

    def velocity(
        self, volumes: Float[Tensor, "subject 1 x y z"], direction: Directions
    ) -> Float[Tensor, "subject 3 a b c"]:
        """Return the velocity at the control points, in voxels of the volume."""
        sign = signs(direction, len(volumes)).to(volumes)
        return self.network(potentials.pad(volumes), sign[:, None])

    def forward(
        self,
        volumes: Float[Tensor, "subject 1 x y z"],
        direction: Directions,
        strength: float = 1.0,
    ) -> Simulation:
        """Simulate the disease into brains or out of them, as `Simulator` does."""
        check(volumes, self.shape, strength)
        control = strength * self.velocity(volumes, direction)
        with torch.autocast(volumes.device.type, enabled=False):
            moves = self._displacement(control.float())
            return Simulation(fields.warp(volumes, moves), moves, control)

    def _displacement(self, control: Tensor) -> Tensor:
        whole = potentials.padded(self.shape)
        coarse = tuple(n // 2 for n in whole)
        ratio = [(c - 1) / (n - 1) for n, c in zip(whole, coarse, strict=True)]
        field = F.interpolate(control, coarse, mode="trilinear", align_corners=True)
        field = fields.gaussian_blur(field, _BLUR_VOXELS / 2)
        field = field * field.new_tensor(ratio).view(1, 3, 1, 1, 1)
        field = fields.integrate_velocity(field, steps=_INTEGRATION_STEPS)
        return fields.resize(field, whole)[(..., *(slice(n) for n in self.shape))]


class FirstTerms:
    """What it is trained for: the same shift for everybody, smooth, back again, and at rest else.

    Making the terms sets a velocity that all share, if there is none yet: straight down the slope
    of the shift, as long as asked for. Adam would move every control point equally far, however
    little it matters; along the slope, a point moves as far as it matters.
    """

    def __init__(
        self,
        simulator: FirstSimulator,
        readers: Reading,
        cohort: Cohort,
        *,
        seed: int,
        margin: float = 1.0,
    ):
        self.readers, self.margin = readers, margin
        common = simulator.network.common
        if common.any():
            return
        order = torch.randperm(len(cohort), generator=runtime.generator(seed, _START))
        order = order[:_START_SUBJECTS]
        slope = torch.zeros_like(common)
        for batch in order.split(_START_TOGETHER):
            asked = other_class(cohort.labels[batch])
            shift = readers(simulator(cohort.volumes[batch].to(common), asked).volumes).mean(1)
            sign = signs(asked, len(asked)).to(shift)
            slope += torch.autograd.grad((sign * shift).sum(), common)[0] / len(order)
        with torch.no_grad():
            common += margin * slope / slope.square().sum().clamp_min(1e-12)

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
        back = network(there.volumes, opposite)
        after = self.readers(there.volumes)
        sign = signs(asked, len(asked)).to(after)[:, None]
        # One interpolation for both ways: a second one would blur, and no field mends a blur.
        returned = fields.warp(volumes, fields.compose(there.displacement, back.displacement))
        nothing_to_do = network(volumes, opposite, 1.0).control
        slopes = [there.control.diff(dim=axis).square().flatten(1).mean(1) for axis in (2, 3, 4)]
        return {
            "logit_shift": F.relu(self.margin - sign * (after - before)).mean(1),
            "smoothness": sum(slopes),
            "cycle": (volumes - returned).square().flatten(1).mean(1),
            "identity": nothing_to_do.square().sum(1).flatten(1).mean(1),
        }, after


def _activate(features: Tensor) -> Tensor:
    """Bring every channel of a subject to one scale, then cut what is below zero to a tenth."""
    return F.leaky_relu(F.instance_norm(features), 0.1)
