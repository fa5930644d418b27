"""Closed forms and numpy's correlation."""

import numpy as np
import pytest
import torch

from helpers.evaluation import quantities

SHAPE = (8, 10, 12)


def waves(*frequencies):
    places = torch.arange(8).view(1, 1, 8, 1, 1)
    return sum(a * torch.cos(2 * torch.pi * f * places) for f, a in frequencies).expand(
        1, 1, *SHAPE
    )


def test_share_of_fine_energy_leaves_the_mean_out():
    mixture = 5 + waves((0.125, 1.0), (0.375, 2.0))
    assert quantities.fine_share(mixture).item() == pytest.approx(4 / 5, rel=1e-4)
    assert quantities.fine_share(mixture, above=0.4).item() == pytest.approx(0, abs=1e-6)


def test_mean_correlation_and_nearest_subject_are_numpys_correlation():
    generator = torch.Generator().manual_seed(0)
    subjects = torch.randn(5, 1, *SHAPE, generator=generator)
    mask = torch.rand(1, *SHAPE, generator=generator) < 0.5
    volumes = subjects[[3, 1]] + 0.5 * torch.randn(2, 1, *SHAPE, generator=generator)
    oracle = np.corrcoef(volumes[:, mask].numpy(), subjects[:, mask].numpy())
    nearest = quantities.nearest_subject(volumes, subjects, mask)
    assert nearest["subject"].tolist() == [3, 1]
    assert nearest["correlation"].tolist() == pytest.approx([oracle[0, 5], oracle[1, 3]], rel=1e-4)
    assert quantities.mean_correlation(volumes, mask) == pytest.approx(oracle[0, 1], rel=1e-3)
    assert quantities.mean_correlation(volumes[[0, 0, 0]], mask) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="two or more volumes, got 1"):
        quantities.mean_correlation(volumes[:1], mask)
