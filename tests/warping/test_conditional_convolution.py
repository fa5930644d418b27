"""Oracle: PyTorch's own convolution, subject after subject."""

import pytest
import torch
import torch.nn.functional as F

from helpers import warping

SHAPE = (5, 6, 8)


def one_by_one(layer, features, condition):
    """Mix the results of every expert instead of the kernels, one subject at a time."""
    share = layer.routing(features, condition)
    results = []
    for i in range(len(features)):
        experts = [
            F.conv3d(features[i : i + 1], kernel, bias, layer.stride, layer.padding)
            for kernel, bias in zip(layer.kernels, layer.biases, strict=True)
        ]
        results.append(sum(s * result for s, result in zip(share[i], experts, strict=True)))
    return torch.cat(results)


@pytest.mark.parametrize(("kernel_size", "stride", "experts"), [(3, 1, 3), (3, 2, 3), (1, 1, 2)])
def test_grouped_convolution_equals_the_loop_over_subjects(kernel_size, stride, experts):
    layer = warping.CondConv3d(2, 4, kernel_size=kernel_size, stride=stride, experts=experts)
    features = torch.randn(3, 2, *SHAPE, requires_grad=True)
    condition = torch.tensor([[1.0], [-1.0], [0.5]])
    ours, oracle = layer(features, condition), one_by_one(layer, features, condition)
    torch.testing.assert_close(ours, oracle, atol=1e-4, rtol=0)
    towards = torch.randn_like(oracle)
    parameters = [features, *layer.parameters()]
    for gradient, expected in zip(
        torch.autograd.grad((ours * towards).sum(), parameters),
        torch.autograd.grad((oracle * towards).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-4)


def test_the_condition_and_the_subject_choose_the_kernel():
    layer = warping.CondConv3d(2, 4)
    features = torch.rand(1, 2, *SHAPE).expand(2, -1, -1, -1, -1)
    alike = layer(features, torch.ones(2, 1))
    torch.testing.assert_close(alike[0], alike[1])
    opposite = layer(features, torch.tensor([[1.0], [-1.0]]))
    assert (opposite[0] - opposite[1]).abs().max() > 0.01
    brighter = features * torch.tensor([1.0, 3.0]).view(2, 1, 1, 1, 1)
    share = layer.routing(brighter, torch.ones(2, 1))
    assert (share[0] - share[1]).abs().max() > 0.01


def test_one_expert_is_a_convolution_times_a_number():
    layer = warping.CondConv3d(2, 4, experts=1)
    features, condition = torch.rand(2, 2, *SHAPE), torch.ones(2, 1)
    share = layer.routing(features, condition).view(2, 1, 1, 1, 1)
    oracle = share * F.conv3d(features, layer.kernels[0], layer.biases[0], padding=1)
    torch.testing.assert_close(layer(features, condition), oracle)


def test_bad_requests():
    with pytest.raises(ValueError, match="one expert or more and an odd kernel, got 0 and 3"):
        warping.CondConv3d(2, 4, experts=0)
    with pytest.raises(ValueError, match="an odd kernel, got 3 and 4"):
        warping.CondConv3d(2, 4, kernel_size=4)
