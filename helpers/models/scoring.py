"""How good a classifier is on people it has never seen, and how sure that is."""

import warnings

import numpy as np
import pandas as pd
from jaxtyping import Float
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from torch import Tensor, nn

from helpers import grids
from helpers.cohorts import Cohort
from helpers.models.frozen import frozen


def predict(
    model: nn.Module, volumes: Float[Tensor, "subject 1 x y z"], *, batch_size: int = 16
) -> Float[Tensor, "subject classes"]:
    """Return the logits of each volume, on the CPU; the model is left as it was.

    A softmax over them gives the probabilities, also where the network has a single logit, see
    `helpers.models.class_logits`.

    Examples
    --------
    >>> from helpers import cohorts, models
    >>> cohort = cohorts.simulate("shortcut", subjects=2)
    >>> tuple(models.predict(models.build("course"), cohort.volumes).shape)
    (2, 2)
    """
    grids.check_volumes(volumes)
    with frozen(model) as network:
        return network.logits(volumes, batch_size=batch_size)


def scores(
    logits: Float[Tensor, "subject classes"] | Float[np.ndarray, "subject classes"],
    cohort: Cohort,
    *,
    name: str = "model",
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Return balanced accuracy and AUC with 95 % bootstrap intervals over subjects.

    Parameters
    ----------
    logits : tensor of shape (subject, classes)
        What `predict` returns: before the softmax. The logarithm of probabilities will do.
    name : str
        Goes into the column ``model``.

    Returns
    -------
    DataFrame
        Columns ``model``, ``subjects``, ``balanced_accuracy``, ``balanced_accuracy_low``,
        ``balanced_accuracy_high``, ``auc``, ``auc_low``, ``auc_high``. With more than two classes
        the AUC is the mean of each class against the rest, by its probability.

    Raises
    ------
    ValueError
        If there is not one row a subject and one column a class, or the values are not finite, or
        are probabilities: a class would be weighed against the rest as if they were logits.

    Examples
    --------
    >>> from helpers import cohorts, models
    >>> cohort = cohorts.simulate("shortcut", subjects=4)
    >>> logits = models.predict(models.build("course"), cohort.volumes)
    >>> len(models.scores(logits, cohort))
    1
    """
    values = np.asarray(logits, dtype=float)
    labels = cohort.labels.numpy()
    if values.shape != (len(cohort), len(cohort.classes)):
        raise ValueError(
            f"expected one column a class and one row a subject, "
            f"{(len(cohort), len(cohort.classes))}, got {values.shape}"
        )
    if not np.isfinite(values).all():
        raise ValueError("the predictions hold NaN or infinite values")
    if (values >= 0).all() and np.allclose(values.sum(1), 1, atol=1e-4):
        raise ValueError(
            "expected logits, got probabilities: every row is positive and sums to 1. Hand in what "
            "comes before the softmax, as models.predict returns it, or the logarithm of these"
        )
    estimate = _measure(labels, values)
    low, high = np.percentile(_bootstrap(labels, values, resamples, seed), [2.5, 97.5], axis=0)
    row = {"model": name, "subjects": len(labels)}
    for i, measure in enumerate(("balanced_accuracy", "auc")):
        row |= {measure: estimate[i], f"{measure}_low": low[i], f"{measure}_high": high[i]}
    return pd.DataFrame([row])


def number_scores(
    said: Float[Tensor, "subject"] | Float[np.ndarray, "subject"],
    true: Float[Tensor, "subject"] | Float[np.ndarray, "subject"],
    *,
    name: str = "model",
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Return how far predicted numbers are off, with 95 % bootstrap intervals over subjects.

    Returns
    -------
    DataFrame
        Columns ``model``, ``subjects``; ``mae``, the mean absolute error; ``bias``, the mean of
        what was said less what is true; ``r``, Pearson's correlation (NaN if the same was said of
        all); each with ``_low`` and ``_high``.

    Raises
    ------
    ValueError
        If the two have other lengths or hold NaN.

    Examples
    --------
    >>> import torch
    >>> from helpers import models
    >>> ages = torch.tensor([20.0, 40.0, 60.0])
    >>> models.number_scores(ages + 2, ages)[["mae", "bias"]].iloc[0].tolist()
    [2.0, 2.0]
    """
    said, true = (np.asarray(values, dtype=float) for values in (said, true))
    if said.shape != true.shape or said.ndim != 1:
        raise ValueError(f"expected one number a subject, got {said.shape} and {true.shape}")
    if not (np.isfinite(said).all() and np.isfinite(true).all()):
        raise ValueError("the predicted or the true numbers hold NaN or infinite values")

    def measure(rows: np.ndarray) -> list[float]:
        off = said[rows] - true[rows]
        varies = np.ptp(said[rows]) > 0 and np.ptp(true[rows]) > 0
        r = np.corrcoef(said[rows], true[rows])[0, 1] if varies else np.nan
        return [np.abs(off).mean(), off.mean(), r]

    draws = np.random.default_rng(seed).integers(len(true), size=(resamples, len(true)))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where r is NaN in all draws
        low, high = np.nanpercentile([measure(draw) for draw in draws], [2.5, 97.5], axis=0)
    row = {"model": name, "subjects": len(true)}
    estimate = measure(np.arange(len(true)))
    for i, one in enumerate(("mae", "bias", "r")):
        row |= {one: estimate[i], f"{one}_low": low[i], f"{one}_high": high[i]}
    return pd.DataFrame([row])


def _measure(labels: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Return balanced accuracy and AUC."""
    areas = [
        roc_auc_score(labels == k, _against_rest(values, k)) for k in _to_score(values, labels)
    ]
    return balanced_accuracy_score(labels, values.argmax(1)), float(np.mean(areas))


def _bootstrap(labels: np.ndarray, values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return balanced accuracy and AUC of resampled subjects, one row a resample.

    A resample is a number of copies of each subject, so all of them are scored by a few matrix
    products: the AUC is the share of (positive, negative) pairs in the right order.
    """
    draws = np.random.default_rng(seed).integers(len(labels), size=(resamples, len(labels)))
    copies = np.stack([np.bincount(draw, minlength=len(labels)) for draw in draws]).astype(float)
    # A resample that misses a class says nothing about it.
    members = {k: labels == k for k in np.unique(labels)}
    copies = copies[np.all([copies[:, own].sum(1) > 0 for own in members.values()], axis=0)]
    right = values.argmax(1) == labels
    recalls = [copies[:, own] @ right[own] / copies[:, own].sum(1) for own in members.values()]
    areas = []
    for k in _to_score(values, labels):
        odds, own = _against_rest(values, k), labels == k
        ahead = np.sign(odds[own][:, None] - odds[~own][None, :]) / 2 + 0.5
        pairs = copies[:, own].sum(1) * copies[:, ~own].sum(1)
        areas.append(((copies[:, own] @ ahead) * copies[:, ~own]).sum(1) / pairs)
    return np.stack([np.mean(recalls, axis=0), np.mean(areas, axis=0)], axis=1)


def _to_score(values: np.ndarray, labels: np.ndarray) -> list[int]:
    """Return the classes whose AUC counts: the second of two, else each that is there."""
    return [1] if values.shape[1] == 2 else np.unique(labels).tolist()


def _against_rest(values: np.ndarray, k: int) -> np.ndarray:
    """Return the log odds of class k: what a softmax over the logits would rank by."""
    rest = np.delete(values, k, axis=1)
    return values[:, k] - np.logaddexp.reduce(rest, axis=1)
