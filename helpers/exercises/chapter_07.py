"""Exercises of chapter 7: do the maps tell the truth?"""

from helpers.exercises.answers import equal, letter, near, numbers
from helpers.exercises.checks import Exercise

EXERCISES = {
    "7.1": Exercise(
        read=numbers(2, between=(0, 1)),
        right=near(0.02, 0.5, within=0.001),
        praise="The planted share for the one, a half for the other: two different zeros.",
        hint=(
            "Draw voxels blindly: which share of them is planted? For the AUC, draw one planted "
            "voxel and one other, each with a random number: how often does the first one win? "
            "Answer with a pair, average precision first."
        ),
    ),
    "7.2": Exercise(
        read=letter(),
        right=equal("b"),
        praise="A map that stays when the knowledge goes was not made of the knowledge.",
        hint=(
            "Which blind map of the board also finds bright lesions, and what would be its "
            "correlation with itself after the network has forgotten everything?"
        ),
    ),
    "7.3": Exercise(
        read=numbers(between=(0, 1)),
        right=near(0.005, within=0.0005),
        praise="Half a per cent each: the two masks then differ in one voxel of a hundred.",
        hint=(
            "Masks without a common voxel differ in the voxels of both. With 2.7 % each the score "
            "was 0.946: which share makes it 0.99? Give a share, such as 0.027."
        ),
    ),
    "7.4": Exercise(
        read=letter(),
        right=equal("c"),
        praise="The test is about the maps. What the maps are about is another question.",
        hint=(
            "What went into the test: scans, answers of the network, or maps? And what did the "
            "maps of the network give that was never trained?"
        ),
    ),
}
