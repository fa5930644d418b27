"""Simulators: from a brain and a wish to a deformation of this brain.

A simulator sees a brain through a classifier's eyes: its first four blocks, as they are. What they
show is compared with healthy people, place by place. From that it tells how much of the disease
this person has, or lacks: at each place, the *dose* of one deformation that is common to all. The
wish, "inject" or "remove", reaches every layer of the answer through conditional convolution, and
nothing else says the direction.

References
----------
Liu, Adeli, Pohl, Zhao (2021), Going beyond saliency maps: training deep models to interpret deep
models, arXiv 2102.08239; as published, see `helpers.warping.published`. Dalca et al. (2018),
Unsupervised learning for fast probabilistic diffeomorphic registration: networks that answer with a
stationary velocity.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from helpers import fields, grids
from helpers.models import layouts
from helpers.models.course import CourseNet
from helpers.warping import potentials
from helpers.warping.conditional_convolution import CondConv3d

DIRECTIONS = {"inject": 1.0, "remove": -1.0}
# What just convinces the teachers left another classifier unconvinced of every seventh patient.
FURTHER = 1.25
_LARGEST_DOSE = 8.0  # of either sign: twice the largest that is taught
_TOGETHER = 16
_SHARE_OF_ALL, _NEVER_ZERO = 0.3, 1e-6
Directions = str | Sequence[str]  # one for all subjects, or one for each


class Simulation(NamedTuple):
    """Brains as they would look with, or without, what the classifier calls the disease.

    Attributes
    ----------
    volumes : tensor of shape (subject, 1, x, y, z)
    displacement : tensor of shape (subject, 3, x, y, z)
        In voxels: ``volumes`` is ``fields.warp(originals, displacement)``. Who is not moved at all
        is left as she is, to the bit.
    control : tensor of shape (subject, ..., a, b, c), optional
        What the displacement was made of, at the control points: of a `Simulator`, the potential
        (`helpers.warping.potentials`).
    """

    volumes: Float[Tensor, "subject 1 x y z"]
    displacement: Float[Tensor, "subject 3 x y z"]
    control: Float[Tensor, "subject ... a b c"] | None = None

    @property
    def log_expansion(self) -> Float[Tensor, "subject 1 x y z"]:
        """Where tissue grew (above 0) and shrank (below 0) from the original to the simulation."""
        return fields.log_expansion(self.displacement)


class Simulator(nn.Module):
    """One network for both directions.

    Parameters
    ----------
    shape : tuple of int
        Voxels along x, y, z, more than 8 each. All brains lie in one space, so a place means
        something, and a simulator works for this size only.
    width : int
        Features of the layers that answer. Default 32.
    blur_voxels : float
        Standard deviation of the Gaussian that the potential is blurred with. Default 2.5 voxels,
        10 mm on the course's grid. Control points lie 4 voxels apart.
    eyes : int
        How many classifiers it looks through. Default 1.
    seed : int
        Of the initial weights.

    Attributes
    ----------
    common : tensor of shape (a, b, c)
        The potential that all doses multiply, see `helpers.warping.potentials`. `train_simulator`
        finds it; before, it is 0 and nothing moves.

    Examples
    --------
    >>> from helpers import cohorts, warping
    >>> people = cohorts.simulate("atrophy", subjects=2)
    >>> simulation = warping.Simulator(people.grid.shape)(people.volumes, "inject")
    >>> bool(simulation.displacement.any())  # not trained yet: nothing moves
    False
    """

    TRAINED_METHODS = ("potential",)  # what a training calls, beside forward

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        width: int = 32,
        blur_voxels: float = 2.5,
        eyes: int = 1,
        seed: int = 0,
    ):
        super().__init__()
        if not (0 < blur_voxels < math.inf and eyes >= 1):
            raise ValueError(
                f"expected blur_voxels above 0 and eyes of 1 or more, got {blur_voxels} and {eyes}"
            )
        self.shape, self.blur_voxels = potentials.checked_shape(shape), blur_voxels
        points = potentials.control_points(shape)
        self.register_buffer("common", torch.zeros(points))
        for name, features, places in (
            ("quarter", eyes * 16, points),
            ("eighth", eyes * (32 + 64), tuple(n // 2 for n in points)),
        ):
            self.register_buffer(f"{name}_mean", torch.zeros(features, *places))
            self.register_buffer(f"{name}_scale", torch.ones(features, *places))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.eyes = nn.ModuleList(_blocks(CourseNet(classes=2)) for _ in range(eyes)).eval()
            layouts.channels_last(self.eyes)
            self.deep = CondConv3d(eyes * (32 + 64) + 3, width)
            self.middle = CondConv3d(width, width)
            self.near = CondConv3d(width + eyes * 16 + 3, width)
            self.out = CondConv3d(width, 1)
        nn.init.zeros_(self.out.kernels)
        nn.init.zeros_(self.out.biases)

    def look_through(self, classifiers: Iterable[nn.Module]) -> None:
        """See with the classifiers' eyes from now on, and leave them as they are while training.

        Of a classifier that is none of the course's networks, the simulator cannot use the eyes:
        then its own are trained.
        """
        for eyes, classifier in zip(self.eyes, classifiers, strict=False):
            if isinstance(classifier, CourseNet):
                eyes.load_state_dict(_blocks(classifier).state_dict())
                eyes.requires_grad_(False)

    @torch.no_grad()
    def compare_with(self, healthy: Float[Tensor, "subject 1 x y z"]) -> None:
        """Note what the eyes see in healthy people; from now on, features are differences from it.

        The unit of a feature is its standard deviation at this place, and a share of the one over
        all places: what hardly varies somewhere must not drown the rest.
        """
        batches = [self.see(potentials.pad(batch)) for batch in healthy.split(_TOGETHER)]
        for name, parts in zip(("quarter", "eighth"), zip(*batches, strict=True), strict=True):
            features = torch.cat(parts)
            whole = features.std(dim=(0, 2, 3, 4)).view(-1, 1, 1, 1)
            getattr(self, f"{name}_mean").copy_(features.mean(0))
            getattr(self, f"{name}_scale").copy_(
                features.std(0) + _SHARE_OF_ALL * whole + _NEVER_ZERO
            )

    def see(self, volumes: Float[Tensor, "subject 1 x y z"]) -> tuple[Tensor, Tensor]:
        """Return what the eyes see of padded brains, at a quarter and at an eighth of the size."""
        quarters, eighths = [], []
        for block1, block2, block3, block4 in self.eyes:
            quarters.append(block2(block1(volumes)))  # subject 16 x/4 y/4 z/4
            eighths.append(block3(quarters[-1]))  # subject 32 x/8 y/8 z/8
            eighths.append(block4(eighths[-1]))  # subject 64 x/8 y/8 z/8
        return torch.cat(quarters, dim=1), torch.cat(eighths, dim=1)

    def differences(self, volumes: Float[Tensor, "subject 1 x y z"]) -> tuple[Tensor, Tensor]:
        """Return what the eyes see of padded brains, less what they see in healthy people."""
        quarter, eighth = self.see(volumes)
        return (
            (quarter - self.quarter_mean) / self.quarter_scale,
            (eighth - self.eighth_mean) / self.eighth_scale,
        )

    def train(self, mode: bool = True) -> "Simulator":
        """Set the mode; the eyes stay in evaluation mode, as the classifier was."""
        super().train(mode)
        self.eyes.eval()
        return self

    def doses(
        self, volumes: Float[Tensor, "subject 1 x y z"], sign: Float[Tensor, "subject"]
    ) -> Float[Tensor, "subject a b c"]:
        """Return how much of the common potential each brain is to get, at every control point."""
        condition = sign[:, None]
        quarter, eighth = self.differences(volumes)
        deep = _activate(self.deep(placed(eighth), condition))
        deep = _activate(self.middle(deep, condition))
        up = F.interpolate(deep, quarter.shape[2:], mode="trilinear", align_corners=True)
        near = _activate(self.near(placed(up, quarter), condition))
        doses = self.out(near, condition)[:, 0]
        return _LARGEST_DOSE * torch.tanh(doses / _LARGEST_DOSE)

    def potential(
        self, volumes: Float[Tensor, "subject 1 x y z"], direction: Directions
    ) -> Float[Tensor, "subject a b c"]:
        """Return the answer at the control points, before the strength."""
        sign = signs(direction, len(volumes)).to(volumes)
        return self.common * self.doses(potentials.pad(volumes), sign)

    def forward(
        self,
        volumes: Float[Tensor, "subject 1 x y z"],
        direction: Directions,
        strength: float = 1.0,
    ) -> Simulation:
        """Simulate the disease into brains or out of them.

        Parameters
        ----------
        volumes : tensor of shape (subject, 1, x, y, z)
        direction : str, or one for each subject
            ``"inject"`` makes class 1 more likely, ``"remove"`` less.
        strength : float
            Multiplies the potential: 0 changes nothing, 1 is a quarter more than what convinces the
            classifiers that taught, and a negative number goes the other way.

        Raises
        ------
        ValueError
            If the direction is another, the strength is no finite number, or volumes are not
            what the network takes.
        """
        check(volumes, self.shape, strength)
        potential = strength * FURTHER * self.potential(volumes, direction)
        return deform(volumes, potential, self.blur_voxels)


def deform(
    volumes: Float[Tensor, "subject 1 x y z"],
    potential: Float[Tensor, "subject a b c"],
    blur_voxels: float,
) -> Simulation:
    """Let each brain flow along the slope of its potential."""
    # A position of half precision would be wrong by a quarter of a voxel.
    with torch.autocast(volumes.device.type, enabled=False):
        moves = potentials.displacement(potential.float(), tuple(volumes.shape[2:]), blur_voxels)
        warped = fields.warp(volumes, moves)
    # Warping by nothing rounds. The difference is 0; it keeps the slope for who is still at rest.
    still = ~moves.flatten(1).any(1).view(-1, 1, 1, 1, 1)
    exact = torch.where(still, volumes + (warped - warped.detach()), warped)
    return Simulation(exact, moves, potential)


def check(volumes: Tensor, shape: tuple[int, int, int], strength: float) -> None:
    """Raise if volumes are not what a simulator of this shape takes, or the strength is none."""
    grids.check_volumes(volumes)
    if tuple(volumes.shape[1:]) != (1, *shape):
        raise ValueError(
            f"this simulator takes volumes of shape (subject, 1, {', '.join(map(str, shape))}), "
            f"got {tuple(volumes.shape)}"
        )
    if not math.isfinite(strength):
        raise ValueError(f"strength must be a finite number, got {strength}")


def signs(direction: Directions, subjects: int) -> Float[Tensor, "subject"]:
    """Return 1 for every subject to inject into and -1 for every one to remove from."""
    names = [direction] * subjects if isinstance(direction, str) else list(direction)
    unknown = sorted({str(name) for name in names} - DIRECTIONS.keys())
    if unknown or len(names) != subjects:
        raise ValueError(
            f"expected a direction of {list(DIRECTIONS)}, or one for each of {subjects} subjects; "
            f"got {direction!r}"
        )
    return torch.tensor([DIRECTIONS[name] for name in names])


def other_class(labels: Int[Tensor, "subject"]) -> list[str]:
    """Return the direction that changes each person's class."""
    inject, remove = DIRECTIONS
    return [remove if label else inject for label in labels.tolist()]


def placed(*features: Float[Tensor, "subject _ x y z"]) -> Float[Tensor, "subject channel x y z"]:
    """Return features side by side, and x, y and z of every place, from -1 to 1."""
    axes = [torch.linspace(-1, 1, n).to(features[0]) for n in features[0].shape[2:]]
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    return torch.cat([*features, positions.expand(len(features[0]), -1, -1, -1, -1)], dim=1)


def _blocks(classifier: CourseNet) -> nn.ModuleList:
    return nn.ModuleList(getattr(classifier, f"block{i}") for i in (1, 2, 3, 4))


def _activate(features: Tensor) -> Tensor:
    return F.leaky_relu(features, 0.1)
