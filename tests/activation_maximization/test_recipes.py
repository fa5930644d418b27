"""The recipe: where it looks, that it is what it says, and that the network chooses the start."""

import pytest
import torch

from helpers import anatomy, fields, grids, models
from helpers.activation_maximization import activation, class_margin, recipes, transforms

MOVES = [transforms.rotation(180), transforms.jitter(2)]


@pytest.fixture(scope="module")
def brain():
    return anatomy.template(grids.mni(8.0))


@pytest.fixture(scope="module")
def model(brain):
    return models.build("course", 5, brain.grid.shape, seed=1).eval()


def test_a_place_is_inside_the_brain_and_wider_than_any_lesion(brain):
    places = torch.cat([recipes.one_place(brain, seed=seed) for seed in range(6)])
    assert torch.equal(places, places * brain.mask)
    volume_ml = places.flatten(1).sum(1) * brain.grid.voxel_volume_mm3 / 1000
    assert (volume_ml > 3 * 14.1).all()  # a lesion of the cohort has 14 ml
    assert (volume_ml <= 4 / 3 * torch.pi * 3.6**3).all()
    assert len({tuple(place.nonzero().float().mean(0).tolist()) for place in places}) > 1
    torch.testing.assert_close(places[2:3], recipes.one_place(brain, seed=2))


def test_the_start_that_excites_the_network_most_stays(brain, model, monkeypatch):
    every = []
    single = recipes._only
    monkeypatch.setattr(recipes, "_only", lambda f, best: every.append(f) or single(f, best))
    kept = recipes.readable(model, class_margin(2), brain, seed=3, starts=3, steps=3, snapshots=2)
    (found,) = every
    moved = recipes.moved_activation(model, class_margin(2), found.volume, MOVES, seed=3)
    best = int(moved.argmax())
    assert moved[best] > moved.min()
    assert torch.equal(kept.volume, found.volume[best : best + 1])
    torch.testing.assert_close(kept.image().detach(), kept.volume)
    assert kept.history["image"].unique().tolist() == [0]
    ours = found.history[found.history["image"] == best]
    assert kept.history["objective"].tolist() == ours["objective"].tolist()
    assert sorted(kept.snapshots) == [0, 3]


def test_it_stays_in_its_place_and_in_the_scanner_s_range(brain, model):
    found = recipes.readable(model, class_margin(1), brain, seed=5, starts=1, steps=4, snapshots=2)
    place = recipes.one_place(brain, seed=5)
    change = (found.volume - brain.t1).abs()
    assert change[place == 0].max() < 1e-6
    assert (found.volume - found.snapshots[0]).abs().max() > 0.01
    assert found.volume.min() >= 0
    assert (found.volume - brain.t1.clamp_min(recipes.BRIGHTEST)).max() < 1e-5
    again = recipes.readable(model, class_margin(1), brain, seed=5, starts=1, steps=4)
    assert torch.equal(found.volume, again.volume)


def test_activation_over_no_move_is_the_activation(brain, model):
    volumes = brain.t1[None]
    torch.testing.assert_close(
        recipes.moved_activation(model, class_margin(1), volumes, [], times=2),
        activation(model, class_margin(1), volumes),
    )


def test_warped_moves_the_template_and_nothing_else(brain, model):
    found = recipes.warped(model, class_margin(2), brain, points=(4, 5, 4), steps=4, seed=1)
    field = found.image.displacement().detach()
    assert field.abs().max() > 0.01
    assert (fields.jacobian_determinant(field) > 0).all()
    torch.testing.assert_close(found.volume, fields.warp(brain.t1[None], field))
    assert list(found.history) == ["step", "image", "objective", "roughness", "total"]
    again = recipes.warped(model, class_margin(2), brain, points=(4, 5, 4), steps=4, seed=1)
    assert torch.equal(found.volume, again.volume)


def test_no_start(brain, model):
    with pytest.raises(ValueError, match="one start or more, got 0"):
        recipes.readable(model, class_margin(1), brain, starts=0)
