"""Identities and signs; the field itself is tested against oracles in test_fields.py."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers import fields, models, warping

SHAPE = (16, 24, 32)


@pytest.fixture
def volumes():
    generator = torch.Generator().manual_seed(0)
    return fields.gaussian_blur(torch.rand(3, 1, *SHAPE, generator=generator), 1.5)


def moving(shape=SHAPE, **options):
    """Return a simulator whose last layer is drawn as well: it moves tissue by a voxel or so."""
    simulator = warping.Simulator(shape, **options).eval()
    generator = torch.Generator().manual_seed(1)
    simulator.common = 3 * torch.randn(simulator.common.shape, generator=generator)
    kernels = simulator.out.kernels
    kernels.data = 0.3 * torch.randn(kernels.shape, generator=generator)
    return simulator


def growing(size, **options):
    """Return a simulator that gives everybody growth in the middle, of a size a direction."""
    simulator = warping.Simulator(SHAPE, **options).eval()
    axes = [torch.arange(n) - (n - 1) / 2 for n in simulator.common.shape]
    squared = sum(a.square() for a in torch.meshgrid(*axes, indexing="ij"))
    simulator.common = size * torch.exp(-squared / 2)
    # One expert says 1, one says -1, and the condition alone decides which of them speaks.
    simulator.out.biases.data = torch.tensor([[1.0], [-1.0], [0.0]])
    simulator.out.router.weight.data.zero_()
    simulator.out.router.weight.data[:2, -1] = torch.tensor([20.0, -20.0])
    simulator.out.router.bias.data.zero_()
    return simulator


def test_untrained_and_at_strength_zero_nothing_moves(volumes):
    assert torch.equal(warping.Simulator(SHAPE)(volumes, "inject").volumes, volumes)
    simulation = moving()(volumes, "remove", 0.0)
    assert torch.equal(simulation.volumes, volumes)
    assert not simulation.displacement.any()
    assert not simulation.log_expansion.any()


def test_volumes_are_the_originals_warped_by_the_displacement(volumes):
    simulation = moving()(volumes, "inject")
    assert simulation.displacement.abs().max() > 0.3
    torch.testing.assert_close(simulation.volumes, fields.warp(volumes, simulation.displacement))
    torch.testing.assert_close(
        simulation.log_expansion, fields.log_expansion(simulation.displacement)
    )


def test_sign_injected_growth_is_positive_and_its_removal_negative(volumes):
    ball = fields.identity(SHAPE) - torch.tensor([7.5, 11.5, 15.5]).view(1, 3, 1, 1, 1)
    ball = torch.sigmoid(4 - ball.norm(dim=1, keepdim=True))
    simulator = growing(3.0)
    grown, shrunk = simulator(ball, "inject"), simulator(ball, "remove")
    assert grown.log_expansion[0, 0, 8, 12, 16] > 0.2
    assert shrunk.log_expansion[0, 0, 8, 12, 16] < -0.2
    assert grown.volumes.sum() > 1.1 * ball.sum() > 1.2 * shrunk.volumes.sum()


def test_the_direction_comes_through_the_convolutions_alone(volumes):
    """Cut the condition out of every router, and both directions are one."""
    simulator = moving()
    there, back = (simulator(volumes, way).displacement for way in warping.DIRECTIONS)
    assert (there - back).abs().max() > 0.1
    for layer in simulator.modules():
        if isinstance(layer, warping.CondConv3d):
            layer.router.weight.data[:, -1] = 0
    there, back = (simulator(volumes, way).displacement for way in warping.DIRECTIONS)
    assert torch.equal(there, back)


def test_features_keep_their_amplitude(volumes):
    """No layer of the answer brings every brain to one scale."""
    simulator = moving()
    seen = []
    simulator.near.register_forward_hook(lambda *call: seen.append(call[-1]))
    for brightness in (0.01, 1, 10):
        simulator(brightness * volumes, "remove")
    nothing, once, ten_times = seen
    assert (ten_times - nothing).std() > 5 * (once - nothing).std() > 0


def test_strength_scales_the_potential(volumes):
    simulator = moving()
    twice = simulator(volumes, "inject", 2.0).displacement
    once = simulator(volumes, "inject").displacement
    # A flow followed for twice the time is the flow applied twice.
    inside = (..., slice(4, -4), slice(4, -4), slice(4, -4))
    torch.testing.assert_close(
        twice[inside], fields.compose(once, once)[inside], atol=0.15, rtol=0.15
    )
    backward = simulator(volumes, "inject", -1.0).displacement
    assert fields.compose(once, backward)[inside].abs().max() < 0.1 * once.abs().max()


def test_no_strength_folds(volumes):
    for strength in (1.0, 10.0, -10.0):
        steep = growing(6.0)(volumes, "inject", strength).displacement
        assert fields.folding_fraction(steep).max() == 0


def test_a_mixed_batch_is_each_subject_alone(volumes):
    directions = ["inject", "remove", "inject"]
    simulator = moving()
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
    small, large = moving(shape=odd), moving(shape=SHAPE)
    large.load_state_dict(small.state_dict())
    ours, oracle = small(volumes, "inject"), large(padded, "inject")
    crop = (..., slice(15), slice(21), slice(26))
    assert torch.equal(ours.displacement, oracle.displacement[crop])
    torch.testing.assert_close(ours.volumes, oracle.volumes[crop], atol=1e-5, rtol=0)
    assert ours.displacement.abs().max() > 0.3


def test_a_simulator_sees_with_the_classifiers_eyes_and_leaves_them_as_they_are(volumes):
    classifiers = [
        models.build("course_with_places", 2, SHAPE, seed=seed).eval() for seed in (4, 5)
    ]
    simulator = warping.Simulator(SHAPE, eyes=2)
    simulator.look_through(classifiers)
    for classifier in classifiers:
        classifier.to(memory_format=torch.channels_last_3d)  # as the eyes: another one rounds anew
    for eyes, classifier in zip(simulator.eyes, classifiers, strict=True):
        seen, oracle = [], []
        eyes[3].register_forward_hook(lambda *call, seen=seen: seen.append(call[-1]))
        classifier.block4.register_forward_hook(
            lambda *call, oracle=oracle: oracle.append(call[-1])
        )
        simulator.train()(volumes, "remove")
        classifier(volumes)
        assert torch.equal(seen[0], oracle[0])
    assert not any(parameter.requires_grad for parameter in simulator.eyes.parameters())
    assert not any(module.training for module in simulator.eyes.modules())
    with torch.no_grad():
        classifiers[0].block1[0].weight.zero_()  # the simulator has a copy
    assert simulator.eyes[0][0][0].weight.any()


def test_features_are_differences_from_healthy_people():
    """Of the people compared with, each feature has mean 0 at each place, and at most a unit."""
    generator = torch.Generator().manual_seed(0)
    healthy = fields.gaussian_blur(torch.rand(20, 1, *SHAPE, generator=generator), 1.5)
    simulator, seen = warping.Simulator(SHAPE), []
    before = [parameter.clone() for parameter in simulator.eyes.state_dict().values()]
    simulator.compare_with(healthy)
    for a, b in zip(before, simulator.eyes.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    simulator.deep.register_forward_hook(lambda _, given, answer: seen.append(given[0][:, :96]))
    simulator(healthy, "remove")
    assert seen[0].mean(0).abs().max() < 1e-3
    assert 0.3 < seen[0].std(0).max() <= 1
    simulator(healthy.roll(1, dims=2), "remove")  # their places are others
    assert seen[1].mean(0).abs().max() > 0.1


def test_a_classifier_without_fitting_eyes_leaves_a_simulator_its_own():
    simulator = warping.Simulator(SHAPE)
    before = {name: value.clone() for name, value in simulator.state_dict().items()}
    simulator.look_through([nn.Linear(2, 2)])
    for name, value in simulator.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.requires_grad for parameter in simulator.parameters())


def test_half_precision_leaves_the_geometry_whole(volumes):
    simulator = growing(3.0)  # its answer is the same in half precision; the rest must be, too
    exact = simulator(volumes, "inject")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        simulation = simulator(volumes, "inject")
    # The dose itself is rounded; a position of half precision would be wrong by far more.
    torch.testing.assert_close(simulation.displacement, exact.displacement, atol=5e-3, rtol=0)
    torch.testing.assert_close(simulation.volumes, exact.volumes, atol=5e-3, rtol=0)


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
    with pytest.raises(ValueError, match="blur_voxels above 0 and eyes of 1 or more, got nan"):
        warping.Simulator(SHAPE, blur_voxels=float("nan"))
    with pytest.raises(ValueError, match=r"eyes of 1 or more, got 2\.5 and 0"):
        warping.Simulator(SHAPE, eyes=0)
