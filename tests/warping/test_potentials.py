"""What a bump of the potential does to tissue, against closed forms."""

import pytest
import torch

from helpers import fields
from helpers.warping import potentials

SHAPE = (24, 32, 40)
BLUR = 1.5


def bump(size, sigma_points=1.2, shape=SHAPE):
    """Return a Gaussian in the middle of the control points, which are as many as the shape has."""
    points = potentials.control_points(shape)
    axes = [torch.arange(n) - (n - 1) / 2 for n in points]
    squared = sum(a.square() for a in torch.meshgrid(*axes, indexing="ij"))
    return size * torch.exp(-squared / (2 * sigma_points**2))[None]


def test_a_bump_grows_tissue_in_its_middle_and_a_dent_shrinks_it():
    middle = (0, 0, *(n // 2 for n in SHAPE))
    for sign in (1, -1):
        found = fields.log_expansion(potentials.displacement(bump(sign * 3.0), SHAPE, BLUR))
        assert sign * found[middle] > 0.2
        assert float(sign * found[middle]) == pytest.approx(float(found.abs().max()))


def test_what_one_place_gains_its_surroundings_give():
    """By the divergence theorem the expansion of a bump far from the border sums to nothing."""
    found = potentials.expansion(bump(3.0, sigma_points=0.8, shape=(40, 48, 56)), BLUR)
    assert abs(float(found.sum())) < 0.02 * float(found.abs().sum())


def test_the_expansion_of_a_quadratic_is_its_closed_form():
    """Of a potential of -c |p|^2, with p in every second voxel, the slope is -2 c p."""
    points = potentials.control_points(SHAPE)
    half = [2 * n for n in points]
    axes = [torch.linspace(0, h - 1, n) for n, h in zip(points, half, strict=True)]
    squared = sum(a.square() for a in torch.meshgrid(*axes, indexing="ij"))
    found = potentials.expansion(-0.01 * squared[None], 0.5)
    inside = found[(0, *(slice(4, -4),) * 3)]
    # Linear interpolation puts the curvature into kinks at the control points; its mean stays.
    assert float(inside.mean()) == pytest.approx(6 * 0.01, rel=0.1)


def test_the_expansion_is_what_the_log_expansion_begins_with():
    small = bump(0.02)
    coarse = potentials.expansion(small, BLUR)
    whole = fields.log_expansion(potentials.displacement(small, SHAPE, BLUR))[:, 0]
    fine = torch.nn.functional.interpolate(
        coarse[None], SHAPE, mode="trilinear", align_corners=True
    )[0]
    inside = (0, *(slice(4, -4),) * 3)
    correlation = torch.corrcoef(torch.stack([whole[inside].flatten(), fine[inside].flatten()]))
    assert correlation[0, 1] > 0.99
    assert float(whole[inside].std() / fine[inside].std()) == pytest.approx(1, abs=0.1)
    assert torch.equal(potentials.expansion(2 * small, BLUR), 2 * coarse)


def test_minus_the_potential_is_the_way_back_and_nothing_folds():
    there, back = (potentials.displacement(bump(size), SHAPE, BLUR) for size in (6.0, -6.0))
    assert there.abs().max() > 1
    assert fields.compose(there, back).abs().max() < 0.15
    for size in (6.0, 30.0, -30.0):
        steep = potentials.displacement(bump(size), SHAPE, BLUR)
        assert fields.folding_fraction(steep).max() == 0


def test_odd_shapes_are_the_padded_ones_cropped():
    odd = (21, 30, 35)
    assert potentials.padded(odd) == SHAPE
    whole = potentials.displacement(bump(3.0), SHAPE, BLUR)
    part = potentials.displacement(bump(3.0), odd, BLUR)
    assert torch.equal(part, whole[(..., *(slice(n) for n in odd))])
    volumes = torch.rand(2, 1, *odd, generator=torch.Generator().manual_seed(0))
    padded = potentials.pad(volumes)
    assert tuple(padded.shape[2:]) == SHAPE
    assert torch.equal(padded[(..., *(slice(n) for n in odd))], volumes)
    assert torch.equal(padded[:, :, 21:, :30, :35], volumes[:, :, 20:].expand(-1, -1, 3, -1, -1))
