"""Exercises of chapter 11: warps and Jacobians."""

from helpers.exercises.answers import each, equal, letter, near, numbers, truth
from helpers.exercises.checks import Exercise

EXERCISES = {
    "11.1": Exercise(
        read=numbers(between=(0, 100)),
        right=near(19.75, within=0.3),
        praise="Close to 22, as it is for all small numbers, and a little less.",
        hint=(
            "The log expansion is the natural logarithm of new volume over old volume. So first "
            "take the exponential, then ask how far it lies below 1, in per cent."
        ),
    ),
    "11.2": Exercise(
        read=letter(),
        right=equal("a"),
        praise="The new voxel looks at less than a voxel of the old image, so the old is spread.",
        hint=(
            "The map goes from the new image to the old one. How much of the old image does one "
            "new voxel cover? And how many new voxels does one old voxel then fill?"
        ),
    ),
    "11.3": Exercise(
        read=each("a number and True or False, such as (0.5, False)", numbers(), truth),
        right=lambda given: near(-0.2)(given[0]) and given[1],
        praise="A step to the right looks to the left.",
        hint=(
            "Write down where the two voxels look. J is how far the looking moves for one step "
            "along the axis. Below zero, order is turned round. Give a number and True or False."
        ),
    ),
    "11.4": Exercise(
        read=letter(),
        right=equal("a"),
        praise="Half of the time along the same current.",
        hint=(
            "You want a brain in between, with one border in its place. Which of the three is a "
            "point on the way from the one brain to the other?"
        ),
    ),
}
