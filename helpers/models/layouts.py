"""How kernels lie in memory: with the channels last, a convolution on a CPU takes a third less.

A network that flattens its features with ``view`` reads them as memory has them, and fails then.
"""

import torch
from torch import nn


def channels_last(model: nn.Module) -> None:
    """Put the channels of all 3D kernels last, in place.

    Examples
    --------
    >>> from helpers import models
    >>> from helpers.models import layouts
    >>> model = models.build("course")
    >>> layouts.channels_last(model)
    >>> next(model.parameters()).stride()
    (27, 1, 9, 3, 1)
    """
    _lay_out(model, torch.channels_last_3d)


def channels_first(model: nn.Module) -> None:
    """Put them back to where they are by default."""
    _lay_out(model, torch.contiguous_format)


def is_of_layout(error: RuntimeError) -> bool:
    """Say whether a network has failed because its channels are last."""
    return "view size is not compatible" in str(error)


def _lay_out(model: nn.Module, layout: torch.memory_format) -> None:
    for kernel in model.parameters():
        if kernel.ndim == 5:
            # A copy: of one channel, both orders count as contiguous, and the old one would stay.
            kernel.data = kernel.data.clone(memory_format=layout)
