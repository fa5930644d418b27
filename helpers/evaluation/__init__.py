"""Is the explanation right? Scores against the truth, as tidy tables.

`localization` asks whether a map points to what was planted, `reliance` what the network itself
makes of each planted part and `within_person` and `across_people` whether a map knows,
`faithfulness` and `mask_test` whether the network needs what a map points to, more than the same
map `elsewhere`, `randomization_check` whether a map depends on what the network has learned,
`agreement` whether methods say the same, `by_region` and `group_test` what a group of maps says
together. `blind_rivals` and `label_aware_rivals` make maps that have never seen the network, for
every method to beat. `intervals` says how sure their means are.

For signed maps of what a disease did to people, `own_deviation`, `by_structure` and
`structure_scores` tell whether a map shows the person or the group.

For pictures that were optimised, `matching` tells which planted shape they show, and `quantities`
how fine they are, whom they resemble and whether all seeds end alike.
"""

from helpers.evaluation import matching, quantities, two_truths
from helpers.evaluation.agreements import agreement
from helpers.evaluation.bootstrap import intervals
from helpers.evaluation.controls import elsewhere
from helpers.evaluation.deletion import area_under_curve, faithfulness, mask_test
from helpers.evaluation.groups import GroupTest, group_test
from helpers.evaluation.masks import dice, dice_with_background, share_outside, strongest
from helpers.evaluation.part_scores import across_people, part_mass, within_person
from helpers.evaluation.persons import by_structure, own_deviation, structure_scores
from helpers.evaluation.pointing import localization
from helpers.evaluation.randomization import randomization_check
from helpers.evaluation.regions import by_region
from helpers.evaluation.rivals import Rival, blind_rivals, label_aware_rivals
from helpers.evaluation.shapley import reliance
from helpers.evaluation.transport import earth_movers_distance

__all__ = [
    "GroupTest",
    "Rival",
    "across_people",
    "agreement",
    "area_under_curve",
    "blind_rivals",
    "by_region",
    "by_structure",
    "dice",
    "dice_with_background",
    "earth_movers_distance",
    "elsewhere",
    "faithfulness",
    "group_test",
    "intervals",
    "label_aware_rivals",
    "localization",
    "mask_test",
    "matching",
    "own_deviation",
    "part_mass",
    "quantities",
    "randomization_check",
    "reliance",
    "share_outside",
    "strongest",
    "structure_scores",
    "two_truths",
    "within_person",
]
