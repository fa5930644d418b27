"""Exercises of chapter 11: warps and Jacobians."""

from helpers.exercises.check import Exercise


def _is_letter(letter: str):
    return lambda answer: str(answer).strip().strip("().").lower() == letter


def _loss_in_per_cent(answer) -> bool:
    return abs(float(answer) - 19.75) < 0.3


def _folds(answer) -> bool:
    determinant, folded = answer
    return abs(float(determinant) + 0.2) < 0.005 and folded is True


EXERCISES = {
    "11.1": Exercise(
        right=_loss_in_per_cent,
        praise="Close to 22, as it is for all small numbers, and a little less.",
        hint=(
            "The log expansion is the natural logarithm of new volume over old volume. So first "
            "take the exponential, then ask how far it lies below 1, in per cent."
        ),
    ),
    "11.2": Exercise(
        right=_is_letter("a"),
        praise="The new voxel looks at less than a voxel of the old image, so the old is spread.",
        hint=(
            "The map goes from the new image to the old one. How much of the old image does one "
            "new voxel cover? And how many new voxels does one old voxel then fill?"
        ),
    ),
    "11.3": Exercise(
        right=_folds,
        praise="A step to the right looks to the left.",
        hint=(
            "Write down where the two voxels look. J is how far the looking moves for one step "
            "along the axis. Below zero, order is turned round. Give a number and True or False."
        ),
    ),
    "11.4": Exercise(
        right=_is_letter("a"),
        praise="Half of the time along the same current.",
        hint=(
            "You want a brain in between, with one border in its place. Which of the three is a "
            "point on the way from the one brain to the other?"
        ),
    ),
}
