"""The standard of intensities that all networks read: background 0, median of the brain 1."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from helpers.errors import BrokenScanError


def standardise(
    volume: Float[Tensor, "*batch x y z"], mask: Bool[Tensor, "*#batch x y z"]
) -> Float[Tensor, "*batch x y z"]:
    """Set the background to exactly 0 and the median of the brain to 1, volume by volume.

    Dividing by the median keeps the ratio between tissues and cannot be moved by a small lesion;
    z-scores would make the background, most of the volume, a large negative number.

    Parameters
    ----------
    volume : tensor of shape (..., x, y, z)
        Values below 0, which interpolation makes at sharp edges, become 0.
    mask : tensor of shape (..., x, y, z)
        Where the brain is; either the volume's shape or one that broadcasts to it.

    Raises
    ------
    BrokenScanError
        If a mask is empty, or a median is not a positive number.

    Examples
    --------
    >>> import torch
    >>> from helpers.cohorts import intensities
    >>> volume = torch.tensor([9.0, 2.0, 4.0, 8.0]).reshape(1, 1, 4)
    >>> intensities.standardise(volume, volume < 9).flatten().tolist()
    [0.0, 0.5, 1.0, 2.0]
    """
    mask = mask.to(volume.device).expand(volume.shape)
    if not mask.flatten(-3).any(-1).all():
        raise BrokenScanError("a brain mask is empty, so there is no median to divide by")
    within = volume.masked_fill(~mask, torch.nan).flatten(-3)
    median = within.nanmedian(-1).values[..., None, None, None]
    if not (median > 0).all():
        raise BrokenScanError(
            f"the median inside the brain is {median.min().item():.3g}; expected a positive one. "
            f"Pass raw T1-weighted intensities, not z-scores"
        )
    return (volume.clamp_min(0) / median).masked_fill(~mask, 0.0)
