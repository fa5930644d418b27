"""The course's first simulator, which shows what a group has."""

import pytest
import torch

from helpers import cohorts, fields, grids, warping
from helpers.warping import first

SHAPE = (15, 21, 26)


@pytest.fixture
def volumes():
    generator = torch.Generator().manual_seed(0)
    return fields.gaussian_blur(torch.rand(3, 1, *SHAPE, generator=generator), 1.5)


def moving():
    simulator = warping.build("first", SHAPE).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter, size in ((simulator.network.common, 0.8), (simulator.network.out.kernels, 0.03)):
        parameter.data = size * torch.randn(parameter.shape, generator=generator)
    return simulator


def test_untrained_nothing_moves(volumes):
    torch.testing.assert_close(warping.build("first", SHAPE)(volumes, "inject").volumes, volumes)


def test_volumes_are_warped_and_a_batch_is_each_alone(volumes):
    simulator, directions = moving(), ["inject", "remove", "inject"]
    together = simulator(volumes, directions)
    assert together.displacement.abs().max() > 0.3
    assert torch.equal(together.volumes, fields.warp(volumes, together.displacement))
    for i, direction in enumerate(directions):
        alone = simulator(volumes[i : i + 1], direction)
        torch.testing.assert_close(
            together.displacement[i : i + 1], alone.displacement, atol=1e-5, rtol=1e-4
        )


def test_its_sign_is_built_in(volumes):
    simulator = moving()
    simulator.network.out.kernels.data.zero_()
    there, back = (simulator(volumes, way).control for way in warping.DIRECTIONS)
    share = there / back
    assert (share < 0).all()


def test_it_begins_straight_down_the_slope_of_the_shift(volumes):
    """To first order, the mean shift of all people is then the margin."""
    people = cohorts.simulate("atrophy", subjects=4, grid=grids.mni(8.0))
    simulator = warping.build("first", people.grid.shape)
    common = simulator.network.common

    def reader(volumes):
        return volumes[..., 12:].mean((1, 2, 3, 4))[:, None]

    def shift():
        """Return by how much the reader's answers go where they should, on average."""
        asked = ["remove" if ill else "inject" for ill in people.labels.tolist()]
        sign = torch.tensor([-1.0 if ill else 1.0 for ill in people.labels.tolist()])
        return (sign * reader(simulator(people.volumes, asked).volumes)[:, 0]).mean()

    (slope,) = torch.autograd.grad(shift(), common)
    first.FirstTerms(simulator, reader, people, seed=0, margin=0.5)
    assert float((slope * common).sum()) == pytest.approx(0.5, rel=1e-3)
    cosine = torch.cosine_similarity(slope.flatten(), common.detach().flatten(), dim=0)
    assert float(cosine) == pytest.approx(1, abs=1e-4)
    before = common.detach().clone()
    first.FirstTerms(simulator, reader, people, seed=0)  # there is a velocity already
    assert torch.equal(before, common.detach())
