"""What a network uses, against networks whose use of each part is known in closed form."""

from dataclasses import replace

import pytest
import torch
from captum.attr import ShapleyValues
from torch import nn

from helpers import cohorts, evaluation, models
from helpers.evaluation import shapley


class Reads(nn.Module):
    """Logits 0 and f, where f is hand-wired from the mean intensity of two places."""

    def __init__(self, places, f):
        super().__init__()
        self.places, self.f = places, f

    def forward(self, volumes):
        means = [volumes[:, 0][:, place].mean(1) for place in self.places]
        decided = self.f(*means)
        return torch.stack([torch.zeros_like(decided), decided], 1)


@pytest.fixture(scope="module")
def cohort():
    return cohorts.simulate("shortcut", 6, 5)


@pytest.fixture(scope="module")
def patient(cohort):
    return int(cohort.labels.argmax())


def wired(cohort, patient, f):
    person = cohort.parameters[patient]
    bodies = (*person.disease, *person.shortcut)
    return Reads([body.mask(cohort.grid)[0] for body in bodies], f)


def means_of(cohort, patient):
    """Return the mean intensity in both places, with and without the body, from single renders."""
    person = cohort.parameters[patient]
    hidden = replace(
        person,
        disease=tuple(replace(b, visible=False) for b in person.disease),
        shortcut=tuple(replace(b, visible=False) for b in person.shortcut),
    )
    without = cohorts.render(hidden, cohort.grid)
    return [
        (float(cohort.volumes[patient][place].mean()), float(without[place].mean()))
        for place in (b.mask(cohort.grid) for b in (*person.disease, *person.shortcut))
    ]


def test_a_sum_gives_each_part_its_own_term(cohort, patient):
    network = wired(cohort, patient, lambda disease, tag: 3 * disease - 2 * tag)
    table = evaluation.reliance(network, cohort[[patient]])
    (with_d, without_d), (with_t, without_t) = means_of(cohort, patient)
    assert list(table["part"]) == ["disease", "tag"]
    assert table["value"][0] == pytest.approx(3 * (with_d - without_d), abs=1e-5)
    assert table["value"][1] == pytest.approx(-2 * (with_t - without_t), abs=1e-5)
    assert table["value"][1] < -0.1


def test_a_product_is_shared_as_theory_says(cohort, patient):
    network = wired(cohort, patient, lambda disease, tag: 5 * disease * (1 + tag))
    table = evaluation.reliance(network, cohort[[patient]])
    (with_d, without_d), (with_t, without_t) = means_of(cohort, patient)
    disease = 5 * (with_d - without_d) * (1 + (with_t + without_t) / 2)
    tag = 5 * (with_t - without_t) * (with_d + without_d) / 2
    assert table["value"].tolist() == pytest.approx([disease, tag], abs=1e-4)


def test_what_a_network_ignores_is_worth_exactly_nothing(cohort, patient):
    only_tag = wired(cohort, patient, lambda disease, tag: tag)
    only_disease = wired(cohort, patient, lambda disease, tag: 0.3 - disease)
    table = evaluation.reliance(
        {"tag": only_tag, "disease": only_disease}, cohort[[patient]]
    ).set_index(["network", "part"])["value"]
    assert table["tag", "disease"] == 0
    assert table["disease", "tag"] == 0
    assert table["tag", "tag"] > 0.1
    assert abs(table["disease", "disease"]) > 0.01


def test_exact_values_equal_captums():
    generator = torch.Generator().manual_seed(3)
    worth = torch.randn(16, generator=generator, dtype=torch.float64)
    present = torch.cartesian_prod(*[torch.tensor([False, True])] * 4)
    shuffled = torch.randperm(16, generator=generator)

    def value(subsets):
        return worth[(subsets.long() @ torch.tensor([8, 4, 2, 1]))]

    captums = ShapleyValues(value).attribute(torch.ones(1, 4), perturbations_per_eval=1)[0]
    ours = shapley.shapley_values(worth[shuffled], present[shuffled])
    torch.testing.assert_close(ours, captums.double(), atol=1e-6, rtol=0)


def test_values_add_up_for_trained_networks():
    patients = cohorts.simulate("atrophy", 2, 77)
    networks = {seed: models.pretrained("atrophy", seed=seed) for seed in (0, 1)}
    table = evaluation.reliance(networks, patients)
    assert list(table["network"].unique()) == [0, 1]
    assert len(table) == 8  # one patient, four structures, two networks
    for seed, rows in table.groupby("network"):
        whole, without = rows["margin"].iloc[0], rows["margin_without"].iloc[0]
        assert rows["value"].sum() == pytest.approx(whole - without, abs=1e-4)
        logits = models.predict(networks[seed], patients.volumes)[int(patients.labels.argmax())]
        assert whole == pytest.approx(float(logits[1] - logits[0]), abs=1e-4)
        assert (rows["standard_error"] == 0).all()


def test_sampled_values_are_the_exact_ones_within_their_error(cohort, patient):
    network = wired(cohort, patient, lambda disease, tag: 5 * disease * (1 + tag))
    exact = evaluation.reliance(network, cohort[[patient]])
    sampled = evaluation.reliance(network, cohort[[patient]], permutations=400, seed=1)
    assert (sampled["standard_error"] > 0).all()
    distance = (sampled["value"] - exact["value"]).abs() / sampled["standard_error"]
    assert (distance < 4).all()
    assert sampled["value"].sum() == pytest.approx(exact["value"].sum(), abs=1e-4)
    again = evaluation.reliance(network, cohort[[patient]], permutations=400, seed=1)
    assert again.equals(sampled)


def test_the_margin_of_a_person_is_that_of_the_own_class():
    logits = torch.tensor([[0.0, 1.0, 4.0, 2.0]])
    others = torch.tensor([0.0, 1.0, 2.0]).exp().sum().log()
    torch.testing.assert_close(shapley.margin(logits, 2), 4.0 - others[None])


def test_controls_have_no_rows(cohort, patient):
    network = wired(cohort, patient, lambda disease, tag: tag)
    table = evaluation.reliance(network, cohort)
    ill = cohort.participants["participant_id"][cohort.labels.numpy() == 1]
    assert set(table["participant_id"]) == set(ill)
    with pytest.raises(ValueError, match="nobody in this cohort carries a planted part"):
        evaluation.reliance(network, cohort[cohort.labels == 0])


def test_bad_input(cohort, patient):
    network = wired(cohort, patient, lambda disease, tag: tag)
    real = replace(cohort, truth=None, parameters=None)
    with pytest.raises(ValueError, match="expected a simulated cohort"):
        evaluation.reliance(network, real)
    with pytest.raises(ValueError, match="more than 8, and thus 512 twins"):
        evaluation.reliance(network, cohorts.simulate("sex", 2))
    with pytest.raises(ValueError, match="expected two permutations or more, got 1"):
        evaluation.reliance(network, cohort, permutations=1)
    trained = models.pretrained("atrophy")
    with pytest.raises(ValueError, match=r"trained on volumes of \(48, 56, 48\), the cohort has"):
        evaluation.reliance(
            trained, replace(cohort, grid=replace(cohort.grid, shape=(24, 28, 24)),
                             volumes=cohort.volumes[..., ::2, ::2, ::2], truth=None)
        )  # fmt: skip
    with pytest.raises(ValueError, match="tells .* apart, the cohort has"):
        evaluation.reliance(models.pretrained("lesion"), cohort)
    with pytest.raises(ValueError, match="has 5 classes, the cohort 2"):
        evaluation.reliance(models.build("course", 5), cohort[[patient]])
    with pytest.raises(ValueError, match="expected each of the 4 subsets of 2 parts once"):
        shapley.shapley_values(torch.zeros(4), torch.ones(4, 2, dtype=torch.bool))
