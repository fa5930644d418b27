"""The loop: Captum's gradient, closed forms, the same seed, nothing left changed, loud failures."""

import sys

import pytest
import torch
from captum.attr import Saliency
from torch import nn

from helpers import fields, models
from helpers.activation_maximization import (
    activation,
    channel_mean,
    class_margin,
    diversity,
    images,
    logit,
    maximize,
    regularizers,
    transforms,
)
from helpers.activation_maximization.regularizers import Penalty
from helpers.errors import InterruptedWarning

SHAPE = (16, 20, 24)


@pytest.fixture
def model():
    return models.build("course", 4, SHAPE, seed=1).eval()


@pytest.fixture
def start():
    return 1 + images.noise(SHAPE, seeds=(0, 1), sd=0.3)


class Quadratic(nn.Module):
    """Logits whose best volume is known: 0 is largest where every voxel is 2."""

    def __init__(self):
        super().__init__()
        self.target = nn.Parameter(torch.tensor(2.0))

    def forward(self, volumes):
        distance = (volumes - self.target).square().flatten(1).sum(1)
        return torch.stack([-distance, volumes.flatten(1).sum(1)], dim=1)


def first_step(gradient, learning_rate):
    """What Adam's formula gives for its first step, with its default epsilon."""
    return learning_rate * gradient / (gradient.abs() + 1e-8)


def captums_gradient(model, volumes, target):
    leaf = volumes.clone().requires_grad_()
    return Saliency(model).attribute(leaf, target, abs=False).detach()


def test_first_step_is_adams_with_captums_gradient(model, start):
    moved = maximize(model, logit([3, 1]), image=images.Voxels(start), steps=1, learning_rate=0.01)
    oracle = first_step(captums_gradient(model, start, torch.tensor([3, 1])), 0.01)
    assert oracle.abs().mean() > 0.005
    torch.testing.assert_close(moved.volume - start, oracle, atol=1e-4, rtol=0)


def test_a_known_optimum_with_and_without_a_penalty(start):
    """-(v - 2)^2 is largest at 2; with s v^2 beside it at 2 / (1 + s)."""
    settings = {"image": images.Voxels(start), "steps": 250, "learning_rate": 0.05}
    free = maximize(Quadratic(), logit(0), **settings)
    torch.testing.assert_close(free.volume, torch.full_like(start, 2.0), atol=1e-3, rtol=0)
    strength = 3.0 * start[0].numel()  # l2 is a mean over voxels, the logit a sum
    held = maximize(Quadratic(), logit(0), regularizers=[regularizers.l2(strength)], **settings)
    torch.testing.assert_close(held.volume, torch.full_like(start, 0.5), atol=1e-3, rtol=0)


def test_negated_objective_minimizes(model, start):
    before = activation(model, logit(2), start)
    lower = maximize(model, -logit(2), image=images.Voxels(start), steps=5)
    assert (activation(model, logit(2), lower.volume) < before).all()


@pytest.mark.parametrize(
    "image",
    [
        images.Voxels(torch.rand(1, 1, *SHAPE)),
        images.Fourier(torch.rand(1, 1, *SHAPE)),
        images.Deviation(torch.rand(1, 1, *SHAPE), torch.zeros(1, 1, *SHAPE)),
        images.Warp(torch.rand(1, 1, *SHAPE), points=(4, 5, 6)),
    ],
    ids=lambda image: type(image).__name__,
)
def test_every_image_rises_and_the_given_one_stays(model, image):
    before = image().detach().clone()
    found = maximize(model, class_margin(2), image=image, steps=8, learning_rate=0.02)
    assert activation(model, class_margin(2), found.volume) > activation(
        model, class_margin(2), before
    )
    assert torch.equal(image().detach(), before)
    assert all(parameter.grad is None for parameter in image.parameters())
    torch.testing.assert_close(found.image().detach(), found.volume)


def test_history_and_snapshots(model, start):
    penalties = [regularizers.l2(2.0), regularizers.total_variation(0.5)]
    found = maximize(
        model,
        logit([0, 1]),
        image=images.Voxels(start),
        regularizers=penalties,
        steps=6,
        snapshots=3,
    )
    table = found.history
    assert list(table) == ["step", "image", "objective", "l2", "total_variation", "total"]
    assert table["step"].tolist() == [k for k in range(6) for _ in range(2)]
    assert table["image"].tolist() == [0, 1] * 6
    assert sorted(found.snapshots) == [0, 3, 6]
    assert torch.equal(found.snapshots[0], start)
    assert torch.equal(found.snapshots[6], found.volume)
    # The rows of step 3 are those of the volume after three steps.
    row, volumes = table[table["step"] == 3], found.snapshots[3]
    reached = [activation(model, logit(k), volumes)[k].item() for k in (0, 1)]
    assert row["objective"].tolist() == pytest.approx(reached, rel=1e-4)
    assert row["l2"].tolist() == pytest.approx((2 * volumes.square().mean((1, 2, 3, 4))).tolist())
    total = table["objective"] - table["l2"] - table["total_variation"]
    assert table["total"].tolist() == pytest.approx(total.tolist(), abs=1e-5)


def test_images_of_a_batch_do_not_touch_each_other(model, start):
    settings = {"steps": 4, "regularizers": [regularizers.l2(1.0), regularizers.blur_gradient(1.0)]}
    both = maximize(model, logit([1, 2]), image=images.Voxels(start), **settings)
    alone = maximize(model, logit(2), image=images.Voxels(start[1:]), **settings)
    torch.testing.assert_close(both.volume[1:], alone.volume, atol=1e-4, rtol=1e-4)


def test_same_seed_same_bytes(model, start):
    def run(seed):
        return maximize(
            model,
            logit(1) + 0.1 * diversity("block2"),
            image=images.Fourier(start),
            transforms=[transforms.jitter(2), transforms.rotation(5)],
            steps=3,
            seed=seed,
        ).volume

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_blur_of_the_image_comes_after_the_step(start):
    """The gradient of a sum is 1 everywhere: the first step adds the learning rate."""
    picture = maximize(
        Quadratic(),
        logit(1),
        image=images.Voxels(start),
        regularizers=[regularizers.blur_image(1.0)],
        steps=1,
        learning_rate=0.1,
    ).volume
    torch.testing.assert_close(picture, fields.gaussian_blur(start + 0.1, 1.0), atol=1e-5, rtol=0)


def test_blur_of_the_gradient_comes_before_the_step(model, start):
    blur = regularizers.blur_gradient(1.5)
    moved = maximize(
        model,
        logit(1),
        image=images.Voxels(start),
        regularizers=[blur],
        steps=1,
        learning_rate=0.01,
    )
    oracle = first_step(fields.gaussian_blur(captums_gradient(model, start, 1), 1.5), 0.01)
    torch.testing.assert_close(moved.volume - start, oracle, atol=1e-4, rtol=0)


def test_bounds_hold_after_every_step(model, start):
    found = maximize(
        model,
        logit(1),
        image=images.Voxels(start, bounds=(0.5, 1.2)),
        steps=4,
        learning_rate=0.5,
    )
    assert found.volume.min() == 0.5
    assert found.volume.max() == pytest.approx(1.2)


def test_patience_stops(start):
    found = maximize(
        Quadratic(),
        logit(0),
        image=images.Voxels(torch.full_like(start, 1.9)),
        steps=500,
        learning_rate=0.05,
        patience=5,
        snapshots=3,
    )
    taken = found.history["step"].max() + 1
    assert 5 < taken < 100
    means = found.history.groupby("step")["total"].mean()
    assert means.idxmax() == taken - 1 - 5
    assert sorted(found.snapshots) == [0, taken]


class Broken(nn.Module):
    """Fails on the second look."""

    def __init__(self, model):
        super().__init__()
        self.model, self.calls = model, 0

    def forward(self, volumes):
        self.calls += 1
        if self.calls > 1:
            raise RuntimeError("out of memory")
        return self.model(volumes)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(model, start, fails):
    looked_at = Broken(model).train()
    looked_at.calls = -100 * (not fails)
    model.block3.eval()
    for parameter in model.block1.parameters():
        parameter.requires_grad_(False)
    model.classifier.bias.grad = torch.ones(4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in looked_at.modules()]
    trainable = [parameter.requires_grad for parameter in model.parameters()]

    def run():
        maximize(looked_at, channel_mean("model.block2", 1), image=images.Voxels(start), steps=2)

    if fails:
        with pytest.raises(RuntimeError, match="out of memory"):
            run()
    else:
        run()
    assert [module.training for module in looked_at.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == trainable
    assert all(torch.equal(before[name], v) for name, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._backward_hooks for m in looked_at.modules())
    assert torch.equal(model.classifier.bias.grad, torch.ones(4))
    assert all(p.grad is None for p in model.parameters() if p is not model.classifier.bias)


def test_stopped_at_a_prompt_keeps_the_image_so_far(model, start, monkeypatch):
    def stopping(volumes, generator):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return volumes

    calls, options = [], {"image": images.Voxels(start), "snapshots": 2}
    expected = maximize(model, logit(1), steps=3, **options)
    monkeypatch.setattr(sys, "ps1", "In [1]: ", raising=False)
    with pytest.warns(InterruptedWarning, match="stopped by hand after 3 of 9 steps"):
        found = maximize(model, logit(1), steps=9, transforms=[stopping], **options)
    torch.testing.assert_close(found.volume, expected.volume)
    assert found.history["step"].max() == 2
    assert sorted(found.snapshots) == [0, 3]
    calls.clear()
    monkeypatch.delattr(sys, "ps1")
    with pytest.raises(KeyboardInterrupt):
        maximize(model, logit(1), steps=9, transforms=[stopping], **options)


def test_works_where_gradients_are_off(model, start):
    expected = maximize(model, logit(1), image=images.Voxels(start), steps=2).volume
    with torch.no_grad():
        found = maximize(model, logit(1), image=images.Voxels(start), steps=2).volume
    assert torch.equal(found, expected)


def test_objective_that_is_nan(model, start):
    with torch.no_grad():
        model.classifier.bias[1] = float("nan")
    with pytest.raises(
        ValueError,
        match=r"step 0: the objective is nan for images \[0, 1\]; the "
        "network makes it of finite volumes",
    ):
        maximize(model, logit(1), image=images.Voxels(start))
    exploding = Penalty("exploding", 1.0, lambda v: v.flatten(1).sum(1).sqrt())
    with pytest.raises(ValueError, match=r"step 1: .* the volumes hold NaN or infinite voxels"):
        maximize(Quadratic(), logit(1), image=images.Voxels(-start.abs()), regularizers=[exploding])


def test_objective_that_is_constant(model, start):
    with torch.no_grad():
        model.block2[1].bias[3] = -1e6  # its ReLU is off everywhere
    with pytest.raises(
        ValueError, match=r"step 0: the objective is constant for images \[1\]: no voxel changes it"
    ):
        maximize(model, channel_mean("block2.2", [1, 3]), image=images.Voxels(start))
    with pytest.raises(ValueError, match=r"constant for images \[0, 1\]"):
        maximize(model, 0 * logit(1), image=images.Voxels(start))


def test_other_bad_input(model, start):
    voxels = images.Voxels(start)
    with pytest.raises(ValueError, match=r"no layer 'conv9'; there are \['block1'"):
        maximize(model, channel_mean("conv9", 1), image=voxels)
    with pytest.raises(ValueError, match="has 4 classes, 0 to 3; there is no 7"):
        maximize(model, logit(7), image=voxels)
    with pytest.raises(ValueError, match="jitter of 16 voxels is too large"):
        maximize(model, logit(1), image=voxels, transforms=[transforms.jitter(16)])
    with pytest.raises(ValueError, match=r"Voxels has no 'velocity' .* it has \['voxels'\]"):
        maximize(model, logit(1), image=voxels, regularizers=[regularizers.l2(1.0, of="velocity")])
    with pytest.raises(ValueError, match=r"Fourier has no 'voxels' .* it has \[\]"):
        maximize(
            model,
            logit(1),
            image=images.Fourier(start),
            regularizers=[regularizers.blur_image(1.0)],
        )
    with pytest.raises(ValueError, match=r"one name a penalty; \['l2'\] come more than once"):
        maximize(model, logit(1), image=voxels, regularizers=[regularizers.l2(1.0)] * 2)
    for wrong in ({"steps": 0}, {"learning_rate": 0.0}, {"snapshots": 1}):
        with pytest.raises(ValueError, match="expected steps of 1 or more"):
            maximize(model, logit(1), image=voxels, **wrong)
