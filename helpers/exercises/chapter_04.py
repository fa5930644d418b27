"""Exercises of chapter 4: a first explanation."""

from helpers.exercises.check import Exercise


def _is_near(value: float, tolerance: float = 0.005):
    return lambda answer: abs(float(answer) - value) < tolerance


def _finest_layer(answer) -> bool:
    name, spacing_mm = answer
    return str(name).strip().lower() == "block1" and abs(float(spacing_mm) - 8) < 0.01


EXERCISES = {
    "4.1": Exercise(
        right=lambda answer: str(answer).strip().strip("().").lower() == "b",
        praise=(
            "The gradient is about a change: its sign says in which direction to change the voxel."
        ),
        hint=(
            "A derivative answers 'what if this voxel were a little brighter?'. A negative one "
            "says what happens to the logit then. It says nothing about the voxel as it is."
        ),
    ),
    "4.2": Exercise(
        right=_is_near(0.7),
        praise="The planted voxels hold 3 + 4 of the 10 units of absolute relevance.",
        hint=(
            "Take absolute values before you add, inside as well as in the total: else positive "
            "and negative voxels cancel. Relevance mass is inside divided by total."
        ),
    ),
    "4.3": Exercise(
        right=_finest_layer,
        praise="One pooling has halved the 4 mm grid when block 1 puts out its maps.",
        hint=(
            "Each max pooling halves the number of voxels along an axis, and a block's output is "
            "what comes after its pooling. Count the poolings up to and including each block. "
            "Give the name and the millimetres, for example ('block9', 64)."
        ),
    ),
    "4.4": Exercise(
        right=_is_near(0.946, 0.001),
        praise=(
            "Two masks that share no voxel agree almost perfectly, because both are mostly empty."
        ),
        hint=(
            "Count the voxels in which the two masks differ: those of the first and those of the "
            "second, since none is shared. In all the other voxels both say 0, and this score "
            "counts that as agreement."
        ),
    ),
}
