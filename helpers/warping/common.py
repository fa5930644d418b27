"""What a simulator starts from: one deformation that makes healthy people typical patients.

Two potentials have to agree on it. One is what the classifiers *ask for*: it knows what counts.
They need some places more than others, though, and what a network needs little may be as ill as the
rest; so every place that counts at all is given the same size. The other makes the classifiers
*see*, at every place, what they see there in patients; it knows better where a structure ends. Both
are looked for in both directions: what makes patients of the healthy, less what makes healthy
people of patients.

References
----------
Johnson, Alahi, Fei-Fei (2016), Perceptual losses for real-time style transfer: to be seen alike.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy.optimize import brentq
from torch import Tensor

from helpers import fields
from helpers.cohorts import Cohort
from helpers.warping import potentials
from helpers.warping.optimizing import advanced
from helpers.warping.readers import Reading
from helpers.warping.simulators import deform

_TOGETHER = 8  # people that share a step
_ASKING_STEPS, _STEP_SIZE, _SPARSITY = 80, 0.08, 0.2  # as in `optimize`, and less sparse
_SEEING_STEPS = 30
_COARSER = 0.3  # what one resolution counts of the one before it
_EQUAL = 0.2  # places with less than this share of the largest potential count as noise
_LARGEST = 2.0  # log expansion at the steepest place: more than sevenfold

Seeing = Callable[[Float[Tensor, "subject 1 x y z"]], Sequence[Tensor]]


def common_potential(
    readers: Reading,
    cohort: Cohort,
    typical: Float[Tensor, "2 network"],
    differences: Seeing,
    *,
    blur_voxels: float,
    generator: torch.Generator,
) -> Float[Tensor, "a b c"]:
    """Return the one potential that makes healthy people typical patients.

    Parameters
    ----------
    readers : callable
    cohort : Cohort
        Labels 0, without the disease, and 1, with it.
    typical : tensor of shape (class, network)
        What each network says of typical people of the two classes.
    differences : callable
        Padded brains in, what is seen in them less what is seen in healthy people out, at one
        resolution or more, the finest first (`Simulator.differences`).
    blur_voxels : float
        As of a `Simulator`.
    generator : torch.Generator
        Of who is asked in each step.

    Raises
    ------
    ValueError
        If no deformation makes healthy people typical patients.
    """
    groups = _Groups(cohort, blur_voxels, typical.device, generator)

    def missing(brains: Tensor, label: int) -> Tensor:
        """Return how far the mean of some people is from a class, for each network."""
        return (2 * label - 1) * (typical[label] - readers(brains).mean(0))

    asked = [_asked_for(lambda brains, k=k: missing(brains, k), groups, k) for k in (0, 1)]
    potential = _agreed(_equalised(asked[1] - asked[0]), _seen(differences, groups))
    largest = max(float(potentials.expansion(potential, blur_voxels).abs().max()), 1e-12)
    healthy = groups.of_class[0][: 2 * _TOGETHER].to(typical.device)

    @torch.no_grad()
    def rest(log_expansion: float) -> float:
        return float(
            missing(groups.deformed(healthy, log_expansion / largest * potential), 1).mean()
        )

    left = rest(_LARGEST)
    if left > 0:
        raise ValueError(
            f"no deformation makes healthy people typical patients for these classifiers: "
            f"{left:.0%} of the way is left where tissue grows or shrinks by a log expansion of "
            f"{_LARGEST}. They do not use what can be shown by moving tissue"
        )
    return brentq(rest, 0.0, _LARGEST, xtol=0.01) / largest * potential[0]


@dataclass
class _Groups:
    """People of both classes, some of whom share a step."""

    cohort: Cohort
    blur_voxels: float
    device: torch.device
    generator: torch.Generator

    def __post_init__(self):
        volumes, labels = self.cohort.volumes, self.cohort.labels
        self.of_class = [volumes[labels == label] for label in (0, 1)]

    def some(self, label: int) -> Tensor:
        """Draw a few people of a class."""
        people = self.of_class[label]
        who = torch.randperm(len(people), generator=self.generator)[:_TOGETHER]
        return people[who].to(self.device)

    def nothing(self) -> Tensor:
        """Return a potential that moves nobody yet."""
        points = potentials.control_points(self.cohort.grid.shape)
        return torch.zeros(1, *points, device=self.device, requires_grad=True)

    def deformed(self, brains: Tensor, potential: Tensor) -> Tensor:
        """Return brains that all flow along one potential."""
        return deform(brains, potential.expand(len(brains), -1, -1, -1), self.blur_voxels).volumes


def _asked_for(missing: Callable[[Tensor], Tensor], groups: _Groups, label: int) -> Tensor:
    """Return the potential that brings the other class to this one, for the classifiers."""
    potential = groups.nothing()
    for _ in range(_ASKING_STEPS):
        short = F.relu(missing(groups.deformed(groups.some(1 - label), potential))).mean()[None]
        potential = advanced(potential, short, _STEP_SIZE, _SPARSITY)
    return potential.detach()


def _seen(differences: Seeing, groups: _Groups) -> Tensor:
    """Return the potential with which one sees in each class what is seen in the other."""

    def see(brains: Tensor) -> Sequence[Tensor]:
        return differences(potentials.pad(brains))

    with torch.no_grad():
        patients = groups.of_class[1].split(_TOGETHER)
        parts = [see(batch.to(groups.device)) for batch in patients]
        goals = [torch.cat(part).mean(0) for part in zip(*parts, strict=True)]
        people = [(sign, groups.some(label)) for label, sign in enumerate((1, -1))]
        before = [see(brains) for _, brains in people]
    units = [goal.square().mean().clamp_min(1e-12) / _COARSER**i for i, goal in enumerate(goals)]
    potential = groups.nothing()
    # Second-order steps: what is seen nowhere has no slope, and stays 0.
    optimizer = torch.optim.LBFGS(
        [potential], max_iter=_SEEING_STEPS, history_size=10, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        total = torch.zeros((), device=groups.device)
        for (sign, brains), old in zip(people, before, strict=True):
            new = see(groups.deformed(brains, sign * potential))
            for was, now, goal, unit in zip(old, new, goals, units, strict=True):
                total = total + ((now - was).mean(0) - sign * goal).square().mean() / unit
        total.backward()
        return total

    optimizer.step(loss)
    return potential.detach()


def _equalised(potential: Float[Tensor, "1 a b c"]) -> Float[Tensor, "1 a b c"]:
    """Return every place of a potential at one size, if it has any."""
    size = fields.gaussian_blur(potential[None].square(), 1.0)[0].sqrt()
    return potential / (size.square() + (_EQUAL * size.max()).square()).sqrt().clamp_min(1e-12)


def _agreed(one: Tensor, other: Tensor) -> Tensor:
    """Return the geometric mean of two potentials; nothing where their signs differ."""
    return one.sign() * F.relu(one * other).sqrt()
