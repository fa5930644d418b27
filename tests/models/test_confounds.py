"""Planted: a network that reads the confound, one that reads the disease, one that reads both."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from small import cohort

from helpers import cohorts, models


def people(subjects=200, seed=0):
    """Patients are older, and more of them were scanned at the second site."""
    rng, labels = np.random.default_rng(seed), np.arange(subjects) % 2
    table = pd.DataFrame(
        {
            "participant_id": [f"sub-{i}" for i in range(subjects)],
            "age": rng.normal(50 + 10 * labels, 10),
            "site": np.where(rng.random(subjects) < 0.3 + 0.4 * labels, "Oslo", "Bern"),
            "disease": rng.normal(labels, 1),
        }
    )
    return replace(cohort(subjects), labels=torch.from_numpy(labels), participants=table)


def answers(values):
    return torch.stack([torch.zeros(len(values)), torch.as_tensor(values).float()], 1)


def asked(subjects, values, columns=("age", "site")):
    found = models.confounds(subjects, answers(values), subjects.folds(5), list(columns))
    return found.set_index("confound")


def test_a_network_that_reads_age_has_nothing_left_between_people_of_one_age():
    subjects = people(1000)
    found = asked(subjects, subjects.participants["age"]).loc["age"]
    assert found["auc"] == pytest.approx(stats.norm.cdf(1 / np.sqrt(2)), abs=0.03)
    assert found["alone"] == pytest.approx(found["auc"], abs=0.01)
    assert found["followed"] == pytest.approx(1)
    assert found["alike"] == pytest.approx(0.5, abs=0.06)


def test_a_network_that_reads_the_disease_keeps_what_it_has():
    subjects = people(1000)
    found = asked(subjects, subjects.participants["disease"])
    assert (found["followed"] < 0.08).all()
    np.testing.assert_allclose(found["alike"], found["auc"], atol=0.04)


def test_a_network_that_reads_both_loses_a_part():
    subjects = people(1000)
    both = subjects.participants["disease"] + (subjects.participants["age"] - 50) / 10
    age = asked(subjects, both).loc["age"]
    assert 0.6 < age["followed"] < 0.8
    disease_alone = asked(subjects, subjects.participants["disease"]).loc["age", "auc"]
    assert disease_alone - 0.05 < age["alike"] < age["auc"] - 0.03


def test_groups_are_compared_within_themselves():
    subjects = people(300)
    bern = (subjects.participants["site"] == "Bern").to_numpy()
    values = subjects.participants["disease"].to_numpy() - 3.0 * bern
    found = asked(subjects, values).loc["site"]
    labels = subjects.labels.numpy()
    won = pairs = 0
    for own in (bern, ~bern):
        patients, controls = values[own & (labels == 1)], values[own & (labels == 0)]
        won += stats.mannwhitneyu(patients, controls).statistic
        pairs += len(patients) * len(controls)
    assert found["pairs"] == pairs
    assert found["alike"] == pytest.approx(won / pairs)
    assert found["followed"] > 0.8


def test_followed_is_the_correlation_within_classes():
    subjects = people(60)
    margin = subjects.participants["disease"] + 0.02 * subjects.participants["age"]
    labels = subjects.labels.numpy()
    age = subjects.participants["age"] - subjects.participants.groupby(labels)["age"].transform(
        "mean"
    )
    answer = margin - margin.groupby(labels).transform("mean")
    expected = abs(stats.pearsonr(age, answer).statistic)
    assert asked(subjects, margin).loc["age", "followed"] == pytest.approx(expected, abs=1e-5)


def test_head_size_of_the_real_brains_tells_the_sexes_apart():
    """As measured before: the head-size ratio alone has an AUC of 0.96 on these people."""
    brains = cohorts.real()
    found = asked(brains, torch.randn(37), ["volume_ratio", "age", "group"])
    assert found.loc["volume_ratio", "alone"] > 0.9
    assert found.loc["age", "alone"] < 0.75


def test_nobody_alike():
    subjects = people(40)
    apart = subjects.participants.assign(age=100.0 * subjects.labels.numpy() + np.arange(40))
    found = asked(replace(subjects, participants=apart), apart["disease"]).loc["age"]
    assert np.isnan(found["alike"])
    assert found["pairs"] == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"age": 50.0}, "'age' is the same for everybody"),
        ({"age": [np.nan] * 2 + [40.0] * 38}, r"'age' is missing for \['sub-0', 'sub-1'\]"),
    ],
)
def test_confounds_that_are_refused(changed, message):
    subjects = people(40)
    table = subjects.participants.assign(**changed)
    with pytest.raises(ValueError, match=message):
        asked(replace(subjects, participants=table), subjects.participants["disease"])
    with pytest.raises(ValueError, match="no column 'iq'"):
        asked(subjects, subjects.participants["disease"], ["iq"])


def test_one_answer_for_everybody_is_told():
    subjects = people(40)
    with pytest.warns(UserWarning, match="the same answer"):
        assert asked(subjects, np.zeros(40), ["age"]).loc["age", "followed"] == 0
