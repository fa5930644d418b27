"""Exercises of chapter 5: Grad-CAM."""

from helpers.exercises.check import Exercise


def _is_letter(letter: str):
    return lambda answer: str(answer).strip().strip("().").lower() == letter


def _toy_map(answer) -> bool:
    first, second = answer
    return abs(float(first) - 1) < 0.005 and abs(float(second)) < 0.005


def _finest_layer(answer) -> bool:
    name, spacing_mm = answer
    return str(name).strip().lower() == "block1" and abs(float(spacing_mm) - 8) < 0.01


EXERCISES = {
    "5.1": Exercise(
        right=_toy_map,
        praise="The second place is -3 before the ReLU: it speaks against, and is cut away.",
        hint=(
            "First one weight for each channel: the mean of its two gradients. Then, at each "
            "place, both channels times their weights, added up. Last the ReLU. Give two numbers."
        ),
    ),
    "5.2": Exercise(
        right=_finest_layer,
        praise="One pooling has halved the 4 mm grid when block 1 puts out its maps.",
        hint=(
            "Each max pooling halves the number of voxels along an axis, and a block's output is "
            "what comes after its pooling. Count the poolings up to and including each block. "
            "Give the name and the millimetres, for example ('block9', 64)."
        ),
    ),
    "5.3": Exercise(
        right=_is_letter("c"),
        praise="An empty map is a missing answer, and missing answers are counted.",
        hint=(
            "What did the network do with these subjects, and what did the method do? A group "
            "mean over the others is a mean over whom? And a zero is not a small number here: "
            "would a larger brain or a stronger lesion have made it larger?"
        ),
    ),
    "5.4": Exercise(
        right=_is_letter("a"),
        praise="The fine detail is guided backprop's; the class decides only through Grad-CAM.",
        hint=(
            "The map is a product. Which of its two factors has the detail of voxels? And what "
            "did chapter 4 find when that factor was asked about another class?"
        ),
    ),
}
