"""Exercises of chapter 3: training a 3D classifier, with honest baselines."""

from helpers.exercises.answers import equal, letter, near, numbers
from helpers.exercises.checks import Exercise

# The first convolution of block 4: 32 channels in, 64 out, kernel 3x3x3, no offsets.
_WEIGHTS = 64 * 32 * 3**3


EXERCISES = {
    "3.1": Exercise(
        read=numbers(),
        right=equal(_WEIGHTS),
        praise="Every output channel has its own 3x3x3 kernel for every input channel.",
        hint=(
            "Count the kernels first: each of the 64 output channels looks at each of the 32 "
            "input channels through a kernel of its own. Then count the weights of one kernel. "
            "This layer has no offsets."
        ),
    ),
    "3.2": Exercise(
        read=letter(),
        right=equal("b"),
        praise="sub-02 is on both sides, with different sessions: other scans, the same brain.",
        hint=(
            "Drop the session from each name, so that only the person is left. Then look for a "
            "person who is in the training and in the test part of one split."
        ),
    ),
    "3.3": Exercise(
        read=numbers(2, between=(0, 1)),
        right=near(0.2, 0.5),
        praise=(
            "All of one class right and none of the other four makes one fifth; and a score that "
            "is the same for everybody ranks nobody above anybody."
        ),
        hint=(
            "Balanced accuracy is the mean of five shares, one for each class: write the five "
            "down. For the AUC, ask how often a subject of the class ranks above another one when "
            "everybody gets the same number. Give both, accuracy first."
        ),
    ),
    "3.4": Exercise(
        read=letter("abcd"),
        right=equal("c"),
        praise="The interval holds 0.5 and it holds 0.69: both are still possible.",
        hint=(
            "An interval lists the values that the data are compatible with, for the score over "
            "all people like these. Which values does this one hold, and does it say anything "
            "about a single subject?"
        ),
    ),
}
