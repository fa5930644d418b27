"""What every attribution method promises: same call, same axes, nothing left changed.

``method(model, volumes, target=None, **options)`` returns one map a subject on the voxels of the
volumes. The logit before the softmax is explained: a softmax would mix in all other classes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from helpers import grids

Explainer = Callable[
    [Float[Tensor, "batch 1 x y z"], Int[Tensor, "batch"]], Float[Tensor, "batch 1 x y z"]
]


def explain_in_batches(
    model: nn.Module,
    volumes: Tensor,
    target: int | Tensor | None,
    *,
    batch_size: int,
    explainer: Explainer,
) -> Float[Tensor, "subject 1 x y z"]:
    """Check the input, run an explainer batch by batch and put everything back.

    Parameters
    ----------
    model : Module
        Explained in evaluation mode, with full-precision weights on its own device.
    volumes : tensor of shape (subject, 1, x, y, z)
    target : int, tensor of shape (subject,) or None
        Class to explain; None explains each subject's predicted class.
    explainer : callable
        Gets a batch on the model's device and the targets; returns the maps of this batch.

    Returns
    -------
    tensor of shape (subject, 1, x, y, z)
        On the CPU.
    """
    grids.check_volumes(volumes)
    if volumes.shape[1] != 1:
        raise ValueError(f"expected volumes with one channel, got {volumes.shape[1]}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
    parameter = next(model.parameters())
    maps = []
    with undisturbed(model):
        targets = _targets(model, volumes, target, batch_size)
        for batch, chosen in zip(
            volumes.detach().split(batch_size), targets.split(batch_size), strict=True
        ):
            batch = batch.to(device=parameter.device, dtype=parameter.dtype, copy=True)
            maps.append(explainer(batch, chosen.to(parameter.device)).detach().cpu().float())
    return torch.cat(maps)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode, and afterwards back as it was, also after an error."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.enable_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def captured(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what a layer puts out; the hook is gone when the block ends.

    The layers behind get a copy. An in-place ReLU behind would otherwise overwrite what was
    collected.
    """
    outputs: list[Tensor] = []

    def keep(module, inputs, output):
        outputs.append(output)
        return output.clone()

    handle = layer.register_forward_hook(keep)
    try:
        yield outputs
    finally:
        handle.remove()


def chosen_logits(logits: Tensor, targets: Int[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """Return each subject's logit of its target class."""
    return logits.gather(1, targets[:, None])[:, 0]


def _targets(model, volumes, target, batch_size: int) -> Int[Tensor, "subject"]:
    parameter = next(model.parameters())
    with torch.no_grad():
        logits = torch.cat(
            [
                model(part.to(device=parameter.device, dtype=parameter.dtype)).cpu()
                for part in (volumes.split(batch_size) if target is None else [volumes[:1]])
            ]
        )
    if logits.ndim != 2:
        raise ValueError(f"expected a classifier with one logit a class, got {logits.shape}")
    if target is None:
        return logits.argmax(1)
    targets = torch.as_tensor(target, dtype=torch.long).cpu()
    targets = targets.expand(len(volumes)) if targets.ndim == 0 else targets
    if targets.shape != (len(volumes),):
        raise ValueError(
            f"expected one target or one a subject ({len(volumes)}), got shape {targets.shape}"
        )
    classes = logits.shape[1]
    if int(targets.min()) < 0 or int(targets.max()) >= classes:
        raise ValueError(f"target must be a class from 0 to {classes - 1}, got {target}")
    return targets
