"""Oracle: scikit-learn on the same numbers."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from helpers import cohorts, grids, models


@pytest.fixture(scope="module")
def cohort():
    return cohorts.simulate("lesion", subjects=40, grid=grids.mni(8.0))


def test_scores_equal_scikit_learn(cohort):
    logits = torch.randn(40, 5, generator=torch.Generator().manual_seed(1))
    logits[torch.arange(40), cohort.labels] += 1
    row = models.scores(logits, cohort).iloc[0]
    labels = cohort.labels.numpy()
    assert row["balanced_accuracy"] == balanced_accuracy_score(labels, logits.argmax(1))
    expected = roc_auc_score(labels, logits.softmax(1).numpy(), multi_class="ovr")
    assert row["auc"] == pytest.approx(expected, abs=1e-6)
    assert row["balanced_accuracy_low"] < row["balanced_accuracy"] < row["balanced_accuracy_high"]
    assert row["auc_low"] < row["auc"] < row["auc_high"]


def test_probabilities_are_refused_and_their_logarithm_scores_as_scikit_learn_does(cohort):
    """Weighed as logits, probabilities would give another AUC than the one they have."""
    logits = 3 * torch.randn(40, 5, generator=torch.Generator().manual_seed(2)).double()
    logits[torch.arange(40), cohort.labels] += 2
    probabilities = logits.softmax(1).numpy()
    with pytest.raises(ValueError, match="expected logits, got probabilities"):
        models.scores(probabilities, cohort)
    with pytest.raises(ValueError, match="expected logits, got probabilities"):
        models.scores(torch.from_numpy(probabilities).float(), cohort)
    expected = roc_auc_score(cohort.labels, probabilities, multi_class="ovr")
    found = models.scores(np.log(probabilities), cohort, resamples=2).iloc[0]
    assert found["auc"] == pytest.approx(expected, abs=1e-9)
    assert found["auc"] == models.scores(logits, cohort, resamples=2).iloc[0]["auc"]


def test_interval_covers_the_truth_about_95_times_in_100(cohort):
    """A coin that is right 70 % of the time: the interval must know it."""
    two = cohorts.simulate("shortcut", subjects=60, grid=grids.mni(8.0))
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(100):
        right = generator.random(60) < 0.7
        chosen = np.where(right, two.labels.numpy(), 1 - two.labels.numpy())
        row = models.scores(9 * np.eye(2)[chosen], two, resamples=200, seed=seed).iloc[0]
        covered += row["balanced_accuracy_low"] <= 0.7 <= row["balanced_accuracy_high"]
    assert 88 <= covered <= 100


def test_predict_leaves_the_mode_and_batches_do_not_matter(cohort):
    model = models.build("course", 5)
    model.train()
    model.block2.eval()
    modes = [module.training for module in model.modules()]
    one = models.predict(model, cohort.volumes[:7], batch_size=3)
    assert [module.training for module in model.modules()] == modes
    torch.testing.assert_close(one, models.predict(model, cohort.volumes[:7], batch_size=7))


def test_bad_predictions(cohort):
    with pytest.raises(ValueError, match=r"\(40, 5\), got \(40, 2\)"):
        models.scores(torch.rand(40, 2), cohort)
    with pytest.raises(ValueError, match="NaN"):
        models.scores(torch.full((40, 5), float("nan")), cohort)


def test_baselines_find_what_is_there_and_nothing_else():
    """Brain volume predicts a label made from brain volume, and not a coin."""
    from dataclasses import replace

    cohort = cohorts.simulate("lesion", subjects=80, grid=grids.mni(8.0), seed=3)
    litres = (cohort.volumes != 0).flatten(1).sum(1).float()
    by_size = replace(cohort, labels=(litres > litres.median()).long(), classes=("small", "large"))
    train, test = by_size.split([0.5, 0.5])
    table = models.baselines(train, test).set_index("model")
    assert table.loc["brain volume", "balanced_accuracy"] > 0.85
    coin = torch.randint(2, (80,), generator=torch.Generator().manual_seed(0))
    train, test = replace(by_size, labels=coin).split([0.5, 0.5])
    table = models.baselines(train, test).set_index("model")
    assert (table["balanced_accuracy_low"] < 0.5).all()
    with pytest.raises(ValueError, match="same classes and the same grid"):
        models.baselines(train, cohort)


def template_brains(voxels, volume_ratio):
    """Brains whose scans lost their size: some voxels, and the factor that brought them there."""
    volumes = torch.rand(len(voxels), 1, 8, 9, 10, generator=torch.Generator().manual_seed(0)) + 0.5
    inside = torch.arange(720).view(1, 1, 8, 9, 10) < voxels.view(-1, 1, 1, 1, 1)
    table = pd.DataFrame({"participant_id": [f"sub-{i}" for i in range(len(voxels))]})
    if volume_ratio is not None:
        table["volume_ratio"] = volume_ratio
    labels = torch.arange(len(voxels)) % 2
    grid = grids.Grid((8, 9, 10), np.diag([4.0, 4, 4, 1]))
    return cohorts.Cohort(volumes * inside, labels, ("small", "large"), table, grid)


def test_brain_volume_is_that_of_the_person_not_of_the_template():
    same, ratio = torch.full((40,), 300), np.where(np.arange(40) % 2, 0.9, 1.1)
    ratio = ratio + np.random.default_rng(0).normal(size=40) / 50
    cohort = template_brains(same, ratio)
    table = models.baselines(cohort[:20], cohort[20:], components=5).set_index("model")
    assert table.loc["brain volume", "auc"] > 0.95
    # Twice the voxels after twice the enlargement are one volume: it must not predict.
    twice = template_brains(300 + 300 * (torch.arange(40) % 2), 1.0 + np.arange(40) % 2)
    with pytest.warns(UserWarning, match="left out: it is the same in all training subjects$"):
        table = models.baselines(twice[:20], twice[20:], components=5)
    assert table["model"].tolist() == ["PCA + logistic regression"]


def test_brain_volume_of_equal_masks_without_their_ratio_is_left_out_aloud():
    cohort = template_brains(torch.full((40,), 300), None)
    with pytest.warns(UserWarning, match="no column 'volume_ratio'"):
        table = models.baselines(cohort[:20], cohort[20:], components=5)
    assert table["model"].tolist() == ["PCA + logistic regression"]
    gap = template_brains(torch.full((40,), 300), np.where(np.arange(40) == 3, np.nan, 1.0))
    with pytest.warns(UserWarning, match=r"left out: volume_ratio of \['sub-3'\] is no number"):
        models.baselines(gap[:20], gap[20:], components=5)
    with pytest.warns(UserWarning, match="left out: of the two cohorts, only one has the column"):
        models.baselines(cohort[:20], gap[20:], components=5)


# Numbers


def test_number_scores_equal_scipy_and_have_its_interval():
    rng = np.random.default_rng(0)
    true = rng.uniform(20, 80, 150)
    said = true + rng.normal(3, 6, 150)
    row = models.number_scores(said, true).iloc[0]
    assert row["mae"] == pytest.approx(np.abs(said - true).mean())
    assert row["bias"] == pytest.approx((said - true).mean())
    assert row["r"] == pytest.approx(stats.pearsonr(said, true).statistic)
    expected = stats.bootstrap(((said - true),), np.mean, method="percentile", rng=1)
    low, high = expected.confidence_interval
    assert row["bias_low"] == pytest.approx(low, abs=0.25)
    assert row["bias_high"] == pytest.approx(high, abs=0.25)
    assert row["r_low"] < row["r"] < row["r_high"] < 1


def test_number_scores_of_one_answer_for_all():
    row = models.number_scores(np.full(5, 40.0), np.arange(5.0)).iloc[0]
    assert np.isnan(row["r"])
    assert row["bias"] == 38


@pytest.mark.usefixtures("unchecked")
def test_number_scores_refuse():
    with pytest.raises(ValueError, match=r"one number a subject, got \(3,\) and \(4,\)"):
        models.number_scores(np.ones(3), np.ones(4))
    with pytest.raises(ValueError, match="hold NaN"):
        models.number_scores(np.array([1.0, np.nan]), np.ones(2))
