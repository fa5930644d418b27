"""Lessons: brains of which somebody knows what was done to them."""

import pytest
import torch
import torch.nn.functional as F

from helpers import fields, warping
from helpers.warping import potentials
from helpers.warping.lessons import UNTOUCHED, Lessons

SHAPE = (40, 48, 56)


def reads_nothing(volumes):
    return torch.zeros(len(volumes), 1)


@pytest.fixture
def lessons():
    simulator = warping.Simulator(SHAPE)
    axes = [torch.arange(n) - (n - 1) / 2 for n in simulator.common.shape]
    squared = sum(a.square() for a in torch.meshgrid(*axes, indexing="ij"))
    simulator.common = 3 * torch.exp(-squared / 3)
    return Lessons(simulator, reads_nothing, torch.zeros(1, 1, *SHAPE), torch.zeros(2, 1))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_doses_are_one_on_average_and_nothing_in_half_of_the_places(lessons):
    doses = lessons.doses(400, seeded())
    untouched = ~doses.flatten(1).any(1)
    assert float(untouched.float().mean()) == pytest.approx(UNTOUCHED, abs=0.06)
    touched = doses[~untouched]
    assert float(touched.mean()) == pytest.approx(1, abs=0.1)
    assert float((touched == 0).float().mean()) == pytest.approx(0.5, abs=0.05)
    assert doses.min() == 0
    assert 3.5 < doses.max() <= 4


def test_neighbours_have_much_the_same_dose_and_distant_places_have_not(lessons):
    doses = lessons.doses(400, seeded())[:, :, 6, 7]
    together = torch.corrcoef(doses.T)
    assert together[2, 3] > 0.6
    assert abs(together[2, 7]) < 0.2


def test_an_answer_that_undoes_or_fills_up_misses_nothing(lessons):
    doses = lessons.doses(3, seeded())
    removes, injects = -torch.ones(3), torch.ones(3)
    assert lessons.missed(-lessons.common * doses, doses, removes).max() < 1e-9
    assert lessons.missed(lessons.common * (1 - doses), doses, injects).max() < 1e-9
    for sign in (removes, injects):
        assert lessons.missed(lessons.common * doses, doses, sign)[doses.any()].max() > 0.5


def test_to_do_nothing_misses_all(lessons):
    doses = lessons.doses(300, seeded(1))
    nothing = torch.zeros_like(doses)
    missed = lessons.missed(nothing, doses, -torch.ones(300))
    assert float(missed.mean()) == pytest.approx(1, abs=0.15)
    assert (missed[~doses.flatten(1).any(1)] == 0).all()


def test_what_is_injected_can_be_removed_again(lessons):
    volumes = fields.gaussian_blur(torch.rand(2, 1, *SHAPE, generator=seeded()), 2.0)
    volumes[..., :6] = 0
    doses = lessons.doses(2, seeded(3))
    ill = lessons.inject(volumes, doses, seeded())
    back = fields.warp(
        ill, potentials.displacement(-lessons.common * doses, SHAPE, lessons.blur_voxels)
    )
    inside = (..., slice(4, -4), slice(4, -4), slice(10, -4))
    changed, left = ((v - volumes)[inside].square().mean().sqrt() for v in (ill, back))
    smooth = F.avg_pool3d(back - volumes, 3, stride=1)[inside].square().mean().sqrt()
    assert smooth < 0.3 * changed
    assert left < changed
    assert not ill[..., 0].any()  # air stays air


def test_who_is_at_the_target_costs_nothing_and_nobody_is_asked_the_wrong_way(monkeypatch):
    """Three real people: healthy and halfway, healthy and beyond, ill and at the target."""
    simulator = warping.Simulator(SHAPE)
    simulator.common = torch.ones_like(simulator.common)
    volumes = torch.rand(3, 1, *SHAPE, generator=seeded())
    odds = torch.tensor([[0.0], [0.9], [-0.5]])
    asked = []

    def potential(volumes, direction, answer=simulator.potential):
        asked.extend(direction)
        return answer(volumes, direction)

    monkeypatch.setattr(simulator, "potential", potential)
    lessons = Lessons(simulator, lambda _: odds, volumes[:2], torch.tensor([[-0.5], [0.5]]))
    terms, after = lessons(simulator, volumes, torch.tensor([0, 0, 1]), seeded())
    torch.testing.assert_close(terms["logit"], torch.tensor([0.5, 0.0, 0.0]))
    assert torch.equal(after, odds)
    assert asked[-3:] == ["inject", "inject", "remove"]
    assert asked[:-3].count("remove") == 3 * asked[:-3].count("inject")
    assert len(terms["undo"]) == len(asked) - 3
