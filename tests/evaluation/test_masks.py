"""Oracles: scikit-learn's F1 score, which is Dice, and NumPy's sorting."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from helpers import evaluation

SHAPE = (2, 1, 6, 7, 8)


@pytest.fixture
def maps():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


def test_strongest_are_the_largest_absolute_values(maps):
    area = evaluation.strongest(maps, 0.1)
    for values, chosen in zip(maps, area, strict=True):
        expected = np.sort(np.argsort(values.abs().flatten().numpy())[-34:])  # 10 % of 336
        np.testing.assert_array_equal(np.flatnonzero(chosen), expected)


def test_strongest_of_the_voxels_that_count(maps):
    within = torch.zeros(SHAPE, dtype=torch.bool)
    within[:, :, :2] = True
    area = evaluation.strongest(maps, 0.25, within=within[:1])
    assert (area & ~within).sum() == 0
    assert area.flatten(1).sum(1).tolist() == [28, 28]  # a quarter of 2x7x8
    assert evaluation.strongest(maps, 1e-9).flatten(1).sum(1).tolist() == [1, 1]
    assert torch.equal(evaluation.strongest(maps, 1.0, within=within), within)


def test_masks_in_any_order_of_memory(maps):
    within = (maps[:1] > 0).permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0)
    expected = evaluation.strongest(maps, 0.1, within=within.contiguous())
    assert torch.equal(evaluation.strongest(maps, 0.1, within=within), expected)


def test_equals_come_in_random_order():
    """In file order, a map of equals would always choose the same corner."""
    flat = torch.ones(1, 1, 12, 14, 16)
    first, again, other = (evaluation.strongest(flat, 0.5, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert float(evaluation.dice(first, other)) == pytest.approx(0.5, abs=0.05)


def test_dice_equals_scikit_learn(maps):
    a, b = maps > 0.5, maps.roll(1, 2) > 0
    expected = [f1_score(x.flatten(), y.flatten()) for x, y in zip(a, b, strict=True)]
    assert evaluation.dice(a, b).tolist() == pytest.approx(expected)
    expected = [
        f1_score(x.flatten(), y.flatten(), average="micro") for x, y in zip(a, b, strict=True)
    ]
    assert evaluation.dice_with_background(a, b).tolist() == pytest.approx(expected)


def test_background_makes_946_of_nothing():
    """Paper 3's defect: two masks of 2.7 % that share no voxel."""
    a, b = torch.zeros(2, 1, 1, 10, 10, 10, dtype=torch.bool)
    a.view(-1)[:27] = True
    b.view(-1)[-27:] = True
    assert evaluation.dice(a, b).tolist() == [0]
    assert evaluation.dice_with_background(a, b).tolist() == pytest.approx([0.946])
    assert evaluation.dice(a, a).tolist() == evaluation.dice_with_background(a, a).tolist() == [1]


@pytest.mark.usefixtures("unchecked")
def test_bad_input(maps):
    for fraction in (0, 1.5):
        with pytest.raises(ValueError, match="fraction must be above 0 and at most 1"):
            evaluation.strongest(maps, fraction)
    with pytest.raises(ValueError, match=r"the maps of subjects \[1\] hold NaN"):
        evaluation.strongest(torch.stack([maps[0], maps[1] / 0 * 0]), 0.5)
    with pytest.raises(ValueError, match=r"expected maps of shape \(subject, 1, x, y, z\)"):
        evaluation.strongest(maps[0, 0], 0.5)
    with pytest.warns(UserWarning, match=r"subjects \[0, 1\] are zero everywhere"):
        assert evaluation.strongest(0 * maps, 0.5).float().mean() == 0.5
    mask = maps > 0
    for compare in (evaluation.dice, evaluation.dice_with_background):
        with pytest.raises(ValueError, match="the masks need one shape"):
            compare(mask, mask[..., :-1])
    with pytest.raises(ValueError, match=r"both masks of subjects \[0, 1\] are empty"):
        evaluation.dice(mask & False, mask & False)


def test_share_outside_is_the_outer_part_of_the_sum_of_sizes(maps):
    within = torch.zeros(SHAPE, dtype=torch.bool)
    within[:, :, 1:4, 2:6, 3:] = True
    sizes = np.abs(maps.numpy().astype(float))
    expected = [sizes[i][~within[i].numpy()].sum() / sizes[i].sum() for i in range(2)]
    assert evaluation.share_outside(maps, within).tolist() == pytest.approx(expected)
    assert evaluation.share_outside(-5 * maps, within[:1]).tolist() == pytest.approx(expected)
    inner, outer, nothing = maps * within, maps * ~within, 0 * maps
    assert evaluation.share_outside(inner, within).tolist() == [0, 0]
    assert evaluation.share_outside(outer, within).tolist() == [1, 1]
    assert evaluation.share_outside(nothing, within).tolist() == [0, 0]


@pytest.mark.usefixtures("unchecked")
def test_share_outside_refuses_what_it_cannot_measure(maps):
    within = maps > 0
    with pytest.raises(ValueError, match="within must have the maps' shape"):
        evaluation.share_outside(maps, within[..., 1:])
    with pytest.raises(ValueError, match="hold NaN or infinite values"):
        evaluation.share_outside(maps / 0, within)
    with pytest.raises(ValueError, match="of within are empty"):
        evaluation.share_outside(maps, within & False)
