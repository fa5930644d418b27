"""Exercises of chapter 7: do the maps tell the truth?"""

from helpers.exercises.check import Exercise


def _is_letter(letter: str):
    return lambda answer: str(answer).strip().strip("().").lower() == letter


def _scores_of_a_guess(answer) -> bool:
    rank, auc = answer
    return abs(float(rank) - 0.02) < 0.001 and abs(float(auc) - 0.5) < 0.005


EXERCISES = {
    "7.1": Exercise(
        right=_scores_of_a_guess,
        praise="The planted share for the one, a half for the other: two different zeros.",
        hint=(
            "Draw voxels blindly: which share of them is planted? For the AUC, draw one planted "
            "voxel and one other, each with a random number: how often does the first one win? "
            "Answer with a pair, relevance rank first."
        ),
    ),
    "7.2": Exercise(
        right=_is_letter("b"),
        praise="A map that stays when the knowledge goes was not made of the knowledge.",
        hint=(
            "Which blind map of the board also finds bright lesions, and what would be its "
            "correlation with itself after the network has forgotten everything?"
        ),
    ),
    "7.3": Exercise(
        right=lambda answer: abs(float(answer) - 0.005) < 0.0005,
        praise="Half a per cent each: the two masks then differ in one voxel of a hundred.",
        hint=(
            "Masks without a common voxel differ in the voxels of both. With 2.7 % each the score "
            "was 0.946: which share makes it 0.99? Give a share, such as 0.027."
        ),
    ),
    "7.4": Exercise(
        right=_is_letter("c"),
        praise="The test is about the maps. What the maps are about is another question.",
        hint=(
            "What went into the test: scans, answers of the network, or maps? And what did the "
            "maps of the network give that was never trained?"
        ),
    ),
}
