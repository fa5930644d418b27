"""A planted shape is recognised wherever and however it lies; none has an advantage by count."""

import pytest
import torch

from helpers import grids
from helpers.cohorts.shapes import SHAPES, Body
from helpers.evaluation import matching
from helpers.grids import Grid

GRID = Grid((24, 26, 28), grids.mni(4.0).affine)
MASK = torch.ones(1, *GRID.shape, dtype=torch.bool)


def planted(shape, seed, noise=0.0):
    generator = torch.Generator().manual_seed(seed)
    voxel = torch.tensor([12, 13, 14]) + 4 * torch.rand(3, generator=generator) - 2
    center = torch.from_numpy(GRID.millimetres(voxel)).float()
    body = Body(shape, center, 360 * torch.rand(3, generator=generator), 15.0, 1.0)
    picture = body.occupancy(GRID)[None]
    return picture + noise * torch.randn(picture.shape, generator=generator), voxel


def best(table):
    return table.loc[table["best"]].iloc[0]


@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("seed", range(4))
def test_a_shape_at_a_random_place_and_turn_is_recognised(shape, seed):
    picture, voxel = planted(shape, seed, noise=0.1)
    found = best(matching.match_shapes(picture, GRID, MASK))
    assert found["shape"] == shape
    assert found["correlation"] > 0.75
    assert (torch.tensor([found["x"], found["y"], found["z"]]) - voxel).abs().max() < 1.5


def test_dark_shapes_do_not_match():
    picture, _ = planted("ball", 0)
    assert best(matching.match_shapes(-picture, GRID, MASK))["correlation"] < 0.6


@pytest.mark.usefixtures("unchecked")
def test_bad_input():
    with pytest.raises(ValueError, match="image 0 does not deviate inside the mask"):
        matching.match_shapes(torch.zeros(1, 1, *GRID.shape), GRID, MASK)
    with pytest.raises(ValueError, match=r"must lie on the grid \(24, 26, 28\)"):
        matching.match_shapes(torch.zeros(1, 1, 8, 8, 8), GRID, MASK)


def test_a_cube_around_a_voxel_at_the_border_is_filled_with_zeros():
    picture = torch.arange(4 * 5 * 6).float().view(1, 4, 5, 6) + 1
    cut = matching.around(picture, (0, 2, 5), reach=1)
    assert cut.shape == (1, 3, 3, 3)
    assert torch.equal(cut[:, 1:, :, :2], picture[:, :2, 1:4, 4:])
    assert (cut[:, 0] == 0).all()
    assert (cut[..., 2] == 0).all()


def test_specimens_are_the_shapes_in_their_order():
    small, shapes = matching.specimens(GRID, reach=9)
    found = matching.match_shapes(shapes, small, torch.ones(1, *small.shape, dtype=torch.bool))
    assert found.loc[found["best"], "shape"].tolist() == list(SHAPES)
