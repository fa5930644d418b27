"""How sure is a mean? Intervals over subjects and over trained networks.

Ten subjects explained by one network are not ten independent results: another network, trained
alike, may behave otherwise. The bootstrap therefore draws networks first and then subjects.

References
----------
Davison, Hinkley (1997), Bootstrap methods and their application, section 3.8: nested resampling.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd


def intervals(
    table: pd.DataFrame,
    *,
    by: Sequence[str],
    clusters: Sequence[str] = ("subject",),
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Return mean and 95 % bootstrap interval of every measure in each group.

    Parameters
    ----------
    table : DataFrame
        One row a measurement; numeric columns that are neither in ``by`` nor in ``clusters`` are
        measures. Missing values are left out.
    by : sequence of str
        Columns that name the groups, for example task and method.
    clusters : sequence of str
        One column, drawn with replacement, or two: the outer is drawn first and then the inner
        within each. The inner ones are the same individuals under every outer one (subjects that
        all networks explain), so each is drawn once for all. An interval over three networks is
        coarse: there are only ten ways to draw them.

    Returns
    -------
    DataFrame
        One row a group and measure: ``by``, ``measure``, ``mean``, ``low``, ``high``.

    Raises
    ------
    ValueError
        If a column does not exist, or there are more than two clusters or none.

    Examples
    --------
    >>> import pandas as pd
    >>> from helpers import evaluation
    >>> scores = pd.DataFrame({"method": "a", "subject": [0, 1, 2], "auc": [0.8, 0.9, 1.0]})
    >>> evaluation.intervals(scores, by=["method"])["mean"].round(2).tolist()
    [0.9]
    """
    missing = [name for name in (*by, *clusters) if name not in table]
    if missing or len(clusters) not in (1, 2):
        raise ValueError(
            f"expected one or two clusters and columns that exist; got clusters {list(clusters)}, "
            f"and no column {missing} among {list(table.columns)}"
        )
    numeric = table.select_dtypes("number").columns
    measures = [name for name in numeric if name not in (*by, *clusters)]
    rows = []
    for group, part in table.groupby(list(by), sort=False):
        for measure in measures:
            values = part.dropna(subset=[measure]).groupby(list(clusters))[measure].mean()
            if values.empty:
                continue
            # Two clusters make a table (outer, inner); one makes a single column.
            square = values.unstack() if len(clusters) == 2 else values.to_frame()
            low, high = _interval(square.to_numpy(), resamples, seed)
            rows.append(
                {
                    **dict(zip(by, group, strict=True)),
                    "measure": measure,
                    "mean": float(values.mean()),
                    "low": low,
                    "high": high,
                }
            )
    return pd.DataFrame(rows)


def _interval(values: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    random = np.random.default_rng(seed)
    outer, inner = values.shape
    means = []
    for _ in range(resamples):
        drawn = np.ix_(random.integers(outer, size=outer), random.integers(inner, size=inner))
        means.append(np.nanmean(values[drawn]))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
