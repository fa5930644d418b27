"""The person and not the group: controls that know the group and nothing of anybody."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import linregress

from helpers import cohorts, evaluation, grids

WITHIN = torch.ones(5, 6, 7, dtype=torch.bool)


@pytest.fixture
def planted():
    return torch.randn(12, 1, 5, 6, 7, generator=torch.Generator().manual_seed(0)) + 2


@pytest.fixture(scope="module")
def people():
    return cohorts.simulate("mixed", subjects=40, seed=3, grid=grids.mni(8.0))


def test_the_truth_is_right_and_half_of_it_as_well(planted):
    for found in (planted, 0.5 * planted, planted + 3):
        table = evaluation.own_deviation(found, planted, WITHIN)
        assert table["own"].to_numpy() == pytest.approx(np.ones(12), abs=1e-5)
        assert table["others"].mean() == pytest.approx(-1 / 11, abs=0.01)
    assert evaluation.own_deviation(-planted, planted, WITHIN)["own"].mean() == pytest.approx(-1)


def test_a_perfect_map_of_the_group_knows_nobody(planted):
    group = planted.mean(0).expand_as(planted)
    table = evaluation.own_deviation(group, planted, WITHIN)
    assert (table["own"].abs() < 1e-3).all()
    assert (table["between"] < 1e-9).all()
    other_people = evaluation.own_deviation(planted.roll(1, 0), planted, WITHIN)
    assert other_people["own"].abs().mean() < 0.2


def test_between_is_the_share_of_the_energy_that_is_not_the_mean(planted):
    table = evaluation.own_deviation(planted, planted, WITHIN)
    assert table["between"].mean() == pytest.approx(1 / 5, abs=0.03)  # variance 1, mean 2
    # Of whom nothing is found, a share of her own map would be infinite.
    some = planted.clone()
    some[:4] = 0
    expected = 1 - float(some.mean(0).square().sum() / some.square().flatten(1).sum(1).mean())
    table = evaluation.own_deviation(some, planted, WITHIN)
    assert table["between"].mean() == pytest.approx(expected, abs=1e-6)


def test_only_voxels_within_count(planted):
    found, inside = planted.clone(), WITHIN.clone()
    inside[:2] = False
    found[:, :, :2] = 100 * torch.randn(12, 1, 2, 6, 7)
    assert evaluation.own_deviation(found, planted, inside)["own"].min() == pytest.approx(1)


def test_structures_by_hand(people):
    """Truth plus noise, against scipy; with unequal scales, which the AUC must not mind."""
    truth = people.truth.log_expansion
    noise = 0.1 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    table = evaluation.by_structure(0.5 * truth + noise, people)
    assert len(table) == 40 * 8
    scores = evaluation.structure_scores(table)
    ill = table[table["label"] == 1]
    for name, part in ill.groupby("structure"):
        oracle = linregress(part["planted"], part["found"])
        assert scores.loc[name, "correlation"] == pytest.approx(oracle.rvalue)
        assert scores.loc[name, "slope"] == pytest.approx(oracle.slope)
    assert scores.loc["all", "slope"] == pytest.approx(0.5, abs=0.1)
    assert scores.loc["all", "auc"] > 0.8
    louder = table.copy()
    loud = louder["structure"] == "insula left"
    louder.loc[loud, "found"] *= 50
    assert evaluation.structure_scores(louder)["auc"].equals(scores["auc"])


def test_the_sign_of_a_structure_counts(people):
    truth = people.truth.log_expansion
    noise = 0.02 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    right, wrong = (
        evaluation.structure_scores(evaluation.by_structure(sign * truth + noise, people))
        for sign in (1, -1)
    )
    assert right.loc["all", "auc"] > 0.9
    assert wrong.loc["all", "auc"] < 0.1


def test_one_map_for_all_tells_no_structures_apart(people):
    group = people.truth.log_expansion[people.labels == 1].mean(0).expand_as(people.volumes)
    scores = evaluation.structure_scores(evaluation.by_structure(group, people))
    assert (scores["correlation"] == 0).all()
    assert scores.drop(index="all")["auc"].to_numpy() == pytest.approx(0.5)
    assert scores.loc["all", "auc"] == pytest.approx(0.5, abs=0.15)


def test_ill_is_what_was_planted(people):
    table = evaluation.by_structure(people.truth.log_expansion, people)
    planted = table.groupby("ill")["planted"].apply(lambda values: values.abs().max())
    assert planted[False] < 0.1  # what neighbours squeeze
    assert table[table["label"] == 0]["ill"].sum() == 0
    assert 0.5 < table[table["label"] == 1]["ill"].mean() < 0.7


@pytest.mark.usefixtures("unchecked")
def test_bad_input(planted, people):
    with pytest.raises(ValueError, match="the same 3 people or more, got"):
        evaluation.own_deviation(planted[:2], planted[:2], WITHIN)
    with pytest.raises(ValueError, match="the same 3 people or more, got"):
        evaluation.own_deviation(planted[:5], planted, WITHIN)
    with pytest.raises(ValueError, match="NaN or infinite"):
        evaluation.own_deviation(planted * torch.nan, planted, WITHIN)
    with pytest.raises(ValueError, match="one map for each of the simulated people"):
        evaluation.by_structure(people.truth.log_expansion[:3], people)
    assert isinstance(evaluation.own_deviation(planted, planted, WITHIN), pd.DataFrame)
