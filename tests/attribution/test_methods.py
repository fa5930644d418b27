"""Oracles: Captum and MONAI on the same network. One contract for every method."""

import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam, Saliency
from monai.visualize import GradCAM, VanillaGrad
from torch import nn

from helpers import attribution, models

SHAPE = (32, 40, 48)
NETWORKS = ["course", "kan2020", "resnet10"]


def network(name):
    model = models.build(name, 3, SHAPE, seed=2)
    with torch.no_grad():  # BatchNorm with statistics that matter
        generator = torch.Generator().manual_seed(0)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.running_mean.copy_(
                    0.1 * torch.randn(module.num_features, generator=generator)
                )
                module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))
    return model.eval()


@pytest.fixture
def volumes():
    return torch.rand(3, 1, *SHAPE, generator=torch.Generator().manual_seed(1))


def relative(a, b):
    return float(((a - b).abs().max() / b.abs().max()).detach())


@pytest.mark.parametrize("name", NETWORKS)
def test_gradient_equals_captum_and_monai(name, volumes):
    model, target = network(name), torch.tensor([2, 0, 1])
    ours = attribution.gradient(model, volumes, target, batch_size=2)
    oracle = Saliency(model).attribute(volumes.clone().requires_grad_(), target, abs=False)
    assert relative(ours, oracle) < 1e-4
    monai = VanillaGrad(model)(volumes[:1].clone(), index=2)
    assert relative(ours[:1], monai.detach()) < 1e-4


@pytest.mark.parametrize(
    ("name", "layer", "target"),
    [
        ("course", "block4.3", 1),
        ("course", "block3", 1),
        ("kan2020", "block3", 2),
        ("resnet10", "layer2", 1),
    ],
)
def test_grad_cam_equals_captum_and_monai(name, layer, target, volumes):
    model = network(name)
    ours = attribution.grad_cam(model, volumes, target, layer=layer, batch_size=2)
    coarse = LayerGradCam(model, models.layer(model, layer)).attribute(
        volumes, target, relu_attributions=True
    )
    oracle = F.interpolate(coarse, SHAPE, mode="trilinear", align_corners=False)
    assert oracle.abs().max() > 0
    assert relative(ours, oracle.detach()) < 1e-4
    monai = GradCAM(model, target_layers=layer, postprocessing=lambda t: t)(
        volumes[:1], class_idx=target
    )
    assert relative(ours[:1], torch.as_tensor(monai)) < 1e-4


def test_grad_cam_default_is_the_last_convolution(volumes):
    model = network("course")
    torch.testing.assert_close(
        attribution.grad_cam(model, volumes, 1),
        attribution.grad_cam(model, volumes, 1, layer="block4.3"),
    )


def test_grad_cam_survives_relu_in_place(volumes):
    """An in-place ReLU behind the layer overwrites what a careless hook keeps."""
    model = network("course")
    expected = attribution.grad_cam(model, volumes, 1, layer="block4.1")
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True
    torch.testing.assert_close(attribution.grad_cam(model, volumes, 1, layer="block4.1"), expected)


class Broken(nn.Module):
    """Works once, to find the classes, and then fails in the middle of explaining."""

    def __init__(self, model):
        super().__init__()
        self.model, self.calls = model, 0

    def forward(self, volumes):
        self.calls += 1
        if self.calls > 1:
            raise RuntimeError("out of memory")
        return self.model(volumes)


@pytest.mark.parametrize("method", sorted(attribution.METHODS))
class TestContract:
    def test_target_none_explains_the_prediction(self, method, volumes):
        model = network("course")
        predicted = model(volumes).argmax(1)
        explain = attribution.METHODS[method]
        torch.testing.assert_close(explain(model, volumes), explain(model, volumes, predicted))

    def test_target_is_the_class_that_is_explained(self, method, volumes):
        explain = attribution.METHODS[method]
        model = network("course")
        with torch.no_grad():
            model.classifier.weight[2] = 0
            model.classifier.bias[2] = 5
        context = pytest.warns(UserWarning, match="zero everywhere") if "cam" in method else None
        if context is None:
            nothing = explain(model, volumes, 2)
        else:
            with context:
                nothing = explain(model, volumes, 2)
        assert nothing.abs().max() == 0
        assert explain(model, volumes, 1).abs().max() > 0

    def test_batches_do_not_matter(self, method, volumes):
        model, explain = network("course"), attribution.METHODS[method]
        one = explain(model, volumes, 0, batch_size=1)
        torch.testing.assert_close(one, explain(model, volumes, 0, batch_size=3))

    def test_model_and_input_are_left_as_they_were(self, method, volumes):
        model = network("course").train()
        model.block3.eval()
        for p in model.block1.parameters():
            p.requires_grad_(False)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        modes = [module.training for module in model.modules()]
        original = volumes.clone()
        attribution.METHODS[method](model, volumes, 0)
        assert torch.equal(volumes, original)
        assert volumes.grad is None
        assert not volumes.requires_grad
        assert [module.training for module in model.modules()] == modes
        assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())
        assert all(p.grad is None for p in model.parameters())
        assert not any(p.requires_grad for p in model.block1.parameters())
        assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())

    def test_left_as_it_was_also_after_an_error(self, method, volumes):
        model = Broken(network("course")).train()
        with pytest.raises(RuntimeError, match="out of memory"):
            attribution.METHODS[method](model, volumes, 0)
        assert all(module.training for module in model.modules())
        assert not any(m._forward_hooks for m in model.modules())
        assert torch.is_grad_enabled()

    def test_works_where_gradients_are_off(self, method, volumes):
        model = network("course")
        expected = attribution.METHODS[method](model, volumes, 0)
        model.requires_grad_(False)
        with torch.no_grad():
            maps = attribution.METHODS[method](model, volumes, 0)
        torch.testing.assert_close(maps, expected)

    @pytest.mark.usefixtures("unchecked")
    def test_bad_input(self, method, volumes):
        model, explain = network("course"), attribution.METHODS[method]
        with pytest.raises(ValueError, match="target must be a class from 0 to 2, got 3"):
            explain(model, volumes, 3)
        with pytest.raises(ValueError, match=r"one a subject \(3\)"):
            explain(model, volumes, torch.tensor([0, 1]))
        with pytest.raises(ValueError, match="hold NaN"):
            explain(model, volumes * float("nan"))
        with pytest.raises(ValueError, match=r"volume\[None, None\]"):
            explain(model, volumes[0, 0])
        with pytest.raises(ValueError, match="batch_size must be 1 or more"):
            explain(model, volumes, batch_size=0)


def test_grad_cam_layers_that_cannot_be_right(volumes):
    model = network("course")
    with pytest.raises(ValueError, match="no layer 'conv9'; there are"):
        attribution.grad_cam(model, volumes, layer="conv9")
    with pytest.raises(ValueError, match="needs a layer with one set of 3D feature maps"):
        attribution.grad_cam(model, volumes, layer="classifier")
    model.unused = nn.Conv3d(1, 1, 1)
    with pytest.raises(ValueError, match="was passed 0 times and put out nothing"):
        attribution.grad_cam(model, volumes, layer="unused")
