"""What makes the picture readable: penalties, and a blur of the picture or of its gradient.

A penalty is subtracted from the objective. Each one is a mean over voxels, so a strength keeps its
meaning on another grid. ``of`` says what is penalised: the rendered ``"volumes"``, or a parameter
of the image by its name, such as ``"deviation"`` or ``"velocity"``.

An own penalty is a name, a strength and a function to one number an image::

    Penalty("bright", 10.0, lambda volumes: volumes.clamp_min(1.5).mean(dim=(1, 2, 3, 4)))

References
----------
Yosinski et al. (2015), Understanding neural networks through deep visualization, arXiv 1506.06579.
Mahendran, Vedaldi (2016), Visualizing deep convolutional neural networks, arXiv 1512.02017.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from helpers.activation_maximization.images import radial_frequency

Pictures = Float[Tensor, "image channel x y z"]


@dataclass(frozen=True)
class Penalty:
    """Something to keep small.

    Attributes
    ----------
    name : str
        Its column in the history.
    strength : float
        0 or above; the objective is in logits, for example.
    function : callable
        Gets a tensor (image channel x y z); returns a tensor (image,).
    of : str
        ``"volumes"``, or the name of one of the image's parameters.
    """

    name: str
    strength: float
    function: Callable[[Pictures], Float[Tensor, "image"]]
    of: str = "volumes"

    def __post_init__(self):
        if not 0 <= self.strength < math.inf:
            raise ValueError(f"{self.name} needs a strength of 0 or above, got {self.strength}")


@dataclass(frozen=True)
class Blur:
    """A Gaussian blur at every step.

    Attributes
    ----------
    of : str
        ``"gradient"`` (of the objective, with respect to the volumes), or the name of one of the
        image's parameters.
    sigma_voxels : float
    """

    of: str
    sigma_voxels: float

    def __post_init__(self):
        if not 0 < self.sigma_voxels < math.inf:
            raise ValueError(f"a blur needs sigma_voxels above 0, got {self.sigma_voxels}")


def l2(strength: float, *, of: str = "volumes") -> Penalty:
    """Penalise the mean square.

    Examples
    --------
    >>> import torch
    >>> from helpers.activation_maximization import regularizers
    >>> regularizers.l2(10.0).function(2 * torch.ones(1, 1, 4, 5, 6)).tolist()
    [4.0]
    """
    return Penalty("l2", strength, lambda pictures: _mean(pictures.square()), of)


def alpha_norm(strength: float, *, alpha: float = 6.0, of: str = "volumes") -> Penalty:
    """Penalise the mean of the magnitude to a power: with a high one, only extremes count."""
    if alpha < 1:
        raise ValueError(f"alpha must be 1 or above, got {alpha}")
    return Penalty("alpha_norm", strength, lambda pictures: _mean(pictures.abs() ** alpha), of)


def total_variation(strength: float, *, of: str = "volumes") -> Penalty:
    """Penalise the mean absolute step between neighbours: flat areas with sharp edges are cheap."""
    return Penalty("total_variation", strength, lambda p: _mean_step(p, torch.abs), of)


def roughness(strength: float, *, of: str = "volumes") -> Penalty:
    """Penalise the mean squared step between neighbours: gentle slopes are cheap, edges are not."""
    return Penalty("roughness", strength, lambda p: _mean_step(p, torch.square), of)


def high_frequencies(strength: float, *, above: float = 0.25, of: str = "volumes") -> Penalty:
    """Penalise the mean energy above a frequency, in cycles per voxel (0.5 is the finest)."""
    if not 0 <= above < 0.5 * math.sqrt(3):
        raise ValueError(f"above must lie between 0 and 0.87 cycles per voxel, got {above}")
    return Penalty("high_frequencies", strength, lambda p: energy_above(p, above), of)


def blur_gradient(sigma_voxels: float) -> Blur:
    """Blur the objective's gradient: every step moves whole neighbourhoods."""
    return Blur("gradient", sigma_voxels)


def blur_image(sigma_voxels: float, *, of: str = "voxels") -> Blur:
    """Blur a parameter of the image itself after every step: `Voxels` or ``of="deviation"``."""
    return Blur(of, sigma_voxels)


def energy_above(pictures: Pictures, frequency: float) -> Float[Tensor, "image"]:
    """Return the mean square of what lies above a frequency, in cycles per voxel."""
    shape = tuple(pictures.shape[2:])
    fine = (radial_frequency(shape) > frequency).to(pictures)
    spectrum = torch.fft.rfftn(pictures, dim=(2, 3, 4))
    high_passed = torch.fft.irfftn(spectrum * fine, s=shape, dim=(2, 3, 4))
    return _mean(high_passed.square())


def _mean(values: Tensor) -> Float[Tensor, "image"]:
    return values.flatten(1).mean(1)


def _mean_step(pictures: Tensor, size: Callable[[Tensor], Tensor]) -> Float[Tensor, "image"]:
    """Sum the sizes of the steps along the three axes, divided by the number of voxels."""
    steps = [size(pictures.diff(dim=axis)).flatten(1).sum(1) for axis in (2, 3, 4)]
    return sum(steps) / pictures[0].numel()
