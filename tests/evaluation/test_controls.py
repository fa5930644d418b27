"""What a fair control must keep, on the template's brain with air around it."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from helpers import anatomy, evaluation

SEEDS = range(30)
SHARE = 0.05  # of the brain: the strongest area that is compared
BRAIN = anatomy.template().mask[:, 2:, :, 5:]  # 46x56x43: a swapped axis would show
SHAPE = tuple(BRAIN.shape[1:])


def smooth(seed, width):
    noise = np.random.default_rng(seed).normal(size=SHAPE)
    return torch.from_numpy(np.abs(ndimage.gaussian_filter(noise, width)))[None]


def ball(*center, radius=4.0):
    away = np.indices(SHAPE) - np.reshape(center, (3, 1, 1, 1))
    return torch.from_numpy(np.exp(-((away / radius) ** 2).sum(0)))[None]


MAPS = {
    "one clump": ball(14, 36, 20),
    "a clump in the middle": ball(21.5, 27, 19),
    "left and right alike": ball(13, 26, 14) + ball(30, 26, 14),  # as both hippocampi
    "the midplane": 24 - (torch.arange(46) - 21.5).abs().view(1, 46, 1, 1).expand(1, *SHAPE),
    "fine": smooth(1, 0.8),
    "coarse": smooth(2, 3.0),
}


# Share of the contacts between the strongest voxels that the mean control keeps, at least.
CONTACTS = dict.fromkeys(MAPS, 0.85) | {"fine": 0.65}  # clumps of five voxels


@pytest.fixture(scope="module", params=MAPS)
def controls(request):
    """Return a map's name, the map, zero in air, and its control of every seed."""
    values = (MAPS[request.param].float() * BRAIN)[None]
    return (
        request.param,
        values,
        [evaluation.elsewhere(values, within=BRAIN[None], seed=seed) for seed in SEEDS],
    )


def strongest(values):
    inside = values[0][BRAIN]
    return ((values[0] >= inside.quantile(1 - SHARE)) & BRAIN)[0].numpy()


def touching(area):
    """Count the pairs of face neighbours that both belong to an area."""
    return sum((np.delete(area, -1, axis) & np.delete(area, 0, axis)).sum() for axis in range(3))


def test_the_same_values_inside_the_brain_and_none_from_the_air(controls):
    _, values, found = controls
    shouting = torch.where(BRAIN, values, 1e6)
    for seed, control in zip(SEEDS, found, strict=True):
        assert torch.equal(control[0][BRAIN].sort().values, values[0][BRAIN].sort().values)
        assert (control[0][~BRAIN] == 0).all()
        loud = evaluation.elsewhere(shouting, within=BRAIN[None], seed=seed)
        assert torch.equal(loud[0][BRAIN], control[0][BRAIN])


def test_it_is_elsewhere(controls):
    """By chance, 5 % of the strongest area would lie in 5 % of the brain."""
    _, values, found = controls
    area = strongest(values)
    shared = [(strongest(control) & area).sum() / area.sum() for control in found]
    assert np.mean(shared) < 0.06
    assert np.max(shared) < 0.2


def test_clumps_stay_clumps(controls):
    name, values, found = controls
    area = strongest(values)
    kept = [touching(strongest(control)) / touching(area) for control in found]
    assert np.mean(kept) > CONTACTS[name]
    assert np.min(kept) > CONTACTS[name] - 0.1
    # Scattered, as a roll through the air leaves them, the voxels lose nearly all neighbours.
    scattered = torch.zeros_like(values)
    scattered[0][BRAIN] = values[0][BRAIN][torch.randperm(int(BRAIN.sum()))]
    assert touching(strongest(scattered)) < 0.2 * touching(area)


def test_every_voxel_moves_along_two_lines_and_stays_at_its_height():
    """Each voxel carries its own number, so the control says where it came from."""
    number = torch.arange(BRAIN.numel(), dtype=torch.float).view(1, *BRAIN.shape)
    here = np.argwhere(BRAIN[0].numpy()).T
    for seed in SEEDS:
        control = evaluation.elsewhere(number, within=BRAIN[None], seed=seed)
        there = np.stack(np.unravel_index(control[0][BRAIN].long().numpy(), SHAPE))
        steps = np.abs(there - here)
        assert (steps[2] == 0).all()
        assert (steps[:2].sum(0) == 0).mean() < 0.001  # where both lines have one voxel
        assert np.median(steps[0]) > 0.2 * np.median(BRAIN.sum(1)[BRAIN.any(1)])
        assert np.median(steps[1]) > 0.2 * np.median(BRAIN.sum(2)[BRAIN.any(2)])


def test_subjects_have_their_own_brains_and_controls():
    values = MAPS["coarse"].float().expand(2, *BRAIN.shape)
    within = torch.stack([BRAIN, BRAIN.roll(2, dims=3)])
    both = evaluation.elsewhere(values, within=within, seed=3)
    alone = evaluation.elsewhere(values[:1], within=within[:1], seed=3)
    assert torch.equal(both[:1], alone)
    for control, mask, own in zip(both, within, values, strict=True):
        assert torch.equal(control[mask].sort().values, own[mask].sort().values)
    assert not torch.equal(evaluation.elsewhere(values, within=BRAIN[None])[0], both[0])
    same = evaluation.elsewhere(values, within=BRAIN[None])
    assert not torch.equal(same[0], same[1])


@pytest.mark.usefixtures("unchecked")
def test_bad_input():
    values = MAPS["fine"].float()[None]
    with pytest.raises(ValueError, match="hold NaN"):
        evaluation.elsewhere(values * float("nan"), within=BRAIN[None])
    with pytest.raises(ValueError, match="within must have the maps' shape"):
        evaluation.elsewhere(values, within=BRAIN[None, ..., 1:])
    with pytest.raises(ValueError, match="of within are empty"):
        evaluation.elsewhere(values, within=BRAIN[None] & False)
