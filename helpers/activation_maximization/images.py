"""What is optimised, and how it becomes volumes: voxels, frequencies, a deviation, a warp.

An image is a torch module without input: called, it renders its volumes (image 1 x y z); its
parameters are what `maximize` changes. Several images lie side by side in one batch, one for each
neuron or seed. Any volumes can be the start: `noise`, the mean of a cohort, the template, a scan.

References
----------
Olah, Mordvintsev, Schubert (2017), Feature visualization, Distill, doi 10.23915/distill.00007.
Eitel, Melkonyan, Ritter (2022), Feature visualization for CNNs trained on neuroimaging data,
arXiv 2203.13120.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from helpers import fields, grids, runtime

Limit = float | Tensor


def noise(
    shape: tuple[int, int, int], *, seeds: Sequence[int] = (0,), mean: float = 0.0, sd: float = 0.01
) -> Float[Tensor, "image 1 x y z"]:
    """Return one volume of Gaussian noise for each seed.

    Examples
    --------
    >>> from helpers.activation_maximization import images
    >>> tuple(images.noise((8, 9, 10), seeds=(0, 1)).shape)
    (2, 1, 8, 9, 10)
    """
    drawn = [torch.randn(1, *shape, generator=runtime.generator(seed)) for seed in seeds]
    return mean + sd * torch.stack(drawn)


class Image(nn.Module):
    """What every image can do."""

    def forward(self) -> Float[Tensor, "image 1 x y z"]:
        """Render the volumes."""
        raise NotImplementedError

    def project(self) -> None:
        """Put the parameters back into their allowed range; called after every step."""


class Voxels(Image):
    """Every voxel on its own.

    Parameters
    ----------
    start : tensor of shape (image, 1, x, y, z)
    bounds : pair, optional
        Lowest and highest intensity, numbers or volumes.
    """

    def __init__(
        self, start: Float[Tensor, "image 1 x y z"], *, bounds: tuple[Limit, Limit] | None = None
    ):
        super().__init__()
        _check_start(start)
        self.voxels = nn.Parameter(start.detach().clone())
        _set_bounds(self, bounds)

    def forward(self) -> Float[Tensor, "image 1 x y z"]:
        """Return the voxels."""
        return self.voxels

    def project(self) -> None:
        """Cut intensities off at the bounds."""
        if self.low is not None:
            with torch.no_grad():
                self.voxels.clamp_(self.low, self.high)


class Fourier(Image):
    """The volume's spectrum, every frequency scaled as it is scaled in natural pictures.

    Neighbouring voxels of a brain resemble each other: amplitude falls with frequency. Dividing
    this out (decorrelating) lets a step move smooth structure as easily as fine detail.

    Parameters
    ----------
    start : tensor of shape (image, 1, x, y, z)
        Reproduced exactly before the first step.
    decay : float
        A frequency f is scaled by f**-decay, default 1; 0 scales none.
    """

    def __init__(self, start: Float[Tensor, "image 1 x y z"], *, decay: float = 1.0):
        super().__init__()
        _check_start(start)
        self.shape = tuple(start.shape[2:])
        radius = radial_frequency(self.shape).clamp_min(1 / max(self.shape))
        scale = radius**-decay
        self.register_buffer("scale", scale / scale.square().mean().sqrt())
        spectrum = torch.fft.rfftn(start.detach(), dim=(2, 3, 4), norm="ortho") / self.scale
        self.spectrum = nn.Parameter(torch.view_as_real(spectrum).clone())

    def forward(self) -> Float[Tensor, "image 1 x y z"]:
        """Return the volumes that have this spectrum."""
        spectrum = torch.view_as_complex(self.spectrum) * self.scale
        return torch.fft.irfftn(spectrum, s=self.shape, dim=(2, 3, 4), norm="ortho")


class Deviation(Image):
    """A template plus a deviation from it.

    Parameters
    ----------
    template : tensor of shape (1, 1, x, y, z) or (image, 1, x, y, z)
        Stays as it is: the template brain, a cohort's mean, a scan.
    start : tensor of shape (image, 1, x, y, z)
        First deviation, as a rule faint `noise`: from zero, all images would take the same way.
    mask : tensor of shape (1 or image, 1, x, y, z), optional
        Where the volumes may deviate, 0 to 1; default everywhere.
    bounds : pair, optional
        Lowest and highest intensity of the *volume*, numbers or volumes.
    """

    def __init__(
        self,
        template: Float[Tensor, "_ 1 x y z"],
        start: Float[Tensor, "image 1 x y z"],
        *,
        mask: Float[Tensor, "_ 1 x y z"] | Bool[Tensor, "_ 1 x y z"] | None = None,
        bounds: tuple[Limit, Limit] | None = None,
    ):
        super().__init__()
        grids.check_volumes(template)
        _check_start(start)
        mask = torch.ones_like(template) if mask is None else mask.to(template)
        self.register_buffer("template", template.detach().clone())
        self.register_buffer("mask", mask.clone())
        self.deviation = nn.Parameter(start.detach().clone())
        _set_bounds(self, bounds)
        self.project()

    def forward(self) -> Float[Tensor, "image 1 x y z"]:
        """Return the template plus the deviation inside the mask."""
        return self.template + self.mask * self.deviation

    def project(self) -> None:
        """Cut the deviation off where the template plus it would leave the bounds."""
        if self.low is not None:
            with torch.no_grad():
                self.deviation.clamp_(self.low - self.template, self.high - self.template)


class Warp(Image):
    """A smooth deformation of the template: the picture stays anatomy.

    Only a velocity on a coarse grid of control points is optimised. It is integrated to a
    diffeomorphism, so tissue grows, shrinks and moves, and cannot be invented or torn.

    Parameters
    ----------
    template : tensor of shape (1, 1, x, y, z) or (image, 1, x, y, z)
    points : tuple of int
        Control points along x, y, z; default one about every 24 mm of the course's field of view.
    seeds : sequence of int
        One image a seed.
    sd : float
        Standard deviation of the first velocity in voxels, default 0.01.
    """

    def __init__(
        self,
        template: Float[Tensor, "_ 1 x y z"],
        *,
        points: tuple[int, int, int] = (8, 10, 8),
        seeds: Sequence[int] = (0,),
        sd: float = 0.01,
    ):
        super().__init__()
        grids.check_volumes(template)
        if min(points) < 2 or any(p > n for p, n in zip(points, template.shape[2:], strict=True)):
            raise ValueError(
                f"a warp needs 2 or more control points an axis and at most the "
                f"{tuple(template.shape[2:])} voxels of the template, got {points}"
            )
        self.register_buffer("template", template.detach().clone())
        drawn = [torch.randn(3, *points, generator=runtime.generator(seed)) for seed in seeds]
        self.velocity = nn.Parameter(sd * torch.stack(drawn))

    def displacement(self) -> Float[Tensor, "image 3 x y z"]:
        """Return the field that pulls the template into the volumes, in voxels."""
        shape = tuple(self.template.shape[2:])
        # Integrated on every second voxel: an eighth of the work, and as smooth.
        coarse = tuple(max(2, (n + 1) // 2) for n in shape)
        velocity = F.interpolate(self.velocity, coarse, mode="trilinear", align_corners=True)
        for _ in range(2):  # rounds off the kinks that linear interpolation leaves
            velocity = F.avg_pool3d(F.pad(velocity, (1,) * 6, mode="replicate"), 3, stride=1)
        ratio = [(n - 1) / (c - 1) for n, c in zip(shape, coarse, strict=True)]
        in_coarse_voxels = velocity / velocity.new_tensor(ratio).view(1, 3, 1, 1, 1)
        return fields.resize(fields.integrate_velocity(in_coarse_voxels, steps=5), shape)

    def forward(self) -> Float[Tensor, "image 1 x y z"]:
        """Return the warped template."""
        templates = self.template.expand(len(self.velocity), -1, -1, -1, -1)
        return fields.warp(templates, self.displacement())


def radial_frequency(shape: tuple[int, int, int]) -> Float[Tensor, "x y z2"]:
    """Return the frequency of each coefficient of ``rfftn``, in cycles per voxel."""
    axes = (torch.fft.fftfreq(shape[0]), torch.fft.fftfreq(shape[1]), torch.fft.rfftfreq(shape[2]))
    return sum(axis.square() for axis in torch.meshgrid(*axes, indexing="ij")).sqrt()


def _check_start(start: Tensor) -> None:
    if start.ndim != 5 or start.shape[1] != 1 or not start.isfinite().all():
        raise ValueError(
            f"an image starts from finite volumes with the axes (image, 1, x, y, z), "
            f"got shape {tuple(start.shape)}"
        )


def _set_bounds(image: Image, bounds: tuple[Limit, Limit] | None) -> None:
    low, high = (None, None) if bounds is None else map(torch.as_tensor, bounds)
    if low is not None and not bool((low <= high).all()):
        raise ValueError("bounds are the lowest and the highest intensity, in this order")
    image.register_buffer("low", low)
    image.register_buffer("high", high)
