"""Optimize a deformation: what would bring this person to the other class?

A simulator answers in one pass what it has learned from many. Here nothing is learned: a potential
is moved, step by step, until the classifiers see a typical person of the other class. For one
person this takes seconds, and shows what an answer to this very person can look like (`optimize`).
One potential for many people is what a simulator starts from (`common_potential`).

Each step goes straight down the slope, as far as the slope says that the rest of the way is, times
a small share; and only where the slope is steep. Many small steps at the steepest places find a
sparse answer, as stagewise regression does.

References
----------
Wachter, Mittelstadt, Russell (2018), Counterfactual explanations without opening the black box.
Polyak (1969), Minimization of unsmooth functionals: the length of a step. Hastie, Taylor,
Tibshirani, Walther (2007), Forward stagewise regression and the monotone lasso: small sparse steps.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy.optimize import brentq
from torch import Tensor, nn

from helpers import fields, grids, runtime
from helpers.cohorts import Cohort
from helpers.warping import potentials
from helpers.warping.readers import Reading, read
from helpers.warping.simulators import Simulation, deform, signs

_TOGETHER = 8  # people that share a step of the common potential
_ASKING_STEPS, _STEP_SIZE, _SPARSITY = 80, 0.08, 0.2
_SEEING_STEPS, _SEEING_RATE = 40, 0.08
_WEIGHTS = (1.0, 0.3)  # of what is seen at a quarter and at an eighth of the size
_LARGEST = 2.0  # log expansion at the steepest place: more than sevenfold
_EQUAL = 0.2  # places with less than this share of the largest potential count as noise


def optimize(
    model: nn.Module | Sequence[nn.Module],
    volumes: Float[Tensor, "subject 1 x y z"],
    cohort: Cohort,
    direction: str = "remove",
    *,
    steps: int = 80,
    step_size: float = 0.08,
    sparsity: float = 0.4,
    blur_voxels: float = 2.5,
    batch_size: int = 8,
    progress: bool = True,
) -> Simulation:
    """Deform each brain until classifiers see a typical person of the other class.

    Nobody's answer depends on who else is asked. Who is at the target already, for every
    classifier, is left as she is, to the bit.

    Parameters
    ----------
    model : Module, or a sequence of them
        Classifiers of two classes, the disease second, in evaluation mode. They stay as they are.
    volumes : tensor of shape (subject, 1, x, y, z)
        Brains on the grid of the cohort.
    cohort : Cohort
        People of both classes, who say what is typical: the mean logits of their classes. Labels 0,
        without the disease, and 1, with it.
    direction : str
        ``"remove"`` (default) aims at the mean of those without the disease, ``"inject"`` of those
        with it.
    steps : int
        How many steps there are; a person at the target takes no more.
    step_size : float
        Share of what is left of the way that a step takes, above 0 and up to 1.
    sparsity : float
        Slopes below this share of a person's steepest one do not count, from 0 to below 1.
    blur_voxels : float
        As of a `Simulator`.
    batch_size : int
        How many brains are deformed at once.
    progress : bool
        Show a bar.

    Returns
    -------
    Simulation

    Raises
    ------
    ValueError
        If a classifier is in training mode, has not two classes or tells them apart worse than a
        coin; if the cohort has one class only; if the volumes are of another shape than the
        cohort's or hold NaN; or an option has no meaning.

    Examples
    --------
    >>> from helpers import cohorts, models, warping
    >>> people = cohorts.simulate("atrophy", subjects=8)
    >>> ill = people.volumes[people.labels == 1][:1]
    >>> found = warping.optimize(models.pretrained("atrophy"), ill, people, steps=2)
    >>> tuple(found.log_expansion.shape)
    (1, 1, 48, 56, 48)
    """
    if not (0 < step_size <= 1 and 0 <= sparsity < 1 and 0 < blur_voxels < math.inf and steps >= 1):
        raise ValueError(
            f"expected steps of 1 or more, a step_size above 0 and up to 1, a sparsity from 0 to "
            f"below 1 and blur_voxels above 0; got {steps}, {step_size}, {sparsity}, {blur_voxels}"
        )
    if batch_size < 1 or len(volumes) < 1:
        raise ValueError(
            f"expected one brain or more, one or more at once; got {len(volumes)} and {batch_size}"
        )
    grids.check_volumes(volumes)
    if volumes.shape[2:] != cohort.volumes.shape[2:]:
        raise ValueError(
            f"expected volumes of the cohort's shape, (subject, 1, "
            f"{', '.join(map(str, cohort.grid.shape))}); got {tuple(volumes.shape)}"
        )
    sign = float(signs(direction, 1))
    readers, odds, _ = read(model, cohort)
    typical = odds[cohort.labels == int(sign > 0)].mean(0)
    device = runtime.device()
    readers, typical = readers.to(device), typical.to(device)
    found = []
    for batch in runtime.progress(volumes.split(batch_size), label="optimize", show=progress):
        brains = batch.to(device)
        points = potentials.control_points(cohort.grid.shape)
        potential = brains.new_zeros(len(brains), *points, requires_grad=True)
        for _ in range(steps):
            seen = readers(deform(brains, potential, blur_voxels).volumes)
            missing = F.relu(sign * (typical - seen)).mean(1)  # in units of the classes' distance
            potential = _advanced(potential, missing, step_size, sparsity)
        with torch.no_grad():
            found.append(deform(brains, potential, blur_voxels))
    return Simulation(*(torch.cat(parts).cpu() for parts in zip(*found, strict=True)))


def common_potential(
    readers: Reading,
    cohort: Cohort,
    typical: Float[Tensor, "2 network"],
    differences: Callable[[Tensor], Sequence[Tensor]],
    *,
    blur_voxels: float,
    generator: torch.Generator,
) -> Float[Tensor, "a b c"]:
    """Return the one potential that makes healthy people typical patients, place by place.

    Two potentials have to agree on it. One is what the classifiers *ask for*: they need some places
    more than others, and what a network needs little may be as ill as the rest, so every place that
    counts at all is given the same size. The other makes the classifiers *see*, at every place,
    what they see there in patients; it knows better where a structure ends, and not what counts.
    Both are asked for in both directions: what makes patients of the healthy, less what makes
    healthy people of patients. What they agree on gets the one dose with which the classifiers see
    a typical patient.

    Parameters
    ----------
    readers : callable
    cohort : Cohort
        Labels 0, without the disease, and 1, with it.
    typical : tensor of shape (class, network)
        What each network says of typical people of the two classes.
    differences : callable
        Padded brains in, what is seen in them less what is seen in healthy people out, at one
        resolution or more (`Simulator.differences`).
    blur_voxels : float
        As in `optimize`.
    generator : torch.Generator
        Of who is asked in each step.

    Raises
    ------
    ValueError
        If no deformation makes healthy people typical patients.
    """
    device = typical.device
    groups = [cohort.volumes[cohort.labels == label] for label in (0, 1)]

    def missing(potential: Tensor, brains: Tensor, label: int) -> Tensor:
        """Return how far the mean of some people is from the typical one, for each network."""
        return (2 * label - 1) * (typical[label] - readers(_all(brains, potential)).mean(0))

    def _all(brains: Tensor, potential: Tensor) -> Tensor:
        shared = potential.expand(len(brains), -1, -1, -1)
        return deform(brains.to(device), shared, blur_voxels).volumes

    def some(label: int) -> Tensor:
        who = torch.randperm(len(groups[label]), generator=generator)[:_TOGETHER]
        return groups[label][who]

    def start() -> Tensor:
        points = potentials.control_points(cohort.grid.shape)
        return torch.zeros(1, *points, device=device, requires_grad=True)

    def asked(label: int) -> Tensor:
        """Return the potential that brings the other class to this one."""
        potential = start()
        for _ in range(_ASKING_STEPS):
            short = F.relu(missing(potential, some(1 - label), label)).mean()[None]
            potential = _advanced(potential, short, _STEP_SIZE, _SPARSITY)
        return potential.detach()

    def seen() -> Tensor:
        """Return the potential with which one sees in each class what is seen in the other."""
        potential = start()
        with torch.no_grad():
            parts = [differences(potentials.pad(b.to(device))) for b in groups[1].split(_TOGETHER)]
        goals = [torch.cat(part).mean(0) for part in zip(*parts, strict=True)]
        optimizer = torch.optim.Adam([potential], lr=_SEEING_RATE)
        slower = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, _SEEING_STEPS)
        for _ in range(_SEEING_STEPS):
            loss = 0.0
            for label, sign in enumerate((1, -1)):
                brains = some(label).to(device)
                with torch.no_grad():
                    before = differences(potentials.pad(brains))
                after = differences(potentials.pad(_all(brains, sign * potential)))
                for goal, old, new, weight in zip(goals, before, after, _WEIGHTS, strict=True):
                    rest = (new - old).mean(0) - sign * goal
                    loss = loss + weight * rest.square().mean() / goal.square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            slower.step()
        return potential.detach()

    potential = _agreed(_equalised(asked(1) - asked(0)), seen())
    largest = max(float(potentials.expansion(potential, blur_voxels).abs().max()), 1e-12)
    healthy = groups[0][: 2 * _TOGETHER]

    @torch.no_grad()
    def rest(log_expansion: float) -> float:
        return float(missing(log_expansion / largest * potential, healthy, 1).mean())

    left = rest(_LARGEST)
    if left > 0:
        raise ValueError(
            f"no deformation makes healthy people typical patients for these classifiers: "
            f"{left:.0%} of the way is left where tissue grows or shrinks by a log expansion of "
            f"{_LARGEST}. They do not use what can be shown by moving tissue"
        )
    return brentq(rest, 0.0, _LARGEST, xtol=0.01) / largest * potential[0]


def _equalised(potential: Float[Tensor, "1 a b c"]) -> Float[Tensor, "1 a b c"]:
    """Return every place of a potential at one size, if it has any."""
    size = fields.gaussian_blur(potential[None].square(), 1.0)[0].sqrt()
    return potential / (size.square() + (_EQUAL * size.max()).square()).sqrt().clamp_min(1e-12)


def _agreed(one: Tensor, other: Tensor) -> Tensor:
    """Return the geometric mean of two potentials; nothing where their signs differ."""
    return one.sign() * F.relu(one * other).sqrt()


def _advanced(potential: Tensor, missing: Tensor, step_size: float, sparsity: float) -> Tensor:
    """Return potentials after one step: a share of the way, where the slope is steep."""
    (slope,) = torch.autograd.grad(missing.sum(), potential)
    steepest = slope.abs().flatten(1).amax(1).view(-1, 1, 1, 1)
    steep = slope.sign() * F.relu(slope.abs() - sparsity * steepest)
    length = step_size * missing.detach() / steep.flatten(1).square().sum(1).clamp_min(1e-12)
    return (potential - length.view(-1, 1, 1, 1) * steep).detach().requires_grad_()
