"""Closed forms."""

import pytest
import torch

from helpers.warping import STRENGTHS, losses

SHAPE = (5, 6, 8)


def test_the_logit_should_shift_by_the_margin_in_the_direction_asked_for():
    before = torch.tensor([0.0, 0.0, 2.0, 2.0])
    after = torch.tensor([0.7, 1.5, 1.8, 2.5])
    sign = torch.tensor([1.0, 1.0, -1.0, -1.0])
    loss = losses.logit_shift(before, after, sign, margin=1.0)
    torch.testing.assert_close(loss, torch.tensor([0.3, 0.0, 0.8, 1.5]))


def test_smoothness_is_the_mean_squared_slope():
    x, y, _ = torch.meshgrid(*[torch.arange(float(n)) for n in SHAPE], indexing="ij")
    velocity = torch.zeros(2, 3, *SHAPE)
    velocity[1, 0] = 0.5 * x - 2 * y
    expected = torch.tensor([0.0, (0.5**2 + 2**2) / 3])  # one of the three channels slopes
    torch.testing.assert_close(losses.smoothness(velocity), expected)
    torch.testing.assert_close(losses.smoothness(velocity + 7), expected)


def test_cycle_and_identity_are_mean_squares():
    volumes = torch.rand(2, 1, *SHAPE)
    shifted = volumes + torch.tensor([0.0, 0.1]).view(2, 1, 1, 1, 1)
    torch.testing.assert_close(losses.cycle(volumes, shifted), torch.tensor([0.0, 0.01]))
    motion = torch.zeros(2, 3, *SHAPE)
    motion[1] = torch.tensor([1.0, 2.0, 2.0]).view(3, 1, 1, 1)
    torch.testing.assert_close(losses.identity(motion), torch.tensor([0.0, 9.0]))


def test_strengths():
    assert losses.chosen_strengths({}) == STRENGTHS
    assert losses.chosen_strengths({"cycle": 0.0})["cycle"] == 0
    for bad in ({"cylce": 1.0}, {"cycle": -1.0}, {"cycle": float("nan")}):
        with pytest.raises(ValueError, match="expected strengths of 0 or above for some of"):
            losses.chosen_strengths(bad)
