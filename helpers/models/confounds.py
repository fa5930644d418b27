"""What else goes with the label, and how much of a network's success that explains.

Age, head size or the scanner may differ between the classes. A network that only reads them scores
well and says nothing about the disease. Three numbers tell: how well the confound alone predicts
the label, how closely the network's answer follows it among people of one class, and what is left
of the network's AUC between people who are alike in it.
"""

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from helpers.cohorts import Cohort

# Two people are alike in a number if they differ by less than this share of its standard deviation:
# the caliper that is usual in matching (Austin 2011, Pharmaceutical Statistics 10:150-161).
CALIPER = 0.2


def confounds(
    cohort: Cohort,
    logits: Float[Tensor, "subject classes"],
    folds: Int[Tensor, "subject"],
    columns: Sequence[str],
) -> pd.DataFrame:
    """Ask of each confound how much it says about the label and about the network's answer.

    Parameters
    ----------
    cohort : Cohort
        Of two classes.
    logits : tensor of shape (subject, 2)
        What a network, or another model, says of people whom it has not seen.
    folds : tensor of shape (subject,)
        As in `helpers.models.cross_validate`: the confound's own prediction is out of fold too.
    columns : list of str
        Of ``participants``; numbers count as they are, words as groups.

    Returns
    -------
    DataFrame
        One row a confound:

        - ``alone``: AUC of the label, predicted from the confound alone.
        - ``auc``: that of the answers, for comparison.
        - ``followed``: correlation of the answers with the confound among people of one class, 0 to
          1 (multiple, for groups). Near 0, it is not read.
        - ``alike``: the answers' AUC among pairs of people, one of each class, who are alike in
          the confound: of one group, or within `CALIPER` standard deviations. NaN if there are
          none.
        - ``pairs``: how many such pairs there are.

    Raises
    ------
    ValueError
        If there are not two classes, or a column is missing, constant, or unknown for somebody.

    Examples
    --------
    >>> from helpers import cohorts, models
    >>> cohort = cohorts.real()
    >>> folds = cohort.folds(2)
    >>> said = models.predict(models.build("course"), cohort.volumes)
    >>> models.confounds(cohort, said, folds, ["volume_ratio"])["alone"].round(2).item() > 0.9
    True
    """
    if len(cohort.classes) != 2:
        raise ValueError(f"confounds are asked of two classes, got {list(cohort.classes)}")
    labels = cohort.labels.numpy()
    margin = (logits[:, 1] - logits[:, 0]).double().numpy()
    rows = []
    for column in columns:
        values = _values(cohort, column)
        alike = _alike(values)
        ahead = np.sign(margin[labels == 1][:, None] - margin[labels == 0][None, :]) / 2 + 0.5
        pairs = alike[np.ix_(labels == 1, labels == 0)]
        rows.append(
            {
                "confound": column,
                "alone": roc_auc_score(labels, _out_of_fold(values, labels, folds.numpy())),
                "auc": roc_auc_score(labels, margin),
                "followed": _followed(values, labels, margin),
                "alike": float(ahead[pairs].mean()) if pairs.any() else np.nan,
                "pairs": int(pairs.sum()),
            }
        )
    return pd.DataFrame(rows)


def number_confounds(
    cohort: Cohort,
    said: Float[Tensor, "subject"],
    folds: Int[Tensor, "subject"],
    columns: Sequence[str],
    target: str,
) -> pd.DataFrame:
    """Ask the same of a network that says a number, such as age.

    Parameters
    ----------
    cohort, folds, columns
        As in `confounds`, with any classes.
    said : tensor of shape (subject,)
        What the network says of people whom it has not seen.
    target : str
        The column of ``participants`` that it was to say.

    Returns
    -------
    DataFrame
        One row a confound:

        - ``alone``: correlation of the target with its prediction from the confound alone.
        - ``r``: that with what the network says, for comparison.
        - ``followed``: partial correlation of what the network says with the confound, the target
          being taken out of both (multiple, for groups), 0 to 1.
        - ``left``: partial correlation of what the network says with the target, the confound being
          taken out of both.

    Raises
    ------
    ValueError
        If a column is missing, constant, or unknown for somebody.

    Examples
    --------
    >>> from helpers import cohorts, models
    >>> cohort = cohorts.real()
    >>> said = models.predict(models.build("course", 1), cohort.volumes)[:, 1]
    >>> found = models.number_confounds(cohort, said, cohort.folds(2), ["sex"], "age")
    >>> list(found)
    ['confound', 'alone', 'r', 'followed', 'left']
    """
    true = _values(cohort, target).to_numpy(dtype=float)
    answer = said.double().numpy()
    rows = []
    for column in columns:
        values = _values(cohort, column)
        features = _features(values)
        predicted = np.zeros(len(true))
        for fold in folds.unique():
            new = (folds == fold).numpy()
            line = make_pipeline(StandardScaler(), LinearRegression())
            predicted[new] = line.fit(features[~new], true[~new]).predict(features[new])
        without = _residual(answer, true[:, None])
        fitted = without - _residual(without, _residual(features, true[:, None]))
        rows.append(
            {
                "confound": column,
                "alone": _correlation(predicted, true),
                "r": _correlation(answer, true),
                "followed": float(np.sqrt((fitted**2).sum() / max((without**2).sum(), 1e-12))),
                "left": _correlation(_residual(answer, features), _residual(true, features)),
            }
        )
    return pd.DataFrame(rows)


def check_confounds(cohort: Cohort, columns: Sequence[str]) -> None:
    """Raise a ValueError if a column is missing, constant, or unknown for somebody."""
    for column in columns:
        _values(cohort, column)


def _values(cohort: Cohort, column: str) -> pd.Series:
    if column not in cohort.participants:
        raise ValueError(
            f"participants has no column {column!r}; it has {list(cohort.participants.columns)}"
        )
    values = cohort.participants[column]
    if values.isna().any():
        raise ValueError(
            f"the confound {column!r} is missing for "
            f"{cohort.participants['participant_id'][values.isna()].tolist()}"
        )
    if values.nunique() < 2:
        raise ValueError(f"the confound {column!r} is the same for everybody")
    return values


def _features(values: pd.Series) -> np.ndarray:
    """Return a confound as columns of numbers: itself, or one column a group but the first."""
    if pd.api.types.is_numeric_dtype(values):
        return values.to_numpy(dtype=float, copy=True)[:, None]
    return pd.get_dummies(values, drop_first=True, dtype=float).to_numpy(copy=True)


def _alike(values: pd.Series) -> np.ndarray:
    """Say of every two people whether they are alike."""
    if pd.api.types.is_numeric_dtype(values):
        numbers = values.to_numpy(dtype=float)
        return np.abs(numbers[:, None] - numbers[None, :]) <= CALIPER * numbers.std(ddof=1)
    groups = values.to_numpy()
    return groups[:, None] == groups[None, :]


def _out_of_fold(values: pd.Series, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Return the log odds of class 1 from the confound alone, by people of the other folds."""
    features, odds = _features(values), np.zeros(len(labels))
    for fold in np.unique(folds):
        new = folds == fold
        model = make_pipeline(StandardScaler(), LogisticRegression())
        odds[new] = model.fit(features[~new], labels[~new]).decision_function(features[new])
    return odds


def _followed(values: pd.Series, labels: np.ndarray, margin: np.ndarray) -> float:
    """Return the multiple correlation of margin and confound, both without the class means."""
    features, answer = _features(values), margin.copy()
    for label in (0, 1):
        own = labels == label
        features[own] -= features[own].mean(0)
        answer[own] -= answer[own].mean()
    if not answer.any():
        warnings.warn("everybody of a class gets the same answer", stacklevel=3)
        return 0.0
    fitted = features @ np.linalg.lstsq(features, answer, rcond=None)[0]
    return float(np.sqrt((fitted**2).sum() / (answer**2).sum()))


def _residual(values: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return what a straight line through the features leaves of values."""
    design = np.column_stack([np.ones(len(features)), features])
    return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 1e-9 and b.std() > 1e-9 else np.nan
