"""Train a network: what a step, a validation and an augmentation of the one loop are.

Start it over several processes with ``torchrun --nproc-per-node=2 script.py``, over several
machines with ``torchrun --nnodes=2 ...`` or SLURM's ``srun``. Batch normalization then sees the
whole batch on GPUs, and each process's share of it on CPUs.
"""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float, Int
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import processes
from helpers.cohorts import Cohort
from helpers.keyed import fingerprint
from helpers.models import engine, layouts
from helpers.models.cards import draft_card
from helpers.models.checkpoints import checkpoint_for, data_key
from helpers.models.frozen import class_logits, frozen

Augmentation = Callable[[Tensor, torch.Generator], Tensor]


def train(
    model: nn.Module,
    cohort: Cohort,
    *,
    validation: Cohort | None = None,
    target: str | None = None,
    epochs: int = 14,
    batch_size: int = 16,
    learning_rate: float = 2e-3,
    weight_decay: float = 1e-2,
    augment: Augmentation | None = None,
    patience: int | None = None,
    matched: bool = False,
    balanced: bool = False,
    checkpoint: str | Path | None = None,
    seed: int = 0,
    fabric: Fabric | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Fit a network with AdamW and one learning-rate cycle: to classes, or to a number.

    Parameters
    ----------
    model : Module
        Trained in place; in evaluation mode afterwards.
    cohort : Cohort
        Training subjects.
    validation : Cohort, optional
        Scored after each epoch. The weights of the best epoch are kept.
    target : str, optional
        A column of numbers in ``participants``, such as ``"age"``, that the network's one output is
        to say, in standard deviations from the mean of the training subjects (see `target_scale`).
        Default: the classes.
    epochs, batch_size, learning_rate, weight_decay
        The learning rate is the cycle's peak. The batch is the one of all processes together.
    augment : callable, optional
        ``augment(volumes, generator) -> volumes``, applied to each batch.
    patience : int, optional
        Stop when the validation loss has not improved for so many epochs.
    matched : bool
        For people who come equally often in each class, see `helpers.cohorts.simulate`: a person's
        first volumes of all classes go into the same batch, and her second ones, and so on. What
        makes the head, and not the label, then pulls the weights both ways at once, and a faint
        effect is learnt sooner.
    balanced : bool
        Weigh people so that every class counts the same in the loss, however few it has.
    checkpoint : path, optional
        Written after each epoch, all or nothing. If the file exists, training goes on from it and
        ends with the same weights as a run that was never interrupted. It belongs to the data, the
        initial weights, the augmentation (see `helpers.keyed.fingerprint`), the settings and the
        number of processes that it was started with.
    seed : int
        Order of subjects, augmentation and dropout; each process has random numbers of its own.
    fabric : Fabric, optional
        Launched. Default: the GPU if there is one, in the profile's precision; all processes that
        ``torchrun``, ``fabric run`` or ``srun`` started.
    progress : bool
        Show a bar with the loss and the time left.

    Returns
    -------
    DataFrame
        One row an epoch: ``epoch``, ``loss``, ``accuracy``, ``validation_loss``,
        ``validation_accuracy``, ``seconds``. With a target, ``error`` stands in the place of
        ``accuracy``: the mean absolute error in the target's own units.

    Raises
    ------
    ValueError
        If the cohort holds one class only, a checkpoint is damaged or belongs to another training,
        people are not matched though ``matched`` says so, or the loss becomes NaN. If the network
        has not one logit a class (or a single one for two classes). If a target is no number,
        constant or missing for somebody, or the network has more than one output for it.

    Examples
    --------
    >>> from helpers import cohorts, models
    >>> cohort = cohorts.simulate("shortcut", subjects=4)
    >>> history = models.train(models.build("course"), cohort, epochs=1, batch_size=4)
    >>> len(history)
    1
    """
    if target is None and len(torch.unique(cohort.labels)) < 2:
        raise ValueError(f"training needs at least two classes in the cohort, got {cohort!r}")
    if patience is not None and validation is None:
        raise ValueError("patience needs a validation cohort to watch")
    if not (epochs >= 1 and 1 <= batch_size <= len(cohort)):
        raise ValueError(
            f"epochs must be 1 or more and batch_size between 1 and {len(cohort)} subjects, "
            f"got {epochs} and {batch_size}"
        )
    if target is not None and (matched or balanced):
        raise ValueError("matched and balanced are about classes; leave them out with a target")
    terms = _classified(cohort, balanced) if target is None else _regressed(cohort, target)
    together = torch.arange(len(cohort))[:, None]
    if matched:
        together = _rows_of_each_person(cohort, batch_size)
    fabric = fabric or processes.launched_fabric()
    cycle = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "patience": patience,
        "seed": seed,
    }
    start = checkpoint_for(
        checkpoint,
        fabric,
        lambda: {
            **cycle,
            "weight_decay": weight_decay,
            **({"matched": True} if matched else {}),
            **({"balanced": True} if balanced else {}),
            **({} if target is None else {"target": target}),
            **data_key("training", cohort),
            **({} if validation is None else data_key("validation", validation)),
            "network": fingerprint(model),
            "augmentation": fingerprint(augment),
        },
    )
    if fabric.world_size > 1 and fabric.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    layouts.channels_last(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)

    def step(network: nn.Module, batch: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        rows = together[batch].flatten()
        volumes = cohort.volumes[rows]
        if augment is not None:
            volumes = augment(volumes, generator)
        volumes = fabric.to_device(volumes.contiguous(memory_format=torch.channels_last_3d))
        try:
            logits = network(volumes)
        except RuntimeError as error:
            if not layouts.is_of_layout(error):
                raise
            layouts.channels_first(network)
            logits = network(volumes.contiguous())
        return terms(logits, cohort, rows)

    def validate(network: nn.Module) -> dict[str, float]:
        parts = validation.volumes.split(batch_size)
        said = torch.cat([network(fabric.to_device(part)).float() for part in parts])
        found = terms(said, validation, torch.arange(len(validation)))
        return {f"validation_{name}": float(value) for name, value in found.items()}

    return engine.fit(
        model,
        optimizer,
        step,
        minimise="loss",
        subjects=len(together),
        **{**cycle, "batch_size": batch_size // together.shape[1]},
        fabric=fabric,
        validate=None if validation is None else validate,
        checkpoint=start,
        progress=progress,
    )


def check_outputs(model: nn.Module, cohort: Cohort, target: str | None = None) -> None:
    """Raise a ValueError if `train` could not teach a network this: known before anything is done.

    Parameters
    ----------
    model : Module
        Left as it was.
    cohort : Cohort
        Of at least one subject, whose volume the network is asked about.
    target : str, optional
        As in `train`.
    """
    draft_card(model, cohort.grid.shape, spacing_mm=cohort.grid.spacing_mm[0])
    terms = _classified(cohort, balanced=False) if target is None else _regressed(cohort, target)
    with frozen(model) as network, torch.no_grad():
        terms(network(cohort.volumes[:1]), cohort, torch.arange(1))


def flips(volumes: Tensor, generator: torch.Generator, axes: tuple[int, ...] = (0, 1, 2)) -> Tensor:
    """Mirror each volume along randomly chosen axes: for tasks in which no side is special.

    Parameters
    ----------
    volumes : tensor of shape (subject, channel, x, y, z)
    generator : torch.Generator
    axes : tuple of int
        Which may be chosen; ``(0,)`` swaps left and right, and heads stay upright.
    """
    chosen = torch.rand(len(volumes), 3, generator=generator) < 0.5
    return torch.stack(
        [
            volume.flip([axis + 1 for axis in axes if row[axis]])
            for volume, row in zip(volumes, chosen, strict=True)
        ]
    )


def _rows_of_each_person(cohort: Cohort, batch_size: int) -> Int[Tensor, "person classes"]:
    """Return where in the cohort the volumes are that belong together, one a class."""
    people = cohort.participants["participant_id"].to_numpy()
    table = pd.DataFrame({"person": people, "label": cohort.labels.numpy()})
    table["turn"] = table.groupby(["person", "label"]).cumcount()
    rows = table.reset_index().pivot(index=["person", "turn"], columns="label", values="index")
    rows = rows.reindex(columns=range(len(cohort.classes)))
    if rows.isna().any(axis=None):
        raise ValueError(
            "expected everybody equally often in each class, as of "
            "cohorts.simulate(matched=True); leave matched out to train on other people"
        )
    if batch_size % rows.shape[1]:
        raise ValueError(
            f"batch_size {batch_size} must divide by the {rows.shape[1]} classes, so that all "
            f"volumes of a person fit into a batch"
        )
    return torch.tensor(rows.to_numpy(dtype=int)).sort(dim=1).values


def target_scale(cohort: Cohort, target: str) -> tuple[float, float]:
    """Return mean and standard deviation of a target: what an output of 0, and one more, mean.

    Raises
    ------
    ValueError
        If there is no such column of numbers, or it is constant or missing for somebody.

    Examples
    --------
    >>> from helpers import cohorts, models
    >>> mean, sd = models.target_scale(cohorts.real(), "age")
    >>> round(mean), round(sd)
    (32, 8)
    """
    values = _target(cohort, target)
    if not values.std() > 0:
        raise ValueError(f"the target {target!r} is the same for everybody")
    return float(values.mean()), float(values.std())


# What the network has put out for the rows of a cohort: the loss, and how good that is.
Terms = Callable[[Tensor, Cohort, Tensor], dict[str, Tensor]]


def _classified(training: Cohort, balanced: bool) -> Terms:
    people = torch.bincount(training.labels, minlength=len(training.classes)).float()
    # Every class that is there counts the same; 1 on average.
    weights = len(training) / (people > 0).sum() / people.clamp_min(1) if balanced else None

    def terms(output: Tensor, cohort: Cohort, rows: Tensor) -> dict[str, Tensor]:
        logits, names = class_logits(output), list(training.classes)
        if logits.shape[1] != len(names):
            raise ValueError(
                f"a network for the {len(names)} classes {names} has one logit a class (or a "
                f"single one, if there are two classes), this one puts out the shape "
                f"{tuple(output.shape)}; give its last layer {len(names)} outputs"
            )
        labels = cohort.labels[rows].to(logits.device)
        own = None if weights is None else weights.to(logits)
        return {
            "loss": F.cross_entropy(logits, labels, own),
            "accuracy": (logits.argmax(1) == labels).float().mean(),
        }

    return terms


def _regressed(training: Cohort, target: str) -> Terms:
    mean, sd = target_scale(training, target)

    def terms(output: Tensor, cohort: Cohort, rows: Tensor) -> dict[str, Tensor]:
        if output.shape[1:] != (1,):
            raise ValueError(
                f"a network for the target {target!r} has one output a subject, this one puts out "
                f"the shape {tuple(output.shape)}"
            )
        wanted = ((_target(cohort, target)[rows] - mean) / sd).to(output)
        return {
            "loss": F.mse_loss(output[:, 0], wanted),
            "error": sd * (output[:, 0] - wanted).abs().mean(),
        }

    return terms


def _target(cohort: Cohort, target: str) -> Float[Tensor, "subject"]:
    if target not in cohort.participants:
        raise ValueError(
            f"participants has no column {target!r}; it has {list(cohort.participants.columns)}"
        )
    values = pd.to_numeric(cohort.participants[target], errors="coerce")
    missing = cohort.participants["participant_id"][values.isna()].tolist()
    if missing:
        raise ValueError(
            f"the target {target!r} is missing or no number for {missing[:5]}; leave them out"
        )
    return torch.tensor(values.to_numpy(dtype=float)).float()
