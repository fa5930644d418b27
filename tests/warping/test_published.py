"""Numbers of the published architecture, counted by hand, and what every simulator has to keep."""

import pytest
import torch
import torch.nn.functional as F

from helpers import fields
from helpers.warping import Simulation, published

SHAPE = (15, 18, 33)  # grows to 16, 32, 48

# A conditional layer of theirs has 3 kernels of 3x3x3, one bias a channel, and a router from the
# mean of every channel and the condition to 3 experts: 81 in out + out + 3 (in + 1) + 3. Channels
# are those of `Convnet_SkipConnection` in unet_model_cond_warp.py; layers, of CondConv.py.
PUBLISHED = {
    "down.0": 1_321,  # `input`, 1 to 16
    "down.1": 41_558,  # `down1`, 16 to 32
    "down.2": 166_054,  # `down2`, 32 to 64
    "down.3": 83_158,  # `down3`, 64 to 16
    "down.4": 20_806,  # `down4`, 16 to 16
    "up.0": 20_806,  # `up_input`, 16 to 16; `up1_noconv` follows
    "up.1": 83_062,  # `up2`, 16 to 64
    "up.2": 166_118,  # `up3`, 64 to 32
    "up.3": 41_590,  # `up4`, 32 to 16
    "up.4": 3_945,  # `output`, 16 to 3
    # Batch normalization: a scale and an offset for each channel that comes into a layer on the way
    # down, and for each that comes out of one on the way up.
    "down_norms.0": 32,
    "down_norms.1": 64,
    "down_norms.2": 128,
    "down_norms.3": 32,
    "up_norms.0": 32,
    "up_norms.1": 128,
    "up_norms.2": 64,
    "up_norms.3": 32,
    "squeeze": 524_800,  # `in_Linear1`, 1024 to 512
    "expand": 526_336,  # `out_Linear1`, 512 and the condition to 1024
}


@pytest.fixture(scope="module")
def volumes():
    generator = torch.Generator().manual_seed(0)
    return fields.gaussian_blur(torch.randn(3, 1, *SHAPE, generator=generator), 1.5)


def moving(shape=SHAPE):
    """Return a simulator that has seen a batch, so that its norms have something to say."""
    simulator = published.Liu2021(shape)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _ in range(3):
            simulator(torch.randn(2, 1, *shape, generator=generator), ["inject", "remove"])
        simulator.up[-1].kernels *= 3
    return simulator.eval()


def balls():
    """Return balls of which those of label 1 are small, and a reader that calls small balls ill."""
    shape = (14, 15, 16)
    middle = torch.tensor([(n - 1) / 2 for n in shape]).view(1, 3, 1, 1, 1)
    distance = (fields.identity(shape) - middle).norm(dim=1, keepdim=True)
    labels = torch.tensor([0, 1, 0, 1])
    radii = torch.tensor([5.0, 3.5, 4.8, 3.7]).view(-1, 1, 1, 1, 1)
    volumes = torch.sigmoid(radii - distance)

    def reader(volumes):
        sizes = volumes.sum((1, 2, 3, 4))
        return torch.stack([-sizes / 330, -sizes / 300], dim=1)

    return volumes, labels, reader


def test_parameters_of_every_layer_are_as_many_as_published():
    simulator = published.Liu2021((64, 64, 64))
    counted = {
        name: sum(p.numel() for p in simulator.get_submodule(name).parameters())
        for name in PUBLISHED
    }
    assert counted == PUBLISHED
    assert sum(p.numel() for p in simulator.parameters()) == 1_680_066


def test_sizes_inside_are_the_published_ones():
    """The published comments beside the layers, of a volume of 64 voxels an axis."""
    simulator, sizes = published.Liu2021((64, 64, 64)).eval(), {}
    for name in PUBLISHED:
        simulator.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: sizes.update({name: tuple(out.shape[1:])})
        )
    with torch.no_grad():
        simulator(torch.randn(1, 1, 64, 64, 64), "inject")
    assert [sizes[f"down.{i}"][:2] for i in range(5)] == [
        (16, 64),
        (32, 32),
        (64, 16),
        (16, 8),
        (16, 4),
    ]
    # Before `_grow` doubles them.
    assert [sizes[f"up.{i}"][:2] for i in range(5)] == [
        (16, 4),
        (64, 8),
        (32, 16),
        (16, 32),
        (3, 64),
    ]
    assert sizes["squeeze"] == (512,)


def test_layers_are_joined_as_published(volumes):
    """Oracle: the same layers joined one by one, with the modules of PyTorch."""
    simulator = moving((16, 32, 48))
    halve = torch.nn.Sequential(torch.nn.LeakyReLU(0.1), torch.nn.MaxPool3d(2))
    grow = torch.nn.Sequential(torch.nn.LeakyReLU(0.1), torch.nn.Upsample(scale_factor=2))
    volumes = F.pad(volumes, (0, 15, 0, 14, 0, 1), mode="replicate")[:2]
    condition = torch.tensor([[1.0], [-1.0]])
    (a, b, c, d, e), (f, g, h, i, j) = simulator.down, simulator.up
    whole = a(volumes, condition)
    half = b(halve(simulator.down_norms[0](whole)), condition)
    quarter = c(halve(simulator.down_norms[1](half)), condition)
    eighth = d(halve(simulator.down_norms[2](quarter)), condition)
    sixteenth = e(halve(simulator.down_norms[3](eighth)), condition)
    code = simulator.squeeze(sixteenth.reshape(2, 16 * 1 * 2 * 3)).relu()
    code = torch.cat([code, torch.tensor([[1.0], [0.0]])], dim=1)  # rectified: removing is 0
    back = f(simulator.expand(code).reshape(2, 16, 1, 2, 3), condition) + sixteenth
    back = grow(simulator.up_norms[0](back)) + eighth
    back = grow(simulator.up_norms[1](g(back, condition))) + quarter
    back = grow(simulator.up_norms[2](h(back, condition))) + half
    back = grow(simulator.up_norms[3](i(back, condition))) + whole
    answer = simulator(volumes, ["inject", "remove"]).displacement
    torch.testing.assert_close(answer, j(back, condition))


def test_a_layer_is_a_mixed_kernel_and_one_bias():
    layer = published.Liu2021(SHAPE).down[1].eval()
    torch.nn.init.normal_(layer.bias)
    features, condition = torch.randn(3, 16, 5, 6, 7), torch.tensor([[1.0], [-1.0], [1.0]])
    share = layer.routing(features, condition)
    for i, result in enumerate(layer(features, condition)):
        kernel = sum(s * kernel for s, kernel in zip(share[i], layer.kernels, strict=True))
        oracle = F.conv3d(features[i : i + 1], kernel, layer.bias, padding=1)[0]
        torch.testing.assert_close(result, oracle, atol=1e-5, rtol=1e-4)


def test_first_weights_are_drawn_as_published():
    """Xavier's rule: the axes after the second times the first two give fan out and fan in."""
    simulator = published.Liu2021(SHAPE)
    for layer in (*simulator.down, *simulator.up):
        experts, out, channels = layer.kernels.shape[:3]
        expected = (2 / (27 * channels * (experts + out))) ** 0.5
        assert float(layer.kernels.detach().std() / expected) == pytest.approx(1, abs=0.06)
        assert not layer.bias.any()


def test_routing_forgets_a_tenth_of_the_means_in_training_only():
    layer = published.Liu2021(SHAPE).down[2]
    features, condition = torch.rand(400, 32, 2, 2, 2), torch.ones(400, 1)
    layer.router.weight.data.zero_()[:, 0] = 1  # looks at one channel alone
    means = features.mean((2, 3, 4))[:, 0]
    with torch.no_grad():
        seen = torch.logit(layer.eval().routing(features, condition)) - layer.router.bias
        torch.testing.assert_close(seen[:, 0], means)
        seen = torch.logit(layer.train().routing(features, condition)) - layer.router.bias
    forgotten = seen[:, 0].abs() < 1e-3
    assert 0.05 < float(forgotten.float().mean()) < 0.15
    torch.testing.assert_close(seen[~forgotten, 0], means[~forgotten] / 0.9)


def test_the_condition_changes_every_kernel(volumes):
    simulator = moving()
    shares = {}
    for i, layer in enumerate((*simulator.down, *simulator.up)):
        routing = layer.routing
        layer.routing = lambda *seen, i=i, routing=routing: shares.setdefault(i, routing(*seen))
    same = volumes[:1].expand(2, -1, -1, -1, -1)
    simulation = simulator(same, ["inject", "remove"])
    assert len(shares) == 10
    assert all((share[0] - share[1]).abs().max() > 0.01 for share in shares.values())
    assert (simulation.displacement[0] - simulation.displacement[1]).abs().max() > 0.1


def test_a_mixed_batch_is_each_subject_alone(volumes):
    simulator, directions = moving(), ["inject", "remove", "inject"]
    together = simulator(volumes, directions)
    for i, direction in enumerate(directions):
        alone = simulator(volumes[i : i + 1], direction)
        torch.testing.assert_close(
            together.displacement[i : i + 1], alone.displacement, atol=1e-5, rtol=1e-4
        )


def test_strength_zero_is_the_identity_to_the_bit(volumes):
    simulation = moving()(volumes, "remove", 0.0)
    assert torch.equal(simulation.volumes, volumes)
    assert simulation.volumes is not volumes
    assert torch.equal(simulation.displacement, torch.zeros(3, 3, *SHAPE))


def test_volumes_are_the_originals_warped_and_strength_scales_the_field(volumes):
    simulator = moving()
    once, back = simulator(volumes, "inject"), simulator(volumes, "inject", -2.0)
    assert once.displacement.abs().max() > 0.3
    assert torch.equal(once.volumes, fields.warp(volumes, once.displacement))
    torch.testing.assert_close(back.displacement, -2 * once.displacement)


def test_padding_is_cropped_back_exactly(volumes):
    padded = F.pad(volumes, (0, 15, 0, 14, 0, 1), mode="replicate")
    small = moving()
    large = published.Liu2021((16, 32, 48)).eval()
    large.load_state_dict(small.state_dict())
    oracle = large(padded, "remove").displacement[..., :15, :18, :33]
    assert torch.equal(small(volumes, "remove").displacement, oracle)


def test_half_precision_leaves_the_geometry_whole(volumes):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        simulation = moving()(volumes, "inject")
    assert simulation.displacement.dtype == torch.float32
    assert torch.equal(simulation.volumes, fields.warp(volumes, simulation.displacement))


def test_the_seed_makes_the_weights():
    def weights(seed):
        simulator = published.Liu2021(SHAPE, seed=seed)
        return torch.cat([p.flatten() for p in simulator.parameters()])

    state = torch.get_rng_state()
    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))
    assert torch.equal(torch.get_rng_state(), state)


class Brighter(torch.nn.Module):
    """Not a warp: adds 1 to inject and takes 0.5 away to remove, so that terms are known."""

    def forward(self, volumes, direction):
        added = torch.tensor([1.0 if name == "inject" else -0.5 for name in direction])
        displacement = torch.zeros(len(volumes), 3, *volumes.shape[2:])
        displacement[:, 0] = 0.3 * torch.arange(volumes.shape[2]).view(-1, 1, 1)
        displacement[:, 1] = -0.6 * torch.arange(volumes.shape[4])
        return Simulation(volumes=volumes + added.view(-1, 1, 1, 1, 1), displacement=displacement)


def test_terms_by_hand(volumes):
    def readers(volumes):
        mean = volumes.mean((1, 2, 3, 4))
        return torch.stack([mean, 2 * mean], dim=1)

    terms, after = published.PublishedTerms(readers, margin=1.5)(
        Brighter(), volumes, torch.tensor([0, 1, 0]), torch.Generator()
    )
    torch.testing.assert_close(
        after, readers(volumes + torch.tensor([1, -0.5, 1]).view(3, 1, 1, 1, 1))
    )
    # Injected, logits rise by 1 and 2: 0.5 and 0 are missing. Removed, they fall by 0.5 and 1.
    torch.testing.assert_close(terms["logit_shift"], torch.tensor([0.25, 0.75, 0.25]))
    # Slopes 0.3 along x and 0.6 along z, each in one of three channels, on three axes.
    torch.testing.assert_close(terms["slope"], torch.full((3,), (0.3 + 0.6) / 9))
    torch.testing.assert_close(terms["cycle"], torch.full((3,), 0.25))  # 0.5 too bright at the end


def test_a_few_steps_move_the_logit_the_way_asked():
    volumes, labels, reader = balls()
    asked = ["remove" if ill else "inject" for ill in labels.tolist()]
    sign = torch.tensor([-1.0 if ill else 1.0 for ill in labels.tolist()])[:, None]
    simulator = published.Liu2021(tuple(volumes.shape[2:]))
    optimizer = torch.optim.Adam(simulator.parameters(), lr=1e-3)
    terms, before = published.PublishedTerms(reader), reader(volumes)
    for _ in range(40):
        optimizer.zero_grad()
        values, _ = terms(simulator, volumes, labels, torch.Generator())
        sum(published.STRENGTHS[name] * values[name].mean() for name in values).backward()
        optimizer.step()
    with torch.no_grad():
        simulation = simulator.eval()(volumes, asked)
        moved = sign * (reader(simulation.volumes) - before)
    assert moved.min() > 0.5  # in evaluation mode: running statistics have to catch up first


@pytest.mark.usefixtures("unchecked")
def test_bad_input(volumes):
    simulator = published.Liu2021(SHAPE).eval()
    for direction in ("heal", ["inject"], ["inject", "remove", 1]):
        with pytest.raises(ValueError, match=r"expected a direction of \['inject', 'remove'\]"):
            simulator(volumes, direction)
    for strength in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="strength must be a finite number, got"):
            simulator(volumes, "inject", strength)
    for wrong in (volumes[..., :-1], volumes.expand(-1, 2, -1, -1, -1)):
        with pytest.raises(ValueError, match=r"takes volumes of shape \(subject, 1, 15, 18, 33\)"):
            simulator(wrong, "inject")
    with pytest.raises(ValueError, match="are constant, so there is nothing to see"):
        simulator(torch.ones(1, 1, *SHAPE), "inject")
    for shape in ((16, 16), (1, 16, 16)):
        with pytest.raises(ValueError, match="2 voxels an axis or more, got"):
            published.Liu2021(shape)
