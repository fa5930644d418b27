"""Simulators: from a brain and a wish to a deformation of this brain.

A U-Net looks at the volume and answers with a velocity on a coarse grid of control points. The
velocity is made smooth and integrated, and the volume is warped by it. The wish, "inject" or
"remove", reaches every layer through conditional convolution, so that both directions share
what they know about anatomy (`Simulator`); `TwoSimulators` are two such networks that share
nothing, as a comparison.

References
----------
Liu, Adeli, Pohl, Zhao (2021), Going beyond saliency maps: training deep models to interpret deep
models, arXiv 2102.08239. Dalca et al. (2018), Unsupervised learning for fast probabilistic
diffeomorphic registration: networks that answer with a stationary velocity.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from helpers import fields, grids
from helpers.warping.conditional_convolution import CondConv3d

DIRECTIONS = {"inject": 1.0, "remove": -1.0}
FIELDS = ("velocity", "displacement")
CONTROL_SPACING = 4  # voxels from one control point of the velocity to the next
_DIVISOR = 8  # three times, the U-Net halves the resolution
_INTEGRATION_STEPS = 5


class Simulation(NamedTuple):
    """Brains as they would look with, or without, what the classifier calls the disease.

    Attributes
    ----------
    volumes : tensor of shape (subject, 1, x, y, z)
    displacement : tensor of shape (subject, 3, x, y, z)
        In voxels: ``volumes`` is ``fields.warp(originals, displacement)``.
    velocity : tensor of shape (subject, 3, a, b, c)
        The network's answer at the control points, in voxels of the volumes, before the strength.
    """

    volumes: Float[Tensor, "subject 1 x y z"]
    displacement: Float[Tensor, "subject 3 x y z"]
    velocity: Float[Tensor, "subject 3 a b c"]

    @property
    def log_expansion(self) -> Float[Tensor, "subject 1 x y z"]:
        """Where tissue grew (above 0) and shrank (below 0) from the original to the simulation."""
        return fields.log_expansion(self.displacement)


class VelocityNetwork(nn.Module):
    """A small U-Net with the condition in every layer, and a velocity that all brains share.

    Three layers halve the resolution, one stays, one goes back to the control points, where the
    skip connection is added. Beside the volume it sees the position of every voxel: what to do
    depends on the place. It answers with how much of the `common` velocity this brain needs, from 0
    to 2, and with what it needs beyond.

    Parameters
    ----------
    points : tuple of int
        Control points along x, y, z: a quarter of the voxels.
    channels : tuple of int
        Of the features at a half, a quarter and an eighth of the resolution.
    """

    def __init__(self, points: tuple[int, int, int], channels: tuple[int, int, int] = (8, 16, 32)):
        super().__init__()
        self.common = nn.Parameter(torch.zeros(3, *points))
        half, quarter, eighth = channels
        self.to_half = CondConv3d(4, half, stride=2)
        self.to_quarter = CondConv3d(half, quarter, stride=2)
        self.to_eighth = CondConv3d(quarter, eighth, stride=2)
        self.middle = CondConv3d(eighth, eighth)
        self.back_to_quarter = CondConv3d(eighth, quarter)
        self.out = CondConv3d(quarter, 3)
        self.dose = nn.Linear(eighth + 1, 1)
        # In the beginning nothing moves, and all brains get the same.
        for parameter in (self.out.kernels, self.out.biases, *self.dose.parameters()):
            nn.init.zeros_(parameter)

    def forward(
        self, volumes: Float[Tensor, "subject 1 x y z"], condition: Float[Tensor, "subject 1"]
    ) -> Float[Tensor, "subject 3 a b c"]:
        """Return the velocity at the control points, in voxels of the volume."""
        seen = torch.cat([volumes, _positions(volumes)], dim=1)  # subject 4 x y z
        half = _activate(self.to_half(seen, condition))  # subject 8 x/2 y/2 z/2
        quarter = _activate(self.to_quarter(half, condition))  # subject 16 x/4 y/4 z/4
        eighth = _activate(self.to_eighth(quarter, condition))  # subject 32 x/8 y/8 z/8
        eighth = _activate(self.middle(eighth, condition))
        up = F.interpolate(eighth, quarter.shape[2:], mode="trilinear", align_corners=True)
        quarter = quarter + _activate(self.back_to_quarter(up, condition))
        dose = 2 * torch.sigmoid(self.dose(torch.cat([eighth.mean((2, 3, 4)), condition], dim=1)))
        common = (dose * condition).view(-1, 1, 1, 1, 1) * self.common
        return common + self.out(quarter, condition)


class _Warper(nn.Module):
    """What simulators have in common: from the velocity at control points to a `Simulation`."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        channels: tuple[int, int, int] = (8, 16, 32),
        field: str = "velocity",
        blur_voxels: float = 2.0,
        seed: int = 0,
    ):
        super().__init__()
        if len(shape) != 3 or min(shape) <= _DIVISOR:
            raise ValueError(
                f"a simulator needs volumes of more than {_DIVISOR} voxels an axis, got {shape}"
            )
        if field not in FIELDS or not 0 < blur_voxels < math.inf:
            raise ValueError(
                f"expected a field of {FIELDS} and blur_voxels above 0, "
                f"got {field!r} and {blur_voxels}"
            )
        self.shape, self.field, self.blur_voxels = tuple(shape), field, blur_voxels
        self._padded = tuple(-(-n // _DIVISOR) * _DIVISOR for n in self.shape)
        self._points = tuple(n // CONTROL_SPACING for n in self._padded)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._add_networks(channels)

    def _add_networks(self, channels: tuple[int, int, int]) -> None:
        raise NotImplementedError

    def control_velocity(self, volumes: Tensor, sign: Tensor) -> Tensor:
        """Return the velocity at the control points, in voxels of the volume."""
        raise NotImplementedError

    def forward(
        self,
        volumes: Float[Tensor, "subject 1 x y z"],
        direction: str | Sequence[str],
        strength: float = 1.0,
    ) -> Simulation:
        """Simulate the disease into brains or out of them.

        Parameters
        ----------
        volumes : tensor of shape (subject, 1, x, y, z)
        direction : str, or one for each subject
            ``"inject"`` makes class 1 more likely, ``"remove"`` less.
        strength : float
            Multiplies the velocity: 0 changes nothing, 1 is the simulation as trained, more
            extrapolates, and a negative number goes the other way.

        Raises
        ------
        ValueError
            If the direction is another, the strength is no finite number, or volumes are not
            what the network takes.
        """
        grids.check_volumes(volumes)
        if tuple(volumes.shape[1:]) != (1, *self.shape):
            raise ValueError(
                f"this simulator takes volumes of shape (subject, 1, "
                f"{', '.join(map(str, self.shape))}), got {tuple(volumes.shape)}"
            )
        if not math.isfinite(strength):
            raise ValueError(f"strength must be a finite number, got {strength}")
        sign = signs(direction, len(volumes)).to(volumes)
        # Padded with what warping sees beyond the border anyway, so that cropping is exact.
        missing = [n - m for n, m in zip(self._padded[::-1], self.shape[::-1], strict=True)]
        padded = F.pad(volumes, [side for m in missing for side in (0, m)], mode="replicate")
        control = self.control_velocity(padded, sign).to(volumes.dtype)
        if strength == 0:
            still = volumes.new_zeros(len(volumes), 3, *self.shape)
            return Simulation(volumes.clone(), still, control)
        # A position of half precision would be wrong by a quarter of a voxel.
        with torch.autocast(volumes.device.type, enabled=False):
            displacement = self._displacement(strength * control)
            return Simulation(fields.warp(volumes, displacement), displacement, control)

    def _displacement(self, control: Tensor) -> Tensor:
        # On every second voxel: an eighth of the work, and as smooth.
        coarse = tuple(n // 2 for n in self._padded)
        ratio = [(c - 1) / (n - 1) for n, c in zip(self._padded, coarse, strict=True)]
        field = F.interpolate(control, coarse, mode="trilinear", align_corners=True)
        field = fields.gaussian_blur(field, self.blur_voxels / 2)
        field = field * field.new_tensor(ratio).view(1, 3, 1, 1, 1)
        if self.field == "velocity":
            field = fields.integrate_velocity(field, steps=_INTEGRATION_STEPS)
        field = fields.resize(field, self._padded)
        return field[(..., *(slice(n) for n in self.shape))]


class Simulator(_Warper):
    """One network for both directions.

    Parameters
    ----------
    shape : tuple of int
        Voxels along x, y, z, more than 8 each. All brains lie in one space, so a place means
        something, and a simulator works for this size only.
    channels : tuple of int
        See `VelocityNetwork`.
    field : str
        ``"velocity"`` (default) is integrated to a deformation that cannot fold;
        ``"displacement"`` warps with the network's answer as it is, as published.
    blur_voxels : float
        Standard deviation of the Gaussian that the field is blurred with. Default 2 voxels, 8 mm
        on the course's grid. Control points lie 4 voxels apart.
    seed : int
        Of the initial weights.

    Examples
    --------
    >>> from helpers import cohorts, warping
    >>> people = cohorts.simulate("atrophy", subjects=2)
    >>> simulation = warping.Simulator(people.grid.shape)(people.volumes, "inject")
    >>> bool(simulation.displacement.any())  # not trained yet: nothing moves
    False
    """

    def _add_networks(self, channels: tuple[int, int, int]) -> None:
        self.network = VelocityNetwork(self._points, channels)

    def control_velocity(
        self, volumes: Float[Tensor, "subject 1 x y z"], sign: Float[Tensor, "subject"]
    ) -> Float[Tensor, "subject 3 a b c"]:
        """Ask the one network; the condition says which direction."""
        return self.network(volumes, sign[:, None])


class TwoSimulators(_Warper):
    """One network a direction: nothing is shared, and nothing conditioned.

    Parameters
    ----------
    shape, channels, field, blur_voxels, seed
        As in `Simulator`.
    """

    def _add_networks(self, channels: tuple[int, int, int]) -> None:
        self.networks = nn.ModuleDict(
            {name: VelocityNetwork(self._points, channels) for name in DIRECTIONS}
        )

    def control_velocity(
        self, volumes: Float[Tensor, "subject 1 x y z"], sign: Float[Tensor, "subject"]
    ) -> Float[Tensor, "subject 3 a b c"]:
        """Ask the network of each subject's direction; what it is asked never changes."""
        inject, remove = (
            self.networks[name](volumes, torch.full_like(sign, asked)[:, None])
            for name, asked in DIRECTIONS.items()
        )
        return torch.where((sign > 0).view(-1, 1, 1, 1, 1), inject, remove)


def signs(direction: str | Sequence[str], subjects: int) -> Float[Tensor, "subject"]:
    """Return 1 for every subject to inject into and -1 for every one to remove from."""
    names = [direction] * subjects if isinstance(direction, str) else list(direction)
    unknown = sorted({str(name) for name in names} - DIRECTIONS.keys())
    if unknown or len(names) != subjects:
        raise ValueError(
            f"expected a direction of {list(DIRECTIONS)}, or one for each of {subjects} subjects; "
            f"got {direction!r}"
        )
    return torch.tensor([DIRECTIONS[name] for name in names])


def _activate(features: Tensor) -> Tensor:
    """Bring every channel of a subject to one scale, then cut what is below zero to a tenth."""
    return F.leaky_relu(F.instance_norm(features), 0.1)


def _positions(volumes: Tensor) -> Tensor:
    """Return x, y and z of every voxel, from -1 to 1, as three channels."""
    axes = [torch.linspace(-1, 1, n).to(volumes) for n in volumes.shape[2:]]
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    return positions.expand(len(volumes), -1, -1, -1, -1)
