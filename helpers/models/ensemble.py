"""Several networks that were trained alike, as one: what only one of them wants is a quirk."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from helpers.models.frozen import class_logits


class Ensemble(nn.Module):
    """Networks with the same classes; together they say the mean of their logits.

    Parameters
    ----------
    networks : sequence of Module

    Raises
    ------
    ValueError
        If there is no network.

    Examples
    --------
    >>> import torch
    >>> from helpers import models
    >>> pair = models.Ensemble([models.build("course", seed=seed) for seed in (0, 1)]).eval()
    >>> volumes = torch.rand(3, 1, 48, 56, 48)
    >>> tuple(pair(volumes).shape), tuple(pair.each(volumes).shape)
    ((3, 2), (2, 3, 2))
    """

    def __init__(self, networks: Sequence[nn.Module]):
        super().__init__()
        if not networks:
            raise ValueError("expected one network or more, got none")
        self.networks = nn.ModuleList(networks)

    def forward(
        self, volumes: Float[Tensor, "subject 1 x y z"]
    ) -> Float[Tensor, "subject classes"]:
        """Return the mean logits."""
        return self.each(volumes).mean(0)

    def each(
        self, volumes: Float[Tensor, "subject 1 x y z"]
    ) -> Float[Tensor, "network subject classes"]:
        """Return the logits of every network; one that has a single logit says 0 of class 0."""
        return torch.stack([class_logits(network(volumes)) for network in self.networks])
