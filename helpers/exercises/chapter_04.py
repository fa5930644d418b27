"""Exercises of chapter 4: gradients."""

from helpers.exercises.answers import equal, letter, near, numbers
from helpers.exercises.checks import Exercise

EXERCISES = {
    "4.1": Exercise(
        read=letter(),
        right=equal("b"),
        praise=(
            "The gradient is about a change: its sign says in which direction to change the voxel."
        ),
        hint=(
            "A derivative answers 'what if this voxel were a little brighter?'. A negative one "
            "says what happens to the logit then. It says nothing about the voxel as it is."
        ),
    ),
    "4.2": Exercise(
        read=numbers(3),
        right=near(0, 0, 1),
        praise="The slope is zero where the voxel is, but not on the way there.",
        hint=(
            "Draw min(x, 1). What is its slope at 4? For the third number walk from 0 to 4: the "
            "whole gain is what the single voxel gets, by completeness. Give three numbers."
        ),
    ),
    "4.3": Exercise(
        read=numbers(3),
        right=near(0, 6, 4),
        praise="They add up to what was gained, 10, and the dark voxel gets its part.",
        hint=(
            "For a straight line the slope is the weight, all along the way. Multiply it by how "
            "far the voxel went, from the baseline to x, with its sign. Then check completeness: "
            "the three numbers add up to f(x) - f(x')."
        ),
    ),
    "4.4": Exercise(
        read=numbers(2, 2),
        right=near((6, -2), (4, 0)),
        praise="Both rules conserve the 4; only epsilon blames the second input.",
        hint=(
            "What does each input put in, weight times input? Epsilon divides the relevance in "
            "proportion to these two, signs included; z-plus in proportion to the positive ones "
            "only. Under both rules the two shares add up to 4. Answer ((a, b), (c, d))."
        ),
    ),
    "4.5": Exercise(
        read=numbers(),
        right=near(0.7),
        praise="The planted voxels hold 3 + 4 of the 10 units of absolute relevance.",
        hint=(
            "Take absolute values before you add, inside as well as in the total: else positive "
            "and negative voxels cancel. Relevance mass is inside divided by total."
        ),
    ),
    "4.6": Exercise(
        read=numbers(between=(0, 1)),
        right=near(0.946, within=0.001),
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
