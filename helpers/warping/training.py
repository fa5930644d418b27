"""Train a simulator: it learns to undo what was done to healthy brains, and asks the classifiers.

The classifiers are frozen. First they are asked for one deformation that makes healthy people
patients for them (`helpers.warping.common.common_potential`). Then the simulator is taught with
brains whose answer is known: this deformation is injected into healthy people, at random places and
in random doses, and the simulator has to say what was done and what is lacking. Beside that, it has
to bring real patients and real healthy people to what is typical of the other class.

No truth about any disease is used: labels say who is healthy, classifiers say what an illness is.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from helpers import processes, runtime
from helpers.cohorts import Cohort
from helpers.keyed import fingerprint
from helpers.models import engine
from helpers.models.checkpoints import checkpoint_for, data_key
from helpers.warping import first, lessons, published
from helpers.warping.common import common_potential
from helpers.warping.first import FirstSimulator, FirstTerms
from helpers.warping.lessons import Lessons
from helpers.warping.published import Liu2021, PublishedTerms
from helpers.warping.readers import read
from helpers.warping.simulators import Simulator, check

AnySimulator = Simulator | Liu2021 | FirstSimulator
_STRENGTHS = {
    Simulator: lessons.STRENGTHS,
    Liu2021: published.STRENGTHS,
    FirstSimulator: first.STRENGTHS,
}
_LARGEST_GRADIENT = 1.0  # one odd lesson must not undo what the others have taught
_START = 1  # a random stream of the seed that the engine leaves to the simulator


def train_simulator(
    model: nn.Module | Sequence[nn.Module],
    cohort: Cohort,
    *,
    simulator: AnySimulator | None = None,
    strengths: Mapping[str, float] | None = None,
    epochs: int = 8,
    batch_size: int = 2,
    learning_rate: float = 3e-3,
    checkpoint: str | Path | None = None,
    seed: int = 0,
    fabric: Fabric | None = None,
    progress: bool = True,
) -> tuple[AnySimulator, pd.DataFrame]:
    """Train a simulator to show what a classifier has learned.

    Only subjects that every classifier gets right are used: what a network thinks of people whom it
    takes for something else is no good teacher. Evaluate on others.

    Parameters
    ----------
    model : Module, or a sequence of them
        Classifiers of two classes, the disease second, in evaluation mode; several are an ensemble
        that has to be convinced as a whole. They stay as they are. A new simulator sees through the
        eyes of all that are the course's networks; else it has to learn to see.
    cohort : Cohort
        Labels 0, without the disease, and 1, with it.
    simulator : Simulator, or another of `build`, optional
        Trained in place; default a new `Simulator` with the seed's weights. One that was trained
        before keeps its eyes and its common potential, and goes on from where it is. The
        published one and the first one are trained with their own terms.
    strengths : mapping, optional
        Strengths of terms that replace those of `helpers.warping.STRENGTHS`; 0 leaves a term out.
    epochs, batch_size, learning_rate
        Adam with one learning-rate cycle that peaks at ``learning_rate``. The batch is the one of
        all processes together.
    checkpoint : path, optional
        Written after each epoch, all or nothing. If the file exists, training goes on from it and
        ends with the same weights as a run that was never interrupted. It belongs to the data, the
        classifiers, the simulator's options and initial weights, the settings and the number of
        processes that it was started with.
    seed : int
        Of what is injected where, of the order of subjects, and of the weights of a new simulator.
    fabric : Fabric, optional
        Launched. Default: the GPU if there is one, and all processes that were started.
    progress : bool
        Show a bar with the loss.

    Returns
    -------
    simulator : Simulator, or what was given
        On the CPU, in evaluation mode.
    history : DataFrame
        One row an epoch: ``epoch``, each term times its strength under its name, their sum
        ``total``, ``success`` (share of training people and classifiers of whom the classifier
        changes its mind) and ``seconds``.

    Raises
    ------
    ValueError
        If a classifier is in training mode, has not two classes, tells the classes apart worse than
        a coin or gets nobody of a class right; if no deformation makes it change its mind; if the
        cohort has one class only; if a checkpoint is damaged or belongs to another training, or a
        loss becomes NaN.

    Examples
    --------
    >>> from helpers import cohorts, models, warping
    >>> people = cohorts.simulate("atrophy", subjects=8)
    >>> simulator, history = warping.train_simulator(
    ...     models.pretrained("atrophy"), people, epochs=1, batch_size=4
    ... )
    >>> list(history)
    ['epoch', 'undo', 'logit', 'total', 'success', 'seconds']
    """
    if not (epochs >= 1 and batch_size >= 1 and learning_rate > 0):
        raise ValueError(
            f"learning_rate must be above 0, epochs and batch_size 1 or more; "
            f"got {learning_rate}, {epochs} and {batch_size}"
        )
    readers, logits, right = read(model, cohort)
    cohort, logits = cohort[right], logits[right]
    if batch_size > len(cohort):
        raise ValueError(f"batch_size {batch_size} is more than the {len(cohort)} usable subjects")
    fabric = fabric or processes.launched_fabric()
    if simulator is None:
        simulator = Simulator(cohort.grid.shape, eyes=len(readers.ensemble.networks), seed=seed)
    check(cohort.volumes[:1], simulator.shape, strength=1.0)
    strengths = _chosen(_STRENGTHS[type(simulator)], strengths or {})
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
            **{f"strength of {name}": strength for name, strength in strengths.items()},
            **data_key("training", cohort),
            "classifiers": fingerprint(readers),
            "simulator": fingerprint(simulator),
        },
    )
    simulator.to(fabric.device)
    readers.to(fabric.device)
    healthy = cohort.volumes[cohort.labels == 0]
    typical = torch.stack([logits[cohort.labels == label].mean(0) for label in (0, 1)])
    typical = typical.to(fabric.device)
    if isinstance(simulator, Liu2021):
        terms = PublishedTerms(readers)
    elif isinstance(simulator, FirstSimulator):
        terms = FirstTerms(simulator, readers, cohort, seed=seed)
    else:
        if not simulator.common.any():
            simulator.look_through(readers.ensemble.networks)
            simulator.compare_with(healthy.to(fabric.device))
            simulator.common = common_potential(
                readers,
                cohort,
                typical,
                simulator.differences,
                blur_voxels=simulator.blur_voxels,
                generator=runtime.generator(seed, _START),
            )
        terms = Lessons(simulator, readers, healthy, typical)
    optimizer = torch.optim.Adam(
        [parameter for parameter in simulator.parameters() if parameter.requires_grad],
        lr=learning_rate,
    )

    def step(network: nn.Module, batch: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        volumes, labels = fabric.to_device((cohort.volumes[batch], cohort.labels[batch]))
        values, after = terms(network, volumes, labels, generator)
        weighted = {name: strengths[name] * value.mean() for name, value in values.items()}
        changed = (after.detach() > 0) != (labels[:, None] == 1)
        total = {"total": sum(weighted.values()), "success": changed.float().mean()}
        return {**weighted, **total}

    history = engine.fit(
        simulator,
        optimizer,
        step,
        minimise="total",
        subjects=len(cohort),
        **cycle,
        max_norm=_LARGEST_GRADIENT,
        fabric=fabric,
        checkpoint=start,
        progress=progress,
    )
    return simulator.cpu(), history


def _chosen(known: Mapping[str, float], replaced: Mapping[str, float]) -> dict[str, float]:
    unknown = sorted(replaced.keys() - known.keys())
    bad = {name: s for name, s in replaced.items() if not 0 <= s < math.inf}
    if unknown or bad:
        raise ValueError(
            f"expected strengths of 0 or above for some of {list(known)}, got {dict(replaced)}"
        )
    return {**known, **replaced}
