"""Train a classifier: one loop for a laptop, a GPU and many processes.

Lightning Fabric places the model, chooses the precision and adds up gradients over processes; the
loop itself is plain PyTorch. Start it over several processes with
``fabric run --accelerator=cpu --devices=2 script.py`` or with ``torchrun``.
"""

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import safetensors.torch
import torch
from lightning_fabric import Fabric
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import runtime
from helpers.cohorts import Cohort

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
_ORDER, _AUGMENT, _DROPOUT = range(3)  # independent random streams of one seed


def train(
    model: nn.Module,
    cohort: Cohort,
    *,
    validation: Cohort | None = None,
    epochs: int = 14,
    batch_size: int = 16,
    learning_rate: float = 2e-3,
    weight_decay: float = 1e-2,
    augment: Augmentation | None = None,
    patience: int | None = None,
    checkpoint: str | Path | None = None,
    seed: int = 0,
    fabric: Fabric | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Fit a classifier with AdamW and one learning-rate cycle.

    Parameters
    ----------
    model : Module
        Trained in place; in evaluation mode afterwards.
    cohort : Cohort
        Training subjects.
    validation : Cohort, optional
        Scored after each epoch. The weights of the best epoch are kept.
    epochs, batch_size, learning_rate, weight_decay
        The learning rate is the cycle's peak. The batch is the one of all processes together.
    augment : callable, optional
        ``augment(volumes, generator) -> volumes``, applied to each batch.
    patience : int, optional
        Stop when the validation loss has not improved for so many epochs.
    checkpoint : path, optional
        Written after each epoch, all or nothing. If the file exists, training goes on from it and
        ends with the same weights as a run that was never interrupted.
    seed : int
        Order of subjects, augmentation and dropout.
    fabric : Fabric, optional
        Launched. Default: the GPU if there is one, in the profile's precision; all processes that
        ``torchrun`` or ``fabric run`` started.
    progress : bool
        Show a bar with the loss and the time left.

    Returns
    -------
    DataFrame
        One row an epoch: ``epoch``, ``loss``, ``accuracy``, ``validation_loss``,
        ``validation_accuracy``, ``seconds``.

    Raises
    ------
    ValueError
        If the cohort holds one class only, a checkpoint belongs to other settings, or the loss
        becomes NaN.

    Examples
    --------
    >>> from helpers import cohorts, models
    >>> cohort = cohorts.simulate("shortcut", subjects=4)
    >>> history = models.train(models.build("course"), cohort, epochs=1, batch_size=4)
    >>> len(history)
    1
    """
    if len(torch.unique(cohort.labels)) < 2:
        raise ValueError(f"training needs at least two classes in the cohort, got {cohort!r}")
    if patience is not None and validation is None:
        raise ValueError("patience needs a validation cohort to watch")
    if not (epochs >= 1 and 1 <= batch_size <= len(cohort)):
        raise ValueError(
            f"epochs must be 1 or more and batch_size between 1 and {len(cohort)} subjects, "
            f"got {epochs} and {batch_size}"
        )
    fabric = fabric or launched_fabric()
    if batch_size % fabric.world_size:
        raise ValueError(f"batch_size {batch_size} must divide by {fabric.world_size} processes")
    if fabric.world_size > 1 and fabric.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.to(memory_format=torch.channels_last_3d)  # a third less time on a CPU
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    parallel, optimizer = fabric.setup(model, optimizer)
    settings = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "seed": seed,
        "subjects": len(cohort),
    }
    history, best = [], {}
    if checkpoint is not None and Path(checkpoint).exists():
        history, best = load_checkpoint(checkpoint, model, optimizer, settings)
    steps = len(cohort) // batch_size

    while len(history) < epochs and not _out_of_patience(history, patience):
        epoch, started = len(history), time.perf_counter()
        order = torch.randperm(len(cohort), generator=runtime.generator(seed, _ORDER, epoch))
        noise = runtime.generator(seed, _AUGMENT, epoch, fabric.global_rank)
        batches = order[: steps * batch_size].view(steps, batch_size)
        bar = runtime.progress(
            batches, label=f"epoch {epoch + 1}/{epochs}", show=progress and fabric.is_global_zero
        )
        total_loss, correct = 0.0, 0
        parallel.train()
        with torch.random.fork_rng():
            torch.manual_seed(runtime.generator(seed, _DROPOUT, epoch).initial_seed())
            for step, batch in enumerate(bar):
                mine = batch[fabric.global_rank :: fabric.world_size]
                volumes, labels = cohort.volumes[mine], cohort.labels[mine]
                if augment is not None:
                    volumes = augment(volumes, noise)
                volumes = volumes.contiguous(memory_format=torch.channels_last_3d)
                volumes, labels = fabric.to_device((volumes, labels))
                for group in optimizer.param_groups:
                    group["lr"] = one_cycle(epoch * steps + step, epochs * steps, learning_rate)
                logits = parallel(volumes)
                loss = F.cross_entropy(logits, labels)
                optimizer.zero_grad()
                fabric.backward(loss)
                optimizer.step()
                total_loss += float(loss.detach()) / steps
                correct += int((logits.argmax(1) == labels).sum())
                bar.set_postfix(loss=f"{float(loss.detach()):.3f}")
        sums = fabric.all_reduce(torch.tensor([total_loss, float(correct)]), reduce_op="mean")
        row = {
            "epoch": epoch + 1,
            "loss": float(sums[0]),
            "accuracy": float(sums[1]) * fabric.world_size / (steps * batch_size),
            **_validate(parallel, validation, fabric, batch_size),
            "seconds": time.perf_counter() - started,
        }
        if not math.isfinite(row["loss"]):
            raise ValueError(
                f"the loss became {row['loss']} in epoch {epoch + 1}; lower the learning rate "
                f"({learning_rate}) or look for broken volumes"
            )
        history.append(row)
        if validation is not None and row["validation_loss"] == min(
            past["validation_loss"] for past in history
        ):
            best = {name: value.cpu().clone() for name, value in _state(model).items()}
        if checkpoint is not None:
            if fabric.is_global_zero:
                save_checkpoint(checkpoint, model, optimizer, settings, history, best)
            fabric.barrier()
    if best:
        model.load_state_dict(best)
    model.eval()
    return pd.DataFrame(history)


def flips(volumes: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each volume along randomly chosen axes: for tasks in which no side is special."""
    chosen = torch.rand(len(volumes), 3, generator=generator) < 0.5
    return torch.stack(
        [
            volume.flip([axis + 1 for axis in range(3) if row[axis]])
            for volume, row in zip(volumes, chosen, strict=True)
        ]
    )


def launched_fabric() -> Fabric:
    """Return the engine: the GPU if there is one, and all processes that a launcher started."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # set by torchrun and fabric run
    precision = runtime.profile().precision if torch.cuda.is_available() else "32-true"
    fabric = Fabric(
        devices=processes, strategy="ddp" if processes > 1 else "auto", precision=precision
    )
    if os.environ.get("LT_CLI_USED") != "1":  # fabric run has launched already
        fabric.launch()
    return fabric


def one_cycle(step: int, steps: int, peak: float) -> float:
    """Return the learning rate: up to the peak over the first 30 %, then down along a cosine."""
    warm = 0.3 * steps
    if step < warm:
        return peak * (0.04 + 0.96 * step / warm)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


def _validate(parallel: nn.Module, cohort: Cohort | None, fabric: Fabric, batch_size: int) -> dict:
    if cohort is None:
        return {}
    parallel.eval()
    loss, correct = 0.0, 0
    with torch.no_grad():
        for volumes, labels in zip(
            cohort.volumes.split(batch_size), cohort.labels.split(batch_size), strict=True
        ):
            volumes, labels = fabric.to_device((volumes, labels))
            logits = parallel(volumes).float()
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            correct += int((logits.argmax(1) == labels).sum())
    return {
        "validation_loss": loss / len(cohort),
        "validation_accuracy": correct / len(cohort),
    }


def _out_of_patience(history: list[dict], patience: int | None) -> bool:
    if patience is None or not history:
        return False
    losses = [row["validation_loss"] for row in history]
    return len(losses) - 1 - losses.index(min(losses)) >= patience


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.contiguous() for name, value in model.state_dict().items()}


def save_checkpoint(path, model, optimizer, settings, history, best) -> None:
    """Write tensors and facts into one safetensors file: loading it can never run code."""
    tensors = {f"model/{name}": value for name, value in _state(model).items()}
    tensors |= {f"best/{name}": value for name, value in best.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": v.contiguous() for key, v in state.items()}
    facts = {"settings": json.dumps(settings), "history": json.dumps(history)}
    with runtime.replacing(path) as unfinished:
        safetensors.torch.save_file(tensors, unfinished, metadata=facts)


def load_checkpoint(path, model, optimizer, settings) -> tuple[list[dict], dict[str, Tensor]]:
    """Put a run back as it was saved; return its history and the best weights so far.

    Raises
    ------
    ValueError
        If the file is no checkpoint, or belongs to a run with other settings.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            facts = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        found = json.loads(facts["settings"])
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{path} is not a checkpoint of this course: {error}") from error
    if found != settings:
        raise ValueError(
            f"{path} belongs to a run with {found}, this run has {settings}; "
            f"remove the file to start anew"
        )
    parts: dict[str, dict] = {"model": {}, "best": {}, "optimizer": {}}
    for name, value in tensors.items():
        part, rest = name.split("/", 1)
        parts[part][rest] = value
    model.load_state_dict(parts["model"])
    state: dict[int, dict] = {}
    for name, value in parts["optimizer"].items():
        index, key = name.split("/")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return json.loads(facts["history"]), parts["best"]
