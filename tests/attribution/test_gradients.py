"""Oracles: Captum and MONAI on the same network, closed forms, limit cases."""

import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, NoiseTunnel, Saliency
from monai.visualize import VanillaGrad
from networks import network, relative, volumes_for
from torch import nn

from helpers import attribution, runtime

NETWORKS = ["course", "kan2020", "resnet10"]
TARGET = torch.tensor([2, 0, 1])


@pytest.fixture
def volumes():
    return volumes_for("course", 3)


@pytest.fixture
def small():
    """Volumes and baselines on another small grid with unequal sides."""
    generator = torch.Generator().manual_seed(3)
    return torch.rand(2, 1, 16, 18, 20, generator=generator), torch.rand(
        2, 1, 16, 18, 20, generator=generator
    )


def linear():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(4 * 5 * 6, 3)).eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_gradient_equals_captum_and_monai(name):
    model, volumes = network(name), volumes_for(name, 3)
    ours = attribution.gradient(model, volumes, TARGET, batch_size=2)
    oracle = Saliency(model).attribute(volumes.clone().requires_grad_(), TARGET, abs=False)
    assert relative(ours, oracle) < 1e-4
    monai = VanillaGrad(model)(volumes[:1].clone(), index=2)
    assert relative(ours[:1], monai.detach()) < 1e-4


@pytest.mark.parametrize("name", NETWORKS)
def test_input_x_gradient_equals_captum(name):
    model, volumes = network(name), volumes_for(name, 3)
    ours = attribution.input_x_gradient(model, volumes, TARGET, batch_size=2)
    oracle = InputXGradient(model).attribute(volumes.clone().requires_grad_(), TARGET)
    assert relative(ours, oracle.detach()) < 1e-4


class TestSmoothGrad:
    def test_one_noiseless_sample_is_the_gradient(self, volumes):
        model = network("course")
        quiet = attribution.smoothgrad(model, volumes, TARGET, noise=0, samples=1)
        assert torch.equal(quiet, attribution.gradient(model, volumes, TARGET))

    def test_equals_captum_with_the_same_noise(self, small, monkeypatch):
        volumes = small[0] * torch.tensor([1.0, 3.0]).view(2, 1, 1, 1, 1)  # unequal ranges
        model, samples, noise, seed = network("course", (16, 18, 20)), 4, 0.2, 7
        ours = attribution.smoothgrad(
            model, volumes, torch.tensor([2, 0]), noise=noise, samples=samples, seed=seed
        )
        patterns = torch.stack(
            [
                torch.randn(volumes.shape[1:], generator=runtime.generator(seed, 1, k))
                for k in range(samples)
            ]
        )
        ranges = volumes.flatten(1).amax(1) - volumes.flatten(1).amin(1)
        for i, target in enumerate((2, 0)):
            # Captum draws all its noise in one call: it gets ours.
            monkeypatch.setattr(torch, "normal", lambda mean, sd: patterns * sd)
            oracle = NoiseTunnel(Saliency(model)).attribute(
                volumes[i : i + 1],
                nt_type="smoothgrad",
                nt_samples=samples,
                stdevs=float(noise * ranges[i]),
                target=target,
                abs=False,
            )
            monkeypatch.undo()
            assert relative(ours[i : i + 1], oracle.detach()) < 1e-4

    def test_seed_decides_the_noise(self, small):
        model, volumes = network("course", (16, 18, 20)), small[0]
        maps = [
            attribution.smoothgrad(model, volumes, 0, samples=2, seed=seed) for seed in (0, 0, 1)
        ]
        assert torch.equal(maps[0], maps[1])
        assert relative(maps[2], maps[0]) > 0.01
        alone = attribution.smoothgrad(model, volumes[1:], 0, samples=2)
        torch.testing.assert_close(maps[0][1:], alone)

    def test_bad_options(self, small):
        model = network("course", (16, 18, 20))
        with pytest.raises(ValueError, match="noise must be a share of the volume's range"):
            attribution.smoothgrad(model, small[0], noise=-0.1)
        with pytest.raises(ValueError, match="1 sample or step, or more, got 0"):
            attribution.smoothgrad(model, small[0], samples=0)


class TestIntegratedGradients:
    @pytest.mark.parametrize(
        ("name", "kind"),
        [("course", "zeros"), ("course", "one"), ("course", "each"), ("resnet10", "each")],
    )
    def test_equals_captum(self, name, kind, small):
        volumes, baselines = small
        model, target = network(name, (16, 18, 20)), torch.tensor([2, 0])
        baseline = {"zeros": None, "one": baselines[:1], "each": baselines}[kind]
        ours = attribution.integrated_gradients(
            model, volumes, target, baseline=baseline, steps=7, batch_size=3
        )
        theirs = baseline.expand_as(volumes) if kind != "zeros" else None
        oracle = IntegratedGradients(model).attribute(volumes, theirs, target, n_steps=7)
        assert relative(ours, oracle.float()) < 1e-4

    def test_complete(self, small):
        volumes, baselines = 4 * small[0], small[1]
        model, target = network("modules"), torch.tensor([2, 0])
        maps = attribution.integrated_gradients(
            model, volumes, target, baseline=baselines, steps=100, batch_size=25
        )
        with torch.no_grad():
            gained = (model(volumes) - model(baselines)).gather(1, target[:, None])[:, 0]
        assert gained.abs().min() > 0.1
        torch.testing.assert_close(maps.sum((1, 2, 3, 4)), gained, rtol=0.01, atol=0)

    def test_exact_with_one_step_on_a_linear_network(self):
        model = linear()
        volumes, baseline = torch.rand(2, 1, 4, 5, 6), torch.rand(1, 1, 4, 5, 6)
        maps = attribution.integrated_gradients(model, volumes, 1, baseline=baseline, steps=1)
        weights = model[1].weight[1].detach().view(1, 1, 4, 5, 6)
        torch.testing.assert_close(maps, (volumes - baseline) * weights)

    @pytest.mark.usefixtures("unchecked")
    def test_bad_options(self, small):
        model, volumes = network("course", (16, 18, 20)), small[0]
        explain = attribution.integrated_gradients
        with pytest.raises(ValueError, match=r"volumes' \(16, 18, 20\) voxels, got shape"):
            explain(model, volumes, baseline=torch.zeros(1, 1, 18, 16, 20))
        with pytest.raises(ValueError, match=r"axes \(baseline, 1, x, y, z\)"):
            explain(model, volumes, baseline=torch.zeros(16, 18, 20))
        with pytest.raises(ValueError, match=r"one baseline or one a subject \(2\), got 3"):
            explain(model, volumes, baseline=torch.zeros(3, 1, 16, 18, 20))
        with pytest.raises(ValueError, match="baselines hold NaN"):
            explain(model, volumes, baseline=volumes * float("nan"))
        with pytest.raises(ValueError, match="1 sample or step, or more, got 0"):
            explain(model, volumes, steps=0)


class TestExpectedGradients:
    def test_exact_on_a_linear_network(self):
        """Each baseline is used equally often, so their mean counts exactly."""
        model, volumes, baselines = linear(), torch.rand(2, 1, 4, 5, 6), torch.rand(3, 1, 4, 5, 6)
        maps = attribution.expected_gradients(model, volumes, 1, baselines=baselines, samples=6)
        weights = model[1].weight[1].detach().view(1, 1, 4, 5, 6)
        torch.testing.assert_close(maps, (volumes - baselines.mean(0)) * weights)

    def test_mean_is_captums_integrated_gradients_over_the_baselines(self, small):
        """More samples come closer, and the mean over seeds is closer than a single seed."""
        volumes, baselines = 4 * small[0], small[1]
        model = network("modules")
        oracle = torch.stack(
            [
                IntegratedGradients(model).attribute(volumes, b.expand_as(volumes), 1, n_steps=100)
                for b in baselines
            ]
        ).mean(0)  # fmt: skip

        def maps(samples, seed):
            return attribution.expected_gradients(
                model, volumes, 1, baselines=baselines, samples=samples, seed=seed, batch_size=50
            )

        def error(map_):
            return float((map_ - oracle).norm() / oracle.norm())

        few = [maps(10, seed) for seed in range(6)]
        single = sum(error(map_) for map_ in few) / 6
        assert error(torch.stack(few).mean(0)) < 0.6 * single
        assert error(maps(200, 0)) < 0.4 * single

    def test_complete_in_expectation(self, small):
        volumes, baselines = 4 * small[0], small[1]
        model = network("modules")
        maps = attribution.expected_gradients(
            model, volumes, 1, baselines=baselines, samples=200, batch_size=50
        )
        with torch.no_grad():
            gained = model(volumes)[:, 1] - model(baselines)[:, 1].mean()
        assert gained.abs().min() > 0.1
        torch.testing.assert_close(maps.sum((1, 2, 3, 4)), gained, rtol=0.1, atol=0)

    @pytest.mark.usefixtures("unchecked")
    def test_bad_options(self, small):
        model, volumes = network("course", (16, 18, 20)), small[0]
        explain = attribution.expected_gradients
        with pytest.raises(ValueError, match=r"volumes' \(16, 18, 20\) voxels, got shape"):
            explain(model, volumes, baselines=torch.zeros(4, 1, 18, 16, 20))
        with pytest.raises(ValueError, match=r"got shape \(0, 1, 16, 18, 20\)"):
            explain(model, volumes, baselines=volumes[:0])
        with pytest.raises(ValueError, match="60 baselines need as many samples or more, got 50"):
            explain(model, volumes, baselines=torch.rand(60, 1, 16, 18, 20))
        with pytest.raises(ValueError, match="1 sample or step, or more, got 0"):
            explain(model, volumes, samples=0)
