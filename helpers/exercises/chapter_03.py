"""Exercises of chapter 3: training a 3D classifier, with honest baselines."""

from helpers.exercises.check import Exercise

# The first convolution of block 4: 32 channels in, 64 out, kernel 3x3x3, no offsets.
_WEIGHTS = 64 * 32 * 3**3


def _is_letter(letter: str):
    return lambda answer: str(answer).strip().strip("().").lower() == letter


def _scores_of_a_constant(answer) -> bool:
    accuracy, auc = answer
    return abs(accuracy - 0.2) < 0.005 and abs(auc - 0.5) < 0.005


EXERCISES = {
    "3.1": Exercise(
        right=lambda answer: int(answer) == answer == _WEIGHTS,
        praise="Every output channel has its own 3x3x3 kernel for every input channel.",
        hint=(
            "Count the kernels first: each of the 64 output channels looks at each of the 32 "
            "input channels through a kernel of its own. Then count the weights of one kernel. "
            "This layer has no offsets."
        ),
    ),
    "3.2": Exercise(
        right=_is_letter("b"),
        praise="sub-02 is on both sides, with different sessions: other scans, the same brain.",
        hint=(
            "Drop the session from each name, so that only the person is left. Then look for a "
            "person who is in the training and in the test part of one split."
        ),
    ),
    "3.3": Exercise(
        right=_scores_of_a_constant,
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
        right=_is_letter("c"),
        praise="The interval holds 0.5 and it holds 0.69: both are still possible.",
        hint=(
            "An interval lists the values that the data are compatible with, for the score over "
            "all people like these. Which values does this one hold, and does it say anything "
            "about a single subject?"
        ),
    ),
}
