"""Does a map point to where the truth is?

The sign of a map is ignored: a dark lesion makes negative gradients in the right place.

References
----------
Zhang et al. (2018), Top-down neural attention by excitation backprop: the pointing game.
Arras, Osman, Samek (2022), CLEVR-XAI: relevance mass and rank accuracy.
"""

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from helpers.evaluation.masks import counted, share_outside, warn_of_zero_maps


def localization(
    maps: Float[Tensor, "subject 1 x y z"],
    truth: Bool[Tensor, "subject 1 x y z"],
    *,
    within: Bool[Tensor, "#subject 1 x y z"],
) -> pd.DataFrame:
    """Score maps against the planted truth, one row a subject.

    Parameters
    ----------
    maps : tensor of shape (subject, 1, x, y, z)
        Attribution maps; their absolute value is scored.
    truth : boolean tensor of the same shape
        Planted voxels, at least one a subject: leave out subjects without an effect.
    within : boolean tensor of the same shape, or of one subject for all
        Voxels that count: the brain, ``volumes != 0``. With the empty background counted, every
        score looks better, also that of a map which knows nothing but where the brain is.

    Returns
    -------
    DataFrame
        ``pointing_game``: 1 if the strongest voxel is true. ``voxel_auc``: chance that a true
        voxel is stronger than another one; 0.5 is guessing. ``average_precision``: area under
        precision and recall; guessing gives ``prevalence``. ``relevance_mass``: share of the
        map's sum inside the truth. ``relevance_rank``: share of true voxels among the strongest
        ones, as many as are true. This is also the Dice at matched area: for two masks of
        one size, it is the share of one that lies in the other (see `helpers.evaluation.dice`).
        ``prevalence``: share of the voxels that are true. ``share_outside``: share of the map's
        size that no other column has seen, see `helpers.evaluation.share_outside`.

    Raises
    ------
    ValueError
        If shapes differ, maps hold NaN, or a subject's truth is empty.

    Warns
    -----
    UserWarning
        If maps are zero everywhere; they score as a guess, and 0 where a share of nothing is asked.

    Examples
    --------
    >>> from helpers import cohorts, evaluation
    >>> patients = cohorts.simulate("shortcut", subjects=4)
    >>> patients = patients[patients.labels == 1]
    >>> perfect = patients.truth.mask.float()
    >>> brain = patients.volumes != 0
    >>> table = evaluation.localization(perfect, patients.truth.mask, within=brain)
    >>> float(table["voxel_auc"].mean())
    1.0
    """
    if maps.shape != truth.shape:
        raise ValueError(
            f"maps and truth need one shape, got {tuple(maps.shape)} and {tuple(truth.shape)}"
        )
    inside = counted(maps, within)
    warn_of_zero_maps(maps, inside)
    rows = []
    for i in range(len(maps)):
        strength = maps[i][inside[i]].abs().numpy()
        true = truth[i][inside[i]].numpy()
        if not true.any() or true.all():
            raise ValueError(
                f"the truth of subject {i} covers {true.sum()} of {true.size} voxels that count; "
                f"score only subjects with an effect"
            )
        rows.append(_score(strength, true))
    return pd.DataFrame(rows).assign(share_outside=share_outside(maps, inside).tolist())


def _score(strength: np.ndarray, true: np.ndarray) -> dict[str, float]:
    empty = strength.max() == 0
    # Ties count in part: a flat map scores as guessing does, whatever the order of its voxels.
    cut = np.sort(strength)[-true.sum()]
    above, tied = strength > cut, strength == cut
    share = (true.sum() - above.sum()) / tied.sum()
    strongest = strength == strength.max()
    return {
        "pointing_game": 0.0 if empty else float(true[strongest].mean()),
        "voxel_auc": float(roc_auc_score(true, strength)),
        "average_precision": float(average_precision_score(true, strength)),
        "relevance_mass": 0.0 if empty else float(strength[true].sum() / strength.sum()),
        "relevance_rank": float((true[above].sum() + share * true[tied].sum()) / true.sum()),
        "prevalence": float(true.mean()),
    }
