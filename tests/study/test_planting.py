"""What is planted into scans: as much as is asked for, where it is asked for, by a coin."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn

from helpers import anatomy, cohorts, evaluation, fields, grids
from helpers.anatomy import Atlas
from helpers.study import planting
from helpers.study.trusting import shrinking

GRID = grids.mni()
PEOPLE = 7


@pytest.fixture(scope="module")
def base():
    volumes = cohorts.simulate("atrophy", PEOPLE, seed=3, severity=0.0).volumes
    people = pd.DataFrame({"participant_id": [f"p{i}" for i in range(PEOPLE)]})
    return cohorts.Cohort(volumes, torch.zeros(PEOPLE).long(), ("everybody",), people, GRID)


@pytest.fixture(scope="module")
def atlas():
    """A slab that is no ball, on both sides of the middle, and a region outside the head."""
    x, y, z = GRID.centers_mm()
    labels = torch.zeros(GRID.shape, dtype=torch.long)
    for label, side in ((1, -1), (2, 1)):
        away = ((x - 30 * side).abs() < 9) & ((y + 20).abs() < 22) & ((z - 12).abs() < 13)
        labels[away] = label
    labels[z > 100] = 3
    return Atlas(GRID, labels, {1: "Slab_L", 2: "Slab_R", 3: "Air"})


def strength(person, label):
    return replace(person, strength=float(label))


# A region that shrinks


@pytest.mark.parametrize("percent", [5.0, 20.0, 45.0])
@pytest.mark.parametrize("spacing_mm", [4.0, 8.0])
def test_a_region_loses_as_much_as_is_asked_for(atlas, percent, spacing_mm):
    grid = grids.mni(spacing_mm)
    labels = atlas.labels
    if spacing_mm != 4:
        labels = labels[::2, ::2, ::2]
    found = shrinking.shrinkage("slab", Atlas(grid, labels, atlas.names), percent=percent)
    field = found.displacement(grid)
    for label in (1, 2):
        before = (labels == label).float()[None, None]
        kept = float(fields.warp(before, field).sum() / before.sum())
        assert abs(kept - (1 - percent / 100)) < 0.002
    assert fields.folding_fraction(field) == 0
    grown = fields.log_expansion(field)[0, 0]
    assert grown[labels == 1].mean() < 0.7 * torch.tensor(1 - percent / 100).log()
    assert grown.max() > 0  # what is around it grows
    far = (grid.centers_mm()[1] > 60) | (grid.centers_mm()[2] > 80)
    assert field[0, :, far].abs().max() < 0.1 * field.abs().max()


def test_truth_is_where_tissue_shrinks(atlas):
    found = shrinking.shrinkage("Slab_L", atlas, percent=30)
    [region] = found.structures
    slab = atlas.labels == 1
    assert region.place[0][slab].float().mean() > 0.95
    assert slab[region.place[0]].float().mean() > 0.6
    assert not found.place(GRID)[0, 24:].any()  # the other side
    assert torch.equal(strength(found, 0).changed(GRID), torch.zeros_like(region.place))


def test_sides_are_parts_with_twins(base, atlas):
    planted = planting.plant(base, planting.shrink("slab", atlas=atlas, percent=30), seed=2)
    person = int(planted.labels.argmax())
    twins = cohorts.twins(planted, person)
    assert twins.parts == ("Slab_L", "Slab_R")
    assert torch.equal(twins.volumes[-1], planted.volumes[person])
    both = planting.plant(base, planting.shrink("slab", atlas=atlas, percent=30), seed=2, draws=1)
    without = both.volumes[2 * person + 1]
    assert (twins.volumes[0] - without).abs().max() < 0.01  # but for the median
    changed = [(volume - twins.volumes[0]).abs()[0] for volume in twins.volumes[1:3]]
    right, left = (float(c[24:].sum() / c.sum()) for c in changed)
    assert right > 0.9
    assert left < 0.1


def test_a_reader_of_one_side_relies_on_that_side(base, atlas):
    class LeftOnly(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, volumes):
            told = self.scale * volumes[:, 0, :24].mean((1, 2, 3))
            return torch.stack([torch.zeros_like(told), told], 1)

    planted = planting.plant(base, planting.shrink("slab", atlas=atlas, percent=40), seed=2)
    table = evaluation.reliance(LeftOnly(), planted).groupby("part")["value"]
    size = table.apply(lambda values: values.abs().mean())
    assert size["Slab_R"] < 0.1 * size["Slab_L"]


# Who gets it


@pytest.mark.parametrize("effect", [planting.lesion(radius_mm=8), planting.tag()])
def test_a_coin_decides_and_twins_differ_in_nothing_else(base, effect):
    once = planting.plant(base, effect, seed=5)
    assert abs(int(once.labels.sum()) - PEOPLE / 2) < 1
    assert torch.equal(once.volumes, planting.plant(base, effect, seed=5).volumes)
    assert not torch.equal(once.labels, planting.plant(base, effect, seed=6).labels)
    other = replace(base, participants=base.participants.assign(group=range(PEOPLE)))
    assert torch.equal(once.labels, planting.plant(other, effect, seed=5).labels)

    more = planting.plant(base, effect, seed=5, draws=2)
    assert torch.equal(more.volumes[::4], once.volumes)
    anew = (more.volumes[::4] != more.volumes[2::4]).flatten(1).any(1)
    assert torch.equal(anew, once.labels == 1)
    assert torch.equal(more.labels[::4], more.labels[2::4])
    assert torch.equal(more.folds(3)[::4], more.folds(3)[2::4])
    twins = more[[4 * i + k for i in range(PEOPLE) for k in (2, 3)]]
    assert torch.equal(twins.labels[::2], once.labels)
    assert torch.equal(twins.labels[::2], 1 - twins.labels[1::2])
    assert twins.participants["participant_id"].nunique() == PEOPLE
    fold_of = twins.folds(3)
    assert torch.equal(fold_of[::2], fold_of[1::2])  # nobody is in training and test
    where = twins.truth.mask | twins.truth.shortcut
    for i in range(PEOPLE):
        a, b = twins.volumes[2 * i : 2 * i + 2]
        with_it = 2 * i + int(twins.labels[2 * i + 1])
        assert not where[4 * i + 1 - with_it].any()
        near = anatomy.widen(where[with_it], voxels=1)
        assert torch.equal(a[~near], b[~near])
        assert (a != b)[where[with_it]].all()


def test_shapes_take_turns_among_those_who_have_it(base):
    effect = planting.lesion(radius_mm=8)
    planted = planting.plant(base, effect, classes=effect.classes[1], seed=0)
    counts = planted.labels.bincount(minlength=5)
    assert counts[0] in (3, 4)
    assert counts[1:].max() == 1
    assert planted.classes == ("healthy", "ball", "cube", "rod", "shell")


def test_a_tag_lies_outside_the_brain(base):
    planted = planting.plant(base, planting.tag(), seed=0)
    has = planted.labels == 1
    assert (base.volumes[has] == 0)[planted.truth.shortcut[has]].float().mean() > 0.9
    assert not planted.truth.mask.any()


# Requests that cannot be met


@pytest.mark.parametrize(
    ("region", "percent", "message"),
    [
        ("Slap", 10, "no region 'Slap'; near it are .'Slab'"),
        ("Xyz", 10, "no region 'Xyz'; it has"),
        ("Air", 10, "only 0% of Air lies in the brain"),
        ("Slab", 0, "percent is above 0 and at most 50, got 0"),
        ("Slab", 90, "percent is above 0 and at most 50, got 90"),
    ],
)
def test_wrong_regions(atlas, region, percent, message):
    with pytest.raises(ValueError, match=message):
        planting.shrink(region, atlas=atlas, percent=percent)


def test_wrong_effects(base, atlas):
    effect = planting.shrink("Slab_L", atlas=atlas)
    coarse = cohorts.simulate("atrophy", 2, grid=grids.mni(8.0), severity=0.0)
    with pytest.raises(ValueError, match=r"into sim-00000: the atlas has .* their grid"):
        planting.plant(coarse, effect)
    narrow = cohorts.simulate("atrophy", 2, grid=grids.mni(4.0, (36, 48, 40)), severity=0.0)
    with pytest.raises(ValueError, match="the tag misses sim-00000: .*field of view"):
        planting.plant(narrow, planting.tag())
    with pytest.raises(ValueError, match="cannot plant the lesion into p0: found no place"):
        planting.plant(base, planting.lesion(radius_mm=60))
    with pytest.raises(ValueError, match="radius_mm above 0"):
        planting.lesion(radius_mm=0)
    with pytest.raises(ValueError, match="has the classes .* this one has .'F', 'M'."):
        planting.plant(base, planting.tag(), classes=("F", "M"))
    small = Atlas(GRID, torch.zeros(GRID.shape, dtype=torch.long), {1: "Dot"})
    small.labels[24, 24, 24] = 1
    with pytest.raises(ValueError, match="Dot cannot shrink so much on voxels of 4 mm"):
        planting.shrink("Dot", atlas=small, percent=50)
