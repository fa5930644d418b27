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
        torch.testing.assert_close(found.said["network"][inside], said)
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
    right = found.said["network"].argmax(1) == found.cohort.labels
    assert table["correct"].tolist() == right.tolist()
    assert table["fold"].tolist() == found.folds.tolist()
    sure = found.said["network"].diff(dim=1)[:, 0].abs().sigmoid()
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
        said = found.said["PCA + logistic regression"][inside]
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
    assert torch.equal(whole.said["network"], resumed.said["network"])


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


# A number instead of a class


def aged(subjects=48):
    """Brains that darken at one end with age."""
    people = cohort(subjects)
    ages = np.random.default_rng(0).uniform(20, 80, subjects)
    volumes = torch.rand(people.volumes.shape, generator=torch.Generator().manual_seed(3))
    volumes[:, :, :4] -= torch.tensor(ages / 30).float()[:, None, None, None, None]
    return replace(people, volumes=volumes, participants=people.participants.assign(age=ages))


class OneNumber(Net):
    """The small network with one output."""

    def __init__(self, *, seed=0):
        super().__init__(norm=False, seed=seed)
        self.out = torch.nn.Linear(self.out.in_features, 1)


def test_a_number_is_learnt_and_comes_back_in_its_own_units():
    subjects = aged()
    options = {"epochs": 20, "batch_size": 8, "learning_rate": 5e-3, "progress": False}
    found = models.cross_validate(
        lambda seed: OneNumber(seed=seed), subjects, target="age", folds=3, **options
    )
    table, scores = found.predictions(), found.scores().set_index("model")
    ages = subjects.participants["age"]
    np.testing.assert_array_equal(table["true"], ages)
    off = (table["predicted"] - ages).abs().mean()
    assert scores.loc["network", "mae"] == pytest.approx(off, rel=1e-5)
    assert off < 6
    assert scores.loc["PCA + ridge regression", "mae"] < 6
    assert 13 < scores.loc["mean of the others", "mae"] < 17  # a quarter of 60 years
    last = found.history.groupby("fold").last()
    assert (last["error"] < 10).all()
    # Every fold has young and old people.
    assert table.groupby("fold")["true"].mean().between(45, 55).all()


def test_the_scale_is_that_of_the_people_who_were_learnt_from():
    """A network that always says 0 says the mean of the others, fold by fold."""

    class Zero(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, volumes):
            return 0 * self.weight.expand(len(volumes), 1)

    subjects = aged(20)
    found = models.cross_validate(lambda seed: Zero(), subjects, target="age", folds=4, **QUICK)
    torch.testing.assert_close(found.said["network"], found.said["mean of the others"])
    error = found.history["error"].iloc[0]
    first = subjects[found.folds != 0].participants["age"]
    assert error == pytest.approx((first - first.mean()).abs().mean(), rel=0.15)


def test_a_registered_network_says_a_number():
    found = models.cross_validate(
        "course", cohorts.real()[:8], target="age", folds=2, epochs=1, batch_size=4, components=2
    )
    assert found.said["network"].shape == (8, 1)
    assert "brain volume" in found.said


@pytest.mark.parametrize(
    ("ages", "message"),
    [
        ([40.0] * 48, "'age' is the same for everybody"),
        (["old", *range(47)], r"'age' is missing or no number for \['sub-000'\]"),
        ([None, *range(47)], r"'age' is missing or no number for \['sub-000'\]"),
    ],
)
def test_targets_that_are_refused(ages, message):
    subjects = aged()
    wrong = replace(subjects, participants=subjects.participants.assign(age=ages))
    with pytest.raises(ValueError, match=message):
        models.cross_validate(lambda seed: OneNumber(seed=seed), wrong, target="age", **QUICK)


def test_networks_and_options_that_do_not_fit_a_number():
    with pytest.raises(ValueError, match="has one output a subject, this one puts out the shape"):
        models.train(Net(), aged(), target="age", **QUICK)
    with pytest.raises(ValueError, match="are about classes; leave them out with a target"):
        models.train(OneNumber(), aged(), target="age", balanced=True, **QUICK)
    with pytest.raises(ValueError, match="no column 'years'"):
        models.train(OneNumber(), aged(), target="years", **QUICK)
