"""What simple models reach on the same subjects: the first thing to ask of any deep result."""

import itertools
import warnings

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional as F

from helpers import tensors
from helpers.cohorts import Cohort
from helpers.models.scoring import scores


def baselines(train: Cohort, test: Cohort, *, components: int = 50, seed: int = 0) -> pd.DataFrame:
    """Fit brain volume alone, and PCA with logistic regression; score both on other subjects.

    Brain volume is counted in voxels. Where ``participants`` has the column ``volume_ratio`` (see
    `helpers.cohorts.report.Report`), the enlargement by the registration is divided out again.
    Voxels of more than a gigabyte are averaged over cubes, the smallest that make them fit: those
    of 2,000 people at 2 mm become 4 mm wide.

    Parameters
    ----------
    train, test : Cohort
        Of the same classes and grid, with no subject in common.
    components : int
        Principal components of the voxels, at most one fewer than the training subjects.

    Returns
    -------
    DataFrame
        A row each, in the form of `scores`.

    Raises
    ------
    ValueError
        If the cohorts differ in classes or grid.

    Warns
    -----
    UserWarning
        If the brains' volumes cannot be known; their row is then left out. Scans without a mask of
        their own have as many voxels in the brain as the template, all of them. And if voxels are
        averaged.

    Examples
    --------
    >>> from helpers import cohorts, models
    >>> train = cohorts.simulate("shortcut", subjects=8, seed=1)
    >>> test = cohorts.simulate("shortcut", subjects=4, seed=2)
    >>> models.baselines(train, test)["model"].tolist()
    ['brain volume', 'PCA + logistic regression']
    """
    found = reference_logits(train, test, components=components, seed=seed)
    rows = [scores(logits, test, name=name, seed=seed) for name, logits in found.items()]
    return pd.concat(rows, ignore_index=True)


def reference_logits(
    train: Cohort, test: Cohort, *, components: int = 50, seed: int = 0
) -> dict[str, Float[np.ndarray, "subject classes"]]:
    """Return what the simple models of `baselines` say of the test subjects, by their names."""
    if train.classes != test.classes or train.grid != test.grid:
        raise ValueError("the training and the test cohort need the same classes and the same grid")
    found = {}
    sizes = _brain_volume_ml(train), _brain_volume_ml(test)
    unknown = _why_unknown(*sizes, train, test)
    if unknown:
        warnings.warn(f"the baseline of brain volume is left out: {unknown}", stacklevel=3)
    else:
        volume = make_pipeline(StandardScaler(), LogisticRegression())
        volume.fit(sizes[0], train.labels.numpy())
        found["brain volume"] = _logits(volume, sizes[1], test)
    voxels = make_pipeline(
        PCA(min(components, len(train) - 1), svd_solver="randomized", random_state=seed),
        StandardScaler(),
        LogisticRegression(max_iter=2000),
    )
    of_train, of_test = _voxels(train, test)
    voxels.fit(of_train, train.labels.numpy())
    found["PCA + logistic regression"] = _logits(voxels, of_test, test)
    return found


def reference_numbers(
    train: Cohort, test: Cohort, target: str, *, components: int = 50, seed: int = 0
) -> dict[str, Float[np.ndarray, "subject"]]:
    """Return what simple models say of a number, such as age, of the test subjects.

    Beside brain volume and the voxels (PCA and ridge regression): the mean of the training
    subjects, which has looked at nobody.
    """
    known = _numbers(train, target)
    found = {"mean of the others": np.full(len(test), known.mean())}
    sizes = _brain_volume_ml(train), _brain_volume_ml(test)
    if not _why_unknown(*sizes, train, test):
        volume = make_pipeline(StandardScaler(), LinearRegression())
        found["brain volume"] = volume.fit(sizes[0], known).predict(sizes[1])
    voxels = make_pipeline(
        PCA(min(components, len(train) - 1), svd_solver="randomized", random_state=seed),
        StandardScaler(),
        RidgeCV(np.logspace(-2, 4, 13)),
    )
    of_train, of_test = _voxels(train, test)
    found["PCA + ridge regression"] = voxels.fit(of_train, known).predict(of_test)
    return found


def _numbers(cohort: Cohort, target: str) -> np.ndarray:
    return pd.to_numeric(cohort.participants[target]).to_numpy(dtype=float)


def _voxels(
    train: Cohort, test: Cohort
) -> tuple[Float[np.ndarray, "known voxel"], Float[np.ndarray, "new voxel"]]:
    """Return the voxels of both cohorts, averaged over cubes if all would not fit into memory."""
    people, shape = len(train) + len(test), train.grid.shape
    widths = itertools.count(1)
    width = next(w for w in widths if not tensors.is_large((people, *(n // w for n in shape))))
    if width > 1:
        was, seen = (f"{edge * train.grid.spacing_mm[0]:g} mm" for edge in (1, width))
        warnings.warn(
            f"the baseline of voxels sees voxels of {seen}: those of {was} take more memory than "
            f"it may have. The network sees {was}, so it is compared with a coarser rival",
            stacklevel=4,
        )
    return _averaged(train.volumes, width), _averaged(test.volumes, width)


def _averaged(volumes: Tensor, width: int) -> Float[np.ndarray, "subject voxel"]:
    if width == 1:
        return volumes.flatten(1).numpy()
    averaged = torch.empty(len(volumes), *(n // width for n in volumes.shape[2:]))
    for row, volume in zip(averaged, volumes, strict=True):
        row.copy_(F.avg_pool3d(volume, width)[0])
    return averaged.flatten(1).numpy()


def _brain_volume_ml(cohort: Cohort) -> np.ndarray:
    voxels = np.array([[int(volume.count_nonzero())] for volume in cohort.volumes])
    volume_ml = voxels * cohort.grid.voxel_volume_mm3 / 1000
    # On a rigid grid nothing was enlarged.
    if "volume_ratio" in cohort.participants and not cohort.grid.is_rigid:
        ratio = pd.to_numeric(cohort.participants["volume_ratio"], errors="coerce")
        volume_ml = volume_ml / ratio.to_numpy()[:, None]
    return volume_ml


def _why_unknown(of_train: np.ndarray, of_test: np.ndarray, train: Cohort, test: Cohort) -> str:
    """Return why volumes cannot be used, as the end of a sentence; empty if they can."""
    have = ["volume_ratio" in cohort.participants for cohort in (train, test)]
    if have[0] != have[1]:
        return (
            "of the two cohorts, only one has the column 'volume_ratio', so their volumes are not "
            "of one kind"
        )
    for cohort, volumes in ((train, of_train), (test, of_test)):
        missing = ~np.isfinite(volumes[:, 0])
        if missing.any():
            named = cohort.participants["participant_id"][missing].tolist()
            return f"volume_ratio of {named} is no number"
    if np.ptp(of_train) < 1e-6 * of_train.mean():
        return "it is the same in all training subjects" + (
            "" if have[0] else ", and participants has no column 'volume_ratio'"
        )
    return ""


def _logits(model, features: np.ndarray, cohort: Cohort) -> np.ndarray:
    probabilities = np.zeros((len(cohort), len(cohort.classes)))
    probabilities[:, model.classes_] = model.predict_proba(features)
    return np.log(np.clip(probabilities, 1e-12, None))
