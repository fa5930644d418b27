"""Exercises of chapter 10: which regularizer makes a picture readable?"""

import torch

from helpers.activation_maximization.regularizers import Penalty
from helpers.exercises.answers import equal, instance, letter, one_each
from helpers.exercises.checks import Exercise


def _too_bright(penalty: Penalty) -> bool:
    volumes = 1.75 + torch.randn(3, 1, 5, 6, 7, generator=torch.Generator().manual_seed(0))
    expected = (volumes - 1.75).clamp_min(0).mean(dim=(1, 2, 3, 4))
    found = one_each(penalty.function, volumes, count=3)
    return penalty.strength > 0 and torch.allclose(found, expected, atol=1e-5)


EXERCISES = {
    "10.1": Exercise(
        read=letter(),
        right=equal("c"),
        praise="Each penalty is weighed against the objective, and the two have different units.",
        hint=(
            "The total is the objective minus strength times penalty. What becomes of the balance "
            "when the objective is ten times larger?"
        ),
    ),
    "10.2": Exercise(
        read=instance(Penalty, "a Penalty, such as reg.l2(1.0)"),
        right=_too_bright,
        praise="Zero up to the brightest lesion, then rising: a soft bound.",
        hint=(
            "Subtract 1.75, cut off what is negative with `clamp_min(0)`, and take the mean over "
            "all axes but the first: one number an image. The strength must be above 0."
        ),
    ),
    "10.3": Exercise(
        read=letter(),
        right=equal("b"),
        praise="A choice by the outcome has to be paid for with pictures that nobody has seen.",
        hint="On which pictures was the recipe chosen, and on which was it scored?",
    ),
}
