"""What classifiers say of a brain, in one unit for all of them: the question behind every warp."""

import copy
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from helpers import models
from helpers.cohorts import Cohort
from helpers.models import layouts

# What classifiers say of brains; see `Readers`.
Reading = Callable[[Float[Tensor, "subject 1 x y z"]], Float[Tensor, "subject network"]]


class Readers(nn.Module):
    """Frozen classifiers that answer with the logit of the disease over that of health.

    One number a subject and network, in units of the distance between the mean logits of the two
    classes: 1 lies between a typical healthy brain and a typical ill one.
    """

    def __init__(self, networks: Sequence[nn.Module], distances: Sequence[float]):
        super().__init__()
        self.ensemble = models.Ensemble(copy.deepcopy(list(networks)))
        self.register_buffer("distances", torch.tensor(distances))
        self.eval().requires_grad_(False)
        layouts.channels_last(self)

    def forward(
        self, volumes: Float[Tensor, "subject 1 x y z"]
    ) -> Float[Tensor, "subject network"]:
        """Return what each network says of each subject."""
        try:
            logits = self._logits(volumes)
        except RuntimeError as error:
            if not layouts.is_of_layout(error):
                raise
            layouts.channels_first(self)
            logits = self._logits(volumes)
        return (logits[:, :, 1] - logits[:, :, 0]) / self.distances

    def _logits(self, volumes: Tensor) -> Float[Tensor, "subject network class"]:
        return torch.stack(list(self.ensemble.each(volumes)), dim=1)


def read(
    model: nn.Module | Sequence[nn.Module], cohort: Cohort
) -> tuple[Readers, Float[Tensor, "subject network"], Bool[Tensor, "subject"]]:
    """Return the classifiers as readers, what they say of a cohort, and whom all get right."""
    networks = [model] if isinstance(model, nn.Module) else list(model)
    if not networks:
        raise ValueError("expected at least one classifier, got none")
    if any(module.training for net in networks for module in net.modules()):
        raise ValueError("a classifier is in training mode; call model.eval() first")
    if set(torch.unique(cohort.labels).tolist()) != {0, 1}:
        raise ValueError(
            f"a simulator needs subjects of two classes, without and with a disease; got {cohort!r}"
        )
    ill = cohort.labels == 1
    odds, right, distances = [], torch.ones(len(cohort), dtype=torch.bool), []
    for number, net in enumerate(networks):
        logits = models.predict(net, cohort.volumes)
        if logits.shape[1] != 2:
            raise ValueError(f"expected classifiers of 2 classes, got {logits.shape[1]}")
        difference = logits[:, 1] - logits[:, 0]
        correct = (difference > 0) == ill
        distance = float(difference[ill].mean() - difference[~ill].mean())
        if not (correct[ill].any() and correct[~ill].any() and distance > 0):
            raise ValueError(
                f"classifier {number} gets {int(correct[ill].sum())} of {int(ill.sum())} subjects "
                f"of class 1 right and {int(correct[~ill].sum())} of {int((~ill).sum())} of "
                f"class 0; there is nothing to learn from it"
            )
        right &= correct
        distances.append(distance)
        odds.append(difference / distance)
    if not (right & ill).any() or not (right & ~ill).any():
        raise ValueError("no subject of one of the classes is right for all classifiers at once")
    return Readers(networks, distances), torch.stack(odds, dim=1), right
