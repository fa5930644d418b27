"""Exercises of chapter 6: perturbations."""

from helpers.exercises.answers import equal, letter, near, numbers
from helpers.exercises.checks import Exercise

EXERCISES = {
    "6.1": Exercise(
        read=numbers(),
        right=equal(1573),
        praise="11 x 13 x 11 windows: a plain program passes the network as many times a map.",
        hint=(
            "Count along one axis first: the first window begins at 0, the last one begins 8 "
            "voxels before the end, and they begin 4 voxels apart. Then multiply the three axes."
        ),
    ),
    "6.2": Exercise(
        read=numbers(),
        right=equal(6),
        praise="10 values after the convolution, and they lie in 6 pairs of the pooling.",
        hint=(
            "The kernel of 3 adds one voxel on each side, so write down the first and the last "
            "voxel that can change. Then halve both indices, rounding down: these are the first "
            "and the last pair. Count the pairs from one to the other, both included."
        ),
    ),
    "6.3": Exercise(
        read=numbers(2),
        right=near(0.95, 3.73),
        praise="To blur everything costs far more than it wins, so the mask stays near 1.",
        hint=(
            "Two terms each: max(p - 0.05, 0), and 3 times the mean of 1 - m. That mean is 0 "
            "when nothing is blurred and 1 when everything is. Give the two sums as a pair."
        ),
    ),
    "6.4": Exercise(
        read=letter(),
        right=equal("b"),
        praise="Dark counts as fluid here. As bright a box does not, nor a dark one elsewhere.",
        hint=(
            "Go along the row of the controls over the ventricle. Which fill raises the logit "
            "most, and which not at all? All four have the same edges. Then look at the same "
            "fills over the frontal lobe."
        ),
    ),
}
