"""Train a simulator: the classifier is frozen, and the simulator learns what changes its mind.

The classifier is asked through its logit, so nothing here looks at a label to see what a disease
is; labels only say in whom to inject it and from whom to remove it. In the other direction there is
nothing to do, and a simulator has to learn this as well.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor, nn

from helpers import fields, models, processes, runtime
from helpers.cohorts import Cohort
from helpers.keyed import fingerprint
from helpers.models import engine
from helpers.models.checkpoints import checkpoint_for, data_key
from helpers.warping import losses
from helpers.warping.simulators import (
    DIRECTIONS,
    Simulator,
    TwoSimulators,
    VelocityNetwork,
    signs,
)

# What the classifiers say of volumes: one number a subject and network, in units of the distance
# between the mean logits of the two classes.
Readers = Callable[[Float[Tensor, "subject 1 x y z"]], Float[Tensor, "subject network"]]
_START = 1  # a random stream of the seed that the engine leaves to the simulator
_START_SUBJECTS = 64


def train_simulator(
    model: nn.Module | Sequence[nn.Module],
    cohort: Cohort,
    *,
    simulator: Simulator | TwoSimulators | None = None,
    strengths: Mapping[str, float] | None = None,
    margin: float = 1.0,
    epochs: int = 3,
    batch_size: int = 8,
    learning_rate: float = 1e-3,
    checkpoint: str | Path | None = None,
    seed: int = 0,
    fabric: Fabric | None = None,
    progress: bool = True,
) -> tuple[Simulator | TwoSimulators, pd.DataFrame]:
    """Train a simulator to show what a classifier has learned.

    Only subjects that every classifier gets right are used: what a network thinks of people whom it
    takes for something else is no good teacher. Evaluate on others.

    Parameters
    ----------
    model : Module, or a sequence of them
        Classifiers of two classes, the disease second, in evaluation mode; several, trained from
        other seeds, are an ensemble that has to be convinced as a whole. They stay as they are.
    cohort : Cohort
        Labels 0, without the disease, and 1, with it.
    simulator : Simulator or TwoSimulators, optional
        Trained in place; default a new `Simulator` with the seed's weights. One that has never been
        trained begins with one velocity for all; one that was goes on from where it is.
    strengths : mapping, optional
        Strengths of terms that replace those of `helpers.warping.STRENGTHS`; 0 leaves a term out.
    margin : float
        How far the logit should move. The unit is the distance between the mean logits of the two
        classes: 1 (default) goes from a typical healthy brain to a typical ill one.
    epochs, batch_size, learning_rate
        Adam with one learning-rate cycle that peaks at ``learning_rate``. The batch is the one of
        all processes together.
    checkpoint : path, optional
        Written after each epoch, all or nothing. If the file exists, training goes on from it and
        ends with the same weights as a run that was never interrupted. It belongs to the data, the
        classifiers, the simulator's options and initial weights, the settings and the number of
        processes that it was started with.
    seed : int
        Of the order of subjects, and of the weights of a new simulator.
    fabric : Fabric, optional
        Launched. Default: the GPU if there is one, and all processes that were started.
    progress : bool
        Show a bar with the loss.

    Returns
    -------
    simulator : Simulator or TwoSimulators
        On the CPU, in evaluation mode.
    history : DataFrame
        One row an epoch: ``epoch``, each term times its strength under its name, their sum
        ``total``, ``success`` (share of training brains whose logit moved the way that was asked)
        and ``seconds``.

    Raises
    ------
    ValueError
        If a classifier is in training mode, has not two classes, tells the classes apart worse than
        a coin or gets nobody of a class right; if the cohort has one class only; if a checkpoint is
        damaged or belongs to another training, or a loss becomes NaN.

    Examples
    --------
    >>> from helpers import cohorts, models, warping
    >>> people = cohorts.simulate("atrophy", subjects=8)
    >>> simulator, history = warping.train_simulator(
    ...     models.pretrained("atrophy"), people, epochs=1, batch_size=4
    ... )
    >>> list(history)
    ['epoch', 'logit_shift', 'smoothness', 'cycle', 'identity', 'total', 'success', 'seconds']
    """
    strengths = losses.chosen_strengths(strengths or {})
    if not (0 < margin < math.inf and epochs >= 1 and batch_size >= 1 and learning_rate > 0):
        raise ValueError(
            f"margin and learning_rate must be above 0, epochs and batch_size 1 or more; "
            f"got {margin}, {learning_rate}, {epochs} and {batch_size}"
        )
    ensemble, distances, logits, right = _read(model, cohort)
    readers = partial(_odds, ensemble, distances)
    cohort, logits = cohort[right], logits[right]
    if batch_size > len(cohort):
        raise ValueError(f"batch_size {batch_size} is more than the {len(cohort)} usable subjects")
    fabric = fabric or processes.launched_fabric()
    simulator = Simulator(cohort.grid.shape, seed=seed) if simulator is None else simulator
    cycle = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    start = checkpoint_for(
        checkpoint,
        fabric,
        lambda: {
            **cycle,
            "margin": margin,
            **{f"strength of {name}": strength for name, strength in strengths.items()},
            **data_key("training", cohort),
            "classifiers": fingerprint(readers),
            "simulator": fingerprint(simulator),
        },
    )
    simulator.to(fabric.device)
    ensemble.to(fabric.device)
    if start is None or not start.path.exists():
        _start(simulator.train(), readers, cohort, logits, margin, batch_size, seed)
    optimizer = torch.optim.Adam(simulator.parameters(), lr=learning_rate)

    def step(network: nn.Module, batch: Tensor, _: torch.Generator) -> dict[str, Tensor]:
        volumes, before = fabric.to_device((cohort.volumes[batch], logits[batch]))
        labels = cohort.labels[batch]
        return _terms(network, readers, volumes, labels, before, margin, strengths)

    history = engine.fit(
        simulator,
        optimizer,
        step,
        minimise="total",
        subjects=len(cohort),
        **cycle,
        fabric=fabric,
        checkpoint=start,
        progress=progress,
    )
    return simulator.cpu(), history


def _odds(
    ensemble: models.Ensemble,
    distances: Sequence[float],
    volumes: Float[Tensor, "subject 1 x y z"],
) -> Float[Tensor, "subject network"]:
    """Return the logit of the disease over that of health, as each network sees it.

    In one unit for all: 1 lies between the mean logits of the two classes.
    """
    odds = [(z[:, 1] - z[:, 0]) / d for z, d in zip(ensemble.each(volumes), distances, strict=True)]
    return torch.stack(odds, dim=1)


def _start(simulator, readers, cohort, logits, margin, batch_size, seed) -> None:
    """Begin with one velocity for all: straight down the slope of the shift, as long as asked for.

    Adam would move every control point equally far, however little it matters; along the slope, a
    point moves as far as it matters. A simulator that has a common velocity already keeps it.
    """
    commons = [net.common for net in simulator.modules() if isinstance(net, VelocityNetwork)]
    if any(common.any() for common in commons):
        return
    order = torch.randperm(len(cohort), generator=runtime.generator(seed, _START))
    order = order[:_START_SUBJECTS]
    device = next(simulator.parameters()).device
    slopes = [torch.zeros_like(common) for common in commons]
    for batch in order.split(batch_size):
        asked, _, sign = _asked(cohort.labels[batch])
        shift = readers(simulator(cohort.volumes[batch].to(device), asked).volumes).mean(1)
        gradients = torch.autograd.grad((sign.to(shift) * shift).sum(), commons, allow_unused=True)
        for slope, gradient in zip(slopes, gradients, strict=True):
            if gradient is not None:
                slope += gradient / len(order)
    with torch.no_grad():
        for common, slope in zip(commons, slopes, strict=True):
            common += margin * slope / slope.square().sum().clamp_min(1e-12)


def _asked(labels: Tensor) -> tuple[list[str], list[str], Tensor]:
    """Return the direction that changes each subject's class, the other one, and the sign."""
    inject, remove = DIRECTIONS
    asked = [remove if label else inject for label in labels.tolist()]
    opposite = [inject if label else remove for label in labels.tolist()]
    return asked, opposite, signs(asked, len(asked))


def _terms(
    parallel: nn.Module,
    readers: Readers,
    volumes: Tensor,
    labels: Tensor,
    before: Tensor,
    margin: float,
    strengths: Mapping[str, float],
) -> dict[str, Tensor]:
    """Return each term times its strength as a mean over the batch, their sum and the successes."""
    asked, opposite, sign = _asked(labels)
    sign = sign.to(volumes)
    there = parallel(volumes, asked)
    after = readers(there.volumes)
    values = {
        "logit_shift": losses.logit_shift(
            before.flatten(),
            after.flatten(),
            sign.repeat_interleave(after.shape[1]),
            margin=margin,
        ),
        "smoothness": losses.smoothness(there.velocity),
    }
    if strengths["cycle"]:
        # One interpolation for both ways: a second one would blur, and no field mends a blur.
        back = parallel(there.volumes, opposite)
        round_trip = fields.compose(there.displacement, back.displacement)
        values["cycle"] = losses.cycle(volumes, fields.warp(volumes, round_trip))
    if strengths["identity"]:
        values["identity"] = losses.identity(parallel(volumes, opposite, 0.0).velocity)
    zero = volumes.new_zeros(1)
    terms = {name: s * values.get(name, zero).mean() for name, s in strengths.items()}
    success = (sign[:, None] * (after - before).detach() > 0).float().mean()
    return {**terms, "total": sum(terms.values()), "success": success}


def _read(
    model: nn.Module | Sequence[nn.Module], cohort: Cohort
) -> tuple[models.Ensemble, list[float], Float[Tensor, "subject network"], Tensor]:
    """Return the classifiers, frozen; their units, their odds of everybody; whom all get right."""
    networks = [model] if isinstance(model, nn.Module) else list(model)
    if not networks:
        raise ValueError("expected at least one classifier, got none")
    if any(module.training for net in networks for module in net.modules()):
        raise ValueError("a classifier is in training mode; call model.eval() first")
    if set(torch.unique(cohort.labels).tolist()) != {0, 1}:
        raise ValueError(
            f"a simulator needs subjects of two classes, without and with a disease; got {cohort!r}"
        )
    ill = cohort.labels == 1
    odds, right, distances = [], torch.ones(len(cohort), dtype=torch.bool), []
    for number, net in enumerate(networks):
        logits = models.predict(net, cohort.volumes)
        if logits.shape[1] != 2:
            raise ValueError(f"expected classifiers of 2 classes, got {logits.shape[1]}")
        difference = logits[:, 1] - logits[:, 0]
        correct = (difference > 0) == ill
        distance = float(difference[ill].mean() - difference[~ill].mean())
        if not (correct[ill].any() and correct[~ill].any() and distance > 0):
            raise ValueError(
                f"classifier {number} gets {int(correct[ill].sum())} of {int(ill.sum())} subjects "
                f"of class 1 right and {int(correct[~ill].sum())} of {int((~ill).sum())} of "
                f"class 0; there is nothing to learn from it"
            )
        right &= correct
        distances.append(distance)
        odds.append(difference / distance)
    if not (right & ill).any() or not (right & ~ill).any():
        raise ValueError("no subject of one of the classes is right for all classifiers at once")
    frozen = models.Ensemble(copy.deepcopy(networks)).eval().requires_grad_(False)
    return frozen, distances, torch.stack(odds, dim=1), right
