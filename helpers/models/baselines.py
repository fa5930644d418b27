"""What simple models reach on the same subjects: the first thing to ask of any deep result."""

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from helpers.cohorts import Cohort
from helpers.models.scores import scores


def baselines(train: Cohort, test: Cohort, *, components: int = 50, seed: int = 0) -> pd.DataFrame:
    """Fit brain volume alone, and PCA with logistic regression; score both on other subjects.

    Parameters
    ----------
    train, test : Cohort
        Of the same classes and grid, with no subject in common.
    components : int
        Principal components of the voxels, at most one fewer than the training subjects.

    Returns
    -------
    DataFrame
        Two rows in the form of `scores`.

    Examples
    --------
    >>> from helpers import cohorts, models
    >>> train = cohorts.simulate("shortcut", subjects=8, seed=1)
    >>> test = cohorts.simulate("shortcut", subjects=4, seed=2)
    >>> models.baselines(train, test)["model"].tolist()
    ['brain volume', 'PCA + logistic regression']
    """
    if train.classes != test.classes or train.grid != test.grid:
        raise ValueError("the training and the test cohort need the same classes and the same grid")
    rows = []
    volume = make_pipeline(StandardScaler(), LogisticRegression())
    volume.fit(_brain_volume_ml(train), train.labels.numpy())
    rows.append(_score(volume, _brain_volume_ml(test), test, "brain volume", seed))
    voxels = make_pipeline(
        PCA(min(components, len(train) - 1), svd_solver="randomized", random_state=seed),
        StandardScaler(),
        LogisticRegression(max_iter=2000),
    )
    voxels.fit(train.volumes.flatten(1).numpy(), train.labels.numpy())
    flat = test.volumes.flatten(1).numpy()
    rows.append(_score(voxels, flat, test, "PCA + logistic regression", seed))
    return pd.concat(rows, ignore_index=True)


def _brain_volume_ml(cohort: Cohort) -> np.ndarray:
    voxels = (cohort.volumes != 0).flatten(1).sum(1, keepdim=True)
    return voxels.numpy() * cohort.grid.voxel_volume_mm3 / 1000


def _score(model, features: np.ndarray, cohort: Cohort, name: str, seed: int) -> pd.DataFrame:
    probabilities = np.zeros((len(cohort), len(cohort.classes)))
    probabilities[:, model.classes_] = model.predict_proba(features)
    logs = np.log(np.clip(probabilities, 1e-12, None))
    return scores(logs, cohort, name=name, seed=seed)
