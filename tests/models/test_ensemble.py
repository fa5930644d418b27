"""Several networks as one."""

import pytest
import torch
from small import Net, cohort

from helpers import models


def test_an_ensemble_says_the_mean_of_the_logits():
    networks = [Net(seed=seed).eval() for seed in range(3)]
    volumes = cohort(4).volumes
    ensemble = models.Ensemble(networks)
    each = torch.stack([network(volumes) for network in networks])
    torch.testing.assert_close(ensemble.each(volumes), each)
    torch.testing.assert_close(ensemble(volumes), (each[0] + each[1] + each[2]) / 3)


def test_no_network():
    with pytest.raises(ValueError, match="one network or more, got none"):
        models.Ensemble([])
