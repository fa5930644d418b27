"""What a results file holds is what was put in, to half a level."""

import json

import torch

from helpers import results


def test_there_and_back_through_json():
    volumes = torch.randn(3, 1, 5, 6, 7, generator=torch.Generator().manual_seed(0))
    packed = json.loads(json.dumps(results.pack(volumes)))
    step = (volumes.max() - volumes.min()) / 255
    torch.testing.assert_close(results.unpack(packed), volumes, atol=float(step) / 1.99, rtol=0)


def test_a_constant_volume():
    constant = torch.full((1, 1, 2, 3, 4), -1.5)
    torch.testing.assert_close(results.unpack(results.pack(constant)), constant)
