"""Optimize a deformation: what would bring this person to the other class?

A simulator answers in one pass what it has learned from many. Here nothing is learned: a potential
is moved, step by step, until the classifiers see a typical person of the other class. For one
person this takes seconds, and shows what an answer to this very person can look like. (One
potential for many people is what a simulator starts from, see `helpers.warping.common`.)

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
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from helpers import grids, runtime
from helpers.cohorts import Cohort
from helpers.warping import potentials
from helpers.warping.readers import read
from helpers.warping.simulators import Simulation, deform, signs


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
            potential = advanced(potential, missing, step_size, sparsity)
        with torch.no_grad():
            found.append(deform(brains, potential, blur_voxels))
    return Simulation(*(torch.cat(parts).cpu() for parts in zip(*found, strict=True)))


def advanced(potential: Tensor, missing: Tensor, step_size: float, sparsity: float) -> Tensor:
    """Return potentials after one step: a share of the way, where the slope is steep."""
    (slope,) = torch.autograd.grad(missing.sum(), potential)
    steepest = slope.abs().flatten(1).amax(1).view(-1, 1, 1, 1)
    steep = slope.sign() * F.relu(slope.abs() - sparsity * steepest)
    length = step_size * missing.detach() / steep.flatten(1).square().sum(1).clamp_min(1e-12)
    return (potential - length.view(-1, 1, 1, 1) * steep).detach().requires_grad_()
