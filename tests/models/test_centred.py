"""A lead is what decides, and every method can explain it."""

import pytest
import torch
from torch import nn

from helpers import attribution, models
from helpers.evaluation import shapley

SHAPE = (16, 20, 24)


@pytest.fixture(scope="module")
def volumes():
    return torch.rand(3, 1, *SHAPE, generator=torch.Generator().manual_seed(0))


def bright_spot_detector():
    network = nn.Sequential(
        nn.Conv3d(1, 1, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveMaxPool3d(1),
        nn.Flatten(),
        nn.Linear(1, 2),
    )
    with torch.no_grad():
        network[0].weight.fill_(1 / 27)
        network[0].bias.zero_()
        network[4].weight.copy_(torch.tensor([[-2.0], [2.0]]))
        network[4].bias.copy_(torch.tensor([4.0, -4.0]))
    return network.eval()


@pytest.mark.parametrize("classes", [2, 5])
def test_the_lead_decides_as_the_logits_do(volumes, classes):
    network = models.build("course", classes, seed=3)
    logits = models.predict(network, volumes)
    leads = models.predict(models.centred(network, classes), volumes)
    torch.testing.assert_close(leads.softmax(1), logits.softmax(1), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(leads.sum(1), torch.zeros(3), atol=1e-5, rtol=0)
    if classes == 2:
        twice = shapley.margin(logits, 1)
        torch.testing.assert_close(2 * leads[:, 1], twice, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(attribution.METHODS))
def test_every_method_explains_the_lead(volumes, name):
    options = {
        "occlusion": {"stride": 8},
        "meaningful_perturbation": {"iterations": 30, "ramp": 5},
        "expected_gradients": {"baselines": volumes[1:]},
    }.get(name, {})
    network = models.centred(bright_spot_detector(), 2)
    volumes = volumes[:2].clone()
    volumes[0, :, 4:8, 4:8, 4:8] += 3
    maps = attribution.METHODS[name](network, volumes[:1], 1, **options)
    assert maps.shape == volumes[:1].shape
    assert float(maps.abs().max()) > 0


def test_the_gradient_of_the_lead_is_the_difference_of_both_gradients(volumes):
    network = models.build("course", 2, seed=3).eval()
    lead = attribution.gradient(models.centred(network, 2), volumes, 1)
    ill, well = (attribution.gradient(network, volumes, k) for k in (1, 0))
    torch.testing.assert_close(2 * lead, ill - well, atol=1e-6, rtol=1e-4)


def test_card_mode_and_precision_go_along():
    network = models.pretrained("lesion")
    assert models.centred(network, 5).card is network.card
    assert models.centred(nn.Linear(3, 2).double().train(), 2)[1].weight.dtype == torch.float64
    assert not models.centred(network, 5).training
    with pytest.raises(ValueError, match="two classes or more, got 1"):
        models.centred(network, 1)
