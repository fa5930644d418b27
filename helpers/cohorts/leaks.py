"""Leak audit: can a classifier that never looks at the effect tell the classes apart?

A network takes the easiest road. If patients' scans are a touch blurrier or noisier than
controls', it learns the blur and reports a splendid accuracy. The audit asks a handful of simple
numbers, measured away from every planted place, whether they predict the label.
"""

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from helpers.anatomy import widen
from helpers.cohorts.cohort import Cohort

SAFE = (0.40, 0.60)


def image_statistics(cohort: Cohort) -> pd.DataFrame:
    """Measure each volume away from its planted places.

    Returns
    -------
    DataFrame
        One row a subject: ``mean intensity`` and ``spread`` inside the brain, ``smoothness``
        (correlation of neighbouring voxels), ``noise level`` (what a local average leaves over),
        ``brain volume`` in millilitres and ``border`` (mean intensity of the outermost brain
        voxels).
    """
    rows = []
    for i in range(len(cohort)):
        volume = cohort.volumes[i]
        place = torch.zeros_like(volume, dtype=torch.bool)
        if cohort.truth is not None:
            place = widen(cohort.truth.place[i], voxels=2)
        brain = volume != 0
        rows.append(_statistics(volume, brain, brain & ~place, cohort.grid.voxel_volume_mm3))
    return pd.DataFrame(rows)


def audit_leaks(cohort: Cohort, *, folds: int = 5, seed: int = 0) -> pd.DataFrame:
    """Try to predict the label from simple statistics alone.

    Parameters
    ----------
    cohort : Cohort
        About 200 subjects; fewer give an AUC that wanders by chance.
    folds : int
        Folds of the cross-validation.

    Returns
    -------
    DataFrame
        One row a statistic and a last row for ``all together``: cross-validated ``auc``, the mean
        of each class against the rest, and ``safe``: inside 0.40 to 0.60.

    Examples
    --------
    >>> from helpers import cohorts
    >>> audit = cohorts.audit_leaks(cohorts.simulate("shortcut", subjects=20))
    >>> audit["statistic"].tolist()[-1]
    'all together'
    """
    smallest = int(torch.bincount(cohort.labels, minlength=len(cohort.classes)).min())
    if smallest < folds:
        raise ValueError(
            f"the smallest class has {smallest} subjects; {folds} folds need as many or more"
        )
    table = image_statistics(cohort)
    labels = cohort.labels.numpy()
    sets = {name: [name] for name in table.columns} | {"all together": list(table.columns)}
    rows = []
    for name, columns in sets.items():
        auc = _cross_validated_auc(table[columns].to_numpy(), labels, folds, seed)
        rows.append({"statistic": name, "auc": auc, "safe": SAFE[0] <= auc <= SAFE[1]})
    return pd.DataFrame(rows)


def _statistics(
    volume: Float[Tensor, "1 x y z"],
    brain: Bool[Tensor, "1 x y z"],
    away: Bool[Tensor, "1 x y z"],
    voxel_volume_mm3: float,
) -> dict[str, float]:
    inner = ~widen(~brain, voxels=1)
    local_mean = F.avg_pool3d(volume[None], 3, stride=1, padding=1)[0]
    neighbours = away & torch.roll(away, 1, dims=3) & inner
    pairs = torch.stack([volume[neighbours], torch.roll(volume, 1, dims=3)[neighbours]])
    return {
        "mean intensity": float(volume[away].mean()),
        "spread": float(volume[away].std()),
        "smoothness": float(torch.corrcoef(pairs)[0, 1]),
        "noise level": float((volume - local_mean)[away & inner].abs().median()),
        "brain volume": float(brain.sum()) * voxel_volume_mm3 / 1000,
        "border": float(volume[away & ~inner].mean()),
    }


def _cross_validated_auc(features: np.ndarray, labels: np.ndarray, folds: int, seed: int) -> float:
    model = make_pipeline(StandardScaler(), LogisticRegression())
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    predicted = cross_val_predict(model, features, labels, cv=splitter, method="predict_proba")
    areas = [roc_auc_score(labels == k, predicted[:, k]) for k in np.unique(labels)]
    return float(np.mean(areas))
