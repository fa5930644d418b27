"""Meaningful Perturbation: which smallest region, when blurred, destroys the class?

A mask at a quarter of the resolution is optimized: 1 keeps a voxel, 0 blurs it. The class should
vanish, the blurred region be small, and its border smooth.

References
----------
Fong, Vedaldi (2017), Interpretable explanations of black boxes by meaningful perturbation,
arXiv 1704.03296. Kan et al. (2020), arXiv 2006.15969: in 3D, on brains.
"""

import itertools
import math
import warnings
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from helpers import fields, models, runtime
from helpers._docs import filled
from helpers.attribution.contract import explain_in_batches
from helpers.errors import InterruptedWarning

MASK_SPACING_VOXELS = 4
JITTER_VOXELS = 4
ROUGHNESS_POWER = 7
_JITTER = 3  # random stream under a seed


@filled
def meaningful_perturbation(
    model: nn.Module,
    volumes: Float[Tensor, "subject 1 x y z"],
    target: int | Tensor | None = None,
    *,
    goal: float = 0.05,
    area_weight: float = 3.0,
    roughness_weight: float = 1.0,
    blur_voxels: float = 4.0,
    iterations: int = 90,
    jitters: tuple[int, int] = (2, 2),
    learning_rate: float = 0.3,
    decay: tuple[float, int] = (0.975, 1),
    ramp: int = 30,
    patience: int | None = None,
    seed: int = 0,
    batch_size: int = 5,
    record: Callable[[dict], None] | None = None,
    progress: bool = True,
) -> Float[Tensor, "subject 1 x y z"]:
    """Optimize which voxels to blur so that the class disappears; return how much each one is.

    The loss is ``max(p - goal, 0) + area_weight * area + roughness_weight * roughness``: p is the
    probability of the class, area the mean of 1 - mask, roughness the mean of the differences of
    neighbours to the power of 7. Each pass sees the volume shifted by up to 4 voxels, so that no
    mask wins that fits the network's sampling grid alone.

    The method as Kan et al. run it, 3000 passes for each subject, is ``iterations=300,
    jitters=(10, 10), decay=(0.1, 30), ramp=60, patience=None``. The default takes a
    sixteenth of the passes: two copies a step, for many rough steps lead farther than few exact
    ones. One copy would save nothing on a CPU, where torch is slower with one than with two.

    Parameters
    ----------
    {model}
    {volumes}
    target : int or tensor of shape (subject,), optional
        Class to destroy; default each subject's predicted class.
    goal : float
        Probability below which the class counts as destroyed.
    area_weight, roughness_weight : float
        Price of a large and of a ragged region.
    blur_voxels : float
        Standard deviation of the Gaussian that blurs; 4 voxels are 16 mm at 4 mm.
    iterations : int
        Steps of the optimizer (Adam with amsgrad), at most.
    jitters : two ints
        Shifted copies that a step averages over, in the first and in the last step; in between
        they grow with the square of the step.
    learning_rate : float
        Of the first step; a mask lives between 0 and 1.
    decay : float and int
        The learning rate is multiplied by the first every so many steps.
    ramp : int
        Steps until area and roughness have their full weight. Of the masks after them, the one
        with the lowest running mean of the loss is kept.
    patience : int, optional
        Stop when the running mean has not fallen by 0.1 % for so many steps; default never.
    seed : int
        Of the shifts. All subjects meet the same ones, so that a map does not depend on which
        others are explained beside it.
    batch_size : int
        Shifted copies that pass the network at a time.
    record : callable, optional
        Gets a dict after each step: ``subject``, ``step``, ``loss`` with full weights,
        ``probability``, ``area`` and ``roughness``. ``rows = []`` and ``record=rows.append``
        collect the history.
    {progress}

    Returns
    -------
    tensor of shape (subject, 1, x, y, z)
        From 0, kept as it is, to 1, blurred.

    Warns
    -----
    UserWarning
        If there is nothing to destroy: the class is not above the goal, or blurring the whole
        volume does not lower it. The map is zero.
    InterruptedWarning
        If a cell of a notebook is stopped (Ctrl-C): the map of the subject at work is the best so
        far, those of the subjects after it are NaN. A program that is stopped stops.

    Raises
    ------
    ValueError
        If an option is out of range, such as a ramp that never ends.

    Examples
    --------
    >>> from helpers import cohorts, models
    >>> from helpers.attribution.perturbation import meaningful_perturbation
    >>> patient = cohorts.simulate("lesion", subjects=2)[1:]
    >>> rows, model = [], models.pretrained("lesion")
    >>> maps = meaningful_perturbation(
    ...     model, patient.volumes, patient.labels, iterations=2, ramp=1, record=rows.append
    ... )
    >>> len(rows)
    2
    """
    _check(goal, blur_voxels, iterations, jitters, learning_rate, ramp, patience, batch_size)
    numbers, stopped = itertools.count(), False

    def chance(copies: Tensor, target: Tensor) -> Tensor:
        return models.class_logits(model(copies)).softmax(1)[:, int(target)]

    def explainer(volume: Tensor, target: Tensor) -> Tensor:
        nonlocal stopped
        subject = next(numbers)
        if stopped:
            return torch.full_like(volume, math.nan)
        blurred = fields.gaussian_blur(volume, blur_voxels)
        with torch.no_grad():
            before, after = chance(torch.cat([volume, blurred]), target).tolist()
        if before <= goal or after >= before:
            return torch.zeros_like(volume)
        best = volume.new_ones(1, 1, 1, 1, 1)
        try:
            for better in masks(volume, blurred, target, subject):
                best = better
        except KeyboardInterrupt:
            if not runtime.interactive():
                raise
            stopped = True
            warnings.warn(
                f"stopped by hand: the map of subject {subject} is the best so far, those of the "
                f"{len(volumes) - subject - 1} subjects after it are NaN",
                InterruptedWarning,
                stacklevel=2,
            )
        return 1 - F.interpolate(best, volume.shape[2:], mode="trilinear")

    def masks(volume: Tensor, blurred: Tensor, target: Tensor, subject: int) -> Iterator[Tensor]:
        """Yield each mask that is better than those before."""
        coarse = [math.ceil(n / MASK_SPACING_VOXELS) for n in volume.shape[2:]]
        mask = volume.new_ones(1, 1, *coarse).requires_grad_()
        optimizer = torch.optim.Adam([mask], lr=learning_rate, amsgrad=True)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, decay[1], decay[0])
        generator = runtime.generator(seed, _JITTER)
        lowest, age = math.inf, 0
        yield mask.detach()  # shares its memory: until the ramp is over, the newest
        for step in runtime.progress(range(iterations), label="mask", show=progress):
            optimizer.zero_grad()
            # The excess of the probability over the goal, a few shifted copies at a time.
            shifts = _shifts(jitters, step / max(1, iterations - 1), generator)
            probabilities = []
            for part in shifts.chunk(math.ceil(len(shifts) / batch_size)):
                seen = perturbed(volume, blurred, mask)
                copies = torch.cat([seen.roll(shift, (2, 3, 4)) for shift in part.tolist()])
                probability = chance(copies, target)
                (F.relu(probability - goal).sum() / len(shifts)).backward()
                probabilities.append(probability.detach())
            probability = torch.cat(probabilities)
            # The price of the region; it rises, for at first there is no region yet.
            area, rough = (1 - mask).mean(), roughness(mask)
            price = area_weight * area + roughness_weight * rough
            (min(1.0, (step + 1) / ramp) * price).backward()
            loss = float(F.relu(probability - goal).mean() + price.detach())
            if record is not None:
                record(
                    {
                        "subject": subject,
                        "step": step,
                        "loss": loss,
                        "probability": float(probability.mean()),
                        "area": float(area.detach()),
                        "roughness": float(rough.detach()),
                    }
                )
            if step >= ramp:
                # A single loss can be low by a lucky shift: a running mean decides.
                level = loss if step == ramp else 0.8 * level + 0.2 * loss
                age += 1
                if level < 0.999 * lowest:
                    lowest, age = level, 0
                    yield mask.detach().clone()
                if patience is not None and age >= patience:
                    return
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                mask.clamp_(0, 1)

    return explain_in_batches(
        model,
        volumes,
        target,
        batch_size=1,
        explainer=explainer,
        when_zero=f"their class is not above {goal}, or blurring all of the volume does not lower "
        f"it, so there is nothing to destroy",
    )


def perturbed(
    volume: Float[Tensor, "1 1 x y z"],
    blurred: Float[Tensor, "1 1 x y z"],
    mask: Float[Tensor, "1 1 a b c"],
) -> Float[Tensor, "1 1 x y z"]:
    """Return the volume where the mask is 1, the blurred one where it is 0, and in between."""
    keep = F.interpolate(mask, volume.shape[2:], mode="trilinear")
    return blurred + keep * (volume - blurred)


def roughness(mask: Float[Tensor, "1 1 a b c"]) -> Float[Tensor, ""]:
    """Return the mean of the differences of neighbours to the power of 7, summed over the axes.

    The high power spares the many small differences of a soft border and forbids large ones.
    """
    return sum(mask.diff(dim=axis).abs().pow(ROUGHNESS_POWER).mean() for axis in (2, 3, 4))


def _shifts(
    jitters: tuple[int, int], done: float, generator: torch.Generator
) -> Int[Tensor, "copy 3"]:
    copies = round(jitters[0] + done**2 * (jitters[1] - jitters[0]))
    return torch.randint(-JITTER_VOXELS, JITTER_VOXELS + 1, (copies, 3), generator=generator)


def _check(
    goal, blur_voxels, iterations, jitters, learning_rate, ramp, patience, batch_size
) -> None:
    if not 0 <= goal < 1:
        raise ValueError(f"goal must be a probability from 0 to below 1, got {goal}")
    if not (0 < blur_voxels < math.inf and 0 < learning_rate < math.inf):
        raise ValueError(
            f"blur_voxels and learning_rate must be above 0, got {blur_voxels} and {learning_rate}"
        )
    if not 1 <= ramp < iterations:
        raise ValueError(
            f"ramp must be from 1 to below the {iterations} iterations, got {ramp}: "
            f"only masks at the full price are kept"
        )
    if min(*jitters, batch_size, 1 if patience is None else patience) < 1:
        raise ValueError(
            f"jitters, patience and batch_size must be 1 or more, got {jitters}, {patience} and "
            f"{batch_size}"
        )
