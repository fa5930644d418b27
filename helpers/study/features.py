"""One feature picture of any network: the recipes of chapters 10 and 13, and their control.

The recipes were chosen on networks of this course, on voxels of 4 mm. For another network its
objective is brought to their slope, and for other voxels a warp is kept as smooth in millimetres.
"""

import copy
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from helpers import fields, models, runtime
from helpers.activation_maximization import (
    Objective,
    activation,
    channel_mean,
    class_margin,
    images,
    recipes,
    transforms,
)
from helpers.activation_maximization.network import watched
from helpers.anatomy import Anatomy
from helpers.errors import InterruptedWarning
from helpers.evaluation import quantities

SPACES = ("painted", "warped")
# How much a class's log odds change over all voxels of the template, by one unit each, in the
# networks on which the recipes were chosen (lesion and sex): the unit of the recipes' penalties.
_SLOPES = {"painted": 600.0, "warped": 3600.0}
_POINT_MM = 16.0  # from one control point of a warp to the next
_ROUGHNESS, _ROUGHNESS_MM = 100.0, 4.0  # the penalty of a velocity in voxels of this size
_OTHER_HEADS = 1000  # a seed of people for whom no picture was made


class Wish(NamedTuple):
    """What is to be made large; the label is its name in names of files."""

    name: str
    label: str
    objective: Objective
    is_class: bool


class Reading(nn.Module):
    """A network that reads brains whose median is 1 as its card says; it has a logit a class."""

    def __init__(self, network: nn.Module, card: Mapping[str, Any]):
        super().__init__()
        self.network, self.card = network, card

    def forward(self, volumes: Float[Tensor, "image 1 x y z"]) -> Float[Tensor, "image classes"]:
        """Return what the network makes of them."""
        return models.class_logits(self.network(models.as_the_network_reads(volumes, self.card)))


def maximized(
    network: nn.Module,
    objective: Objective,
    brain: Anatomy,
    space: str,
    *,
    steps: int | None,
    seed: int,
) -> tuple[Float[Tensor, "1 x y z"], Float[Tensor, "1 x y z"]]:
    """Return a picture, and how it differs from the template."""
    scaled = _scaled(network, objective, brain, _SLOPES[space])
    options = {"seed": seed} if steps is None else {"seed": seed, "steps": steps}
    spacing_mm = brain.grid.spacing_mm[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error", InterruptedWarning)
        try:
            if space == "painted":
                found = recipes.readable(network, scaled, brain, **options)
                return found.volume[0], found.volume[0] - brain.t1
            sides = zip(brain.grid.shape, brain.grid.spacing_mm, strict=True)
            points = tuple(min(n, max(2, round(n * mm / _POINT_MM))) for n, mm in sides)
            roughness = _ROUGHNESS * (spacing_mm / _ROUGHNESS_MM) ** 2
            found = recipes.warped(
                network, scaled, brain, points=points, roughness=roughness, **options
            )
        except InterruptedWarning as error:
            raise KeyboardInterrupt from error  # what was stopped halfway is no result
    return found.volume[0], fields.log_expansion(found.image.displacement().detach())[0]


def said_of(
    wish: Wish,
    network: nn.Module,
    trained: nn.Module,
    brain: Anatomy,
    volume: Float[Tensor, "1 x y z"],
    *,
    space: str,
    seed: int,
) -> dict[str, float]:
    """Say what a network makes of its picture, and what the trained one does.

    Of a class also the probability, which is the sigmoid of the margin.
    """
    moves = [transforms.rotation(180), transforms.jitter(2)]
    if space == "warped":
        moves = [transforms.people(brain.grid, seed=seed + _OTHER_HEADS)]
    found = {
        "_template": activation(network, wish.objective, brain.t1[None]),
        "": activation(network, wish.objective, volume[None]),
        "_moved": recipes.moved_activation(network, wish.objective, volume[None], moves, seed=seed),
        "_of_trained": activation(trained, wish.objective, volume[None]),
    }
    said = {f"objective{when}": float(value) for when, value in found.items()}
    if wish.is_class:
        for when, value in found.items():
            said[f"probability{when}"] = round(float(value.double().sigmoid()), 6)
    return said


def measured(difference: Float[Tensor, "1 x y z"], brain: Anatomy) -> dict[str, float]:
    """Say where a picture differs most from the template, in MNI millimetres, and how fine."""
    values = (difference * brain.mask)[0].numpy()
    peak = np.unravel_index(np.abs(values).argmax(), values.shape)
    where = zip(("x_mm", "y_mm", "z_mm"), brain.grid.millimetres(peak).tolist(), strict=True)
    fine = float(quantities.fine_share(difference[None]))
    return {"strongest": float(values[peak]), **dict(where), "fine_share": fine}


def untrained(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy with weights drawn anew; a layer that cannot draw any has its own shuffled."""
    forgetful = copy.deepcopy(model).cpu()
    with_weights = [m for m in forgetful.modules() if list(m.parameters(recurse=False))]
    if not with_weights:
        raise ValueError("the network has no weights, so there is no untrained one to compare with")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in with_weights:
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
                continue
            for weights in module.parameters(recurse=False):
                order = torch.randperm(weights.numel())
                weights.copy_(weights.flatten()[order].view_as(weights))
    return forgetful


def wishes_of(
    model: nn.Module, target: str | None, layer: str | None, channels: Sequence[int]
) -> list[Wish]:
    """Return what is to be made large, each with a label of its own."""
    classes = list(model.card["classes"])
    if (layer is None) != (not channels) or (layer is not None and target is not None):
        raise ValueError(
            f"expected a layer with its channels, or classes (target); got layer {layer!r}, "
            f"channels {list(channels)} and target {target!r}"
        )
    if layer is not None:
        models.layer(model, layer)  # says which there are
        label = re.sub("[^A-Za-z0-9]+", "p", layer)
        return [
            Wish(
                f"{layer} channel {channel}",
                f"{label}channel{channel}",
                channel_mean(f"network.{layer}", channel),
                False,
            )
            for channel in channels
        ]
    if target is not None and target not in classes:
        raise ValueError(f"there is no class {target!r}; the model knows {classes}")
    labels = [re.sub("[^A-Za-z0-9]", "", name) for name in classes]
    folded = [label.lower() for label in labels]
    if "" in folded or len(set(folded)) < len(folded):  # no two files under one name
        labels = [f"class{k}" for k in range(len(classes))]
    return [
        Wish(name, label, class_margin(k), True)
        for k, (name, label) in enumerate(zip(classes, labels, strict=True))
        if target in (None, name)
    ]


def check_place(brain: Anatomy) -> None:
    """Raise a ValueError unless the template, on this grid, has a place to be painted."""
    try:
        recipes.one_place(brain, seed=0)
    except RuntimeError as error:  # there is none to draw from
        raise ValueError(
            f"the card's grid of {brain.grid.shape} voxels has no white matter deep enough to be "
            f"painted; ask for the space 'warped' alone"
        ) from error


def _scaled(network: nn.Module, objective: Objective, brain: Anatomy, slope: float) -> Objective:
    """Return an objective whose slope is that of the networks that the recipes were chosen on.

    Else the penalties would weigh more the smaller the logits are: a network without training,
    whose logits hardly differ, would be left with the template as it is, and be no control.
    """
    start = brain.t1 + brain.mask * images.noise(brain.grid.shape, seeds=range(3), sd=0.02)
    with watched(network, objective.layers) as look:
        seen = start.to(runtime.device()).requires_grad_()
        values = objective.function(look(seen))
        of_voxels = None
        if values.requires_grad:
            (of_voxels,) = torch.autograd.grad(values.sum(), seen, allow_unused=True)
    found = 0.0
    if of_voxels is not None:
        found = float((of_voxels.cpu().abs() * brain.mask).flatten(1).sum(1).mean())
    if not 0 < found < math.inf:
        raise ValueError(
            f"no voxel of the template changes {objective.name} (its slope is {found}), so there "
            f"is no way to a picture; the network must be differentiable from the volume on"
        )
    return slope / found * objective
