"""What every attribution method promises: same call, same axes, nothing left changed.

``method(model, volumes, target=None, **options)`` returns one map a subject on the voxels of the
volumes. The logit before the softmax is explained: a softmax would mix in all other classes.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from helpers import grids

# Gets a batch, its targets and, where asked for, what goes beside the batch; returns the maps.
Explainer = Callable[..., Float[Tensor, "batch 1 x y z"]]


def explain_in_batches(
    model: nn.Module,
    volumes: Tensor,
    target: int | Tensor | None,
    *,
    batch_size: int,
    explainer: Explainer,
    beside: tuple[Tensor, ...] = (),
    when_zero: str = "no voxel moves this logit",
) -> Float[Tensor, "subject 1 x y z"]:
    """Check the input, run an explainer batch by batch and put everything back.

    Parameters
    ----------
    model : Module
        Explained in evaluation mode, in the precision of its weights (a surrounding
        ``torch.autocast`` is switched off) and on its own device.
    volumes : tensor of shape (subject, 1, x, y, z)
    target : int, tensor of shape (subject,) or None
        Class to explain; None explains each subject's predicted class.
    batch_size : int
        Subjects that an explainer gets at a time.
    explainer : callable
        Gets a batch on the model's device, the targets and the batch's part of ``beside``;
        returns the maps of this batch.
    beside : tuple of tensors
        One entry a subject each, such as a baseline; cut into batches like the volumes.
    when_zero : str
        Ends the warning: what it means if a map is zero everywhere.

    Returns
    -------
    tensor of shape (subject, 1, x, y, z)
        On the CPU, in single precision.

    Warns
    -----
    UserWarning
        If maps are zero everywhere.
    """
    grids.check_volumes(volumes)
    if volumes.shape[1] != 1:
        raise ValueError(f"expected volumes with one channel, got {volumes.shape[1]}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
    parameter = next(model.parameters())
    maps = []
    with undisturbed(model), _target_checked(model, target):
        targets = _targets(model, volumes, target, batch_size)
        tensors = (volumes.detach(), targets, *beside)
        for batch, chosen, *others in zip(*(t.split(batch_size) for t in tensors), strict=True):
            batch, *others = (
                t.to(device=parameter.device, dtype=parameter.dtype, copy=True)
                for t in (batch, *others)
            )
            explained = explainer(batch, chosen.to(parameter.device), *others)
            maps.append(explained.detach().cpu().float())
    maps = torch.cat(maps)
    empty = torch.nonzero(maps.flatten(1).abs().amax(1) == 0).flatten().tolist()
    if empty:
        warnings.warn(
            f"the maps of subjects {empty} are zero everywhere: {when_zero}", stacklevel=3
        )
    return maps


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode, and afterwards back as it was, also after an error.

    Inside, gradients are on, but weights are frozen: what requires a gradient depends on the
    volume. Mixed precision is off: in half precision a small gradient would become zero.
    """
    modes = {module: module.training for module in model.modules()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    device = next(model.parameters()).device.type
    model.eval()
    model.requires_grad_(False)
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device, enabled=False),
        ):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter in trained:
            parameter.requires_grad_()


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


@contextmanager
def _target_checked(model: nn.Module, target: int | Tensor | None) -> Iterator[None]:
    """Compare target and classes as soon as there are logits: no extra pass is spent on it."""
    wanted = torch.as_tensor(0 if target is None else target)
    low, high = int(wanted.min()), int(wanted.max())

    def check(module, inputs, logits):
        if logits.ndim != 2:
            raise ValueError(
                f"expected a classifier with one logit a class, got {tuple(logits.shape)}"
            )
        if low < 0 or high >= logits.shape[1]:
            raise ValueError(
                f"target must be a class from 0 to {logits.shape[1] - 1}, got {target}"
            )

    handle = model.register_forward_hook(check)
    try:
        yield
    finally:
        handle.remove()


def _targets(model, volumes, target, batch_size: int) -> Int[Tensor, "subject"]:
    if target is None:
        parameter = next(model.parameters())
        with torch.no_grad():
            parts = (
                model(part.to(device=parameter.device, dtype=parameter.dtype))
                for part in volumes.split(batch_size)
            )
            return torch.cat([logits.argmax(1).cpu() for logits in parts])
    targets = torch.as_tensor(target, dtype=torch.long).cpu()
    targets = targets.expand(len(volumes)) if targets.ndim == 0 else targets
    if targets.shape != (len(volumes),):
        raise ValueError(
            f"expected one target or one a subject ({len(volumes)}), got shape {targets.shape}"
        )
    return targets
