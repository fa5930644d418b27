"""Exercises of chapter 9: activation maximization."""

import torch

from helpers.activation_maximization import Objective
from helpers.activation_maximization.network import OUTPUT
from helpers.exercises.check import Exercise


def _is_letter(letter: str):
    return lambda answer: str(answer).strip().strip("().").lower() == letter


def _rod_minus_ball(answer) -> bool:
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    return _is_objective(answer, {OUTPUT: logits}, logits[:, 3] - logits[:, 1])


def _loudest(answer) -> bool:
    features = torch.randn(3, 64, 6, 7, 6, generator=torch.Generator().manual_seed(1))
    return _is_objective(answer, {"block4": features}, features.amax(dim=(1, 2, 3, 4)))


def _is_objective(answer, outputs: dict, expected: torch.Tensor) -> bool:
    if not isinstance(answer, Objective):
        raise ValueError(f"it is a {type(answer).__name__}, not an Objective")
    values = answer.function(outputs)
    if tuple(values.shape) != tuple(expected.shape):
        raise ValueError(f"it gives shape {tuple(values.shape)}, not one number for each image")
    layers_named = set(answer.layers) == set(outputs)
    return layers_named and torch.allclose(values, expected, atol=1e-5)


EXERCISES = {
    "9.1": Exercise(
        right=_is_letter("b"),
        praise="The search may use any voxel as it likes; no person's brain can.",
        hint=(
            "Ask what limits the network's answer to a person, and what limits its answer to a "
            "picture whose every voxel is free."
        ),
    ),
    "9.2": Exercise(
        right=_is_letter("a"),
        praise="Now you know which names the rule gives away for nothing.",
        hint="Count the names in the rows of the untrained network.",
    ),
    "9.3": Exercise(
        right=_rod_minus_ball,
        praise="What makes both logits grow alike cancels out.",
        hint=(
            "`logit(k)` is an objective, and objectives can be subtracted. Ball, cube, rod and "
            "shell are the classes 1 to 4; 0 is healthy. The rod shall rise, the ball fall."
        ),
    ),
    "9.4": Exercise(
        right=_loudest,
        praise="One number for each image: the maximum over channels and places.",
        hint=(
            "`outputs['block4']` has the axes (image, channel, x, y, z). Take the maximum over all "
            "of them but the first, and name 'block4' in the tuple of layers."
        ),
    ),
}
