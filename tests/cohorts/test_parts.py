"""Twins differ from the person in the parts that they lack, and in nothing else."""

from dataclasses import replace

import pytest
import torch

from helpers import cohorts, grids
from helpers.cohorts import simulation
from helpers.grids import Grid

COARSE = Grid((24, 28, 24), torch.tensor(grids.mni().affine).numpy() @ torch.diag(
    torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64)
).numpy())  # fmt: skip


def patient(cohort):
    return int((cohort.labels > 0).nonzero()[0])


@pytest.fixture(scope="module")
def scans():
    """Brains that serve as real scans: nothing but their volumes is known."""
    return replace(cohorts.simulate("lesion", 4, 9, grid=COARSE), truth=None, parameters=None)


@pytest.mark.parametrize("task", ["atrophy", "alcohol", "mixed", "sex"])
@pytest.mark.parametrize("planted", [False, True])
def test_the_twin_with_all_parts_is_the_person(task, planted, scans):
    cohort = cohorts.simulate(task, 4, 3, **({"base": scans} if planted else {"grid": COARSE}))
    subject = patient(cohort)
    parts = cohorts.planted_parts(cohort, subject)
    everything = torch.ones(1, len(parts), dtype=torch.bool)
    twins = cohorts.twins(cohort, subject, present=everything)
    assert torch.equal(twins.volumes[0], cohort.volumes[subject])


@pytest.mark.parametrize("planted", [False, True])
@pytest.mark.parametrize("task", ["lesion", "shortcut"])
def test_a_twin_without_a_body_has_what_was_beneath(task, planted):
    base = {}
    if planted:
        base["base"] = replace(cohorts.simulate("sex", 6, 9), truth=None, parameters=None)
    options = {"lesions": 2, "radius_mm": 9.0} if task == "lesion" else {}
    cohort = cohorts.simulate(task, 6, 5, **base, **options)
    subject = patient(cohort)
    twins = cohorts.twins(cohort, subject)
    assert twins.parts == {"lesion": ("lesion 1", "lesion 2"), "shortcut": ("disease", "tag")}[task]
    assert torch.equal(twins.volumes[-1], cohort.volumes[subject])
    person = cohort.parameters[subject]
    hidden = replace(
        person,
        disease=tuple(replace(body, visible=False) for body in person.disease),
        shortcut=tuple(replace(body, visible=False) for body in person.shortcut),
    )
    assert torch.equal(twins.volumes[0], cohorts.render(hidden, cohort.grid))
    if planted:
        assert torch.equal(twins.volumes[0], base["base"].volumes[subject])
    bodies = (*person.disease, *person.shortcut)
    for k, body in enumerate(bodies):
        one = twins.present.sum(1) == 1
        (alone,) = (one & twins.present[:, k]).nonzero()
        changed = twins.volumes[alone[0]] != twins.volumes[0]
        touched = body.occupancy(cohort.grid) > 0
        assert changed.any()
        assert not (changed & ~touched).any()


def test_a_structure_changes_its_own_place_and_keeps_all_intensities():
    cohort = cohorts.simulate("mixed", 12, 8)
    places = cohorts.planted_structures("mixed", cohort.grid, within=2.0)
    person = next(i for i in range(12) if len(cohorts.planted_parts(cohort, i)) >= 3)
    twins = cohorts.twins(cohort, person)
    full = twins.volumes[-1]
    for k, part in enumerate(twins.parts):
        row = (twins.present.sum(1) == len(twins.parts) - 1) & ~twins.present[:, k]
        change = (twins.volumes[row][0] - full).abs()[0]
        if cohort.participants[f"strength {part}"][person] < 0.3:
            continue
        inside = places[part]
        assert change[inside].sum() > 0.5 * change.sum(), part
    # No shade of another normalisation: far from every structure nothing moves.
    away = ~torch.stack(list(cohorts.planted_structures("mixed", cohort.grid, within=3.0).values()))
    away = away.all(0) & (full[0] != 0)
    assert away.sum() > 1000
    assert float((twins.volumes[0] - full).abs()[0][away].median()) < 1e-3


def test_head_size_is_a_part_where_the_task_plants_it():
    cohort = cohorts.simulate("sex", 2, 1, grid=COARSE)
    parts = cohorts.planted_parts(cohort, 0)
    assert len(parts) == 9
    assert parts[-1] == "head size"
    none, without_size = (
        torch.zeros(9, dtype=torch.bool),
        torch.arange(9) < 8,
    )
    present = torch.stack([none, without_size])
    twins = cohorts.twins(cohort, 0, present=present)
    person = cohort.parameters[0]
    own = replace(person, deformation=replace(person.deformation, head_size=1.0))
    expected = simulation.render(own, cohort.grid)
    brain = (expected != 0) & (twins.volumes[1] != 0)
    assert float((twins.volumes[1] - expected).abs()[brain].mean()) < 0.02
    assert (twins.volumes[0] != 0).sum() != (cohort.volumes[0] != 0).sum()


def test_each_structure_has_its_own_strength():
    cohort = cohorts.simulate("mixed", 200, 4, grid=Grid((6, 7, 6), COARSE.affine * 4))
    strengths = cohort.participants.filter(like="strength ")
    assert strengths.shape == (200, 8)
    ill = strengths[cohort.labels.numpy() == 1].to_numpy()
    assert (strengths[cohort.labels.numpy() == 0].to_numpy() == 0).all()
    assert abs((ill == 0).mean() - 0.4) < 0.04
    assert 1.9 < ill.max() < 2
    assert abs(ill[ill > 0].mean() - 1) < 0.06
    assert (ill > 0).any(1).all()
    for i in torch.nonzero(cohort.labels)[:5, 0].tolist():
        carried = set(cohorts.planted_parts(cohort, i))
        named = {name.removeprefix("strength ") for name in strengths if strengths[name][i] != 0}
        assert carried == named


def test_some_patients_have_one_structure_alone():
    grid = Grid((6, 7, 6), COARSE.affine * 4)
    all_alone = cohorts.simulate("mixed", 40, 4, grid=grid, alone=1.0, structures="alcohol")
    counts = (all_alone.participants.filter(like="strength ").to_numpy() > 0).sum(1)
    assert counts[all_alone.labels.numpy() == 1].tolist() == [1] * 20
    assert all_alone.participants.filter(like="strength ").shape[1] == 6


def test_the_truth_is_where_this_person_changes():
    cohort = cohorts.simulate("mixed", 12, 8)
    balls = cohorts.planted_structures("mixed", cohort.grid, within=0.5)
    for i in torch.nonzero(cohort.labels)[:4, 0].tolist():
        for name, ball in balls.items():
            share = float(cohort.truth.mask[i, 0][ball].float().mean())
            has = cohort.participants[f"strength {name}"][i] > 0
            assert (share > 0.3) == has, (name, share)
            assert float(cohort.truth.place[i, 0][ball].float().mean()) > 0.3


def test_errors(scans):
    cohort = cohorts.simulate("sex", 2, 1, grid=COARSE)
    with pytest.raises(ValueError, match="has 9 parts, more than 8, and thus 512 twins"):
        cohorts.twins(cohort, 0)
    with pytest.raises(ValueError, match="each of the 9 parts .* got shape \\(1, 8\\)"):
        cohorts.twins(cohort, 0, present=torch.ones(1, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match="expected a simulated cohort"):
        cohorts.twins(scans, 0)
    lesions = cohorts.simulate("lesion", 10, grid=COARSE)
    healthy = int((lesions.labels == 0).nonzero()[0])
    with pytest.raises(ValueError, match=f"nothing is planted into subject {healthy}"):
        cohorts.twins(lesions, healthy)
    with pytest.raises(ValueError, match="alone must be a share of patients from 0 to 1, got 2"):
        cohorts.simulate("mixed", 2, alone=2)
    with pytest.raises(ValueError, match="unknown structures 'cortex'"):
        cohorts.simulate("mixed", 2, structures="cortex")
