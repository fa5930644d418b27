"""What does a neuron want to see? Objectives, images, regularizers and transforms, and one loop.

``maximize`` composes one of each: ``maximize(model, logit(3), image=images.Voxels(start),
regularizers=[regularizers.total_variation(10.0)], transforms=[transforms.jitter(2)])``.
"""

from helpers.activation_maximization import (
    images,
    recipes,
    regularizers,
    transforms,
)
from helpers.activation_maximization.ascent import Maximized, activation, maximize
from helpers.activation_maximization.objectives import (
    Objective,
    channel_mean,
    class_margin,
    diversity,
    logit,
    unit,
)

__all__ = [
    "Maximized",
    "Objective",
    "activation",
    "channel_mean",
    "class_margin",
    "diversity",
    "images",
    "logit",
    "maximize",
    "recipes",
    "regularizers",
    "transforms",
    "unit",
]
