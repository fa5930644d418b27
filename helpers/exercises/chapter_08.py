"""Exercises of chapter 8: shortcut detective."""

from helpers.exercises.check import Exercise


def _is_letter(letter: str):
    return lambda answer: str(answer).strip().strip("().").lower() == letter


def _finds_nobody(answer) -> bool:
    sensitivity, specificity = answer
    return float(sensitivity) == 0 and float(specificity) == 1


EXERCISES = {
    "8.1": Exercise(
        right=_is_letter("b"),
        praise="A map is a clue: it says where to experiment, not what would come out.",
        hint=(
            "What did you measure so far: the network's answer with and without the spot, or maps "
            "of one network on scans that all have it? How many of the three follow from that?"
        ),
    ),
    "8.2": Exercise(
        # Some statistics fall in patients: an AUC near 0 tells the groups apart just as well.
        right=lambda answer: 0.95 <= max(float(answer), 1 - float(answer)) <= 1,
        praise="A number made for one suspicion finds what six general ones overlooked.",
        hint=(
            "Many dim voxels of a large head weigh as much in the sum as the few bright ones of a "
            "tag. Which summary of `beyond` does not care how many dim voxels there are? Or: "
            "heads stick out on both sides, the tag does not."
        ),
    ),
    "8.3": Exercise(
        right=_finds_nobody,
        praise="Nobody is found and nobody is alarmed: half of two shares, one 0 and one 1.",
        hint=(
            "Count the patients who are called patients, and the controls who are called controls. "
            "Answer with two shares, patients first, such as (0.3, 0.7)."
        ),
    ),
    "8.4": Exercise(
        right=_is_letter("c"),
        praise="A diffuse map is what a diffuse disease and an instrument have in common.",
        hint=(
            "Which of the three could tell a disease from a difference between scanners, and "
            "which would come out the same for both?"
        ),
    ),
}
