"""Oracles: Quantus' pixel flipping, and networks whose answer can be written down."""

import numpy as np
import pytest
import quantus
import torch
from torch import nn

from helpers import evaluation, models


def ellipsoid(shape):
    centers = torch.meshgrid(*(torch.linspace(-1.25, 1.25, n) for n in shape), indexing="ij")
    return (sum(c.square() for c in centers) < 1)[None]


SHAPE = (6, 7, 8)  # 336 voxels


@pytest.fixture
def volumes():
    return 0.5 + torch.rand(3, 1, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(336, 3)).eval()


def small_network():
    return nn.Sequential(
        nn.Conv3d(1, 4, 3),
        nn.BatchNorm3d(4),
        nn.Dropout(0.5),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 4 * 5 * 6, 3),
    )


class Sum(nn.Module):
    """The logit of class 1 is the sum over the voxels, times a weight each; of class 0, zero."""

    def __init__(self, weights):
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, volumes):
        logit = (volumes * self.weights).flatten(1).sum(1)
        return torch.stack([torch.zeros_like(logit), logit], 1)


def ones(subjects):
    """Brains of ones in a grid whose last slice is background: constant volumes are refused."""
    volumes = torch.ones(subjects, 1, 13, 14, 16)
    volumes[:, :, 12] = 0
    return volumes


class Edges(nn.Module):
    """The logit of class 1 falls with the steps of intensity, wherever; of class 0, it is 0."""

    def __init__(self, even):
        super().__init__()
        self.even = nn.Parameter(torch.tensor(float(even)))  # steps that make both classes alike

    def forward(self, volumes):
        steps = sum(volumes.diff(dim=axis).abs().flatten(1).sum(1) for axis in (2, 3, 4))
        logit = (self.even - steps) / 200
        return torch.stack([torch.zeros_like(logit), logit], 1)


def brains(subjects):
    """Brains of ones, a quarter of a volume of air, and for each a map that is one clump."""
    inside = ellipsoid((26, 32, 24))
    volumes = inside.float().expand(subjects, 1, -1, -1, -1).clone()
    clump = torch.zeros(inside.shape)
    clump[:, 8:13, 18:24, 7:12] = 1
    return volumes, (clump * inside).expand(volumes.shape).clone()


def curve(table, subject, name, order="map"):
    rows = table.query("subject == @subject and curve == @name and order == @order")
    return rows["probability"].to_numpy()


def flipped(model, volumes, maps, targets, fill):
    """Pixel flipping in 8 steps of 42 voxels by Quantus; it leaves out the whole volume."""
    metric = quantus.PixelFlipping(
        normalise=False,
        abs=False,
        disable_warnings=True,
        features_in_step=42,
        perturb_baseline=fill,
        return_auc_per_sample=False,
    )
    scores = metric(
        model=model,
        x_batch=volumes.numpy(),
        y_batch=targets.numpy(),
        a_batch=maps.numpy(),
        channel_first=True,
        softmax=True,
        device="cpu",
    )
    return np.asarray(scores)


def test_equals_quantus(linear, volumes):
    maps = torch.randn(volumes.shape, generator=torch.Generator().manual_seed(2))
    targets = torch.tensor([2, 0, 1])
    table = evaluation.faithfulness(linear, volumes, maps, targets, steps=8, fill=0.25)
    deletion = flipped(linear, volumes, maps.abs(), targets, 0.25)
    # What insertion has not shown yet are the weakest voxels: deleted in the opposite order.
    insertion = flipped(linear, volumes, 10 - maps.abs(), targets, 0.25)[:, ::-1]
    for i in range(3):
        np.testing.assert_allclose(curve(table, i, "deletion")[1:], deletion[i], rtol=1e-4)
        np.testing.assert_allclose(curve(table, i, "insertion")[:-1], insertion[i], rtol=1e-4)


def test_closed_form_and_areas(volumes):
    weights = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(3)) / 10
    model, maps = Sum(weights), weights * volumes  # what each voxel adds to the logit
    table = evaluation.faithfulness(model, volumes, maps, 1, steps=336)
    for i in range(3):
        parts = maps[i].flatten().double().numpy()
        parts = parts[np.argsort(-np.abs(parts))]
        left = np.append(np.cumsum(parts[::-1])[::-1], 0)
        expected = 1 / (1 + np.exp(-left))
        np.testing.assert_allclose(curve(table, i, "deletion"), expected, atol=1e-4)
    areas = evaluation.area_under_curve(table).set_index(["subject", "curve", "order"])["area"]
    assert len(areas) == 12
    # The trapezoids by hand.
    middle = (expected[1:] + expected[:-1]) / 2
    assert areas[2, "deletion", "map"] == pytest.approx(middle.mean(), abs=1e-5)


def test_a_true_map_beats_the_same_map_elsewhere():
    volumes = ones(4)
    weights = torch.full((1, 13, 14, 16), -0.0025)
    weights[:, 1:4, 2:5, 3:6] = 0.3  # 8.1 in all, and -6.7 from the rest of the brain
    model, maps = Sum(weights), weights.expand(volumes.shape)
    areas = evaluation.area_under_curve(evaluation.faithfulness(model, volumes, maps, 1, steps=16))
    mean = areas.groupby(["curve", "order"])["area"].mean()
    assert mean["deletion", "map"] < mean["deletion", "elsewhere"] - 0.1
    assert mean["insertion", "map"] > mean["insertion", "elsewhere"] + 0.1


def test_the_control_takes_away_as_much_and_as_clumped():
    """A network that sees edges and no places cannot tell a map from its control."""
    volumes, maps = brains(4)
    steps = float(sum(volumes[0].diff(dim=axis).abs().sum() for axis in (1, 2, 3)))
    share = float((maps[0] != 0).sum() / volumes[0].sum())
    model, labels = Edges(steps + 400), torch.ones(4, dtype=torch.long)
    table = evaluation.faithfulness(model, volumes, maps, labels, steps=round(1 / share))
    first = table[table["fraction"].between(share / 2, 3 * share / 2)]
    deleted = first.groupby(["curve", "order"])["probability"].mean()["deletion"]
    # As many scattered voxels take it to 0.15, the clump itself to 0.76.
    assert deleted["elsewhere"] == pytest.approx(deleted["map"], abs=0.1)
    table = evaluation.mask_test(model, volumes, maps, labels, fraction=share, folds=2)
    removed = table[table["action"] == "remove"].groupby("area")["probability"].mean()
    assert removed["elsewhere"] == pytest.approx(removed["map"], abs=0.1)


def test_only_voxels_within_are_deleted(volumes):
    """By default the background of zeros stays out of the ranking, and is never filled."""
    volumes[:, :, 3:] = 0
    model, maps = Sum(torch.full((1, *SHAPE), 0.1)), torch.ones_like(volumes)
    table = evaluation.faithfulness(model, volumes, maps, 1, steps=1, fill=1.0)
    brain = 3 * 7 * 8
    assert curve(table, 0, "deletion")[-1] == pytest.approx(1 / (1 + np.exp(-0.1 * brain)))
    within = torch.zeros(1, 1, *SHAPE, dtype=torch.bool)
    within[:, :, :2] = True
    table = evaluation.faithfulness(model, volumes, maps, 1, steps=1, within=within)
    left = 0.1 * float(volumes[0, :, 2:].sum())
    assert curve(table, 0, "deletion")[-1] == pytest.approx(1 / (1 + np.exp(-left)), rel=1e-5)


def test_default_target_seed_and_a_model_left_as_it_was(volumes):
    model = small_network().train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    original, maps = volumes.clone(), volumes**2
    tables = [
        evaluation.faithfulness(model, volumes, maps, target, steps=3, batch_size=size)
        for target, size in [(None, 16), (models.predict(model, volumes).argmax(1), 3)]
    ]
    np.testing.assert_allclose(tables[0]["probability"], tables[1]["probability"], rtol=1e-4)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert torch.equal(volumes, original)


def test_mask_test_uses_the_maps_of_others():
    """Two subjects, two folds: each is tested with the place that the *other's* map marks."""
    volumes = ones(2)
    maps = torch.zeros_like(volumes)
    maps[0, :, 0:2, 0:2, 0:2] = 1
    maps[1, :, 8:10, 8:10, 8:10] = 1
    model = Sum(maps[0].clone())  # needs the 8 voxels that subject 0's map marks
    table = evaluation.mask_test(
        model, volumes, maps, torch.tensor([1, 1]), fraction=8 / 2688, folds=2
    )
    sure, even = 1 / (1 + np.exp(-8)), 0.5
    scores = table.set_index(["subject", "action", "area"])["probability"]
    assert scores[0, "whole", "none"] == pytest.approx(sure)
    assert scores[0, "keep", "map"] == pytest.approx(even)
    assert scores[0, "remove", "map"] == pytest.approx(sure)
    assert scores[1, "keep", "map"] == pytest.approx(sure)
    assert scores[1, "remove", "map"] == pytest.approx(even)


def test_mask_test_has_a_control_of_equal_area_elsewhere():
    volumes = ones(6)
    maps = torch.zeros_like(volumes)
    maps[:, :, 2:5, 2:6, 2:6] = 1
    count = Sum(torch.full(volumes.shape[1:], 0.01))  # sees only how many voxels are left
    labels = torch.ones(6, dtype=torch.long)
    table = evaluation.mask_test(count, volumes, maps, labels, fraction=48 / 2688)
    scores = table.groupby(["action", "area"])["probability"].agg(["min", "max"])
    np.testing.assert_allclose(scores.loc["keep"], 1 / (1 + np.exp(-0.48)), rtol=1e-5)
    place = Sum(maps[0] - 0.2)  # now the place counts
    table = evaluation.mask_test(place, volumes, maps, labels, fraction=48 / 2688)
    accuracy = table.groupby(["action", "area"])["correct"].mean()
    assert accuracy["keep", "map"] == 1
    assert accuracy["keep", "elsewhere"] == 0


@pytest.mark.usefixtures("unchecked")
def test_bad_input(linear, volumes):
    maps, labels = torch.rand_like(volumes), torch.tensor([0, 1, 2])
    with pytest.raises(ValueError, match="maps and volumes need one shape"):
        evaluation.faithfulness(linear, volumes, maps[..., :-1])
    with pytest.raises(ValueError, match="hold NaN"):
        evaluation.faithfulness(linear, volumes, maps * float("nan"))
    with pytest.raises(ValueError, match="hold NaN"):
        evaluation.faithfulness(linear, volumes * float("nan"), maps)
    with pytest.raises(ValueError, match="target must be a class from 0 to 2, got 3"):
        evaluation.faithfulness(linear, volumes, maps, 3)
    with pytest.raises(ValueError, match=r"one a subject \(3\)"):
        evaluation.faithfulness(linear, volumes, maps, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="fill must be a number or have the volumes' shape"):
        evaluation.faithfulness(linear, volumes, maps, fill=maps[..., :-1])
    with pytest.raises(ValueError, match="steps must be 1 or more"):
        evaluation.faithfulness(linear, volumes, maps, steps=0)
    with pytest.raises(ValueError, match="of within are empty"):
        evaluation.faithfulness(linear, volumes, maps, within=maps[:1] < 0)
    with pytest.warns(UserWarning, match="zero everywhere"):
        table = evaluation.faithfulness(linear, volumes, 0 * maps, steps=2)
    assert table["probability"].notna().all()
    for folds in (1, 4):
        with pytest.raises(ValueError, match=r"folds must be from 2 to the number of subjects"):
            evaluation.mask_test(linear, volumes, maps, labels, folds=folds)
    with pytest.raises(ValueError, match="target must be a class from 0 to 2"):
        evaluation.mask_test(linear, volumes, maps, labels + 1, folds=3)
