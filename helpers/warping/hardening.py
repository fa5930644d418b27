"""Disturbances that make a classifier robust, so that its change of mind is about anatomy.

A network that has seen only clean volumes can be moved by a wiggle that no eye sees. Train on
with disturbances after it has learned the task; from the start, it may learn nothing at all::

    models.train(model, cohort, augment=warping.disturbances, epochs=4, learning_rate=5e-4)
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from helpers import fields

NOISE = 0.5  # largest standard deviation; the brain's median is 1
BRIGHTNESS = 0.1
CUBES, CUBE_VOXELS = 6, 8
MOTION_VOXELS = 0.3  # standard deviation
_MOTION_SPACING = 5


def disturbances(
    volumes: Float[Tensor, "subject 1 x y z"], generator: torch.Generator
) -> Float[Tensor, "subject 1 x y z"]:
    """Deform, brighten, cover with noise of random strength, and cut cubes out.

    The small smooth deformations matter most: what one more subject would have looked like. Cubes
    make it look at every structure, noise at more than single voxels.
    """
    subjects, _, *shape = volumes.shape
    points = [max(2, round(n / _MOTION_SPACING)) for n in shape]
    motion = torch.randn(subjects, 3, *points, generator=generator)
    motion = F.interpolate(motion, shape, mode="trilinear", align_corners=True)
    disturbed = fields.warp(volumes, MOTION_VOXELS * motion / motion.std())
    per_subject = (subjects, 1, 1, 1, 1)
    brightness = 1 + BRIGHTNESS * torch.randn(per_subject, generator=generator)
    noise = NOISE * torch.rand(per_subject, generator=generator)
    noise = noise * torch.randn(volumes.shape, generator=generator)
    disturbed = torch.where(disturbed != 0, brightness * disturbed + noise, disturbed)
    for volume in disturbed:
        for _ in range(CUBES):
            corner = [
                int(torch.randint(max(1, n - CUBE_VOXELS + 1), (1,), generator=generator))
                for n in shape
            ]
            volume[(0, *(slice(c, c + CUBE_VOXELS) for c in corner))] = 0
    return disturbed
