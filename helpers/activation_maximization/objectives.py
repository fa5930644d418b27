"""What to make large: one number for every image of a batch.

Objectives add up: ``logit(3) - 0.5 * channel_mean("block4", 7)`` is one, too. An index may be one
number for all images or a list with one for each image, so that one batch asks for many neurons.

An own objective is a name, the layers that it looks at and a function from their outputs (a dict by
layer) to one number an image::

    def loudest(outputs):
        return outputs["block4"].amax(dim=(1, 2, 3, 4))

    mine = Objective("loudest value", ("block4",), loudest)

References
----------
Olah, Mordvintsev, Schubert (2017), Feature visualization, Distill, doi 10.23915/distill.00007.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers import models
from helpers.activation_maximization.network import OUTPUT, Outputs

Index = int | Sequence[int]


@dataclass(frozen=True)
class Objective:
    """Something to maximize; objectives can be added, subtracted, negated and weighted.

    Attributes
    ----------
    name : str
    layers : tuple of str
        Layers that the function looks at, see `helpers.models.layers`.
    function : callable
        Gets a dict from layer to its output (image channel ...); returns a tensor (image,).
    """

    name: str
    layers: tuple[str, ...]
    function: Callable[[Outputs], Float[Tensor, "image"]]

    def __add__(self, other: "Objective") -> "Objective":
        return Objective(
            f"{self.name} + {other.name}",
            self.layers + other.layers,
            lambda outputs: self.function(outputs) + other.function(outputs),
        )

    def __mul__(self, weight: float) -> "Objective":
        return Objective(
            f"{weight:g} * ({self.name})",
            self.layers,
            lambda outputs: weight * self.function(outputs),
        )

    __rmul__ = __mul__

    def __neg__(self) -> "Objective":
        return -1 * self

    def __sub__(self, other: "Objective") -> "Objective":
        return self + -other


def logit(target: Index) -> Objective:
    """Return the score of a class before the softmax; of a single logit z, z or (class 0) -z.

    Examples
    --------
    >>> from helpers.activation_maximization import logit
    >>> (logit(3) - 0.5 * logit(1)).name
    'logit 3 + -1 * (0.5 * (logit 1))'
    """

    def of_class(outputs: Outputs) -> Tensor:
        index = _index(models.class_logits(outputs[OUTPUT]), target, OUTPUT, "classes")
        return models.target_logits(outputs[OUTPUT], index)

    return Objective(f"logit {target}", (OUTPUT,), of_class)


def class_margin(target: Index) -> Objective:
    """Return the log odds of a class: its logit above the soft maximum of all others.

    The logit of a class alone also rises where all logits rise; the margin asks for what only this
    class has.
    """

    def margin(outputs: Outputs) -> Tensor:
        logits = models.class_logits(outputs[OUTPUT])
        index = _index(logits, target, OUTPUT, "classes")[:, None]
        others = logits.scatter(1, index, float("-inf")).logsumexp(1)
        return logits.gather(1, index)[:, 0] - others

    return Objective(f"margin {target}", (OUTPUT,), margin)


def channel_mean(layer: str, channel: Index) -> Objective:
    """Return the mean of one channel (a feature map) over all places."""

    def mean(outputs: Outputs) -> Tensor:
        return _picked(_places(outputs[layer]).mean(2), channel, layer, "channels")

    return Objective(f"{layer} channel {channel}", (layer,), mean)


def unit(layer: str, channel: Index, position: tuple[int, int, int] | None = None) -> Objective:
    """Return one channel at one place of the layer's own grid, by default in the middle."""

    def one(outputs: Outputs) -> Tensor:
        features = outputs[layer]
        if features.ndim != 5:
            raise ValueError(
                f"layer {layer!r} puts out shape {tuple(features.shape)}, which has no places; "
                f"use channel_mean"
            )
        shape = tuple(features.shape[2:])
        x, y, z = [n // 2 for n in shape] if position is None else position
        if any(not 0 <= p < n for p, n in zip((x, y, z), shape, strict=True)):
            raise ValueError(f"layer {layer!r} has {shape} places, there is none at {(x, y, z)}")
        return _picked(features[:, :, x, y, z], channel, layer, "channels")

    return Objective(f"{layer} channel {channel} at {position or 'middle'}", (layer,), one)


def diversity(layer: str) -> Objective:
    """Return how little the images of a batch resemble each other in a layer, -1 to 0.

    Minus the mean cosine similarity of an image's Gram matrix (which channels are active together,
    wherever that is) to those of all others.
    """

    def unlike(outputs: Outputs) -> Tensor:
        features = _places(outputs[layer])
        if len(features) < 2:
            raise ValueError("diversity compares the images of a batch; it needs two or more")
        grams = torch.einsum("icp,idp->icd", features, features).flatten(1)
        grams = grams / grams.norm(dim=1, keepdim=True).clamp_min(1e-12)
        similarity = grams @ grams.T
        return -(similarity.sum(1) - similarity.diagonal()) / (len(features) - 1)

    return Objective(f"{layer} diversity", (layer,), unlike)


def _places(features: Tensor) -> Float[Tensor, "image channel place"]:
    return features.reshape(*features.shape[:2], -1)


def _picked(
    values: Float[Tensor, "image unit"], index: Index, layer: str, kind: str
) -> Float[Tensor, "image"]:
    return values.gather(1, _index(values, index, layer, kind)[:, None])[:, 0]


def _index(
    values: Float[Tensor, "image unit"], index: Index, layer: str, kind: str
) -> Int[Tensor, "image"]:
    """Return the unit that is asked for in each image."""
    wanted = torch.as_tensor(index, device=values.device)
    if wanted.ndim == 1 and len(wanted) != len(values):
        raise ValueError(f"{len(wanted)} indices {index} for a batch of {len(values)} images")
    count = values.shape[1]
    if int(wanted.min()) < 0 or int(wanted.max()) >= count:
        raise ValueError(f"{layer} has {count} {kind}, 0 to {count - 1}; there is no {index}")
    return wanted.expand(len(values))
