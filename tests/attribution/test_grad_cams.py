"""Oracles: Captum and MONAI on the same network, the paper's formula in NumPy."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import GuidedGradCam, LayerGradCam
from monai.visualize import GradCAM, GradCAMpp
from networks import Functions, Modules, network, relative, volumes_for
from torch import nn

from helpers import attribution, models

CAMS = ["grad_cam", "grad_cam_plus_plus", "guided_grad_cam"]
LAYERS = [
    ("course", "block4.3", 1),
    ("course", "block3", 1),
    ("kan2020", "block2", 1),
    ("resnet10", "layer2", 2),
]


@pytest.fixture
def volumes():
    return volumes_for("course", 3)


@pytest.mark.parametrize(("name", "layer", "target"), LAYERS)
def test_grad_cam_equals_captum_and_monai(name, layer, target):
    model, volumes = network(name), volumes_for(name, 3)
    ours = attribution.grad_cam(model, volumes, target, layer=layer, batch_size=2)
    coarse = LayerGradCam(model, models.layer(model, layer)).attribute(
        volumes, target, relu_attributions=True
    )
    oracle = F.interpolate(coarse, volumes.shape[2:], mode="trilinear", align_corners=False)
    assert relative(ours, oracle.detach()) < 1e-4
    monai = GradCAM(model, target_layers=layer, postprocessing=lambda t: t)(
        volumes[:1], class_idx=target
    )
    assert relative(ours[:1], torch.as_tensor(monai)) < 1e-4


@pytest.mark.parametrize(("name", "layer", "target"), LAYERS)
def test_grad_cam_plus_plus_equals_the_formula(name, layer, target):
    model, volumes = network(name).double(), volumes_for(name, 3)
    ours = attribution.grad_cam_plus_plus(model, volumes, target, layer=layer, batch_size=2)
    kept = []
    handle = models.layer(model, layer).register_forward_hook(lambda m, i, out: kept.append(out))
    logits = model(volumes.double())[:, target]
    handle.remove()
    a, g = kept[0].detach().numpy(), torch.autograd.grad(logits.sum(), kept[0])[0].numpy()
    coarse = np.zeros((len(a), 1, *a.shape[2:]))
    for i in range(len(a)):
        for k in range(a.shape[1]):
            below = 2 * g[i, k] ** 2 + (a[i, k] * g[i, k] ** 3).sum()
            positive = g[i, k] > 0
            alpha = g[i, k][positive] ** 2 / below[positive]
            coarse[i, 0] += (alpha * g[i, k][positive]).sum() * a[i, k]
    coarse = torch.tensor(coarse).clamp(min=0)
    oracle = F.interpolate(coarse, volumes.shape[2:], mode="trilinear", align_corners=False)
    assert relative(ours, oracle.float()) < 1e-4


def test_grad_cam_plus_plus_equals_monai_up_to_its_factor(volumes):
    """MONAI keeps exp(logit), and adds 1e-7 to squared gradients: here these are large."""
    model = network("course").double()
    with torch.no_grad():
        model.classifier.weight *= 300
        model.classifier.bias -= model(volumes.double()).mean(0)
    ours = attribution.grad_cam_plus_plus(model, volumes, 1, layer="block4")
    oracle = GradCAMpp(model, target_layers="block4", postprocessing=lambda t: t)
    for i in range(3):
        monai = torch.as_tensor(oracle(volumes[i : i + 1].double(), class_idx=1))
        factor = model(volumes[i : i + 1].double())[0, 1].exp().item()
        assert relative(ours[i : i + 1], (monai / factor).float()) < 1e-4


@pytest.mark.parametrize(
    ("model", "layer"), [(Modules(), "conv2"), (Modules(), "norm2"), (network("course"), "block3")]
)
def test_guided_grad_cam_equals_captum(model, layer, volumes):
    target = torch.tensor([2, 2, 1])
    ours = attribution.guided_grad_cam(model, volumes, target, layer=layer, batch_size=2)
    oracle = GuidedGradCam(model, models.layer(model, layer)).attribute(
        volumes.clone().requires_grad_(), target, interpolate_mode="trilinear"
    )
    assert relative(ours, oracle.detach()) < 1e-4


def test_guided_grad_cam_is_the_product(volumes):
    model = Functions()
    product = attribution.grad_cam(model, volumes, 1) * attribution.guided_backprop(
        model, volumes, 1
    )
    assert relative(attribution.guided_grad_cam(model, volumes, 1), product) < 1e-5


def test_guided_grad_cam_refuses_a_network_without_relu(volumes):
    model = nn.Sequential(
        nn.Conv3d(1, 4, 3), nn.ELU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    with pytest.raises(ValueError, match="no other activation; this one calls .*elu"):
        attribution.guided_grad_cam(model, volumes)


@pytest.mark.parametrize("method", CAMS)
class TestLayers:
    def test_default_is_the_last_convolution(self, method, volumes):
        model, explain = network("course"), attribution.METHODS[method]
        expected = explain(model, volumes, 1, layer="block4.3")
        torch.testing.assert_close(explain(model, volumes, 1), expected)

    def test_survives_relu_in_place(self, method, volumes):
        """An in-place ReLU behind the layer overwrites what a careless hook keeps."""
        model, explain = network("course"), attribution.METHODS[method]
        expected = explain(model, volumes, 2, layer="block4.1")
        assert expected.abs().flatten(1).amax(1).min() > 0
        for module in model.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = True
        torch.testing.assert_close(explain(model, volumes, 2, layer="block4.1"), expected)

    def test_layers_that_cannot_be_right(self, method, volumes):
        model, explain = network("course"), attribution.METHODS[method]
        with pytest.raises(ValueError, match="no layer 'conv9'; there are"):
            explain(model, volumes, layer="conv9")
        with pytest.raises(ValueError, match="needs a layer with one set of 3D feature maps"):
            explain(model, volumes, layer="classifier")
        model.unused = nn.Conv3d(1, 1, 1)
        with pytest.raises(ValueError, match="was passed 0 times and put out nothing"):
            explain(model, volumes, layer="unused")
        with pytest.raises(
            ValueError,
            match=r"the last convolution that was built, 'unused', is never passed; name one that "
            r"is with layer=, such as \['block4.3'\] or a block",
        ):
            explain(model, volumes)

    def test_zero_maps_say_which_layer(self, method, volumes):
        model, explain = network("course"), attribution.METHODS[method]
        with torch.no_grad():
            model.classifier.weight.copy_(-model.classifier.weight.abs())
        with pytest.warns(UserWarning, match=r"subjects \[0, 1, 2\] .* no place of 'block4'"):
            assert explain(model, volumes, 1, layer="block4").abs().max() == 0


def test_a_layer_with_one_place_is_named():
    """As the last layer of a DenseNet121 on a small volume: its map says nothing of where."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv3d(1, 4, 3, stride=2),
        torch.nn.ReLU(),
        torch.nn.Conv3d(4, 4, (7, 9, 11)),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 2),
    ).eval()
    volumes = torch.rand(1, 1, 16, 20, 24)
    with pytest.warns(UserWarning, match="layer '2' has one place only"):
        attribution.grad_cam(model, volumes, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attribution.grad_cam(model, volumes, 1, layer="0")
