"""Oracles: Captum and MONAI on the same network, pasting and running the whole network, a sum."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import Occlusion
from monai.visualize import OcclusionSensitivity
from torch import nn

from helpers import models
from helpers.attribution.incremental import Undisturbed
from helpers.attribution.occlusions import occlusion

SHAPE = (24, 28, 30)


def settled(model, shape=SHAPE):
    """Settle the BatchNorms on noise. Else an untrained network hardly answers to a window."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm3d)]
    for norm in norms:
        norm.train().momentum = 1.0
    model(torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(5)))
    return model.eval()


def network(name, shape=SHAPE):
    return settled(models.build(name, 3, shape, seed=2).eval(), shape)


@pytest.fixture
def volumes():
    return torch.rand(2, 1, *SHAPE, generator=torch.Generator().manual_seed(1))


def relative(a, b):
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize(
    ("name", "window", "stride", "fill"),
    [
        ("course", 12, 6, 0.0),
        ("course", 8, 8, 0.5),
        ("course", (9, 7, 11), (5, 7, 6), 0.0),  # windows are cut off at the far borders
        ("kan2020", (8, 7, 10), (8, 7, 8), -0.3),
        ("liu2021", 12, 9, 0.0),
        ("resnet10", 16, 14, 0.0),
    ],
)
def test_equals_captum(name, window, stride, fill, volumes):
    model, target = network(name), torch.tensor([2, 0])
    volumes[0, :, :9] = fill  # background
    ours = occlusion(model, volumes, target, window=window, stride=stride, fill=fill)
    sides = [(side,) * 3 if isinstance(side, int) else side for side in (window, stride)]
    oracle = Occlusion(model).attribute(
        volumes,
        sliding_window_shapes=(1, *sides[0]),
        strides=(1, *sides[1]),
        baselines=fill,
        target=target,
        perturbations_per_eval=4,
    )
    assert relative(ours, oracle) < 1e-4


def test_equals_monai():
    """MONAI returns the logit that is left; its windows are the same where the sides divide."""
    model, volume = network("course"), torch.rand(1, 1, 16, 20, 24)
    left, _ = OcclusionSensitivity(model, mask_size=8, mode=0.1, overlap=0.5, activate=False)(
        volume
    )
    oracle = model(volume)[0, 1] - left[:, 1:2]
    assert relative(occlusion(model, volume, 1, fill=0.1), oracle.detach()) < 1e-4


def test_equals_a_sum_on_a_linear_network(volumes):
    model = nn.Sequential(nn.Flatten(), nn.Linear(24 * 28 * 30, 2)).eval()
    with pytest.warns(UserWarning, match="could not be followed"):
        maps = occlusion(model, volumes, 1, window=(4, 7, 5), stride=(4, 7, 5))
    products = model[1].weight[1].view(SHAPE) * volumes
    sums = F.avg_pool3d(products, (4, 7, 5), divisor_override=1)
    expected = sums.repeat_interleave(4, 2).repeat_interleave(7, 3).repeat_interleave(5, 4)
    assert relative(maps, expected.detach()) < 1e-4


class Net(nn.Module):
    """Turns a function of feature maps into a classifier."""

    def __init__(self, features, *layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.features = features

    def forward(self, volumes):
        features = self.features(volumes, *self.layers)
        return torch.stack([features.mean((1, 2, 3, 4)), features.square().sum((1, 2, 3, 4))], 1)


def in_place_add(volumes, first, second):
    features = first(volumes)
    features += 3
    return second(features)


def residual(volumes, first, second):
    features = F.relu(first(volumes), inplace=True)
    return features + F.relu(second(features), inplace=True)


def forgotten_result(volumes, first, second):
    features = first(volumes)
    F.elu(features, inplace=True)
    return second(features)


def chain(volumes, *layers):
    for layer in layers:
        volumes = layer(volumes)
    return volumes


def conv(channels_in, channels_out, kernel=3, **options):
    return nn.Conv3d(channels_in, channels_out, kernel, **options)


torch.manual_seed(1)  # a ReLU or a pooling that lets nothing of a patch through proves nothing
NETS = {  # how many layers can be followed
    "strides": (6, chain, conv(1, 4, 5, stride=(2, 1, 3), padding=(1, 2, 0)), nn.BatchNorm3d(4),
                nn.ELU(inplace=True), conv(4, 4, 2, dilation=(1, 2, 3), groups=2),
                nn.LeakyReLU(inplace=True), nn.AvgPool3d(2, stride=1)),
    "pooling": (3, chain, nn.MaxPool3d(3, stride=2, padding=1), conv(1, 2, bias=False),
                nn.MaxPool3d((1, 2, 5), stride=(2, 3, 4))),
    "gaps": (2, chain, conv(1, 3, 2, stride=4), nn.GELU()),
    "one voxel": (2, chain, conv(1, 3, 1), nn.ReLU(inplace=True)),
    "one voxel, padded": (3, chain, conv(1, 3, 1, padding=(1, 0, 2)), nn.ReLU(),
                          nn.MaxPool3d(1, stride=1)),
    "batch statistics": (1, chain, conv(1, 2), nn.BatchNorm3d(2, track_running_stats=False),
                         nn.ReLU()),
    "average over padding": (1, chain, conv(1, 2), nn.AvgPool3d(2, padding=1)),
    "ceil": (1, chain, conv(1, 2), nn.MaxPool3d(4, ceil_mode=True)),
    "padding by name": (0, chain, conv(1, 2, padding="same")),
    "wrapped around": (0, chain, conv(1, 2, padding=1, padding_mode="circular")),
    "instance norm": (1, chain, conv(1, 2), nn.InstanceNorm3d(2), nn.ReLU()),
    "in-place add": (1, in_place_add, conv(1, 2), conv(2, 2)),
    "residual": (2, residual, conv(1, 2), conv(2, 2, padding=1)),
    "forgotten result": (1, forgotten_result, conv(1, 2), conv(2, 2)),
    "input read twice": (0, lambda volumes, layer: volumes * layer(volumes), conv(1, 1, padding=1)),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_patches_equal_the_whole_network(name, volumes):
    """Also at the borders, where the padding begins, and whatever the patch's size."""
    followed, features, *layers = NETS[name]
    model, generator = settled(Net(features, *layers).eval()), np.random.default_rng(0)
    undisturbed = Undisturbed(model, volumes[:1])
    assert len(undisturbed.layers) == followed
    assert torch.equal(undisturbed.logits, model(volumes[:1]))
    for size in [(1, 1, 1), (7, 3, 5), SHAPE]:
        room = np.subtract(SHAPE, size)
        corners = np.stack([room * 0, room, *generator.integers(0, room + 1, (5, 3))])
        patches = torch.rand(len(corners), 1, *size)
        whole = volumes[:1].repeat(len(corners), 1, 1, 1, 1)
        for volume, patch, corner in zip(whole, patches, corners, strict=True):
            x, y, z = (slice(a, a + n) for a, n in zip(corner, size, strict=True))
            volume[:, x, y, z] = patch
        expected = model(whole.clone()).detach()
        change = (expected - undisturbed.logits).abs().max()
        if name != "gaps" or size != (1, 1, 1):
            assert change > 1e-6
        error = (undisturbed.with_patches(patches, corners) - expected).abs().max()
        assert error < 1e-5 * max(change, expected.abs().max())


def test_a_network_that_rolls_dice_is_found_out(volumes):
    def coin(volumes, first, second):
        first, second = (first, second) if coin.heads else (second, first)
        return second(first(volumes))

    coin.heads = True
    undisturbed = Undisturbed(Net(coin, conv(1, 1), nn.ReLU()), volumes[:1])
    coin.heads = False
    with pytest.raises(RuntimeError, match="took another path"):
        undisturbed.with_patches(torch.zeros(1, 1, 2, 2, 2), np.zeros((1, 3), int))


@pytest.mark.parametrize("random", [F.dropout, F.dropout3d])
def test_dropout_without_a_word_is_not_followed(random, volumes):
    model = Net(lambda x, first, relu: relu(random(relu(first(x)))), conv(1, 2), nn.ReLU())
    assert len(Undisturbed(model, volumes[:1]).layers) == 2


def test_background_costs_nothing(volumes, monkeypatch):
    """Of the 5 x 6 x 6 windows, 2 x 2 x 2 touch the only voxel that is not background."""
    computed, with_patches = [], Undisturbed.with_patches
    monkeypatch.setattr(
        Undisturbed,
        "with_patches",
        lambda self, patches, corners: (
            computed.extend(corners.tolist()) or with_patches(self, patches, corners)
        ),
    )
    lonely = torch.zeros_like(volumes[:1])
    lonely[..., 9, 10, 21] = 2
    maps = occlusion(network("course"), lonely, 0)
    expected = [[x, y, z] for x in (4, 8) for y in (4, 8) for z in (16, 20)]
    assert sorted(computed) == expected
    assert maps[..., 9, 10, 21].item() != 0
    assert maps[..., :4, :, :].abs().max() == 0


def test_batch_size_and_neighbours_do_not_matter(volumes):
    model = network("course")
    alone = occlusion(model, volumes[1:], 1, window=16, stride=13, batch_size=1)
    together = occlusion(model, volumes, 1, window=16, stride=13, batch_size=50)[1:]
    assert relative(alone, together) < 1e-4


def test_says_where_every_window_takes_a_full_pass(volumes):
    model = Net(NETS["input read twice"][1], conv(1, 1, padding=1)).eval()
    with pytest.warns(UserWarning, match="Net could not be followed.*each of 8 windows"):
        maps = occlusion(model, volumes[:1], 1, window=20, stride=14)
    oracle = Occlusion(model).attribute(volumes[:1], (1, 20, 20, 20), (1, 14, 14, 14), target=1)
    assert relative(maps, oracle) < 1e-4


def test_mixed_precision(volumes):
    model = network("course")
    expected = occlusion(model, volumes[:1], 1, window=16, stride=14)
    with torch.autocast("cpu", torch.bfloat16):
        maps = occlusion(model, volumes[:1], 1, window=16, stride=14)
    assert maps.dtype == torch.float32
    similarity = F.cosine_similarity(maps.flatten(), expected.flatten(), dim=0)
    assert similarity > 0.99


def test_model_is_left_as_found_also_after_an_error(volumes):
    model = network("course").train()
    occlusion(model, volumes[:1], 0, window=20, stride=20)
    assert all(module.training for module in model.modules())

    def broken(*arguments):
        raise RuntimeError("out of memory")

    handle = model.block4.register_forward_pre_hook(broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        occlusion(model, volumes[:1], 0)
    handle.remove()
    assert all(module.training for module in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 25}, r"\(25, 25, 25\) voxels does not fit into \(24, 28, 30\)"),
        ({"window": (8, 8, 31)}, "does not fit"),
        ({"window": 4, "stride": 5}, "leaves gaps between windows"),
        ({"stride": 0}, "stride must be one or three numbers of voxels from 1, got 0"),
        ({"window": (4, 4)}, "window must be one or three"),
        ({"fill": float("nan")}, "fill must be a finite"),
        ({"batch_size": 0}, "batch_size must be 1 or more"),
        ({"target": 3}, "target must be a class from 0 to 2, got 3"),
    ],
)
def test_bad_input(options, message, volumes):
    with pytest.raises(ValueError, match=message):
        occlusion(network("course"), volumes, **options)
    with pytest.raises(ValueError, match="hold NaN"):
        occlusion(network("course"), volumes * float("nan"))
