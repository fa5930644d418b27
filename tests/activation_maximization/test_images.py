"""Every image reproduces its start, reaches its bounds and says what it cannot do."""

import numpy as np
import pytest
import torch

from helpers import fields
from helpers.activation_maximization import images

SHAPE = (9, 10, 12)  # odd and even, all different


@pytest.fixture
def scans():
    return torch.rand(2, 1, *SHAPE, generator=torch.Generator().manual_seed(0)) + 0.5


def test_noise_of_a_seed_does_not_depend_on_the_others():
    both = images.noise(SHAPE, seeds=(3, 4), mean=1.0, sd=0.1)
    torch.testing.assert_close(both[1:], images.noise(SHAPE, seeds=(4,), mean=1.0, sd=0.1))
    assert both[0].mean() == pytest.approx(1.0, abs=0.02)
    assert both[0].std() == pytest.approx(0.1, rel=0.1)


def test_every_image_reproduces_its_start(scans):
    nothing = torch.zeros_like(scans)
    for image in (
        images.Voxels(scans),
        images.Fourier(scans),
        images.Fourier(scans, decay=0.0),
        images.Deviation(scans, nothing),
        images.Deviation(nothing[:1] + scans[:1], scans - scans[:1]),
    ):
        torch.testing.assert_close(image(), scans)


def test_fourier_decorrelates(scans):
    """White noise in the parameters has power f**-2 in the volume, by numpy's own transform."""
    shape = (32, 36, 40)
    image = images.Fourier(torch.zeros(4, 1, *shape))
    with torch.no_grad():
        image.spectrum.normal_(generator=torch.Generator().manual_seed(1))
    power = np.abs(np.fft.fftn(image().detach().numpy(), axes=(2, 3, 4))) ** 2
    radius = np.sqrt(sum(f**2 for f in np.meshgrid(*map(np.fft.fftfreq, shape), indexing="ij")))
    low, high = ((radius > f) & (radius < 1.2 * f) for f in (0.1, 0.4))
    ratio = power[..., low].mean() / power[..., high].mean()
    assert ratio == pytest.approx(16, rel=0.15)


def test_bounds(scans):
    start = torch.full_like(scans, 5.0)
    image = images.Deviation(scans, start, bounds=(scans, 1.75))
    torch.testing.assert_close(image(), torch.full_like(scans, 1.75))
    with torch.no_grad():
        image.deviation.fill_(-3.0)
    image.project()
    torch.testing.assert_close(image(), scans)
    voxels = images.Voxels(scans, bounds=(0.0, 1.0))
    voxels.project()
    torch.testing.assert_close(voxels(), scans.clamp(0, 1))


def test_no_deviation_outside_the_mask(scans):
    mask = torch.zeros(1, 1, *SHAPE, dtype=torch.bool)
    mask[..., :5] = True
    image = images.Deviation(scans[:1], torch.ones_like(scans), mask=mask)
    assert torch.equal(image()[..., 5:], scans[:1, ..., 5:].expand(2, -1, -1, -1, -1))
    torch.testing.assert_close(image()[..., :5], scans[:1, ..., :5].expand(2, -1, -1, -1, -1) + 1)


def test_warp_of_a_constant_velocity_is_a_shift(scans):
    image = images.Warp(scans[:1], points=(3, 4, 5), seeds=(0, 1))
    with torch.no_grad():
        image.velocity.zero_()
        image.velocity[1, 1] = 2.0  # two voxels along y
    still, moved = image()
    torch.testing.assert_close(still, scans[0])
    torch.testing.assert_close(moved[:, :, :-2], scans[0][:, :, 2:])


def test_warp_does_not_fold_and_gradients_reach_the_velocity(scans):
    image = images.Warp(scans[:1], points=(4, 4, 4), sd=1.0)
    assert fields.jacobian_determinant(image.displacement()).min() > 0
    image().square().sum().backward()
    assert (image.velocity.grad != 0).any(dim=(2, 3, 4)).all()


@pytest.mark.usefixtures("unchecked")
def test_bad_starts(scans):
    with pytest.raises(ValueError, match="finite volumes with the axes"):
        images.Voxels(scans * float("nan"))
    with pytest.raises(ValueError, match="finite volumes with the axes"):
        images.Fourier(scans[0])
    with pytest.raises(ValueError, match="in this order"):
        images.Voxels(scans, bounds=(1.0, 0.0))
    with pytest.raises(ValueError, match="hold NaN"):
        images.Warp(scans * float("nan"))
    with pytest.raises(ValueError, match=r"at most the \(9, 10, 12\) voxels"):
        images.Warp(scans, points=(10, 4, 4))
