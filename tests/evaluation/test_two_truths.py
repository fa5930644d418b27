"""A map of what the network uses wins on one truth, a map of the planted place on the other."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import pearsonr

from helpers import cohorts, evaluation
from helpers.evaluation import two_truths

NO_SMOOTHING = {"planted": 0, "reliance": 0}


@pytest.fixture(scope="module")
def people():
    cohort = cohorts.simulate("mixed", 24, 12)
    return cohort[cohort.labels == 1][:6]


@pytest.fixture(scope="module")
def places(people):
    return [cohorts.part_places(people, i) for i in range(len(people))]


def worth_of(people, places, seed):
    """Return made-up worths: a network that has its own idea of each part of each person."""
    random = np.random.default_rng(seed)
    names = people.participants["participant_id"]
    return pd.DataFrame(
        [
            {"network": seed, "participant_id": name, "part": part, "value": random.random()}
            for name, own in zip(names, places, strict=True)
            for part in own
        ]
    )


def map_of(worth, people, places):
    """Return the map that knows the worths: each spread over its part."""
    found = torch.zeros_like(people.volumes)
    value = worth.set_index(["participant_id", "part"])["value"]
    for i, name in enumerate(people.participants["participant_id"]):
        for part, place in places[i].items():
            found[i][place] += value[name, part] / float(place.sum())
    return found


def scored(maps, people, worth, form="absolute", widths=NO_SMOOTHING):
    return two_truths.score(maps, people, worth, form=form, widths=widths)


def summary(of_networks, people, worth, form="absolute"):
    """Return the summary of maps by network."""
    parts = {}
    for seed, maps in of_networks.items():
        table, mass = scored(maps, people, worth[seed], form)
        parts[seed] = {"people": table.assign(form=form), "mass": mass.assign(form=form)}
    return two_truths.summarise(parts, worth, form)


def test_each_truth_has_its_own_winner(people, places):
    worth = {seed: worth_of(people, places, seed) for seed in (0, 1)}
    knows = {seed: map_of(worth[seed], people, places) for seed in (0, 1)}
    other = {seed: map_of(worth[1 - seed], people, places) for seed in (0, 1)}
    planted = {seed: people.truth.mask.float() for seed in (0, 1)}
    of_knows, of_other, of_planted = (
        summary(maps, people, worth)["measures"] for maps in (knows, other, planted)
    )
    assert of_knows["within_pearson"][0] > 0.9  # balls overlap a little
    assert of_knows["across_pearson"][0] > 0.9
    assert of_knows["reliance_mm"][0] < 1
    # The map of the other network shows the same parts, and nothing of what this one makes of them.
    assert abs(of_other["across_pearson"][0]) < 0.5
    assert of_other["reliance_mm"][0] > of_knows["reliance_mm"][0] + 3
    assert of_planted["average_precision"] == [1.0, 1.0, 1.0]
    assert of_planted["planted_mm"][0] == pytest.approx(0, abs=1e-3)
    assert of_planted["across_pearson"][0] < 0.5


def test_the_correlation_across_people_is_scipys(people, places):
    worth = {seed: worth_of(people, places, seed) for seed in (0, 1)}
    noise = torch.rand(people.volumes.shape, generator=torch.Generator().manual_seed(1))
    found = summary({0: noise, 1: noise.flip(2)}, people, worth)
    part = "insula left"
    expected = []
    for seed, maps in ((0, noise), (1, noise.flip(2))):
        mass = [
            float((maps[i] * (people.volumes[i] != 0))[own[part]].sum())
            for i, own in enumerate(places)
        ]
        value = worth[seed].loc[worth[seed]["part"] == part, "value"].to_numpy()
        voxels = np.array([int(own[part].sum()) for own in places])
        expected.append(pearsonr(mass / voxels, value / voxels).statistic)
    mean, low, high = found["structures"][part]
    assert mean == pytest.approx(np.mean(expected), abs=1e-3)
    assert low < mean < high
    means = [values[0] for values in found["structures"].values()]
    assert found["measures"]["across_pearson"][0] == pytest.approx(np.mean(means), abs=1e-3)


def test_a_map_that_is_the_same_everywhere_tells_nothing_across_people(people, places):
    worth = {0: worth_of(people, places, 0)}
    for value in (0.0, 1e-9, 3.0):
        flat = torch.full_like(people.volumes, value)
        found = summary({0: flat}, people, worth)["measures"]
        assert found["across_pearson"] == [0.0, 0.0, 0.0]
        assert found["within_pearson"] == [0.0, 0.0, 0.0]
        assert found["voxel_auc"][0] == 0.5


def test_smoothing_is_scipys_and_air_never_counts(people):
    maps = torch.randn(people.volumes.shape, generator=torch.Generator().manual_seed(1))
    brain = people.volumes != 0
    for form, start in (("signed", maps), ("absolute", maps.abs())):
        found = two_truths.smoothed(maps, form=form, width=2, within=brain)
        mask = brain[0, 0].numpy()
        blurred = gaussian_filter((start * brain)[0, 0].numpy(), 2, mode="nearest")[mask]
        expected = blurred / gaussian_filter(mask.astype(np.float32), 2, mode="nearest")[mask]
        np.testing.assert_allclose(found[0, 0][mask], expected, atol=1e-5)
        assert not found[~brain].any()
        with_air = two_truths.smoothed(
            torch.where(brain, maps, 9.0), form=form, width=2, within=brain
        )
        assert torch.equal(with_air, found)
    unsmoothed = two_truths.smoothed(maps, form="signed", width=0, within=brain)
    assert torch.equal(unsmoothed, maps * brain)
    with pytest.raises(ValueError, match="form must be one of"):
        two_truths.smoothed(maps, form="squared", width=0, within=brain)


@pytest.mark.parametrize("form", two_truths.FORMS)
def test_smoothed_random_numbers_do_not_point_to_the_middle_of_the_brain(people, form):
    """Planted structures lie deep; to dim the rim would be to know where they are."""
    maps = torch.rand(people.volumes.shape, generator=torch.Generator().manual_seed(2))
    brain = people.volumes != 0
    found = two_truths.smoothed(maps, form=form, width=max(two_truths.WIDTHS), within=brain)
    table = evaluation.localization(found, people.truth.mask & brain, within=brain)
    assert table["voxel_auc"].mean() == pytest.approx(0.5, abs=0.06)


def test_the_sweep_prefers_the_width_that_brings_out_the_effect(people, places):
    worth = worth_of(people, places, 0)
    generator = torch.Generator().manual_seed(3)
    noisy = people.truth.mask + 3 * torch.randn(people.volumes.shape, generator=generator)
    table = two_truths.sweep(noisy, people, worth).set_index(["form", "width"])
    signed = table.loc["signed", "planted"]
    assert signed.idxmax() >= 1
    assert signed.max() > signed[0] + 0.1
    exact = map_of(worth, people, places)
    table = two_truths.sweep(exact, people, worth).set_index(["form", "width"])
    assert table.loc["absolute", "reliance"].idxmax() == 0
    assert table.loc[("absolute", 0), "reliance"] > 0.9


def test_with_one_part_a_person_there_is_no_order_within(people):
    cohort = cohorts.simulate("lesion", 5, 3)
    ill = cohort[cohort.labels > 0]
    worth = evaluation.reliance(_brightness_network(), ill)
    maps = ill.truth.mask.float()
    table, mass = scored(maps, ill, worth)
    assert "within_pearson" not in table
    assert set(mass["part"]) == {"lesion"}
    sweep = two_truths.sweep(maps, ill, worth)
    assert sweep["planted"].tolist() == sweep["reliance"].tolist()


class _Brightness(torch.nn.Module):
    def forward(self, volumes):
        total = volumes.clamp_min(1.4).mean((1, 2, 3, 4))
        return torch.stack([-total, total, 0.1 * total, total * 0, total * 0], 1)


def _brightness_network():
    return _Brightness().eval()
