"""What classifiers say in one unit, however they read memory."""

import torch
from torch import nn

from helpers.warping.readers import Readers


class Viewed(nn.Module):
    """Flattens its features as memory has them, which fails with the channels last."""

    def __init__(self):
        super().__init__()
        self.kernels, self.read = nn.Conv3d(1, 2, 3, padding=1), nn.Linear(2 * 5 * 6 * 7, 2)

    def forward(self, volumes):
        return self.read(self.kernels(volumes).view(len(volumes), -1))


def test_a_network_that_reads_memory_as_it_lies_says_the_same():
    torch.manual_seed(0)
    network, volumes = Viewed(), torch.rand(3, 1, 5, 6, 7, requires_grad=True)
    readers = Readers([network], [2.0])
    for _ in range(2):
        said = readers(volumes)
        logits = network(volumes)
        oracle = (logits[:, 1] - logits[:, 0]) / 2
        torch.testing.assert_close(said[:, 0], oracle)
        (slope,) = torch.autograd.grad(said.sum(), volumes)
        torch.testing.assert_close(slope, torch.autograd.grad(oracle.sum(), volumes)[0])
