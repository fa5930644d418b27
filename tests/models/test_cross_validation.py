"""Oracle: scikit-learn's grouped, stratified folds say what folds are; planted answers the rest."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from small import Net, cohort, weights

from helpers import cohorts, models

QUICK = {"epochs": 3, "batch_size": 4, "progress": False}


def several_visits(people=12):
    """People with one to three scans each, whose classes are uneven."""
    visits = [1 + i % 3 for i in range(people)]
    subjects = cohort(sum(visits))
    names = np.repeat([f"sub-{i:02d}" for i in range(people)], visits)
    labels = torch.from_numpy(np.repeat([int(i % 4 == 0) for i in range(people)], visits))
    return replace(subjects, labels=labels, participants=pd.DataFrame({"participant_id": names}))


@pytest.mark.parametrize("seed", range(5))
def test_folds_share_nobody_and_have_their_part_of_each_class(seed):
    subjects = several_visits()
    folds = subjects.folds(3, seed)
    table = subjects.participants.assign(fold=folds.tolist(), label=subjects.labels.tolist())
    assert table.groupby("participant_id")["fold"].nunique().eq(1).all()
    people = table.drop_duplicates("participant_id")
    assert people.groupby(["fold", "label"]).size().tolist() == [3, 1, 3, 1, 3, 1]
    assert folds.unique().tolist() == [0, 1, 2]


def test_other_seeds_give_other_folds_and_the_same_seed_the_same():
    subjects = cohort(20)
    assert torch.equal(subjects.folds(4, 1), subjects.folds(4, 1))
    assert not torch.equal(subjects.folds(4, 1), subjects.folds(4, 2))


def test_folds_that_cannot_be():
    with pytest.raises(ValueError, match="2 folds or more, got 1"):
        cohort(20).folds(1)
    message = "4 folds need at least 4 people of each class, there are 3 of 'ill'; take fewer"
    with pytest.raises(ValueError, match=message):
        several_visits().folds(4)


def test_everybody_is_judged_by_the_network_that_has_not_seen_them():
    subjects = cohort(18)
    found = models.cross_validate(lambda seed: Net(seed=seed), subjects, folds=3, **QUICK)
    for fold, network in enumerate(found.networks):
        inside = found.folds == fold
        said = models.predict(network, subjects[inside].volumes)
        torch.testing.assert_close(found.logits["network"][inside], said)
        # The same network, trained here without those people.
        again = Net(seed=fold)
        models.train(again, subjects[~inside], seed=fold, **QUICK)
        assert torch.equal(weights(network), weights(again))
    assert found.history.groupby("fold").size().tolist() == [3, 3, 3]


def test_what_is_planted_is_found_and_told_person_by_person():
    options = {"folds": 2, "epochs": 12, "batch_size": 4, "progress": False}
    found = models.cross_validate(lambda seed: Net(seed=seed), cohort(40), **options)
    table = found.predictions()
    assert table["correct"].mean() > 0.8
    assert found.scores()["auc"].min() > 0.8
    right = found.logits["network"].argmax(1) == found.cohort.labels
    assert table["correct"].tolist() == right.tolist()
    assert table["fold"].tolist() == found.folds.tolist()
    sure = found.logits["network"].diff(dim=1)[:, 0].abs().sigmoid()
    np.testing.assert_allclose(table["probability"], sure, rtol=1e-5)


def test_labels_without_a_meaning_score_at_chance():
    """Whoever has seen the tested people would do better than chance here."""
    aucs = []
    for seed in range(4):
        subjects = cohort(24)
        stream = torch.Generator().manual_seed(seed + 50)
        noise = replace(subjects, volumes=torch.rand(subjects.volumes.shape, generator=stream))
        found = models.cross_validate(lambda seed: Net(seed=seed), noise, folds=3, **QUICK)
        aucs += found.scores()["auc"].tolist()
    assert abs(np.mean(aucs) - 0.5) < 0.15


def test_simple_models_answer_on_the_same_folds():
    subjects = cohort(18)
    subjects = replace(
        subjects, participants=subjects.participants.assign(volume_ratio=1 + 0.01 * np.arange(18))
    )
    found = models.cross_validate(lambda seed: Net(seed=seed), subjects, folds=3, **QUICK)
    expected = torch.zeros(18)
    for fold in range(3):
        inside = found.folds == fold
        table = models.baselines(subjects[~inside], subjects[inside])
        said = found.logits["PCA + logistic regression"][inside]
        row = models.scores(said, subjects[inside], name="PCA + logistic regression")
        kept = table[table["model"] == "PCA + logistic regression"].reset_index(drop=True)
        pd.testing.assert_frame_equal(row, kept, atol=1e-6)
        expected[inside] = said[:, 1]
    assert found.scores()["model"].tolist() == [
        "network",
        "brain volume",
        "PCA + logistic regression",
    ]


def test_a_small_cohort_has_smaller_batches_and_is_told():
    with pytest.warns(UserWarning, match="leaves 4 people to learn from, so a batch has 4 and not"):
        found = models.cross_validate(
            lambda seed: Net(norm=False, seed=seed), cohort(8), folds=2, epochs=1, progress=False
        )
    assert len(found.networks) == 2


def test_an_interrupted_run_goes_on(tmp_path, monkeypatch):
    subjects, make = cohort(16), lambda seed: Net(seed=seed)
    whole = models.cross_validate(make, subjects, folds=2, **QUICK)
    trained = []

    def stopped(model, *arguments, real=models.cross_validation.train, **options):
        if trained:
            raise KeyboardInterrupt
        trained.append(model)
        return real(model, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(models.cross_validation, "train", stopped)
        with pytest.raises(KeyboardInterrupt):
            models.cross_validate(make, subjects, folds=2, checkpoints=tmp_path, **QUICK)
    assert len(list(tmp_path.iterdir())) == 1
    resumed = models.cross_validate(make, subjects, folds=2, checkpoints=tmp_path, **QUICK)
    assert torch.equal(whole.logits["network"], resumed.logits["network"])


def test_a_registered_network_by_its_name():
    subjects = cohorts.simulate("shortcut", 8, seed=2)
    found = models.cross_validate("course", subjects, folds=2, epochs=1, batch_size=4)
    assert [type(network).__name__ for network in found.networks] == ["CourseNet"] * 2


def test_balanced_training_weighs_the_few_as_much_as_the_many():
    """Without anything to learn, a network learns the share of the classes; balanced, a half."""
    subjects = cohort(40)
    few = replace(
        subjects,
        labels=(torch.arange(40) % 8 == 0).long(),
        volumes=torch.rand(subjects.volumes.shape, generator=torch.Generator().manual_seed(1)),
    )
    options = {"epochs": 60, "batch_size": 20, "learning_rate": 0.1, "progress": False}

    class Constant(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = torch.nn.Parameter(torch.zeros(2))

        def forward(self, volumes):
            return self.logits.expand(len(volumes), 2) + 0 * volumes.sum()

    for balanced, share in ((False, 1 / 8), (True, 1 / 2)):
        model = Constant()
        models.train(model, few, validation=few, balanced=balanced, weight_decay=0, **options)
        assert float(model.logits.detach().softmax(0)[1]) == pytest.approx(share, abs=0.05)
