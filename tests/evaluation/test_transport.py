"""The earth mover's distance in cases whose answer a ruler gives."""

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance_nd

from helpers import evaluation
from helpers.grids import Grid

GRID = Grid((16, 20, 24), np.diag([4.0, 4.0, 4.0, 1.0]))
SHAPE = (1, 1, *GRID.shape)
EVERYWHERE = torch.ones(SHAPE, dtype=torch.bool)


def at(*voxels):
    found = torch.zeros(SHAPE)
    for x, y, z, mass in voxels:
        found[0, 0, x, y, z] = mass
    return found


def distance(maps, truth, within=EVERYWHERE, **options):
    table = evaluation.earth_movers_distance(maps, truth, within=within, grid=GRID, **options)
    return table["distance_mm"][0]


def test_one_point_travels_its_way():
    assert distance(at((1, 2, 3, 5.0)), at((1, 2, 3, 0.1))) == pytest.approx(0, abs=1e-6)
    assert distance(at((1, 2, 3, 5.0)), at((4, 6, 3, 1.0))) == pytest.approx(4 * 5, abs=1e-6)
    assert distance(at((1, 2, 3, -5.0)), at((1, 2, 23, 1.0))) == pytest.approx(80, abs=1e-6)


def test_the_cheapest_plan_is_taken():
    two = at((0, 0, 0, 1.0), (0, 0, 20, 1.0))
    crossed = at((0, 0, 21, 1.0), (0, 0, 1, 1.0))
    assert distance(two, crossed) == pytest.approx(4, abs=1e-6)
    unequal = at((0, 0, 0, 3.0), (0, 0, 20, 1.0))  # a quarter has to travel nothing
    assert distance(unequal, at((0, 0, 20, 1.0))) == pytest.approx(0.75 * 80, abs=1e-6)


def test_the_distance_is_scipys():
    generator = torch.Generator().manual_seed(2)
    maps = torch.rand(SHAPE, generator=generator) ** 20
    truth = at((3, 4, 5, 1.0), (12, 15, 20, 2.0), (2, 17, 9, 0.5))
    voxels = GRID.centers_mm().movedim(0, -1).flatten(0, 2).numpy()
    strong, goal = maps.flatten() > 0.5, truth.flatten() > 0
    by_scipy = wasserstein_distance_nd(
        voxels[strong], voxels[goal], maps.flatten()[strong].numpy(), truth.flatten()[goal].numpy()
    )
    maps[maps <= 0.5] = 0
    assert distance(maps, truth, block_mm=4.0) == pytest.approx(by_scipy, rel=1e-4)


def test_blocks_change_little():
    generator = torch.Generator().manual_seed(1)
    maps = torch.rand(SHAPE, generator=generator) ** 8
    truth = at((3, 4, 5, 1.0), (12, 15, 20, 2.0))
    exact = distance(maps, truth, block_mm=8.0)
    assert distance(maps, truth) == pytest.approx(exact, rel=0.02)


def test_air_never_counts_and_an_empty_map_is_chance():
    brain = torch.zeros_like(EVERYWHERE)
    brain[..., 4:12, 4:16, 4:20] = True
    truth = at((6, 6, 6, 1.0))
    inside = at((6, 6, 10, 1.0))
    with_air = torch.where(brain, inside, 9.0)
    assert distance(with_air, truth, brain) == distance(inside, truth, brain)
    with pytest.warns(UserWarning, match="zero"):
        table = evaluation.earth_movers_distance(torch.zeros(SHAPE), truth, within=brain, grid=GRID)
    assert table["distance_mm"][0] == table["chance_mm"][0] > 16


def test_bad_input():
    small = torch.ones(1, 1, 2, 2, 2)
    with pytest.raises(ValueError, match="maps and truth need one shape"):
        distance(small, small, small > 0)
    with pytest.raises(ValueError, match="the truth of subject 0 must be 0 or above"):
        distance(torch.ones(SHAPE), -at((0, 0, 0, 1.0)))
    with pytest.raises(ValueError, match="the truth of subject 0 must be 0 or above"):
        distance(torch.ones(SHAPE), torch.zeros(SHAPE))
    with pytest.raises(ValueError, match="NaN"):
        distance(torch.full(SHAPE, torch.nan), at((0, 0, 0, 1.0)))
    with pytest.raises(ValueError, match="a voxel's side or more, got 2"):
        distance(torch.ones(SHAPE), at((0, 0, 0, 1.0)), block_mm=2.0)
