"""A map that says what the network uses scores 1; the planted place alone, or chance, does not."""

import pandas as pd
import pytest
import torch
from scipy.stats import pearsonr, spearmanr

from helpers import cohorts, evaluation
from helpers.evaluation import part_scores


@pytest.fixture(scope="module")
def people():
    cohort = cohorts.simulate("mixed", 24, 12)
    return cohort[cohort.labels == 1][:8]


@pytest.fixture(scope="module")
def truth(people):
    """Made-up worths of the parts that each person carries."""
    generator = torch.Generator().manual_seed(2)
    rows = []
    for i in range(len(people)):
        for part in cohorts.planted_parts(people, i):
            value = float(torch.rand(1, generator=generator)) + 0.1
            name = people.participants["participant_id"][i]
            rows.append({"network": 0, "participant_id": name, "part": part, "value": value})
    return pd.DataFrame(rows)


def maps_from(people, worth):
    """Return maps that spread worth(person, part) evenly over each part."""
    maps = torch.zeros_like(people.volumes)
    for i, name in enumerate(people.participants["participant_id"]):
        for part, place in cohorts.part_places(people, i).items():
            maps[i][place] += worth(name, part) / float(place.sum())
    return maps


def test_a_map_of_the_worths_scores_one(people, truth):
    worth = truth.set_index(["participant_id", "part"])["value"]
    maps = maps_from(people, lambda name, part: worth.get((name, part), 0.0))
    mass = evaluation.part_mass(-maps, people)
    for column, sign in (("absolute", 1), ("signed", -1)):
        within = evaluation.within_person(mass, truth, column=column)
        across = evaluation.across_people(mass, truth, column=column)
        # Balls of neighbours can touch in a small brain, so a voxel may be asked twice.
        assert (sign * within["pearson"] > 0.99).all()
        assert (sign * across["pearson"] > 0.99).all()
        assert list(within["parts"]) == [8] * len(people)
        assert list(across["people"]) == [len(people)] * 8


def test_the_share_of_a_map_adds_up(people):
    everywhere = torch.ones_like(people.volumes)
    mass = evaluation.part_mass(everywhere, people)
    for i, name in enumerate(people.participants["participant_id"]):
        of_one = mass[mass["participant_id"] == name].set_index("part")
        for part, place in cohorts.part_places(people, i).items():
            assert of_one["absolute"][part] == pytest.approx(float(place.sum()))
            brain = int((people.volumes[i] != 0).sum())
            assert of_one["share"][part] == pytest.approx(float(place.sum()) / brain)
    air = torch.where(people.volumes == 0, 5.0, 0.0)
    assert (evaluation.part_mass(air, people)["share"] == 0).all()


def test_numbers_are_scipys(people, truth):
    generator = torch.Generator().manual_seed(4)
    maps = torch.randn(people.volumes.shape, generator=generator)
    mass = evaluation.part_mass(maps, people)
    name = people.participants["participant_id"][3]
    of_one = mass[mass["participant_id"] == name]
    worth = truth[truth["participant_id"] == name].set_index("part")["value"]
    places = cohorts.part_places(people, 3)
    voxels = [int(places[part].sum()) for part in of_one["part"]]
    values = [worth.get(part, 0.0) / v for part, v in zip(of_one["part"], voxels, strict=True)]
    strengths = of_one["absolute"] / voxels
    found = evaluation.within_person(mass, truth).set_index("participant_id").loc[name]
    assert found["pearson"] == pytest.approx(pearsonr(strengths, values).statistic)
    assert found["spearman"] == pytest.approx(spearmanr(strengths, values).statistic)


def test_maps_that_know_nothing_score_nothing(people, truth):
    mass = evaluation.part_mass(torch.zeros_like(people.volumes), people)
    assert (evaluation.within_person(mass, truth)["pearson"] == 0).all()
    # A map that is the same everywhere has much in a large structure, and knows nothing of it.
    everywhere = evaluation.part_mass(torch.ones_like(people.volumes), people)
    sizes = truth.merge(everywhere, on=["participant_id", "part"])
    large = truth.assign(value=sizes["voxels"] ** 1.5)
    assert pearsonr(sizes["absolute"], large["value"]).statistic > 0.9
    assert (evaluation.within_person(everywhere, large)["pearson"] == 0).all()
    assert (evaluation.across_people(everywhere, large)["pearson"] == 0).all()


def test_a_place_is_where_this_person_changes(people):
    for i in range(3):
        places = cohorts.part_places(people, i)
        twins = cohorts.twins(people, i)
        for k, part in enumerate(twins.parts):
            if people.participants[f"strength {part}"][i] < 0.5:
                continue
            row = (twins.present.sum(1) == len(twins.parts) - 1) & ~twins.present[:, k]
            change = (twins.volumes[row][0] - twins.volumes[-1]).abs()
            mean = {name: float(change[place].mean()) for name, place in places.items()}
            # Neighbours move too: both frontal balls reach over the midline.
            assert max(mean, key=mean.get) == part, mean


def test_bad_input(people, truth):
    mass = evaluation.part_mass(torch.ones_like(people.volumes), people)
    two = pd.concat([truth, truth.assign(network=1)])
    with pytest.raises(ValueError, match=r"the truth of one network, got \[0, 1\]"):
        evaluation.within_person(mass, two)
    with pytest.raises(ValueError, match="expected one map a person"):
        evaluation.part_mass(torch.ones(2, 1, 48, 56, 48), people)
    with pytest.raises(ValueError, match="NaN"):
        evaluation.part_mass(people.volumes / 0, people)
    lesions = cohorts.simulate("lesion", 3)
    lesions = lesions[lesions.labels > 0]
    ids = lesions.participants["participant_id"]
    one_each = pd.DataFrame({"network": 0, "participant_id": ids, "part": "lesion", "value": 1.0})
    with pytest.raises(ValueError, match="nobody has 3 planted parts or more"):
        part_scores.within_person(evaluation.part_mass(lesions.volumes, lesions), one_each)
    with pytest.raises(ValueError, match="has no voxel; use a larger share than 0.01"):
        cohorts.part_places(people, 0, within=0.01)


def test_somebody_who_comes_twice_is_refused(people, truth):
    mass = evaluation.part_mass(people.volumes, people)
    with pytest.raises(ValueError, match="comes twice in the mass"):
        evaluation.within_person(pd.concat([mass, mass]), truth)
    with pytest.raises(ValueError, match="comes twice in the truth"):
        evaluation.across_people(mass, pd.concat([truth, truth]))
