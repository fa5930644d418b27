"""Oracles: scipy's bootstrap of a mean; closed forms where nothing varies."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap

from helpers import evaluation


def scores(networks=1, subjects=40, network_sd=0.0, subject_sd=1.0):
    random = np.random.default_rng(5)
    table = network_sd * random.normal(size=(networks, 1)) + subject_sd * random.normal(
        size=(1, subjects)
    )
    return pd.DataFrame(
        [
            {"method": "a", "network": n, "subject": s, "auc": table[n, s]}
            for n in range(networks)
            for s in range(subjects)
        ]
    )


def test_one_cluster_equals_scipy():
    table = scores()
    ours = evaluation.intervals(table.drop(columns="network"), by=["method"]).iloc[0]
    oracle = bootstrap((table["auc"],), np.mean, method="percentile", rng=1).confidence_interval
    assert ours["mean"] == pytest.approx(table["auc"].mean())
    assert ours["low"] == pytest.approx(oracle.low, abs=0.03)
    assert ours["high"] == pytest.approx(oracle.high, abs=0.03)


def test_networks_that_differ_widen_the_interval():
    clusters = ["network", "subject"]
    alike = evaluation.intervals(scores(4), by=["method"], clusters=clusters).iloc[0]
    differ = evaluation.intervals(scores(4, network_sd=2.0), by=["method"], clusters=clusters).iloc[
        0
    ]
    assert differ["high"] - differ["low"] > 3 * (alike["high"] - alike["low"])
    ignored = evaluation.intervals(scores(4, network_sd=2.0), by=["method"]).iloc[0]
    assert ignored["high"] - ignored["low"] < 0.5 * (differ["high"] - differ["low"])


def test_groups_and_missing_values():
    table = pd.concat([scores(2, 3), scores(2, 3).assign(method="b", auc=1.0)])
    table["check"] = np.where(table["network"] == 0, table["auc"], np.nan)
    result = evaluation.intervals(table, by=["method"], clusters=["network", "subject"])
    assert result[["method", "measure"]].apply(tuple, axis=1).tolist() == [
        ("a", "auc"),
        ("a", "check"),
        ("b", "auc"),
        ("b", "check"),
    ]
    constant = result[result["method"] == "b"]
    assert (constant[["mean", "low", "high"]] == 1).all(None)


def test_unknown_columns():
    with pytest.raises(ValueError, match=r"no column \['person'\]"):
        evaluation.intervals(scores(), by=["method"], clusters=["person"])
    with pytest.raises(ValueError, match="expected one or two clusters"):
        evaluation.intervals(scores(), by=["method"], clusters=[])
