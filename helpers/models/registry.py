"""Every network by its name."""

from collections.abc import Callable

import torch
from monai.networks import nets
from torch import nn

from helpers.models.course import CourseNet, CourseNetWithPlaces
from helpers.models.published import Eitel2022, Kan2020, Liu2021

NETWORKS: dict[str, Callable[[int, tuple[int, int, int]], nn.Module]] = {
    "course": lambda classes, shape: CourseNet(classes),
    "course_with_places": CourseNetWithPlaces,
    "kan2020": Kan2020,
    "liu2021": Liu2021,
    "eitel2022": Eitel2022,
    "resnet10": lambda classes, shape: nets.resnet10(
        spatial_dims=3, n_input_channels=1, num_classes=classes
    ),
    "densenet121": lambda classes, shape: nets.DenseNet121(
        spatial_dims=3, in_channels=1, out_channels=classes
    ),
}


def build(
    name: str, classes: int = 2, shape: tuple[int, int, int] = (48, 56, 48), *, seed: int = 0
) -> nn.Module:
    """Build an untrained network.

    Parameters
    ----------
    name : str
        ``course`` (asks "is it anywhere?"), ``course_with_places`` (asks "is it here?"), the
        papers' ``kan2020``, ``liu2021``, ``eitel2022``, or MONAI's ``resnet10``, ``densenet121``.
    classes : int
        Number of logits; 1 for a network that says a number, such as an age.
    shape : tuple of int
        Voxels along x, y, z. Networks that flatten their features are built for this size.
    seed : int
        Seed of the initial weights.

    Raises
    ------
    ValueError
        If the name is unknown or the volume too small for the network.

    Examples
    --------
    >>> from helpers import models
    >>> network = models.build("kan2020", classes=2, shape=(58, 70, 58))
    >>> sum(p.numel() for p in network.parameters())
    322818
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown model {name!r}; there are {sorted(NETWORKS)}")
    if classes < 1:
        raise ValueError(f"a network needs at least one output, got {classes}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[name](classes, tuple(shape))


def layers(model: nn.Module) -> list[str]:
    """Return the names of all layers, in the order in which they were defined."""
    return [name for name, module in model.named_modules() if name and not list(module.children())]


def layer(model: nn.Module, name: str) -> nn.Module:
    """Return one layer or block by its name.

    Raises
    ------
    ValueError
        If there is no such layer; the message lists those that exist.
    """
    modules = dict(model.named_modules())
    if not name or name not in modules:
        raise ValueError(f"no layer {name!r}; there are {[n for n in modules if n]}")
    return modules[name]
