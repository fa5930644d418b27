"""Exercises of chapter 13: feature visualization in anatomy's own space."""

from helpers.exercises.answers import equal, letter, near, numbers
from helpers.exercises.checks import Exercise

EXERCISES = {
    "13.1": Exercise(
        read=numbers(),
        right=near(22.14, within=0.3),
        praise="exp(0.2) is 1.221.",
        hint=(
            "Log expansion is the natural logarithm of the new volume over the old one. Undo the "
            "logarithm, and say by how many per cent the volume is larger."
        ),
    ),
    "13.2": Exercise(
        read=letter(),
        right=equal("b"),
        praise="Nothing in the space has another intensity than the template's own.",
        hint="What does a warp do to a voxel, and what can it never do to it?",
    ),
    "13.3": Exercise(
        read=letter(),
        right=equal("c"),
        praise="Subtracting a constant everywhere changes no correlation.",
        hint=(
            "A larger head is a log expansion that is the same at every place. What does a "
            "correlation do with each map's mean before it compares them?"
        ),
    ),
}
