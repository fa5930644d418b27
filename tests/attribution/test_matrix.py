"""Every method on every kind of network in every state: right, or refused with a ValueError.

What is right is said by plain autograd, or a plain loop, on a copy in evaluation mode. In all other
states (training, frozen, gradients off, mixed precision) the map must be that of the plain run.
"""

import copy
from contextlib import nullcontext
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from networks import MATRIX, MATRIX_SHAPE, matrix_volumes, of_matrix
from torch import nn
from torch.overrides import TorchFunctionMode

from helpers import attribution, fields, runtime

OPTIONS = {
    "smoothgrad": {"samples": 2, "noise": 0.1},
    "integrated_gradients": {"steps": 2},
    "expected_gradients": {"samples": 2},
    "lrp": {"rule": "epsilon", "epsilon": 1e-9},
    "occlusion": {"window": 12, "stride": 10, "fill": 0.2},
    "meaningful_perturbation": {
        "iterations": 3,
        "ramp": 1,
        "jitters": (1, 1),
        "decay": (0.967, 1),
        "goal": 0.0,
        "area_weight": 0.0,
        "patience": None,
    },
}
STATES = {
    "training": (nn.Module.train, nullcontext),
    "frozen": (lambda model: model.requires_grad_(False), nullcontext),
    "no_grad": (lambda model: model, torch.no_grad),
    "inference_mode": (lambda model: model, torch.inference_mode),
    "autocast": (lambda model: model, lambda: torch.autocast("cpu", torch.bfloat16)),
}
# Networks that these methods are not defined for, all others must be explained.
NO_RELU_ALONE = {"efficientnet", "highresnet, dropout", "regressor", "vit, dropout"}
NO_RULE = {"resnet, instance norm", "resnet, group norm", "se-resnet", "efficientnet"}
REFUSED = {
    "guided_backprop": NO_RELU_ALONE,
    "guided_grad_cam": NO_RELU_ALONE,
    "lrp": NO_RULE | {"regressor", "vit, dropout", "highresnet, dropout"},
}

pytestmark = pytest.mark.slow


@cache
def targets_of(name, method):
    """Return classes that there is something to say about.

    A blur must destroy them, or some place of the last layer speak for them.
    """
    model, seen = of_matrix(name), matrix_volumes()
    if "cam" in method:
        for target in range(3):
            targets = torch.full((2,), target)
            if ORACLES[method](model, seen, targets).abs().max() > 0:
                return targets
    with torch.no_grad():
        fall = model(seen).softmax(1) - model(fields.gaussian_blur(seen, 4.0)).softmax(1)
    return fall.argmax(1)


def explain(method, model, seen, targets):
    return attribution.METHODS[method](model, seen, targets, **OPTIONS.get(method, {}))


def apart(maps, expected):
    """Return the largest difference as a share of the largest value."""
    assert maps.shape == expected.shape
    assert expected.abs().max() > 0, "a comparison with nothing proves nothing"
    return float((maps - expected).abs().max() / expected.abs().max())


@pytest.mark.filterwarnings("ignore:.*zero everywhere", "ignore:.*could not be followed")
@pytest.mark.parametrize("method", list(attribution.METHODS))
@pytest.mark.parametrize("name", list(MATRIX))
def test_right_or_refused(name, method):
    model, targets = copy.deepcopy(of_matrix(name)), targets_of(name, method)
    if name in REFUSED.get(method, ()):
        for change, surrounding in STATES.values():
            with surrounding(), pytest.raises(ValueError, match="defined for|no rule|can fold"):
                explain(method, change(copy.deepcopy(model)), matrix_volumes(), targets)
        return
    plain = explain(method, model, matrix_volumes(), targets)
    oracle = ORACLES[method](copy.deepcopy(of_matrix(name)), matrix_volumes(), targets).detach()
    assert apart(plain, oracle) < 2e-3
    for state, (change, surrounding) in STATES.items():
        changed = change(copy.deepcopy(model))
        with surrounding():
            maps = explain(method, changed, matrix_volumes(), targets)
        assert apart(maps, plain) < 2e-3, state


# Oracles


def gradient(model, seen, targets):
    leaf = seen.clone().requires_grad_()
    model(leaf * 1).gather(1, targets[:, None]).sum().backward()
    return leaf.grad


def input_x_gradient(model, seen, targets):
    return seen * gradient(model, seen, targets)


def smoothgrad(model, seen, targets):
    sd = 0.1 * (seen.flatten(1).amax(1) - seen.flatten(1).amin(1)).view(-1, 1, 1, 1, 1)
    patterns = [torch.randn(1, *MATRIX_SHAPE, generator=runtime.generator(0, 1, k)) for k in (0, 1)]
    return sum(gradient(model, seen + sd * pattern, targets) for pattern in patterns) / 2


def integrated_gradients(model, seen, targets):
    """Gauss and Legendre's two points."""
    return (
        seen * sum(gradient(model, (0.5 + side / 12**0.5) * seen, targets) for side in (-1, 1)) / 2
    )


def expected_gradients(model, seen, targets):
    generator = runtime.generator(0, 2)
    torch.randperm(2, generator=generator)
    along = (torch.arange(2) + torch.rand(2, generator=generator)) / 2
    return seen * sum(gradient(model, share * seen, targets) for share in along) / 2


class Guided(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, gradients):
        (x,) = ctx.saved_tensors
        return gradients.clamp(min=0) * (x > 0)


class GuidedReLUs(TorchFunctionMode):
    """Each ReLU, whatever it is called, becomes another function."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function.__name__ in ("relu", "relu_"):
            return Guided.apply(args[0])
        return function(*args, **(kwargs or {}))


def guided_backprop(model, seen, targets):
    with GuidedReLUs():
        return gradient(model, seen, targets)


def features_and_gradients(model, seen, targets):
    """Return what the last convolution puts out and its gradients."""
    kept = []

    def keep(module, inputs, output):
        kept.append(output)
        return output.clone()

    last = [module for module in model.modules() if isinstance(module, nn.Conv3d)][-1]
    handle = last.register_forward_hook(keep)
    logits = model(seen).gather(1, targets[:, None]).sum()
    handle.remove()
    return kept[0], torch.autograd.grad(logits, kept[0])[0]


def enlarged(coarse):
    return F.interpolate(coarse.clamp(min=0), MATRIX_SHAPE, mode="trilinear")


def grad_cam(model, seen, targets):
    features, gradients = features_and_gradients(model, seen, targets)
    weights = gradients.mean((2, 3, 4), keepdim=True)
    return enlarged((weights * features).sum(1, keepdim=True))


def grad_cam_plus_plus(model, seen, targets):
    features, gradients = features_and_gradients(model, seen, targets)
    below = 2 * gradients**2 + (features * gradients**3).sum((2, 3, 4), keepdim=True)
    share = torch.where(below == 0, 0, gradients**2 / below)
    weights = (share * gradients.clamp(min=0)).sum((2, 3, 4), keepdim=True)
    return enlarged((weights * features).sum(1, keepdim=True))


def guided_grad_cam(model, seen, targets):
    return grad_cam(model, seen, targets) * guided_backprop(model, seen, targets)


@torch.no_grad()
def occlusion(model, seen, targets):
    """Cover one box after the other; at the far borders, it is cut off."""
    before = model(seen.clone()).gather(1, targets[:, None]).view(-1, 1, 1, 1, 1)
    drop, count = torch.zeros_like(seen), torch.zeros_like(seen)
    for x in (0, 10, 20):
        for y in (0, 10, 20):
            for z in (0, 10):
                box = (..., slice(x, x + 12), slice(y, y + 12), slice(z, z + 12))
                covered = seen.clone()
                covered[box] = 0.2
                after = model(covered).gather(1, targets[:, None]).view(-1, 1, 1, 1, 1)
                drop[box] += before - after
                count[box] += 1
    return drop / count


def meaningful_perturbation(model, seen, targets):
    return torch.cat([destroyed(model, seen[i : i + 1], int(targets[i])) for i in range(2)])


def destroyed(model, volume, target):
    blurred = fields.gaussian_blur(volume, 4.0)
    before, after = model(torch.cat([volume, blurred])).softmax(1)[:, target].tolist()
    if after >= before:
        return torch.zeros_like(volume)
    mask = torch.ones(1, 1, 6, 8, 4, requires_grad=True)
    optimizer = torch.optim.Adam([mask], lr=0.3, amsgrad=True)
    generator, losses = runtime.generator(0, 3), {}
    for step in range(3):
        (shift,) = torch.randint(-4, 5, (1, 3), generator=generator).tolist()
        keep = F.interpolate(mask, MATRIX_SHAPE, mode="trilinear")
        shown = (keep * volume + (1 - keep) * blurred).roll(shift, (2, 3, 4))
        rough = sum(mask.diff(dim=axis).abs().pow(7).mean() for axis in (2, 3, 4))
        loss = model(shown).softmax(1)[0, target] + rough
        optimizer.zero_grad()
        loss.backward()
        losses[step] = (float(loss), mask.detach().clone())
        optimizer.step()
        with torch.no_grad():
            mask.clamp_(0, 1)
        for group in optimizer.param_groups:
            group["lr"] *= 0.967
    first, second = losses[1], losses[2]
    falls = 0.8 * first[0] + 0.2 * second[0] < 0.999 * first[0]
    return 1 - F.interpolate((second if falls else first)[1], MATRIX_SHAPE, mode="trilinear")


ORACLES = {
    function.__name__: function
    for function in (
        gradient,
        input_x_gradient,
        smoothgrad,
        integrated_gradients,
        expected_gradients,
        guided_backprop,
        grad_cam,
        grad_cam_plus_plus,
        guided_grad_cam,
        occlusion,
        meaningful_perturbation,
    )
} | {"lrp": input_x_gradient}  # what the epsilon rule is, where epsilon is small
