"""Oracles: numpy's spectrum, closed forms."""

import numpy as np
import pytest
import torch

from helpers.activation_maximization import regularizers
from helpers.activation_maximization.regularizers import Penalty, energy_above

SHAPE = (9, 10, 12)


@pytest.fixture
def pictures():
    return torch.randn(2, 1, *SHAPE, generator=torch.Generator().manual_seed(0))


def test_norms(pictures):
    flat = pictures.numpy().reshape(2, -1)
    np.testing.assert_allclose(
        regularizers.l2(1.0).function(pictures), (flat**2).mean(1), rtol=1e-5
    )
    np.testing.assert_allclose(
        regularizers.alpha_norm(1.0, alpha=4).function(pictures), (flat**4).mean(1), rtol=1e-5
    )


def test_steps_of_a_ramp_and_of_an_edge():
    _, y, z = SHAPE
    ramp = 2 * torch.arange(y).float().view(1, 1, 1, y, 1).expand(1, 1, *SHAPE)
    edge = (torch.arange(z) < 5).float().view(1, 1, 1, 1, z).expand(1, 1, *SHAPE)
    variation, rough = regularizers.total_variation(1.0), regularizers.roughness(1.0)
    assert variation.function(ramp).item() == pytest.approx(2 * (y - 1) / y)
    assert rough.function(ramp).item() == pytest.approx(4 * (y - 1) / y)
    assert variation.function(3 * edge).item() == pytest.approx(3 / z)
    assert rough.function(3 * edge).item() == pytest.approx(9 / z)


def test_energy_above_a_frequency_is_numpys(pictures):
    radius = np.sqrt(sum(f**2 for f in np.meshgrid(*map(np.fft.fftfreq, SHAPE), indexing="ij")))
    power = np.abs(np.fft.fftn(pictures.numpy(), axes=(2, 3, 4), norm="ortho")) ** 2
    oracle = (power * (radius > 0.29)).sum((1, 2, 3, 4)) / np.prod(SHAPE)
    np.testing.assert_allclose(energy_above(pictures, 0.29), oracle, rtol=1e-4)
    wave = torch.cos(torch.pi * torch.arange(12) / 2).expand(1, 1, *SHAPE)  # 0.25 a voxel
    penalty = regularizers.high_frequencies(1.0, above=0.2)
    assert penalty.function(wave).item() == pytest.approx(0.5, rel=1e-4)
    assert regularizers.high_frequencies(1.0, above=0.3).function(wave).item() < 1e-6


@pytest.mark.parametrize(
    "make",
    [
        regularizers.l2,
        regularizers.alpha_norm,
        regularizers.total_variation,
        regularizers.roughness,
        regularizers.high_frequencies,
        lambda strength: Penalty("own", strength, lambda volumes: volumes.mean((1, 2, 3, 4))),
    ],
)
@pytest.mark.parametrize("strength", [-1.0, float("nan"), float("inf")])
def test_strengths_that_make_no_sense(make, strength):
    with pytest.raises(ValueError, match=f"needs a strength of 0 or above, got {strength}"):
        make(strength)


def test_options_that_make_no_sense():
    for blur in (regularizers.blur_gradient, regularizers.blur_image):
        with pytest.raises(ValueError, match="needs sigma_voxels above 0, got -1"):
            blur(-1.0)
    with pytest.raises(ValueError, match="alpha must be 1 or above"):
        regularizers.alpha_norm(1.0, alpha=0.5)
    with pytest.raises(ValueError, match="between 0 and 0.87"):
        regularizers.high_frequencies(1.0, above=0.9)
