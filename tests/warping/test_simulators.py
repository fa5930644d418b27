"""Identities and signs; the field itself is tested against oracles in test_fields.py."""

import pytest
import torch
import torch.nn.functional as F

from helpers import fields, warping

SHAPE = (16, 24, 32)
KINDS = [warping.Simulator, warping.TwoSimulators]


@pytest.fixture
def volumes():
    generator = torch.Generator().manual_seed(0)
    return fields.gaussian_blur(torch.rand(3, 1, *SHAPE, generator=generator), 1.5)


def moving(kind=warping.Simulator, shape=SHAPE, **options):
    """Return a simulator whose last layers are drawn as well: it moves tissue by a voxel or so."""
    simulator = kind(shape, **options).eval()
    generator = torch.Generator().manual_seed(1)
    for net in simulator.modules():
        if isinstance(net, warping.VelocityNetwork):
            for parameter, size in ((net.common, 0.8), (net.out.kernels, 0.03)):
                parameter.data = size * torch.randn(parameter.shape, generator=generator)
    return simulator


def expanding(size, **options):
    """Return a simulator that injects growth at the centre of the volume: tissue flows outward."""
    simulator = warping.Simulator(SHAPE, **options).eval()
    points = simulator.network.common.shape[1:]
    middle = torch.tensor([(n - 1) / 2 for n in points]).view(3, 1, 1, 1)
    offset = fields.identity(tuple(points))[0] - middle
    inward = -offset * torch.exp(-offset.square().sum(0) / 4)  # pull: look nearer to the centre
    simulator.network.common.data = size * inward
    return simulator


@pytest.mark.parametrize("kind", KINDS)
def test_untrained_and_at_strength_zero_nothing_moves(kind, volumes):
    torch.testing.assert_close(kind(SHAPE)(volumes, "inject").volumes, volumes)
    simulation = moving(kind)(volumes, "remove", 0.0)
    assert torch.equal(simulation.volumes, volumes)
    assert not simulation.displacement.any()
    assert not simulation.log_expansion.any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("field", ["velocity", "displacement"])
def test_volumes_are_the_originals_warped_by_the_displacement(kind, field, volumes):
    simulation = moving(kind, field=field)(volumes, "inject")
    assert simulation.displacement.abs().max() > 0.3
    torch.testing.assert_close(simulation.volumes, fields.warp(volumes, simulation.displacement))
    torch.testing.assert_close(
        simulation.log_expansion, fields.log_expansion(simulation.displacement)
    )


def test_sign_injected_growth_is_positive_and_its_removal_negative(volumes):
    ball = fields.identity(SHAPE) - torch.tensor([7.5, 11.5, 15.5]).view(1, 3, 1, 1, 1)
    ball = torch.sigmoid(4 - ball.norm(dim=1, keepdim=True))
    simulator = expanding(0.6)
    grown, shrunk = simulator(ball, "inject"), simulator(ball, "remove")
    assert grown.log_expansion[0, 0, 8, 12, 16] > 0.2
    assert shrunk.log_expansion[0, 0, 8, 12, 16] < -0.2
    assert grown.volumes.sum() > 1.1 * ball.sum() > 1.2 * shrunk.volumes.sum()


def test_strength_scales_the_velocity(volumes):
    simulator = moving()
    twice = simulator(volumes, "inject", 2.0).displacement
    once = simulator(volumes, "inject").displacement
    # A flow followed for twice the time is the flow applied twice.
    inside = (..., slice(4, -4), slice(4, -4), slice(4, -4))
    torch.testing.assert_close(
        twice[inside], fields.compose(once, once)[inside], atol=0.1, rtol=0.1
    )
    backward = simulator(volumes, "inject", -1.0).displacement
    assert fields.compose(once, backward)[inside].abs().max() < 0.1 * once.abs().max()
    direct = moving(field="displacement")
    torch.testing.assert_close(
        direct(volumes, "inject", 2.0).displacement, 2 * direct(volumes, "inject").displacement
    )


def test_a_velocity_does_not_fold_where_the_same_displacement_does(volumes):
    folded = [
        fields.folding_fraction(expanding(12.0, field=field)(volumes, "inject").displacement).max()
        for field in ("velocity", "displacement")
    ]
    assert folded[0] == 0
    assert folded[1] > 0


def test_a_mixed_batch_is_each_subject_alone(volumes):
    directions = ["inject", "remove", "inject"]
    for kind in KINDS:
        simulator = moving(kind)
        together = simulator(volumes, directions)
        for i, direction in enumerate(directions):
            alone = simulator(volumes[i : i + 1], direction)
            torch.testing.assert_close(
                together.displacement[i : i + 1], alone.displacement, atol=1e-5, rtol=1e-4
            )


def test_padding_is_cropped_back_exactly():
    odd = (15, 21, 26)
    volumes = torch.rand(1, 1, *odd, generator=torch.Generator().manual_seed(0))
    padded = F.pad(volumes, (0, 6, 0, 3, 0, 1), mode="replicate")
    small, large = moving(shape=odd), moving(shape=(16, 24, 32))
    large.load_state_dict(small.state_dict())
    ours, oracle = small(volumes, "inject"), large(padded, "inject")
    crop = (..., slice(15), slice(21), slice(26))
    assert torch.equal(ours.displacement, oracle.displacement[crop])
    torch.testing.assert_close(ours.volumes, oracle.volumes[crop], atol=1e-5, rtol=0)
    assert ours.displacement.abs().max() > 0.3


def test_the_two_directions_of_two_simulators_share_nothing(volumes):
    simulator = moving(warping.TwoSimulators)
    simulator(volumes, "inject").volumes.sum().backward()
    assert simulator.networks["inject"].common.grad.abs().max() > 0
    gradients = [p.grad for p in simulator.networks["remove"].parameters()]
    assert all(g is None or not g.any() for g in gradients)


def test_half_precision_leaves_the_geometry_whole(volumes):
    simulator = expanding(0.6)  # its answer is the same in half precision; the rest must be, too
    exact = simulator(volumes, "inject")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        simulation = simulator(volumes, "inject")
    torch.testing.assert_close(simulation.displacement, exact.displacement)
    torch.testing.assert_close(simulation.volumes, exact.volumes)


def test_the_seed_makes_the_weights():
    def weights(seed):
        return torch.cat([p.flatten() for p in warping.Simulator(SHAPE, seed=seed).parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


@pytest.mark.usefixtures("unchecked")
def test_bad_input(volumes):
    simulator = warping.Simulator(SHAPE)
    for direction in ("heal", ["inject"], ["inject", "remove", 1]):
        with pytest.raises(ValueError, match=r"expected a direction of \['inject', 'remove'\]"):
            simulator(volumes, direction)
    for strength in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="strength must be a finite number, got"):
            simulator(volumes, "inject", strength)
    with pytest.raises(ValueError, match=r"takes volumes of shape \(subject, 1, 16, 24, 32\)"):
        simulator(volumes[..., :-1], "inject")
    with pytest.raises(ValueError, match=r"takes volumes of shape \(subject, 1, 16, 24, 32\)"):
        simulator(volumes.expand(-1, 2, -1, -1, -1), "inject")
    with pytest.raises(ValueError, match="more than 8 voxels an axis, got"):
        warping.Simulator((16, 8, 16))
    with pytest.raises(ValueError, match="blur_voxels above 0, got 'momentum' and 2.0"):
        warping.Simulator(SHAPE, field="momentum")
    with pytest.raises(ValueError, match="blur_voxels above 0, got 'velocity' and nan"):
        warping.TwoSimulators(SHAPE, blur_voxels=float("nan"))
