"""Occlusion: how much does the logit drop when a part of the brain is covered?

References
----------
Zeiler, Fergus (2014), Visualizing and understanding convolutional networks, arXiv 1311.2901.
"""

import itertools
import math
import warnings

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from helpers import models, runtime
from helpers._docs import filled
from helpers.attribution.contract import explain_in_batches
from helpers.attribution.incremental import Undisturbed


@filled
def occlusion(
    model: nn.Module,
    volumes: Float[Tensor, "subject 1 x y z"],
    target: int | Tensor | None = None,
    *,
    window: int | tuple[int, int, int] = 8,
    stride: int | tuple[int, int, int] = 4,
    fill: float = 0.0,
    batch_size: int = 32,
    progress: bool = True,
) -> Float[Tensor, "subject 1 x y z"]:
    """Cover one window after the other and return how far the target's logit drops.

    Windows that cover nothing but ``fill`` change nothing and cost nothing. For the others, only
    what the window can change is recomputed, see `helpers.attribution.incremental`; the map is the
    same.

    Parameters
    ----------
    {model}
    {volumes}
    {target}
    window : int or three ints
        Side of the window in voxels; 8 are 32 mm at 4 mm.
    stride : int or three ints
        From one window to the next, in voxels, from 1 to ``window``. Halving it takes eight times
        as long. Windows at the far border are cut off there.
    fill : float
        Intensity inside the window; 0 is background. It is a choice: a hole in the brain is
        something that no network has seen in training.
    batch_size : int
        Windows at a time; lower it when memory is short.
    {progress}

    Returns
    -------
    tensor of shape (subject, 1, x, y, z)
        In logits: the drop, averaged over the windows that cover a voxel. Negative where covering
        raises the logit.

    Warns
    -----
    UserWarning
        If not even the network's first layer could be followed, so that every window takes a full
        pass.

    Raises
    ------
    ValueError
        If a window is larger than the volume, or the stride larger than the window.

    Examples
    --------
    >>> from helpers import cohorts, models
    >>> from helpers.attribution.occlusions import occlusion
    >>> volumes = cohorts.simulate("lesion", subjects=1).volumes
    >>> maps = occlusion(models.pretrained("lesion"), volumes, window=16, stride=16)
    >>> maps.shape == volumes.shape
    True
    """
    window, stride = _three(window, "window"), _three(stride, "stride")
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
    if not math.isfinite(fill):
        raise ValueError(f"fill must be a finite intensity, got {fill}")
    if any(s > w for s, w in zip(stride, window, strict=True)):
        raise ValueError(f"stride {stride} leaves gaps between windows of {window} voxels")

    def explainer(batch: Tensor, targets: Tensor) -> Tensor:
        return _drops(model, batch, targets, window, stride, fill, batch_size, progress)

    return explain_in_batches(model, volumes, target, batch_size=1, explainer=explainer)


def _drops(model, volume, targets, window, stride, fill, batch_size, progress) -> Tensor:
    """Return the map of one subject."""
    shape = volume.shape[2:]
    if any(w > n for w, n in zip(window, shape, strict=True)):
        raise ValueError(f"a window of {window} voxels does not fit into {tuple(shape)}")
    drop, count = torch.zeros_like(volume), torch.zeros_like(volume)
    corners = []
    for corner in itertools.product(
        *(range(0, n - w + s, s) for n, w, s in zip(shape, window, stride, strict=True))
    ):
        covered = volume[_box(corner, window)]
        count[_box(corner, window)] += 1
        if (covered != fill).any():
            corners.append(corner)
    undisturbed = Undisturbed(model, volume)
    if not undisturbed.layers:
        warnings.warn(
            f"the layers of {type(model).__name__} could not be followed one by one: "
            f"each of {len(corners)} windows takes a full pass",
            stacklevel=5,
        )
    (whole,) = models.target_logits(undisturbed.logits, targets)
    # All patches have one size: beyond the far border there is nothing to patch.
    starts = np.minimum(corners, np.subtract(shape, window))
    # Windows that change boxes of one size share a batch; else small crops grow with the largest.
    order = np.lexsort(undisturbed.changed_sizes(starts, window).T)
    batches = np.array_split(order, math.ceil(len(order) / batch_size))
    for batch in runtime.progress(batches, label="occlusion", show=progress):
        patches = torch.cat([volume[_box(starts[i], window)] for i in batch])
        for patch, i in zip(patches, batch, strict=True):
            patch[_box(corners[i] - starts[i], window)] = fill
        outputs = undisturbed.with_patches(patches, starts[batch])
        logits = models.target_logits(outputs, targets.expand(len(batch)))
        for i, logit in zip(batch, logits, strict=True):
            drop[_box(corners[i], window)] += whole - logit
    return drop / count


def _box(corner, size) -> tuple:
    return (..., *(slice(int(a), int(a) + n) for a, n in zip(corner, size, strict=True)))


def _three(value: int | tuple[int, int, int], name: str) -> tuple[int, int, int]:
    three = (value,) * 3 if isinstance(value, int) else tuple(value)
    if len(three) != 3 or min(three) < 1:
        raise ValueError(f"{name} must be one or three numbers of voxels from 1, got {value}")
    return three
