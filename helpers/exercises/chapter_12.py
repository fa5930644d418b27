"""Exercises of chapter 12: simulators that inject and remove a disease."""

import torch

from helpers.exercises.answers import equal, function, letter, one_each
from helpers.exercises.checks import Exercise


def _missing(written) -> bool:
    now = torch.tensor([-1.0, 1.4, 0.5, -0.8, 0.2])
    typical = torch.tensor([0.6, 0.6, -0.4, -0.4, 0.2])
    sign = torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0])
    expected = torch.tensor([1.6, 0.0, 0.9, 0.0, 0.0])
    found = one_each(written, now, typical, sign, count=5)
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
        right=_missing,
        praise="Whoever is there already, or beyond, has nothing to pay, and so nothing to change.",
        hint=(
            "`sign * (typical - now)` is what is left of the way that was asked. Let what is "
            "negative cost nothing (`relu`)."
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
        praise="A simulator goes as far as classifiers ask, not as far as patients differ.",
        hint=(
            "What says in training when a simulation has gone far enough: somebody who knows the "
            "truth, or the classifiers?"
        ),
    ),
}
