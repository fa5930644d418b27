"""Exercises of chapter 8: shortcut detective."""

from helpers.exercises.answers import equal, letter, near, numbers
from helpers.exercises.checks import Exercise

EXERCISES = {
    "8.1": Exercise(
        read=letter(),
        right=equal("b"),
        praise="A map is a clue: it says where to experiment, not what would come out.",
        hint=(
            "What did you measure so far: the network's answer with and without the spot, or maps "
            "of one network on scans that all have it? How many of the three follow from that?"
        ),
    ),
    "8.2": Exercise(
        # Some statistics fall in patients: an AUC near 0 tells the groups apart just as well.
        read=numbers(between=(0, 1)),
        right=lambda auc: max(auc, 1 - auc) >= 0.95,
        praise="A number made for one suspicion finds what six general ones overlooked.",
        hint=(
            "Many dim voxels of a large head weigh as much in the sum as the few bright ones of a "
            "tag. Which summary of `beyond` does not care how many dim voxels there are?"
        ),
    ),
    "8.3": Exercise(
        read=numbers(2, between=(0, 1)),
        right=near(0, 1),
        praise="Nobody is found and nobody is alarmed: half of two shares, one 0 and one 1.",
        hint=(
            "Count the patients who are called patients, and the controls who are called controls. "
            "Answer with two shares, patients first, such as (0.3, 0.7)."
        ),
    ),
    "8.4": Exercise(
        read=letter(),
        right=equal("c"),
        praise="A diffuse map is what a diffuse disease and an instrument have in common.",
        hint=(
            "Which of the three could tell a disease from a difference between scanners, and "
            "which would come out the same for both?"
        ),
    ),
}
