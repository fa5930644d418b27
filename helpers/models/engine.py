"""One training loop, on a laptop, a GPU or many processes: `train` and `train_simulator` call it.

Lightning Fabric places the network, chooses the precision and adds up gradients over processes; the
loop itself is plain PyTorch.
"""

import math
import time
from collections.abc import Callable

import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from helpers import runtime
from helpers.models.checkpoints import Checkpoint, Progress

# Of the wrapped network, the positions of this process's share of a batch, and a generator for
# augmentation: every term of the log as one number, differentiable where it is minimised.
Step = Callable[[nn.Module, Tensor, torch.Generator], dict[str, Tensor]]
_ORDER, _AUGMENT, _DROPOUT = range(3)  # independent random streams of one seed


def fit(
    model: nn.Module,
    optimizer: Optimizer,
    step: Step,
    *,
    minimise: str,
    subjects: int,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    fabric: Fabric,
    max_norm: float | None = None,
    validate: Callable[[nn.Module], dict[str, float]] | None = None,
    patience: int | None = None,
    checkpoint: Checkpoint | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train a network in place; it is in evaluation mode afterwards, and the same everywhere.

    Parameters
    ----------
    model, optimizer : Module and Optimizer
    step : callable
        ``step(network, batch, generator) -> {"name": number}``, called for each batch with the
        positions of the subjects that this process computes.
    minimise : str
        Which of the numbers is the loss.
    subjects, epochs, batch_size : int
        The batch is the one of all processes together. What is left over at the end of an epoch,
        less than a batch, waits for another order.
    learning_rate : float
        Peak of one cycle over all epochs.
    seed : int
        Order of subjects, augmentation and dropout.
    max_norm : float, optional
        Longer gradients are cut to this length, over all weights together.
    validate : callable, optional
        Called after each epoch; returns ``validation_loss`` and what else the history should show.
        The weights of the best epoch are kept.
    patience : int, optional
        Stop when the validation loss has not improved for so many epochs.
    checkpoint : Checkpoint, optional
        Written after each epoch; a run that finds one goes on from it.

    Returns
    -------
    DataFrame
        One row an epoch: ``epoch``, the means of what ``step`` returned, what ``validate``
        returned, ``seconds``.

    Raises
    ------
    ValueError
        If a batch cannot be shared evenly, a checkpoint is damaged or another training's, or the
        loss becomes NaN.
    """
    if batch_size % fabric.world_size:
        raise ValueError(f"batch_size {batch_size} must divide by {fabric.world_size} processes")
    parallel, optimizer = fabric.setup(model, optimizer)
    for method in getattr(model, "TRAINED_METHODS", ()):
        parallel.mark_forward_method(method)  # else several processes would not see it
    history, best = [], {}
    if checkpoint is not None and (found := checkpoint.load(fabric)) is not None:
        found.restore(model, optimizer)
        history, best = found.history, found.best
    steps = subjects // batch_size

    while len(history) < epochs and not _out_of_patience(history, patience):
        epoch, started = len(history), time.perf_counter()
        order = torch.randperm(subjects, generator=runtime.generator(seed, _ORDER, epoch))
        batches = order[: steps * batch_size].view(steps, batch_size)
        augmentation, dropout = (
            runtime.generator(seed, stream, epoch, fabric.global_rank)
            for stream in (_AUGMENT, _DROPOUT)
        )
        bar = runtime.progress(
            batches, label=f"epoch {epoch + 1}/{epochs}", show=progress and fabric.is_global_zero
        )
        rows = []
        parallel.train()
        with torch.random.fork_rng():
            torch.manual_seed(dropout.initial_seed())
            for number, batch in enumerate(bar):
                for group in optimizer.param_groups:
                    group["lr"] = one_cycle(epoch * steps + number, epochs * steps, learning_rate)
                mine = batch[fabric.global_rank :: fabric.world_size]
                terms = step(parallel, mine, augmentation)
                optimizer.zero_grad()
                fabric.backward(terms[minimise])
                if max_norm is not None:
                    fabric.clip_gradients(parallel, optimizer, max_norm=max_norm)
                optimizer.step()
                rows.append({name: float(value.detach()) for name, value in terms.items()})
                bar.set_postfix({minimise: f"{rows[-1][minimise]:.3f}"})
        _share_buffers(model, fabric)
        row = {"epoch": epoch + 1, **_means(rows, fabric)}
        if not math.isfinite(row[minimise]):
            raise ValueError(
                f"the loss became {row[minimise]} in epoch {epoch + 1}; lower the learning rate "
                f"({learning_rate}) or look for broken volumes"
            )
        if validate is not None:
            parallel.eval()
            with torch.no_grad():
                row |= validate(parallel)
        # All processes must agree on when to stop, also where machines round differently.
        history.append(fabric.broadcast({**row, "seconds": time.perf_counter() - started}))
        if validate is not None and history[-1]["validation_loss"] == min(_losses(history)):
            best = _state(model)
        if checkpoint is not None:
            if fabric.is_global_zero:
                state = optimizer.state_dict()["state"]
                checkpoint.save(Progress(history, _state(model), best, state))
            fabric.barrier()
    if best:
        model.load_state_dict(best)
    model.eval()
    return pd.DataFrame(history)


def one_cycle(step: int, steps: int, peak: float) -> float:
    """Return the learning rate: up to the peak over the first 30 %, then down along a cosine."""
    warm = 0.3 * steps
    if step < warm:
        return peak * (0.04 + 0.96 * step / warm)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


def _share_buffers(model: nn.Module, fabric: Fabric) -> None:
    """Give every process the first one's buffers, as gradients are shared already.

    Running statistics follow each process's own share of the batches. What is validated and saved
    is then what every process ends with.
    """
    if fabric.world_size > 1:
        for buffer in model.buffers():
            buffer.copy_(fabric.broadcast(buffer))


def _means(rows: list[dict[str, float]], fabric: Fabric) -> dict[str, float]:
    means = torch.tensor([list(row.values()) for row in rows], dtype=torch.float64).mean(0).float()
    return dict(zip(rows[0], fabric.all_reduce(means, reduce_op="mean").tolist(), strict=True))


def _losses(history: list[dict[str, float]]) -> list[float]:
    return [row["validation_loss"] for row in history]


def _out_of_patience(history: list[dict[str, float]], patience: int | None) -> bool:
    if patience is None or not history:
        return False
    losses = _losses(history)
    return len(losses) - 1 - losses.index(min(losses)) >= patience


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
