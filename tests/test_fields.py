"""Oracles: MONAI's Warp and DVF2DDF, scipy's interpolation and Gaussian, closed forms."""

import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.networks.blocks import DVF2DDF, Warp
from scipy import ndimage
from voxelmorph.py.utils import jacobian_determinant as voxelmorph_jacobian

from helpers import fields

SHAPE = (16, 20, 24)


def smooth_field(seed, size=2.0, subjects=2):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(subjects, 3, 4, 5, 6, generator=generator)
    return size * F.interpolate(points, SHAPE, mode="trilinear", align_corners=True)


@pytest.fixture
def volumes():
    return torch.rand(2, 3, *SHAPE, generator=torch.Generator().manual_seed(0))


def test_zero_field_is_the_identity(volumes):
    torch.testing.assert_close(fields.warp(volumes, torch.zeros(2, 3, *SHAPE)), volumes)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_channel_i_pulls_along_axis_i(volumes, axis):
    displacement = torch.zeros(2, 3, *SHAPE)
    displacement[:, axis] = 2
    warped = fields.warp(volumes, displacement)
    length = SHAPE[axis] - 2
    torch.testing.assert_close(
        warped.narrow(axis + 2, 0, length), volumes.narrow(axis + 2, 2, length)
    )
    # Beyond the border the border goes on.
    torch.testing.assert_close(
        warped.narrow(axis + 2, length, 2),
        volumes.narrow(axis + 2, SHAPE[axis] - 1, 1).expand_as(warped.narrow(axis + 2, length, 2)),
    )


@pytest.mark.parametrize("size", [2.0, 40.0])  # 40 voxels end far beyond the border
def test_warp_and_its_gradients_equal_monai(volumes, size):
    found = []
    for warp in (fields.warp, Warp(mode="bilinear", padding_mode="border")):
        volume, field = volumes.clone().requires_grad_(), smooth_field(1, size).requires_grad_()
        warped = warp(volume, field)
        warped.square().sum().backward()
        found.append((warped.detach(), volume.grad, field.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_integration_and_its_gradient_equal_monai():
    ours, theirs = (smooth_field(1).requires_grad_() for _ in range(2))
    flow = fields.integrate_velocity(ours, steps=6)
    oracle = DVF2DDF(num_steps=6, mode="bilinear", padding_mode="border")(theirs)
    torch.testing.assert_close(flow, oracle, atol=1e-5, rtol=1e-5)
    flow.square().sum().backward()
    oracle.square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("threads", [1, 3])
def test_points_are_looked_up_as_scipy_does_on_any_number_of_threads(order, threads):
    volume = torch.rand(1, 2, *SHAPE, generator=torch.Generator().manual_seed(3))
    shape = torch.tensor(SHAPE).view(1, 3, 1)
    # Off the halves, where the nearest voxel is a matter of taste, and beyond the border too.
    points = (shape + 4) * torch.rand(1, 3, 101, generator=torch.Generator().manual_seed(4)) - 2
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = fields.sample(volume, points, nearest=order == 0)
    finally:
        torch.set_num_threads(before)
    for channel in range(2):
        oracle = ndimage.map_coordinates(
            volume[0, channel].numpy(), points[0].numpy(), order=order, mode="nearest"
        )
        np.testing.assert_allclose(found[0, channel], oracle, atol=1e-5)


def test_a_flow_followed_in_some_voxels_is_the_flow_there():
    velocity = smooth_field(5)
    within = torch.zeros(SHAPE, dtype=torch.bool)
    within[3:13, 4:16, 5:19] = True
    everywhere = fields.integrate_velocity(velocity, steps=4)
    some = fields.integrate_velocity(velocity, steps=4, within=within)
    inner = (..., slice(7, 9), slice(8, 12), slice(9, 15))  # motions here stay within four voxels
    assert torch.equal(some[inner], everywhere[inner])
    assert torch.equal(some[:, :, ~within], velocity[:, :, ~within] / 16)


def test_compose_is_first_then_second():
    x = torch.arange(SHAPE[0], dtype=torch.float32).view(1, 1, -1, 1, 1).expand(1, 1, *SHAPE)
    first, second = smooth_field(2, subjects=1), smooth_field(3, subjects=1)
    once = fields.warp(x, fields.compose(first, second))
    twice = fields.warp(fields.warp(x, first), second)
    inside = (..., slice(5, -5), slice(5, -5), slice(5, -5))  # a linear ramp blurs nowhere else
    torch.testing.assert_close(once[inside], twice[inside], atol=0.1, rtol=0.05)
    swapped = fields.warp(x, fields.compose(second, first))
    assert (swapped - twice)[inside].abs().max() > 0.3


def test_compose_affine_equals_compose():
    matrix = torch.eye(4)
    matrix[:3, :3] = fields.rotation(torch.tensor([0.05, -0.1, 0.15])) * 1.05
    matrix[:3, 3] = torch.tensor([0.5, -0.3, 0.2])
    second = smooth_field(4, size=0.5)
    alone = fields.compose_affine(matrix, torch.zeros_like(second))
    inside = (..., slice(3, -3), slice(3, -3), slice(3, -3))
    torch.testing.assert_close(
        fields.compose_affine(matrix, second)[inside],
        fields.compose(alone, second)[inside],
        atol=1e-3,
        rtol=1e-3,
    )


def test_jacobian_of_scaling_and_rotation():
    scaling = torch.diag(torch.tensor([1.1, 0.9, 1.3, 1.0]))
    zero = torch.zeros(1, 3, *SHAPE)
    determinant = fields.jacobian_determinant(fields.compose_affine(scaling, zero))
    torch.testing.assert_close(determinant, torch.full((1, *SHAPE), 1.1 * 0.9 * 1.3))
    turn = torch.eye(4)
    turn[:3, :3] = fields.rotation(torch.tensor([0.3, -0.5, 0.2]))
    determinant = fields.jacobian_determinant(fields.compose_affine(turn, zero))
    torch.testing.assert_close(determinant, torch.ones(1, *SHAPE), atol=1e-4, rtol=0)


def test_growing_ventricle_has_positive_log_expansion():
    """The sign that everything later stands on: what looks bigger in the new image is positive."""
    center = torch.tensor([8.0, 10.0, 12.0]).view(1, 3, 1, 1, 1)
    offset = fields.identity(SHAPE) - center
    distance = offset.norm(dim=1, keepdim=True)
    ventricle = torch.sigmoid((4 - distance) * 3)
    # Pull: to make it bigger, look nearer to the centre.
    displacement = -0.25 * offset * torch.exp(-((distance / 5) ** 2))
    grown = fields.warp(ventricle, displacement)
    assert grown.sum() > 1.2 * ventricle.sum()
    assert fields.log_expansion(displacement)[0, 0, 8, 10, 12] == pytest.approx(
        -3 * math.log(0.75), abs=0.15
    )


def test_integrated_velocity_does_not_fold_and_inverts():
    velocity = smooth_field(5, size=2.0)
    forward = fields.integrate_velocity(velocity)
    assert fields.jacobian_determinant(forward).min() > 0
    there_and_back = fields.compose(forward, fields.integrate_velocity(-velocity))
    inside = (..., slice(5, -5), slice(5, -5), slice(5, -5))
    assert there_and_back[inside].abs().max() < 0.15 * forward[inside].abs().max()


def test_inverse_of_scaling_and_of_a_velocity():
    zero = torch.zeros(1, 3, *SHAPE)
    scaling = torch.diag(torch.tensor([1.2, 0.8, 1.4, 1.0]))
    scaling[:3, 3] = torch.tensor([-1.0, 2.0, -3.0])  # stays inside, but for the border
    field = fields.compose_affine(scaling, zero)
    oracle = fields.compose_affine(torch.linalg.inv(scaling), zero)
    inside = (..., slice(4, -4), slice(5, -5), slice(6, -6))
    torch.testing.assert_close(fields.inverse(field)[inside], oracle[inside], atol=1e-3, rtol=0)

    # Without the kinks of linear interpolation, between which an inverse is not linear itself.
    velocity = fields.gaussian_blur(smooth_field(7, size=1.2), 2.0)
    field = fields.integrate_velocity(velocity)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backward = fields.inverse(field)
    assert fields.compose(field, backward).abs().max() < 0.01
    there = fields.compose(backward, field)  # from the other side as well
    inside = (..., slice(5, -5), slice(5, -5), slice(5, -5))
    assert there[inside].abs().max() < 0.05 * field.abs().max()
    flowed_back = fields.integrate_velocity(-velocity)
    torch.testing.assert_close(backward[inside], flowed_back[inside], atol=0.1, rtol=0.1)


def test_inverse_of_a_folding_field_warns():
    folding = 6 * torch.randn(1, 3, *SHAPE, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match=r"misses by up to .* voxels after 50 .* are folded"):
        fields.inverse(folding)


def test_folding_fraction():
    indices = fields.identity(SHAPE)
    mirrored = torch.zeros(2, 3, *SHAPE)
    mirrored[1, 0] = -2 * indices[0, 0]  # p -> -p along x in the second subject only
    assert fields.folding_fraction(mirrored).tolist() == [0.0, 1.0]
    half = torch.zeros(1, 3, *SHAPE)
    half[0, 1] = torch.where(indices[0, 1] < 10, 0.0, -2 * (indices[0, 1] - 10))
    share = float(fields.folding_fraction(half))
    assert share == pytest.approx(0.5, abs=1.01 / SHAPE[1])  # the fold's own layer counts or not


def test_jacobian_is_the_determinant_of_the_slopes():
    field = smooth_field(6)
    slopes = [torch.stack(torch.gradient(field[:, i], dim=(1, 2, 3)), dim=-1) for i in range(3)]
    oracle = torch.linalg.det(torch.stack(slopes, dim=-2) + torch.eye(3))
    torch.testing.assert_close(fields.jacobian_determinant(field), oracle, atol=1e-5, rtol=1e-5)


def test_jacobian_equals_voxelmorph():
    random = torch.Generator().manual_seed(3)
    displacement = 0.3 * torch.randn(2, 3, 7, 8, 9, generator=random)
    found = fields.jacobian_determinant(displacement)
    expected = [voxelmorph_jacobian(u.permute(1, 2, 3, 0).numpy()) for u in displacement]
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-5)
    assert (found < 0).any()
    assert (found > 2).any()


@pytest.mark.parametrize("sigma", [0.6, 1.0, 2.5])
def test_blur_is_scipys(volumes, sigma):
    scaled = volumes.double() * torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1, 1)
    oracle = ndimage.gaussian_filter(
        scaled.numpy(), sigma, mode="nearest", truncate=4.0, axes=(2, 3, 4)
    )
    np.testing.assert_allclose(fields.gaussian_blur(scaled, sigma), oracle, atol=1e-12)
    constant = torch.ones(1, 1, *SHAPE)
    torch.testing.assert_close(fields.gaussian_blur(constant, sigma), constant)


def test_resize_keeps_the_deformation():
    field = smooth_field(6)
    fine_shape = tuple(2 * n - 1 for n in SHAPE)
    fine = fields.resize(field, fine_shape)
    torch.testing.assert_close(fine[..., ::2, ::2, ::2], 2 * field)
    torch.testing.assert_close(fields.resize(fine, SHAPE), field)


@pytest.mark.usefixtures("unchecked")
def test_bad_fields():
    volumes = torch.rand(2, 1, *SHAPE)
    with pytest.raises(ValueError, match=r"expected a displacement with the axes \(subject, 3"):
        fields.warp(volumes, torch.zeros(2, 2, *SHAPE))
    with pytest.raises(ValueError, match="2 volumes, but 1 displacement"):
        fields.warp(volumes, torch.zeros(1, 3, *SHAPE))
    with pytest.raises(ValueError, match="iterations must be 1 or more, got 0"):
        fields.inverse(torch.zeros(1, 3, 4, 5, 6), iterations=0)
    with pytest.raises(ValueError, match="a blur needs sigma_voxels above 0, got nan"):
        fields.gaussian_blur(volumes, float("nan"))
