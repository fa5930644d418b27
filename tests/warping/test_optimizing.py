"""Deformations found for one person: where the classifier looks, and nowhere else."""

import pytest
import torch
from torch import nn

from helpers import cohorts, fields, models, warping
from helpers.warping.published import Liu2021

PLACE = "lateral ventricle left"


class ReadsOnePlace(nn.Module):
    """The darker one ventricle, the more of a patient."""

    def __init__(self, place, level):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(10.0))
        self.register_buffer("place", place.float() / place.sum())
        self.level = level

    def forward(self, volumes):
        score = self.gain * (self.level - torch.einsum("scxyz,xyz->s", volumes, self.place))
        return torch.stack([torch.zeros_like(score), score], 1)


@pytest.fixture(scope="module")
def people():
    return cohorts.simulate("atrophy", subjects=12)


@pytest.fixture(scope="module")
def place(people):
    return cohorts.planted_structures("atrophy", people.grid, within=0.7)[PLACE]


@pytest.fixture
def reader(people, place):
    of_class = [people.volumes[people.labels == k][:, :, place].mean() for k in (0, 1)]
    assert of_class[0] > of_class[1]
    return ReadsOnePlace(place, sum(of_class) / 2).eval()


def optimized(reader, volumes, people, *args, **options):
    return warping.optimize(
        reader, volumes, people, *args, **{"progress": False, "steps": 40, **options}
    )


def lead(reader, volumes):
    logits = models.predict(reader, volumes)
    return logits[:, 1] - logits[:, 0]


@pytest.mark.parametrize(("direction", "sign"), warping.DIRECTIONS.items())
def test_changes_what_the_classifier_reads_and_as_far_as_asked(
    reader, people, place, direction, sign
):
    group = people.volumes[people.labels == int(sign < 0)]
    target = lead(reader, people.volumes[people.labels == int(sign > 0)]).mean()
    found = optimized(reader, group, people, direction)
    before, after = (sign * (lead(reader, v) - target) for v in (group, found.volumes))
    asked = before < 0
    assert asked.sum() > len(group) / 2
    assert (after[asked] > before[asked] / 3).all()
    assert after[asked].abs().max() < 0.3 * before[asked].abs().max()
    change = sign * found.log_expansion[asked].mean(0)  # a ventricle that grows is darker
    brain = (people.volumes != 0).all(0)
    assert change[place[None]].mean() > 0.02
    assert change[place[None]].mean() > 5 * change[brain & ~place].abs().mean()
    assert fields.folding_fraction(found.displacement).max() == 0
    assert torch.equal(found.volumes[asked], fields.warp(group, found.displacement)[asked])


def test_who_is_at_the_target_is_left_as_she_is(reader, people):
    healthy = people.volumes[people.labels == 0]
    there = lead(reader, healthy) <= lead(reader, healthy).mean()
    assert 0 < there.sum() < len(healthy)
    found = optimized(reader, healthy, people, steps=3)
    same = (found.volumes == healthy).flatten(1).all(1)
    assert same.tolist() == there.tolist()
    assert not found.displacement[there].any()


def test_nobody_depends_on_who_else_is_asked(reader, people):
    ill = people.volumes[people.labels == 1][:3]
    together = optimized(reader, ill, people, steps=5)
    alone = optimized(reader, ill, people, steps=5, batch_size=1)
    torch.testing.assert_close(together.control, alone.control, rtol=1e-4, atol=1e-5)
    assert together.control.flatten(1).any(1).all()


def test_a_sparse_answer_moves_fewer_places(reader, people):
    ill = people.volumes[people.labels == 1][:2]
    moved = []
    for sparsity in (0.0, 0.8):
        found = optimized(reader, ill, people, sparsity=sparsity, steps=20)
        moved.append(float((found.control.abs() > 1e-3 * found.control.abs().max()).sum()))
    assert 0 < moved[1] < moved[0] / 3


def test_classifiers_stay_as_they_are(reader, people):
    optimized([reader, reader], people.volumes[people.labels == 1][:1], people, steps=2)
    assert float(reader.gain.detach()) == 10.0
    assert reader.gain.requires_grad
    assert reader.gain.grad is None


def test_bad_requests(reader, people):
    ill = people.volumes[people.labels == 1][:1]
    with pytest.raises(ValueError, match="training mode"):
        optimized(ReadsOnePlace(reader.place > 0, reader.level), ill, people)
    with pytest.raises(ValueError, match="subjects of two classes"):
        optimized(reader, ill, people[people.labels == 1])
    with pytest.raises(ValueError, match=r"cohort's shape, \(subject, 1, 48, 56, 48\); got"):
        optimized(reader, ill[..., :-1], people)
    with pytest.raises(ValueError, match="NaN"):
        optimized(reader, ill * torch.nan, people)
    with pytest.raises(ValueError, match="expected a direction of"):
        optimized(reader, ill, people, "cure")
    for options in ({"steps": 0}, {"step_size": 0.0}, {"sparsity": 1.0}, {"blur_voxels": 0.0}):
        with pytest.raises(ValueError, match="expected steps of 1 or more, a step_size above 0"):
            optimized(reader, ill, people, **options)
    with pytest.raises(ValueError, match="expected one brain or more"):
        optimized(reader, ill[:0], people)


def test_simulators_by_name():
    shape = (16, 24, 32)
    for name, kind in (("course", warping.Simulator), ("liu2021", Liu2021)):
        assert type(warping.build(name, shape, seed=2)) is kind
    assert warping.build("course", shape, blur_voxels=1.0).blur_voxels == 1.0
    with pytest.raises(ValueError, match=r"unknown simulator 'liu'; there are \['course', 'first'"):
        warping.build("liu", shape)
