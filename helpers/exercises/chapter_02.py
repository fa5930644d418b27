"""Exercises of chapter 2: cohorts with known answers."""

import math
from typing import Any

import pandas as pd

from helpers.cohorts.shapes import SHAPES
from helpers.exercises.answers import equal, instance, letter, numbers, unreadable, word
from helpers.exercises.checks import Exercise

_BALL_ML = 4 / 3 * math.pi * 1.5**3
_STATISTICS = "mean intensity", "spread", "smoothness", "noise level", "brain volume", "border"


def _a_number_for_each_shape(answer: Any) -> list[float]:
    expected = f"a dictionary with the keys {', '.join(SHAPES)}"
    given = instance(dict, expected)(answer)
    if set(given) != set(SHAPES):
        raise unreadable(expected, list(given))
    return [numbers()(value) for value in given.values()]


def _volumes_of_the_shapes(given) -> bool:
    # The occupancy on a grid of 4 mm is within 3 % of the body; counted masks are 10 % off.
    return all(abs(value - _BALL_ML) < 0.05 * _BALL_ML for value in given)


def _audit(answer: Any) -> pd.DataFrame:
    expected = "the table that cohorts.audit_leaks returns"
    table = instance(pd.DataFrame, expected)(answer).reset_index()
    if not {"statistic", "safe"} <= set(table) or not set(_STATISTICS) <= set(table["statistic"]):
        raise unreadable(expected, answer)
    return table.set_index("statistic")


def _leak_of_brightness(table) -> bool:
    rings = not bool(table.loc["mean intensity", "safe"])
    # A factor leaves every correlation as it was; blur does not.
    return rings and bool(table.loc["smoothness", "safe"])


EXERCISES = {
    "2.1": Exercise(
        read=_a_number_for_each_shape,
        right=_volumes_of_the_shapes,
        praise="All four have the volume of the ball of 15 mm radius; only shape differs.",
        hint=(
            "Sum body.occupancy(grid) of each lesion, which counts partly filled voxels in part; "
            "mask counts them fully or not at all. Then multiply by grid.voxel_volume_mm3 and go "
            "to millilitres. The keys are the names of the shapes."
        ),
    ),
    "2.2": Exercise(
        read=letter(),
        right=equal("b"),
        praise="What fits in fewer places gathers there, and the place gives the shape away.",
        hint=(
            "Each shape is inside the brain in this scheme, and brightness is drawn separately. "
            "Compare the lists of places: are they the same for a ball and for a rod?"
        ),
    ),
    "2.3": Exercise(
        read=word(*_STATISTICS),
        right=equal("brain volume"),
        praise="It is the only one of the six that counts voxels.",
        hint=(
            "Imagine the same brain on more voxels, with the same tissues and the same noise. "
            "Which of the six numbers must change? Write its name as it stands in the table."
        ),
    ),
    "2.4": Exercise(
        read=_audit,
        right=_leak_of_brightness,
        praise="Mean intensity rings and smoothness stays silent: the fingerprint of brightness.",
        hint=(
            "Multiply the volumes of the patients, and only theirs, by 1.05 with "
            "dataclasses.replace, and give the whole table of cohorts.audit_leaks. In it "
            "'mean intensity' must be unsafe, while 'smoothness', a correlation, stays safe."
        ),
    ),
}
