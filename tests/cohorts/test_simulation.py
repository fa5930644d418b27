import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kruskal

from helpers import cohorts, grids
from helpers.cohorts import shapes
from helpers.cohorts.shapes import SHAPES, Body


@pytest.fixture(scope="module")
def lesions():
    return cohorts.simulate("lesion", subjects=30, seed=5)


def test_same_seed_same_bytes_and_a_prefix_is_a_smaller_cohort(lesions):
    again = cohorts.simulate("lesion", subjects=10, seed=5)
    assert torch.equal(again.volumes, lesions.volumes[:10])
    assert torch.equal(again.labels, lesions.labels[:10])
    other = cohorts.simulate("lesion", subjects=10, seed=6)
    assert not torch.equal(other.volumes, again.volumes)


def test_render_is_a_function_of_the_stored_parameters(lesions):
    torch.manual_seed(123)  # global randomness must not matter
    for i in (0, 7):
        again = cohorts.render(lesions.parameters[i], lesions.grid)
        assert torch.equal(again, lesions.volumes[i])


def test_classes_take_turns(lesions):
    assert torch.bincount(lesions.labels).tolist() == [6] * 5


def test_in_a_matched_cohort_nothing_but_the_effect_tells_the_classes_apart():
    grid = grids.mni(8.0)
    people = cohorts.simulate("lesion", subjects=12, seed=5, grid=grid, matched=True)
    first, second = people[:5], people[5:10]
    assert sorted(first.labels.tolist()) == sorted(second.labels.tolist()) == [0, 1, 2, 3, 4]
    centers = [person.disease[0].center_mm.tolist() for person in first.parameters]
    assert all(center == centers[0] for center in centers)
    assert centers[0] != second.parameters[0].disease[0].center_mm.tolist()
    healthy = int((first.labels == 0).nonzero())
    elsewhere = ~_widened(first.truth.place.any(0)) & (first.volumes != 0)
    assert elsewhere.float().mean() > 0.1
    same = first.volumes[healthy].expand_as(first.volumes)[elsewhere]  # noise included
    assert torch.allclose(first.volumes[elsewhere], same, atol=0.05)
    stranger = second.volumes[:1].expand_as(first.volumes)[elsewhere]
    assert not torch.allclose(first.volumes[elsewhere], stranger, atol=0.5)
    assert first.participants["participant_id"].unique().tolist() == ["sim-00000"]
    one, other = people.split([0.5, 0.5], stratify=None)
    assert not set(one.participants["participant_id"]) & set(other.participants["participant_id"])


def test_a_matched_control_is_the_twin_without_anything():
    people = cohorts.simulate("mixed", subjects=4, seed=5, grid=grids.mni(8.0), matched=True)
    for i in (people.labels == 1).nonzero().flatten().tolist():
        control = people.volumes[i - 1 if i % 2 else i + 1, 0]
        empty = cohorts.twins(people, i).volumes[0, 0]
        # A twin keeps the patient's divisor of intensities, a control has its own.
        brain = (control != 0) & (empty != 0)
        ratio = control[brain] / empty[brain]
        assert float(ratio.quantile(0.9) - ratio.quantile(0.1)) < 1e-3
        assert not torch.allclose(control, people.volumes[i, 0], atol=0.05)


def test_matched_scans_of_a_base_are_refused(lesions):
    with pytest.raises(ValueError, match="every scan of base comes once"):
        cohorts.simulate("atrophy", base=lesions, matched=True)


def test_background_is_zero_and_the_brain_has_median_one(lesions):
    healthy = lesions[lesions.labels == 0]
    for volume in healthy.volumes:
        brain = volume[volume != 0]
        assert 0.9 < brain.median() < 1.1
        assert 1.2e6 < len(brain) * lesions.grid.voxel_volume_mm3 < 2.6e6
        assert volume[:, 0].abs().max() == 0


def test_mask_is_exactly_what_planting_changed(lesions):
    """Oracle: the same subject rendered with every body hidden."""
    for i in range(10):
        parameters = lesions.parameters[i]
        hidden = replace(
            parameters, disease=tuple(replace(b, visible=False) for b in parameters.disease)
        )
        change = (lesions.volumes[i] - cohorts.render(hidden, lesions.grid)).abs()
        mask = lesions.truth.mask[i]
        if lesions.labels[i] == 0:
            assert change.max() == 0
            assert not mask.any()
        else:
            assert change[mask].min() > 0.1
            outside = change[~mask] > 0
            assert outside.sum() < 1.5 * mask.sum()  # the partial voxels of the surface
            assert torch.equal(lesions.truth.place[i], mask)


def test_shapes_have_one_volume_and_one_brightness(lesions):
    grid = lesions.grid
    millilitres, brightness = [], []
    for i in torch.nonzero(lesions.labels).flatten().tolist():
        body = lesions.parameters[i].disease[0]
        millilitres.append(float(body.occupancy(grid).sum()) * grid.voxel_volume_mm3 / 1000)
        brightness.append(body.intensity)
    expected = 4 / 3 * math.pi * 1.5**3
    np.testing.assert_allclose(millilitres, expected, rtol=0.06)
    assert np.std(brightness) / np.mean(brightness) < 0.1


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_body_volume_by_counting_fine_voxels(shape):
    """Oracle: count voxels of half a millimetre inside the body."""
    grid = grids.Grid((160, 160, 160), np.diag([0.5, 0.5, 0.5, 1.0]))
    body = Body(shape, torch.tensor([40.0, 40.0, 40.0]), torch.tensor([20.0, 50.0, -30.0]), 15.0, 1)
    counted = float(body.mask(grid).sum()) * grid.voxel_volume_mm3
    assert counted == pytest.approx(4 / 3 * math.pi * 15**3, rel=0.005)
    reached = (grid.centers_mm() - 40)[:, body.mask(grid)[0]].norm(dim=0).max()
    assert reached < shapes._REACH * 15


def test_shells_are_hollow_and_rods_are_long():
    grid = grids.mni(2.0)
    center = torch.tensor([0.0, 0.0, 0.0])
    at_center = tuple(np.round(grid.voxels(center)).astype(int))
    shell = Body("shell", center, torch.zeros(3), 15.0, 1).mask(grid)[0]
    assert not shell[at_center]
    rod = Body("rod", center, torch.zeros(3), 15.0, 1).mask(grid)[0].nonzero()
    extent = (rod.amax(0) - rod.amin(0)).float()
    assert extent[2] > 2 * extent[0]


def test_place_does_not_tell_the_class():
    """Sites of all classes come from one distribution: their mean places differ by chance only."""
    cohort = cohorts.simulate("lesion", subjects=100, seed=8, grid=grids.mni(8.0))
    places = torch.stack([p.disease[0].center_mm for p in cohort.parameters]).numpy()
    for axis in range(3):
        groups = [places[(cohort.labels == k).numpy(), axis] for k in range(5)]
        assert kruskal(*groups).pvalue > 0.01


def test_options_of_the_lesion_task():
    grid = grids.mni(8.0)
    several = cohorts.simulate("lesion", 5, grid=grid, lesions=3, radius_mm=9.0)
    assert {len(p.disease) for p in several.parameters} == {3}
    for i in torch.nonzero(several.labels).flatten().tolist():
        total = sum(b.occupancy(grid) for b in several.parameters[i].disease)
        assert total.max() <= 1.05  # they do not overlap
    dark = cohorts.simulate("lesion", 5, grid=grid, opaque=False, intensity=0.4)
    bright = cohorts.simulate("lesion", 5, grid=grid)
    ball = int(torch.nonzero(dark.labels == 1)[0])
    place = dark.truth.mask[ball]
    assert dark.volumes[ball][place].mean() < 0.6 < 1.3 < bright.volumes[ball][place].mean()
    anywhere = cohorts.simulate("lesion", 5, grid=grid, location="brain")
    assert not torch.equal(anywhere.truth.place, bright.truth.place)


def test_shortcut_tag_follows_its_option():
    grid = grids.mni(8.0)
    for tag, expected in (("label", None), ("none", 0)):
        cohort = cohorts.simulate("shortcut", 12, grid=grid, tag=tag)
        tagged = cohort.truth.shortcut.flatten(1).any(1)
        if tag == "label":
            assert torch.equal(tagged, cohort.labels == 1)
            assert cohort.participants["tag"].tolist() == tagged.tolist()
        else:
            assert int(tagged.sum()) == expected
        # The disease itself stays the same whatever happens to the tag.
        assert torch.equal(cohort.truth.mask.flatten(1).any(1), cohort.labels == 1)
    random = cohorts.simulate("shortcut", 40, grid=grid, tag="random")
    tagged = torch.tensor(random.participants["tag"].tolist())
    for label in (0, 1):
        assert 0.2 < tagged[random.labels == label].float().mean() < 0.8


def test_the_spot_of_the_shortcut_is_as_dark_as_asked():
    grid = grids.mni(8.0)
    none, faint, dark, default = (
        cohorts.simulate("shortcut", 4, grid=grid, tag="none", **options)
        for options in ({"intensity": 1.0}, {"intensity": 0.9}, {"intensity": 0.5}, {})
    )
    assert torch.equal(faint.volumes, default.volumes)
    spot = dark.truth.mask
    assert torch.equal(spot.flatten(1).any(1), dark.labels == 1)
    # Half of the tissue's light is gone instead of a tenth, in every voxel, however full it is.
    torch.testing.assert_close(
        (none.volumes - dark.volumes)[spot], 5 * (none.volumes - faint.volumes)[spot]
    )
    controls = dark.labels == 0
    assert torch.equal(dark.volumes[controls], none.volumes[controls])
    with pytest.raises(ValueError, match=r"intensity must be from 0 to 1, got 1\.5"):
        cohorts.simulate("shortcut", 1, intensity=1.5)


def test_planting_into_given_scans(lesions):
    scans = cohorts.simulate("lesion", subjects=6, seed=9)
    scans = scans[scans.labels == 0]
    base = scans[[0] * 5]
    planted = cohorts.simulate("lesion", base=base, seed=3)
    assert len(planted) == 5
    for i in range(5):
        changed = planted.volumes[i] != base.volumes[i]
        assert not (changed & ~_widened(planted.truth.place[i])).any()
        assert changed.any() == (planted.labels[i] != 0)
        assert torch.equal(
            cohorts.render(planted.parameters[i], planted.grid),
            planted.volumes[i],
        )
    assert planted.participants["participant_id"].nunique() == 1  # one person, scanned once
    with pytest.raises(ValueError, match="at most the 5 of base"):
        cohorts.simulate("lesion", subjects=6, base=base)
    with pytest.raises(ValueError, match="leave grid out"):
        cohorts.simulate("lesion", base=base, grid=grids.mni(8.0))


def _widened(mask):
    return torch.nn.functional.max_pool3d(mask[None].float(), 5, stride=1, padding=2)[0] > 0


def test_unknown_names_list_what_exists():
    with pytest.raises(ValueError, match=r"unknown task 'lesions'; there are \['alcohol', 'at"):
        cohorts.simulate("lesions")
    with pytest.raises(ValueError, match="unknown location 'skull'"):
        cohorts.simulate("lesion", 1, location="skull")
    with pytest.raises(ValueError, match="unknown tag 'maybe'"):
        cohorts.simulate("shortcut", 1, tag="maybe")
    with pytest.raises(ValueError, match="unknown shape 'torus'"):
        Body("torus", torch.zeros(3), torch.zeros(3), 5.0, 1.0)
    with pytest.raises(ValueError, match="at least one subject, got 0"):
        cohorts.simulate("lesion", 0)
    with pytest.raises(ValueError, match="smaller or fewer lesions"):
        cohorts.simulate("lesion", 1, grid=grids.mni(8.0), radius_mm=60.0)
