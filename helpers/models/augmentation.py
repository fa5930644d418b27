"""Heads as they might have lain: gentle turns, shifts and sizes, for cohorts that are small."""

import torch
from jaxtyping import Float
from monai.transforms import RandAffine
from torch import Tensor

_TURN_RAD, _SHIFT_VOXELS, _SCALE = 0.1, 2.0, 0.05


def moved_heads(
    volumes: Float[Tensor, "subject 1 x y z"], generator: torch.Generator
) -> Float[Tensor, "subject 1 x y z"]:
    """Turn each head by up to 6 degrees, shift it by up to 2 voxels, scale it by up to 5 %.

    For `train(augment=...)`. About as much as an affine registration leaves open. Left stays left.

    Examples
    --------
    >>> from helpers import anatomy, models, runtime
    >>> brain = anatomy.template().t1[None]
    >>> moved = models.moved_heads(brain, runtime.generator(0))
    >>> moved.shape == brain.shape, bool((moved != brain).any())
    (True, True)
    """
    move = RandAffine(
        prob=1.0,
        rotate_range=(_TURN_RAD,) * 3,
        translate_range=(_SHIFT_VOXELS,) * 3,
        scale_range=(_SCALE,) * 3,
        padding_mode="zeros",
    )
    seeds = torch.randint(2**31, (len(volumes),), generator=generator).tolist()
    moved = [
        torch.as_tensor(move.set_random_state(seed)(volume))
        for volume, seed in zip(volumes, seeds, strict=True)
    ]
    return torch.stack(moved)
