"""Exercises of chapter 15: your own data and network."""

from helpers.exercises.answers import equal, letter
from helpers.exercises.checks import Exercise

EXERCISES = {
    "15.1": Exercise(
        read=letter(),
        right=equal("c"),
        praise="A number that needs no scan does better; until that is explained, no place is.",
        hint=(
            "What does the head size say about the 0.71? Could the map's peak be where the head "
            "size shows?"
        ),
    ),
    "15.2": Exercise(
        read=letter(),
        right=equal("b"),
        praise="One folder, one question for each method.",
        hint="Think of a run that is interrupted halfway, and of the mean map of that folder.",
    ),
    "15.3": Exercise(
        read=letter(),
        right=equal("b"),
        praise="The volumes lie there twice: once whole, once as the parts of a fold.",
        hint="How much is in memory at any time? And where is the rest, how many times?",
    ),
}
