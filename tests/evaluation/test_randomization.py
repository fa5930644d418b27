"""Oracle: Quantus' randomization test, on layers whose new weights are known."""

import numpy as np
import pytest
import quantus
import torch
from torch import nn

from helpers import attribution, evaluation, models

SHAPE = (8, 10, 12)


@pytest.fixture
def volumes():
    return torch.rand(2, 1, *SHAPE, generator=torch.Generator().manual_seed(1))


class KnownConv(nn.Conv3d):
    """Forgets to the same weights whatever the seed: theirs and ours draw differently."""

    def reset_parameters(self):
        with torch.no_grad():
            wave = torch.sin(torch.arange(self.weight.numel()) * 0.7)
            self.weight.copy_(wave.view_as(self.weight))
            self.bias.zero_()


class KnownLinear(nn.Linear):
    def reset_parameters(self):
        with torch.no_grad():
            wave = torch.cos(torch.arange(self.weight.numel()) * 1.3)
            self.weight.copy_(wave.view_as(self.weight))
            self.bias.zero_()


def trained(convolution=KnownConv, linear=KnownLinear):
    model = nn.Sequential(
        convolution(1, 3, 3),
        nn.BatchNorm3d(3),
        nn.ReLU(),
        nn.Flatten(),
        linear(3 * 6 * 8 * 10, 2),
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in model.parameters():
            weights.copy_(torch.randn(weights.shape, generator=generator))
        model[1].running_mean.copy_(torch.randn(3, generator=generator))
    return model.eval()


def test_equals_quantus(volumes):
    target = torch.tensor([1, 0])

    def explain(model, inputs, targets, **unused):
        maps = attribution.gradient(model, torch.as_tensor(inputs), torch.as_tensor(targets))
        return maps.abs().numpy()

    expected = quantus.MPRT(normalise=False, abs=False, disable_warnings=True)(
        model=trained(),
        x_batch=volumes.numpy(),
        y_batch=target.numpy(),
        a_batch=explain(trained(), volumes, target),
        explain_func=explain,
        channel_first=True,
        device="cpu",
    )
    table = evaluation.randomization_check(trained(), attribution.gradient, volumes, target)
    assert table["layer"].unique().tolist() == ["4", "1", "0"]
    for layer, rows in table.groupby("layer"):
        np.testing.assert_allclose(rows["correlation"], expected[layer], atol=1e-6)
    assert table["correlation"].max() < 0.99


def edges(model, volumes, target=None):
    """A detector of edges looks like an explanation, and never asks the network."""
    return sum((volumes - volumes.roll(1, dim)).abs() for dim in (2, 3, 4))


def test_edge_detector_fails_and_gradient_passes(volumes):
    model = models.build("course", 2)
    fails = evaluation.randomization_check(model, edges, volumes)
    assert fails["correlation"].tolist() == pytest.approx([1] * 10)
    passes = evaluation.randomization_check(model, attribution.gradient, volumes)
    last = passes.query("step == step.max()")
    assert last["layer"].unique().tolist() == ["block1"]
    assert last["correlation"].abs().max() < 0.3


def test_the_cascade_ends_at_an_untrained_network_of_known_statistics(volumes):
    seen = []

    def spy(model, volumes, target, **options):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return attribution.gradient(model, volumes, target)

    model = models.build("course", 2)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.running_mean.fill_(-0.3)
                module.weight.fill_(2.0)
    evaluation.randomization_check(model, spy, volumes, 0, layers=["classifier", "block4.3"])
    before, first, second = seen
    changed = [{n for n in before if not torch.equal(before[n], now[n])} for now in (first, second)]
    assert changed[0] == {"classifier.weight", "classifier.bias"}
    assert changed[1] == changed[0] | {"block4.3.weight"}  # what forgot stays so
    assert torch.equal(first["classifier.weight"], second["classifier.weight"])
    seen.clear()
    evaluation.randomization_check(model, spy, volumes, 0)
    assert all((seen[-1][n] == 0).all() for n in before if n.endswith("running_mean"))
    assert all(
        not torch.equal(before[n], seen[-1][n])
        for n in before
        if not n.endswith("tracked") and not n.endswith(("running_var", ".1.bias", ".4.bias"))
    )


def test_the_class_stays_the_one_that_the_trained_network_predicts(volumes):
    targets = []

    def spy(model, volumes, target, **options):
        targets.append((target, options))
        return volumes

    model = models.build("course", 3)
    evaluation.randomization_check(model, spy, volumes, samples=3)
    predicted = models.predict(model, volumes).argmax(1)
    assert len(targets) == 6
    assert all(torch.equal(t, predicted) and o == {"samples": 3} for t, o in targets)


def test_model_and_random_state_are_left_as_they_were(volumes):
    model = trained(nn.Conv3d, nn.Linear).train()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    tables = [
        evaluation.randomization_check(model, attribution.gradient, volumes, seed=seed)
        for seed in (0, 0, 1)
    ]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(weights[n], v) for n, v in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert tables[0].equals(tables[1])
    assert not tables[0].equals(tables[2])


def test_only_voxels_within_count(volumes):
    volumes[:, :, 4:] = 0

    def differs_outside(model, volumes, target):
        outside = float(model[0].weight.detach().sum()) * torch.arange(480.0)
        maps = volumes.clone()
        maps[:, :, 4:] += outside.cos().view(1, 1, 4, 10, 12)
        return maps

    model = trained(nn.Conv3d, nn.Linear)
    check = evaluation.randomization_check(model, differs_outside, volumes)
    assert check["correlation"].tolist() == pytest.approx([1] * 6)
    everything = torch.ones(1, 1, *SHAPE, dtype=torch.bool)
    check = evaluation.randomization_check(model, differs_outside, volumes, within=everything)
    assert check["correlation"].iloc[-1] < 0.99


class Own(nn.Module):
    """Has weights of its own and no word on how to draw them."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, volumes):
        return volumes.flatten(1)[:, :2] * self.scale


@pytest.mark.usefixtures("unchecked")
def test_bad_input(volumes):
    model, check = trained(), evaluation.randomization_check
    with pytest.raises(ValueError, match="no layer 'block9'; there are"):
        check(model, attribution.gradient, volumes, layers=["block9"])
    with pytest.raises(ValueError, match="layer '2' has no weights"):
        check(model, attribution.gradient, volumes, layers=["2"])
    with pytest.raises(ValueError, match="target must be a class from 0 to 1, got 2"):
        check(model, attribution.gradient, volumes, 2)
    with pytest.raises(ValueError, match="a Own in '0' has weights but no reset_parameters"):
        check(nn.Sequential(Own()), attribution.gradient, volumes)
    with pytest.raises(ValueError, match="no part of the model has weights"):
        check(nn.Flatten(), edges, volumes, 0)
    with pytest.raises(ValueError, match="hold NaN"):
        check(model, lambda m, v, t: v * float("nan"), volumes)
    with pytest.warns(UserWarning, match="zero everywhere"):
        table = check(model, lambda m, v, t: 0 * v, volumes)
    assert (table["correlation"] == 0).all()
