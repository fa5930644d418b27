"""Exercises of chapter 5: Grad-CAM."""

from helpers.exercises.answers import each, equal, letter, near, numbers, word
from helpers.exercises.checks import Exercise

EXERCISES = {
    "5.1": Exercise(
        read=numbers(2),
        right=near(1, 0),
        praise="The second place is -3 before the ReLU: it speaks against, and is cut away.",
        hint=(
            "First one weight for each channel: the mean of its two gradients. Then, at each "
            "place, both channels times their weights, added up. Last the ReLU. Give two numbers."
        ),
    ),
    "5.2": Exercise(
        read=each(
            "a layer's name and a number, such as ('block9', 64)",
            word("block1", "block2", "block3", "block4"),
            numbers(),
        ),
        right=equal(("block1", 8)),
        praise="One pooling has halved the 4 mm grid when block 1 puts out its maps.",
        hint=(
            "Each max pooling halves the number of voxels along an axis, and a block's output is "
            "what comes after its pooling. Count the poolings up to and including each block. "
            "Give the name and the millimetres, for example ('block9', 64)."
        ),
    ),
    "5.3": Exercise(
        read=letter(),
        right=equal("c"),
        praise="An empty map is a missing answer, and missing answers are counted.",
        hint=(
            "What did the network do with these subjects, and what did the method do? A group "
            "mean over the others is a mean over whom? And a zero is not a small number here: "
            "would a larger brain or a stronger lesion have made it larger?"
        ),
    ),
    "5.4": Exercise(
        read=letter(),
        right=equal("a"),
        praise="The fine detail is guided backprop's; the class decides only through Grad-CAM.",
        hint=(
            "The map is a product. Which of its two factors has the detail of voxels? And what "
            "did chapter 4 find when that factor was asked about another class?"
        ),
    ),
}
