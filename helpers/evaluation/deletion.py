"""Does the network need the voxels that a map calls important?

Every test here has a control: the same map at another place in the brain, see
`helpers.evaluation.elsewhere`. It takes away as many voxels, and as clumped.

All of these show the network images unlike those it was trained on. That a probability falls can
always mean that the hole, not the missing tissue, was what the network saw.

References
----------
Petsiuk, Das, Saenko (2018), RISE: randomized input sampling for explanation, arXiv 1806.07421.
Kan et al. (2020), arXiv 2006.15969: group masks multiplied onto the volumes.
"""

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from sklearn.metrics import auc
from torch import Tensor, nn

from helpers import models, runtime
from helpers._docs import filled
from helpers.evaluation.controls import moved
from helpers.evaluation.masks import counted, ranked, strongest, warn_of_zero_maps


@filled
def faithfulness(
    model: nn.Module,
    volumes: Float[Tensor, "subject 1 x y z"],
    maps: Float[Tensor, "subject 1 x y z"],
    target: int | Int[Tensor, "subject"] | None = None,
    *,
    steps: int = 20,
    fill: float | Float[Tensor, "#subject 1 x y z"] = 0.0,
    within: Bool[Tensor, "#subject 1 x y z"] | None = None,
    batch_size: int = 16,
    seed: int = 0,
) -> pd.DataFrame:
    """Follow the target's probability while voxels are deleted or inserted, the strongest first.

    Parameters
    ----------
    {model}
    {volumes}
    maps : tensor of the same shape
        Ranked by absolute value, equals in random order.
    target : int or tensor of shape (subject,), optional
        Class whose probability is followed; default each subject's predicted class.
    steps : int
        Equal steps from the whole volume to none of it, default 20.
    fill : float or tensor of the volumes' shape
        What a deleted voxel becomes, and what insertion starts from: default 0, the background;
        a blurred copy of the volumes is gentler.
    within : boolean tensor of the maps' shape, or of one subject for all, optional
        Voxels that are deleted; default those where the volume is not 0.
    batch_size : int
        Volumes at a time.
    seed : int
        Seed of the controls and of the order among equals.

    Returns
    -------
    DataFrame
        One row a point: ``subject``, ``curve`` (``"deletion"`` or ``"insertion"``), ``order``
        (``"map"``, or ``"elsewhere"`` for the control), ``fraction`` of the voxels that were
        deleted or inserted, ``probability`` of the target. `area_under_curve` sums it up.

    Raises
    ------
    ValueError
        If shapes differ, maps hold NaN, no voxel counts, or the target is no class.

    Warns
    -----
    UserWarning
        If maps are zero everywhere: both orders are then random.

    Examples
    --------
    >>> from helpers import attribution, cohorts, evaluation, models
    >>> volumes = cohorts.simulate("lesion", subjects=2).volumes
    >>> network = models.pretrained("lesion")
    >>> maps = attribution.gradient(network, volumes)
    >>> curves = evaluation.faithfulness(network, volumes, maps, steps=2)
    >>> len(curves)  # 2 subjects, 2 curves, 2 orders, 3 points
    24
    """
    if steps < 1:
        raise ValueError(f"steps must be 1 or more, got {steps}")
    _check_same(volumes, maps)
    inside = counted(maps, volumes != 0 if within is None else within)
    warn_of_zero_maps(maps, inside)
    filled = torch.where(inside, _background(fill, volumes), volumes)
    targets = _targets(model, volumes, target, batch_size)
    rows = []
    for i in runtime.progress(range(len(volumes)), label="faithfulness", total=len(volumes)):
        generator = runtime.generator(seed, i)
        orders = {
            "map": ranked(maps[i], inside[i], generator),
            "elsewhere": ranked(moved(maps[i], inside[i], generator), inside[i], generator),
        }
        curves = {"deletion": (volumes[i], filled[i]), "insertion": (filled[i], volumes[i])}
        for name, order in orders.items():
            cuts = [round(len(order) * step / steps) for step in range(steps + 1)]
            for curve, (start, goal) in curves.items():
                stages = start.flatten().repeat(len(cuts), 1)
                for stage, cut in zip(stages, cuts, strict=True):
                    stage[order[:cut]] = goal.flatten()[order[:cut]]
                stages = stages.view(-1, *start.shape)
                scores = _probabilities(model, stages, batch_size)[:, targets[i]]
                rows += [
                    {
                        "subject": i,
                        "curve": curve,
                        "order": name,
                        "fraction": cut / len(order),
                        "probability": score,
                    }
                    for cut, score in zip(cuts, scores.tolist(), strict=True)
                ]
    return pd.DataFrame(rows)


def area_under_curve(curves: pd.DataFrame) -> pd.DataFrame:
    """Return the area under each curve of `faithfulness`, 0 to 1.

    A good map has a small area of deletion and a large one of insertion, on the far side of its
    own control.

    Returns
    -------
    DataFrame
        Columns ``subject``, ``curve``, ``order``, ``area``.
    """
    rows = [
        dict(zip(("subject", "curve", "order"), key, strict=True))
        | {"area": float(auc(points["fraction"], points["probability"]))}
        for key, points in curves.groupby(["subject", "curve", "order"])
    ]
    return pd.DataFrame(rows)


@filled
def mask_test(
    model: nn.Module,
    volumes: Float[Tensor, "subject 1 x y z"],
    maps: Float[Tensor, "subject 1 x y z"],
    labels: Int[Tensor, "subject"],
    *,
    fraction: float = 0.05,
    fill: float | Float[Tensor, "#subject 1 x y z"] = 0.0,
    within: Bool[Tensor, "1 1 x y z"] | None = None,
    folds: int = 5,
    batch_size: int = 16,
    seed: int = 0,
) -> pd.DataFrame:
    """Keep or remove the area that the mean map of *other* subjects calls important.

    The subjects are divided into folds; each fold is tested with the mean map of the rest, so
    nobody's own map makes the mask. Use volumes that the model was not trained on either.

    Parameters
    ----------
    {model}
    volumes : tensor of shape (subject, 1, x, y, z)
        In one common space, such as MNI: the mean of the maps must mean something.
    maps : tensor of the same shape
        The absolute value counts; each map is divided by its sum, so that all weigh the same.
    labels : tensor of shape (subject,)
        True classes.
    fraction : float
        Size of the area as a share of the voxels that count, default 0.05.
    fill : float or tensor of the volumes' shape
        What stands where nothing is kept, default 0, the background.
    within : boolean tensor of shape (1, 1, x, y, z), optional
        Voxels that count; default those where most volumes are not 0.
    folds : int
        Default 5; the number of subjects leaves one out at a time.
    batch_size : int
        Volumes at a time.
    seed : int
        Seed of the folds and of the controls.

    Returns
    -------
    DataFrame
        Five rows a subject: ``subject``, ``action`` (``"whole"``, ``"keep"`` or ``"remove"``),
        ``area`` (``"map"``, or ``"elsewhere"`` for the strongest of the control, as many;
        ``"none"`` for the whole volume), ``probability`` of the label, and ``correct``. The mean
        of ``correct`` is the accuracy.

    Raises
    ------
    ValueError
        If shapes differ, maps hold NaN, no voxel counts, labels are no classes, or there are not
        2 or more folds of at least one subject.

    Warns
    -----
    UserWarning
        If maps are zero everywhere: they add nothing to the mean.

    Examples
    --------
    >>> from helpers import attribution, cohorts, evaluation, models
    >>> cohort = cohorts.simulate("shortcut", subjects=4)
    >>> network = models.pretrained("shortcut")
    >>> maps = attribution.gradient(network, cohort.volumes)
    >>> table = evaluation.mask_test(network, cohort.volumes, maps, cohort.labels, folds=2)
    >>> len(table)
    20
    """
    _check_same(volumes, maps)
    if not 2 <= folds <= len(volumes):
        raise ValueError(
            f"folds must be from 2 to the number of subjects ({len(volumes)}), got {folds}"
        )
    if within is None:
        within = ((volumes != 0).float().mean(0, keepdim=True) > 0.5).to(torch.bool)
    inside = counted(maps, within)
    warn_of_zero_maps(maps, inside)
    targets = _targets(model, volumes, labels, batch_size)
    filled = torch.where(inside, _background(fill, volumes), volumes)
    shares = maps.abs() * inside
    shares = shares / shares.flatten(1).sum(1).clamp_min(1e-30).view(-1, 1, 1, 1, 1)

    kept = {"map": torch.zeros_like(inside), "elsewhere": torch.zeros_like(inside)}
    shuffled = torch.randperm(len(volumes), generator=runtime.generator(seed))
    for test in shuffled.tensor_split(folds):
        others = torch.ones(len(volumes), dtype=torch.bool)
        others[test] = False
        mean = shares[others].mean(0)
        kept["map"][test] = strongest(mean[None], fraction, within=within, seed=seed)
        for i in test.tolist():
            control = moved(mean, inside[i], runtime.generator(seed, i))
            kept["elsewhere"][i] = strongest(control[None], fraction, within=within, seed=seed)[0]

    shown = {("whole", "none"): volumes}
    for area, mask in kept.items():
        shown["keep", area] = torch.where(mask, volumes, filled)
        shown["remove", area] = torch.where(mask, filled, volumes)
    parts = []
    for (action, area), images in shown.items():
        probabilities = _probabilities(model, images, batch_size)
        rows = {
            "subject": range(len(volumes)),
            "action": action,
            "area": area,
            "probability": probabilities.gather(1, targets[:, None])[:, 0].tolist(),
            "correct": (probabilities.argmax(1) == targets).tolist(),
        }
        parts.append(pd.DataFrame(rows))
    return pd.concat(parts, ignore_index=True)


def _probabilities(
    model: nn.Module, volumes: Float[Tensor, "volume 1 x y z"], batch_size: int
) -> Float[Tensor, "volume classes"]:
    # `models.predict` refuses constant volumes, and one with everything deleted is constant.
    with models.frozen(model) as network:
        return network.logits(volumes, batch_size=batch_size).softmax(1)


def _targets(model, volumes, target, batch_size: int) -> Int[Tensor, "subject"]:
    logits = models.predict(model, volumes, batch_size=batch_size)
    return models.resolve_targets(target, logits, len(volumes))


def _background(fill, volumes: Tensor) -> Tensor:
    fill = torch.as_tensor(fill, dtype=volumes.dtype)
    if fill.ndim and (fill.shape[1:] != volumes.shape[1:] or len(fill) not in (1, len(volumes))):
        raise ValueError(
            f"fill must be a number or have the volumes' shape {tuple(volumes.shape)}, "
            f"got {tuple(fill.shape)}"
        )
    return fill.expand(volumes.shape)


def _check_same(volumes: Tensor, maps: Tensor) -> None:
    if maps.shape != volumes.shape:
        raise ValueError(
            f"maps and volumes need one shape, got {tuple(maps.shape)} and {tuple(volumes.shape)}"
        )
