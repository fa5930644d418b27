"""Effects of form: sign, size, place, and no way to see them from elsewhere."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers import anatomy, cohorts, fields, grids
from helpers.cohorts import deformations, healthy
from helpers.cohorts.deformations import STRUCTURES, Deformation, Structure

FLUID = 2


@pytest.fixture(scope="module")
def atrophy():
    return cohorts.simulate("atrophy", subjects=20, seed=4)


@pytest.mark.parametrize("amount", [-0.8, 0.9])
def test_one_structure_grows_as_much_as_it_says(amount):
    """Closed form: a flow of a/3 along each axis multiplies the volume at its centre by exp(a)."""
    grid = grids.mni(2.0)  # 4 mm is too coarse to see the peak of a 12 mm ball
    structure = Structure("test", (20.0, -10.0, 12.0), 12.0, amount)
    grown = fields.log_expansion(Deformation((structure,), 1.0).displacement(grid))[0, 0]
    x, y, z = grid.voxels(torch.tensor(structure.center_mm)).round().astype(int)
    assert float(grown[x, y, z]) == pytest.approx(amount, rel=0.12)
    far = (grid.centers_mm() - torch.tensor(structure.center_mm).view(3, 1, 1, 1)).norm(dim=0) > 60
    assert grown[far].abs().max() < 1e-3


def test_a_growing_ventricle_holds_more_fluid():
    """The sign: positive log expansion is more of what was there before."""
    template = anatomy.template()
    variation = healthy.draw(torch.Generator().manual_seed(3))
    ventricles = tuple(s for s in STRUCTURES["atrophy"] if "ventricle" in s.name)
    brains = {
        strength: healthy.render(variation, template, Deformation(ventricles, strength))
        for strength in (-1.0, 0.0, 1.0)
    }
    place = brains[0.0].place
    fluid = {s: float(brain.tissues[FLUID][place[0]].sum()) for s, brain in brains.items()}
    assert fluid[-1.0] < 0.9 * fluid[0.0] < fluid[0.0] < 0.9 * fluid[1.0]
    assert brains[1.0].log_expansion[place].mean() > 0.2
    assert brains[-1.0].log_expansion[place].mean() < -0.2


def test_truth_is_what_the_whole_field_did_to_the_healthy_subject(atrophy):
    """Oracle: expansion of the composed field minus that of the healthy field alone."""
    grid = atrophy.grid
    for i in torch.nonzero(atrophy.labels).flatten()[:3].tolist():
        drawn = atrophy.parameters[i]
        own = healthy.displacement(drawn.variation, grid)
        composed = fields.compose(drawn.deformation.displacement(grid), own)
        expected = (fields.log_expansion(composed) - fields.log_expansion(own))[0]
        place = atrophy.truth.place[i]
        truth = atrophy.truth.log_expansion[i]
        assert torch.corrcoef(torch.stack([truth[place], expected[place]]))[0, 1] > 0.99
        assert (truth[place] - expected[place]).abs().mean() < 0.03


def test_every_structure_moves_in_its_direction_in_every_patient(atrophy):
    patients = torch.nonzero(atrophy.labels).flatten().tolist()
    for structure in STRUCTURES["atrophy"]:
        for i in patients:
            drawn = atrophy.parameters[i]
            alone = Deformation((replace(structure, radius_mm=structure.radius_mm / 3),), 1.0)
            own = healthy.displacement(drawn.variation, atrophy.grid)
            core = fields.warp(alone.place(atrophy.grid)[None].float(), own)[0] > 0.5
            mean = float(atrophy.truth.log_expansion[i][core].mean())
            assert mean * structure.log_expansion > 0


def test_controls_have_the_site_and_no_effect(atrophy):
    controls = atrophy.labels == 0
    assert not atrophy.truth.mask[controls].any()
    assert atrophy.truth.place[controls].flatten(1).any(1).all()
    assert atrophy.truth.log_expansion[controls].abs().max() < 1e-5
    assert torch.equal(atrophy.truth.mask[~controls], atrophy.truth.place[~controls])
    assert atrophy.participants["strength"].eq(0).tolist() == controls.tolist()


def test_away_from_the_structures_a_patient_looks_like_the_same_control(atrophy):
    i = int(torch.nonzero(atrophy.labels)[0])
    drawn = atrophy.parameters[i]
    template = anatomy.template()
    control = healthy.render(drawn.variation, template, replace(drawn.deformation, strength=0.0))
    patient = healthy.render(drawn.variation, template, drawn.deformation)
    distance_mm = torch.stack(
        [
            (atrophy.grid.centers_mm() - torch.tensor(s.center_mm).view(3, 1, 1, 1)).norm(dim=0)
            for s in drawn.deformation.structures
        ]
    ).amin(0)[None]
    far = control.mask & (distance_mm > 55)
    difference = (patient.t1 - control.t1).abs()
    assert difference[far].mean() < 0.005
    assert difference[control.place].mean() > 10 * difference[far].mean()


@pytest.mark.parametrize("task", ["lesion", "atrophy", "alcohol", "sex"])
def test_looking_up_the_brain_alone_is_looking_up_every_voxel(task):
    """Oracle: the composed field over the whole grid, warped as a whole."""
    template = anatomy.template()
    cohort = cohorts.simulate(task, subjects=4, seed=3)
    for drawn in cohort.parameters:
        deformation = drawn.deformation or Deformation(STRUCTURES["sex"], 0.0)
        own = healthy.displacement(drawn.variation, template.grid, head_size=deformation.head_size)
        velocity = deformations._velocity(deformation.structures, template.grid)
        effect = fields.integrate_velocity(deformation.strength * velocity, steps=4)
        sources = torch.cat([template.tissues, template.mask.float()])[None]
        oracle = fields.warp(sources, fields.compose(effect, own))[0]
        brain = healthy.render(drawn.variation, template, drawn.deformation)
        assert torch.equal(brain.mask, oracle[3:] > 0.5)
        torch.testing.assert_close(brain.tissues, oracle[:3] * brain.mask, atol=1e-5, rtol=0)
        if drawn.deformation is not None:
            expected = fields.warp(fields.log_expansion(effect), own)[0]
            expected = (expected + 3 * math.log(deformation.head_size)) * brain.mask
            torch.testing.assert_close(brain.log_expansion, expected, atol=2e-5, rtol=0)


def test_render_again_and_prefix(atrophy):
    again = cohorts.simulate("atrophy", subjects=3, seed=4)
    assert torch.equal(again.volumes, atrophy.volumes[:3])
    assert torch.equal(again.truth.log_expansion, atrophy.truth.log_expansion[:3])
    volume = cohorts.render(atrophy.parameters[5], atrophy.grid)
    assert torch.equal(volume, atrophy.volumes[5])


def test_sex_is_symmetric_and_changes_the_head_size():
    cohort = cohorts.simulate("sex", subjects=6, seed=1)
    for drawn, label in zip(cohort.parameters, cohort.labels.tolist(), strict=True):
        assert (drawn.deformation.strength > 0) == (label == 1)
        assert (drawn.deformation.head_size > 1) == (label == 1)
    i = int(torch.nonzero(cohort.labels)[0])
    brain = cohort.volumes[i] != 0
    away = brain & ~cohort.truth.place[i]
    # Most of the brain grows with the head: three times the log of 1.018.
    assert float(cohort.truth.log_expansion[i][away].median()) == pytest.approx(0.0535, abs=0.01)


@pytest.mark.parametrize("task", ["atrophy", "alcohol"])
def test_simple_statistics_do_not_tell_the_classes(task):
    audit = cohorts.audit_leaks(cohorts.simulate(task, subjects=200, seed=0))
    assert audit["safe"].all(), audit.to_string()


def test_the_audit_sees_the_head_size_of_sex_and_nothing_without_it():
    grid = grids.mni(8.0)
    audit = cohorts.audit_leaks(cohorts.simulate("sex", subjects=200, seed=0, grid=grid))
    volume = audit.set_index("statistic").loc["brain volume"]
    assert volume["auc"] > 0.7
    equal_heads = cohorts.simulate("sex", subjects=200, seed=0, grid=grid, head_size=0.0)
    audit = cohorts.audit_leaks(equal_heads)
    assert audit["safe"].all(), audit.to_string()


def test_real_scans_are_interpolated_once_in_both_classes():
    """Stand-ins for scans: simulated brains. A control must be blurred as a patient is."""
    scans = cohorts.simulate("lesion", subjects=40, seed=9)
    planted = cohorts.simulate("atrophy", base=scans, seed=3)
    assert len(planted) == 40
    roughness = (planted.volumes[:, :, 1:] - planted.volumes[:, :, :-1]).abs()
    far = ~(planted.truth.place[:, :, 1:] | planted.truth.place[:, :, :-1])
    rough = (roughness * far).flatten(1).sum(1)
    before = (scans.volumes[:, :, 1:] - scans.volumes[:, :, :-1]).abs()
    before = (before * far).flatten(1).sum(1)
    ratio = rough / before
    groups = [ratio[planted.labels == k] for k in (0, 1)]
    assert (ratio < 1).all()
    assert abs(float(groups[0].mean() - groups[1].mean())) < 2 * float(ratio.std()) / 20**0.5
    for volume in planted.volumes:
        assert volume[:, 0].abs().max() == 0
    again = cohorts.render(planted.parameters[1], planted.grid)
    assert torch.equal(again, planted.volumes[1])


@pytest.mark.parametrize("severity", [-1.0, float("nan"), float("inf")])
def test_severity_is_a_number_of_zero_or_above(severity):
    with pytest.raises(ValueError, match="severity must be a number of 0 or above"):
        cohorts.simulate("alcohol", 1, severity=severity)


def test_structures_lie_where_they_are_planted_and_cores_do_not_overlap():
    grid = grids.mni()
    for task in ("atrophy", "alcohol", "sex"):
        whole = cohorts.planted_structures(task, grid)
        cores = cohorts.planted_structures(task, grid, within=0.5)
        planted = fields.log_expansion(
            Deformation(STRUCTURES[task], strength=1.0).displacement(grid)
        )[0, 0]
        assert torch.stack(list(cores.values())).sum(0).max() == 1
        for part in STRUCTURES[task]:
            middle = np.argwhere(cores[part.name].numpy()).mean(0)
            np.testing.assert_allclose(grid.millimetres(middle), part.center_mm, atol=2)
            assert planted[cores[part.name]].mean() * part.log_expansion > 0
            corners = grid.millimetres(np.argwhere(whole[part.name].numpy()))
            reach_mm = np.linalg.norm(corners - np.array(part.center_mm), axis=1).max()
            assert part.radius_mm - max(grid.spacing_mm) / 2 < reach_mm <= part.radius_mm


def test_structures_of_another_task_or_too_small_for_the_grid():
    with pytest.raises(ValueError, match="expected a task of"):
        cohorts.planted_structures("lesion", grids.mni())
    with pytest.raises(ValueError, match="no voxel lies within 0.01"):
        cohorts.planted_structures("alcohol", grids.mni(), within=0.01)
