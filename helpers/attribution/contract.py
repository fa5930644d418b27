"""What every attribution method promises: same call, same axes, nothing left changed.

``method(model, volumes, target=None, **options)`` returns one map a subject on the voxels of the
volumes. The logit before the softmax is explained: a softmax would mix in all other classes.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from helpers import grids, models

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
        Explained as in `helpers.models.frozen`: in evaluation mode, in single precision, on its
        own device.
    volumes : tensor of shape (subject, 1, x, y, z)
    target : int, tensor of shape (subject,) or None
        Class to explain; None explains each subject's predicted class. A network with one logit z
        has the classes 0 and 1, and the logit of class 0 is -z.
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

    Raises
    ------
    ValueError
        If volumes or targets do not fit, or the network is no classifier that looks at each
        subject alone and always in the same way, see `helpers.models.check_subjectwise`.
    """
    grids.check_volumes(volumes)
    if volumes.shape[1] != 1:
        raise ValueError(f"expected volumes with one channel, got {volumes.shape[1]}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
    maps = []
    with models.frozen(model) as network:
        logits = models.check_subjectwise(network, volumes[:1])
        if target is None and len(volumes) > 1:
            logits = network.logits(volumes, batch_size=batch_size)
        targets = models.resolve_targets(target, logits, len(volumes))
        tensors = (volumes.detach(), targets, *beside)
        for batch, chosen, *others in zip(*(t.split(batch_size) for t in tensors), strict=True):
            batch, *others = (
                t.to(device=network.device, dtype=network.dtype, copy=True)
                for t in (batch, *others)
            )
            explained = explainer(batch, chosen.to(network.device), *others)
            maps.append(explained.detach().cpu().float())
    maps = torch.cat(maps)
    empty = torch.nonzero(maps.flatten(1).abs().amax(1) == 0).flatten().tolist()
    if empty:
        warnings.warn(
            f"the maps of subjects {empty} are zero everywhere: {when_zero}", stacklevel=3
        )
    return maps


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
