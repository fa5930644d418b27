"""Oracles: numpy's padding, scipy's affine_transform; gradients; bad input."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from helpers import anatomy, fields, grids, runtime
from helpers.activation_maximization import transforms
from helpers.cohorts import healthy

SHAPE = (9, 10, 12)
ALL = [transforms.jitter(2), transforms.rotation(20)]


@pytest.fixture
def volumes():
    return torch.rand(3, 1, *SHAPE, generator=torch.Generator().manual_seed(0))


def pulled(volume, matrix):
    middle = (np.array(SHAPE) - 1) / 2
    return ndimage.affine_transform(
        volume, matrix, middle - matrix @ middle, order=1, mode="nearest"
    )


def test_jitter_shifts_by_whole_voxels_and_the_border_continues(volumes):
    moved = transforms.jitter(2)(volumes, runtime.generator(5))
    shifts = [range(-2, 3)] * 3
    grid = np.stack(np.meshgrid(*shifts, indexing="ij"), -1).reshape(-1, 3)
    found = []
    for before, after in zip(volumes[:, 0].numpy(), moved[:, 0].numpy(), strict=True):
        padded = np.pad(before, 2, mode="edge")
        same = [
            tuple(s)
            for s in grid
            if (
                padded[tuple(slice(2 + a, 2 + a + n) for a, n in zip(s, SHAPE, strict=True))]
                == after
            ).all()
        ]
        assert len(same) == 1
        found += same
    assert len(set(found)) == 3  # every image draws its own


def test_rotation_is_scipys(volumes):
    drawn = np.deg2rad(20) * (2 * torch.rand(3, 3, generator=runtime.generator(7)).numpy() - 1)
    moved = transforms.rotation(20)(volumes, runtime.generator(7))
    for before, after, angles in zip(volumes, moved, drawn, strict=True):
        matrix = Rotation.from_euler("xyz", angles).as_matrix()
        np.testing.assert_allclose(after[0], pulled(before[0].numpy(), matrix), atol=1e-4)


@pytest.mark.parametrize("none", [transforms.jitter(0), transforms.rotation(0)])
def test_a_move_of_nothing_changes_nothing(volumes, none):
    torch.testing.assert_close(none(volumes, runtime.generator(0)), volumes)


@pytest.mark.parametrize("transform", ALL)
def test_seed_and_gradient(volumes, transform):
    first, again, other = (transform(volumes, runtime.generator(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    small = volumes[:1, :, :3, :4, :5].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: transform(v, runtime.generator(1)), small)


def test_people_are_those_of_the_cohorts():
    grid = grids.mni(8.0)
    brain = anatomy.template(grid).t1[None].repeat(2, 1, 1, 1, 1)
    bend = transforms.people(grid, subjects=1, seed=4, noise=0.0)
    person = healthy.draw(runtime.generator(4, 0))
    oracle = fields.warp(brain, healthy.displacement(person, grid).repeat(2, 1, 1, 1, 1))
    bent = bend(brain, runtime.generator(0))
    torch.testing.assert_close(bent, oracle)
    assert (bent - brain).abs().max() > 0.1
    many = transforms.people(grid, subjects=5, seed=4, noise=0.1)(brain, runtime.generator(2))
    assert not torch.equal(many[0], many[1])
    noise = transforms.people(grid, subjects=1, seed=4, noise=0.1)(brain, runtime.generator(0))
    inside = oracle > 0.05
    assert (noise - oracle)[inside].std() == pytest.approx(0.1, rel=0.1)
    assert (noise - oracle)[~inside].abs().max() == 0
    with pytest.raises(ValueError, match="one person or more, got 0"):
        transforms.people(grid, subjects=0)


def test_larger_than_the_volume(volumes):
    with pytest.raises(
        ValueError, match=r"jitter of 9 voxels is too large for volumes \(9, 10, 12\)"
    ):
        transforms.jitter(9)(volumes, runtime.generator(0))
    with pytest.raises(ValueError, match="0 to 180 degrees, got 200"):
        transforms.rotation(200)
    with pytest.raises(ValueError, match="0 or more voxels, got -1"):
        transforms.jitter(-1)
