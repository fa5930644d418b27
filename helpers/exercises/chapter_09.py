"""Exercises of chapter 9: activation maximization."""

import torch

from helpers.activation_maximization import Objective
from helpers.activation_maximization.network import OUTPUT
from helpers.exercises.answers import equal, instance, letter, one_each
from helpers.exercises.checks import Exercise


def _rod_minus_ball(objective) -> bool:
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    return _is_objective(objective, {OUTPUT: logits}, logits[:, 3] - logits[:, 1])


def _loudest(objective) -> bool:
    features = torch.randn(3, 64, 6, 7, 6, generator=torch.Generator().manual_seed(1))
    return _is_objective(objective, {"block4": features}, features.amax(dim=(1, 2, 3, 4)))


def _is_objective(objective: Objective, outputs: dict, expected: torch.Tensor) -> bool:
    found = one_each(objective.function, outputs, count=len(expected))
    return set(objective.layers) == set(outputs) and torch.allclose(found, expected, atol=1e-5)


_an_objective = instance(Objective, "an Objective, such as logit(0)")

EXERCISES = {
    "9.1": Exercise(
        read=letter(),
        right=equal("b"),
        praise="The search may use any voxel as it likes; no person's brain can.",
        hint=(
            "Ask what limits the network's answer to a person, and what limits its answer to a "
            "picture whose every voxel is free."
        ),
    ),
    "9.2": Exercise(
        read=letter(),
        right=equal("a"),
        praise="Now you know which names the rule gives away for nothing.",
        hint="Count the names in the rows of the untrained network.",
    ),
    "9.3": Exercise(
        read=_an_objective,
        right=_rod_minus_ball,
        praise="What makes both logits grow alike cancels out.",
        hint=(
            "`logit(k)` is an objective, and objectives can be subtracted. Ball, cube, rod and "
            "shell are the classes 1 to 4; 0 is healthy. The rod shall rise, the ball fall."
        ),
    ),
    "9.4": Exercise(
        read=_an_objective,
        right=_loudest,
        praise="One number for each image: the maximum over channels and places.",
        hint=(
            "`outputs['block4']` has the axes (image, channel, x, y, z). Take the maximum over all "
            "of them but the first, and name 'block4' in the tuple of layers."
        ),
    ),
}
