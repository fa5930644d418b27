"""Exercises of chapter 12: simulators that inject and remove a disease."""

import torch

from helpers.exercises.answers import equal, function, letter, one_each
from helpers.exercises.checks import Exercise


def _shift(written) -> bool:
    before = torch.tensor([-1.0, -0.4, 0.5, 1.2, 0.0])
    after = torch.tensor([0.6, -0.1, -0.6, 1.5, 0.0])
    sign = torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0])
    expected = torch.tensor([0.0, 0.7, 0.0, 1.3, 1.0])
    found = one_each(written, before, after, sign, 1.0, count=5)
    return torch.allclose(found, expected, atol=1e-6)


EXERCISES = {
    "12.1": Exercise(
        read=letter(),
        right=equal("a"),
        praise="There is nothing to remove, and a good simulator has learned this as well.",
        hint="Is there anything in this brain that the classifiers would call ill?",
    ),
    "12.2": Exercise(
        read=function,
        right=_shift,
        praise="Nothing left to pay once the logit has moved far enough the right way.",
        hint=(
            "`sign * (after - before)` is how far the logit has moved the way that was asked. "
            "Subtract it from the margin, and let what is negative cost nothing (`relu`)."
        ),
    ),
    "12.3": Exercise(
        read=letter(),
        right=equal("b"),
        praise="What one network can be talked into is a property of that network.",
        hint=(
            "The other classifier has learned the same disease from the same people. What would "
            "it do if the change were the disease?"
        ),
    ),
    "12.4": Exercise(
        read=letter(),
        right=equal("c"),
        praise="The simulator stops where the classifier is convinced.",
        hint=(
            "What does the loss pay for: the size of a real difference, or a logit that has moved "
            "by the margin?"
        ),
    ),
}
