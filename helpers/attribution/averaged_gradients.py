"""Gradients, averaged over many versions of a volume.

One gradient says what happens right here. SmoothGrad averages over a noisy neighbourhood;
integrated and expected gradients average along the way from a baseline to the volume, so that
their maps add up to what changes on this way.

References
----------
Smilkov et al. (2017), SmoothGrad: removing noise by adding noise, arXiv 1706.03825.
Sundararajan, Taly, Yan (2017), Axiomatic attribution for deep networks, arXiv 1703.01365.
Erion et al. (2021), Improving performance of deep learning models with axiomatic attribution
priors and expected gradients, arXiv 1906.10670.
"""

from collections.abc import Callable

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from helpers import runtime
from helpers._docs import filled
from helpers.attribution.contract import explain_in_batches
from helpers.attribution.gradients import voxel_gradient

_NOISE, _PATH = 1, 2  # random streams under a seed


@filled
def smoothgrad(
    model: nn.Module,
    volumes: Float[Tensor, "subject 1 x y z"],
    target: int | Tensor | None = None,
    *,
    noise: float = 0.15,
    samples: int = 25,
    seed: int = 0,
    batch_size: int = 8,
    progress: bool = True,
) -> Float[Tensor, "subject 1 x y z"]:
    """Return the mean gradient over noisy copies of each volume.

    Parameters
    ----------
    {model}
    {volumes}
    {target}
    noise : float
        SD of the Gaussian noise, as a share of each volume's range from darkest to brightest
        voxel; the paper uses 0.1 to 0.2. With 0, the map is the gradient.
    samples : int
        Noisy copies a subject. The random part of the map shrinks with their square root.
    seed : int
        Of the noise. All subjects meet the same noise patterns, so that a subject's map does not
        depend on which others are explained beside it.
    batch_size : int
        Noisy copies that pass the network at a time.
    {progress}

    Returns
    -------
    tensor of shape (subject, 1, x, y, z)
        Logits per unit of intensity, signed.

    Raises
    ------
    ValueError
        If the noise is negative or there are no samples.

    Examples
    --------
    >>> import torch
    >>> from helpers import attribution, cohorts, models
    >>> model, volumes = models.pretrained("lesion"), cohorts.simulate("lesion", subjects=1).volumes
    >>> quiet = attribution.smoothgrad(model, volumes, noise=0.0, samples=1)
    >>> bool(torch.allclose(quiet, attribution.gradient(model, volumes)))
    True
    """
    if not 0 <= noise < float("inf"):
        raise ValueError(f"noise must be a share of the volume's range, 0 or more, got {noise}")

    def version(batch: Tensor, samples: Tensor):
        sd = noise * (batch.amax((1, 2, 3, 4)) - batch.amin((1, 2, 3, 4)))
        patterns = torch.stack(
            [
                torch.randn(batch.shape[1:], generator=runtime.generator(seed, _NOISE, k))
                for k in samples.tolist()
            ]
        )
        return batch + _over_voxels(sd) * patterns.to(batch), 1.0

    return _mean_gradient(
        model, volumes, target, version, samples, batch_size, "SmoothGrad", progress
    )


@filled
def integrated_gradients(
    model: nn.Module,
    volumes: Float[Tensor, "subject 1 x y z"],
    target: int | Tensor | None = None,
    *,
    baseline: Float[Tensor, "baseline 1 x y z"] | None = None,
    steps: int = 50,
    batch_size: int = 8,
    progress: bool = True,
) -> Float[Tensor, "subject 1 x y z"]:
    """Return what each voxel adds to the logit on the straight way from a baseline to the volume.

    The map is complete: it sums to the logit of the volume minus that of the baseline. Compare the
    two to see whether the steps were enough.

    Parameters
    ----------
    {model}
    {volumes}
    {target}
    baseline : tensor of shape (1, 1, x, y, z) or (subject, 1, x, y, z), optional
        Where the way begins: one for all subjects or one each. Default zeros, which are
        background. A voxel that equals its baseline gets nothing, however much it matters.
    steps : int
        Points on the way at which the gradient is taken (Gauss-Legendre quadrature).
    batch_size : int
        Points that pass the network at a time.
    {progress}

    Returns
    -------
    tensor of shape (subject, 1, x, y, z)
        In logits, signed.

    Raises
    ------
    ValueError
        If the baseline has another shape than the volumes, holds NaN, or there are no steps.

    Examples
    --------
    >>> from helpers import attribution, cohorts, models
    >>> model, volumes = models.pretrained("lesion"), cohorts.simulate("lesion", subjects=1).volumes
    >>> target = int(model(volumes).argmax())
    >>> maps = attribution.integrated_gradients(model, volumes, target)
    >>> gained = (model(volumes) - model(0 * volumes)).detach()[0, target]
    >>> abs(float(maps.sum() / gained) - 1) < 0.05
    True
    """
    _check_samples(steps)
    baseline = _checked(baseline, volumes)
    if len(baseline) not in (1, len(volumes)):
        raise ValueError(
            f"expected one baseline or one a subject ({len(volumes)}), got {len(baseline)}"
        )
    points, weights = np.polynomial.legendre.leggauss(steps)  # on the way from -1 to 1
    along, share = torch.tensor((points + 1) / 2), torch.tensor(weights * steps / 2)

    def version(batch: Tensor, samples: Tensor, start: Tensor):
        way = batch - start
        return (
            start + _over_voxels(along[samples]).to(batch) * way,
            _over_voxels(share[samples]).to(batch) * way,
        )

    return _mean_gradient(
        model,
        volumes,
        target,
        version,
        steps,
        batch_size,
        "integrated gradients",
        progress,
        beside=(baseline.expand_as(volumes),),
    )


@filled
def expected_gradients(
    model: nn.Module,
    volumes: Float[Tensor, "subject 1 x y z"],
    target: int | Tensor | None = None,
    *,
    baselines: Float[Tensor, "baseline 1 x y z"] | None = None,
    samples: int = 50,
    seed: int = 0,
    batch_size: int = 8,
    progress: bool = True,
) -> Float[Tensor, "subject 1 x y z"]:
    """Return integrated gradients, averaged over many baselines: an approximation of SHAP values.

    The map sums, up to sampling error, to the logit of the volume minus the baselines' mean logit.

    Parameters
    ----------
    {model}
    {volumes}
    {target}
    baselines : tensor of shape (baseline, 1, x, y, z), optional
        Whom the subjects are compared with, for example healthy training subjects. Default one
        volume of zeros: then this estimates integrated gradients.
    samples : int
        Random points a subject. Each lies on the way from one baseline to the volume; every
        baseline is used equally often, give or take one.
    seed : int
        Of the pairs of baseline and place on the way; they are the same for all subjects.
    batch_size : int
        Points that pass the network at a time.
    {progress}

    Returns
    -------
    tensor of shape (subject, 1, x, y, z)
        In logits, signed.

    Raises
    ------
    ValueError
        If the baselines have another shape than the volumes, hold NaN, are more than the samples,
        or there are no samples.

    Examples
    --------
    >>> from helpers import attribution, cohorts, models
    >>> cohort = cohorts.simulate("lesion", subjects=6)
    >>> maps = attribution.expected_gradients(
    ...     models.pretrained("lesion"), cohort.volumes[:1], baselines=cohort.volumes[1:], samples=5
    ... )
    >>> maps.shape
    torch.Size([1, 1, 48, 56, 48])
    """
    _check_samples(samples)
    baselines = _checked(baselines, volumes)
    if len(baselines) > samples:
        raise ValueError(
            f"{len(baselines)} baselines need as many samples or more, got {samples}; "
            f"raise samples or give fewer baselines"
        )
    generator = runtime.generator(seed, _PATH)
    chosen = torch.randperm(samples, generator=generator) % len(baselines)
    # One random place in each of equally long pieces of the way: less chance, the same mean.
    along = (torch.arange(samples) + torch.rand(samples, generator=generator)) / samples

    def version(batch: Tensor, samples: Tensor):
        start = baselines[chosen[samples]].to(batch)
        way = batch - start
        return start + _over_voxels(along[samples]).to(batch) * way, way

    return _mean_gradient(
        model, volumes, target, version, samples, batch_size, "expected gradients", progress
    )


def _mean_gradient(
    model: nn.Module,
    volumes: Tensor,
    target: int | Tensor | None,
    version: Callable,
    samples: int,
    batch_size: int,
    label: str,
    progress: bool,
    beside: tuple[Tensor, ...] = (),
) -> Float[Tensor, "subject 1 x y z"]:
    """Return each subject's mean over its versions of gradient times factor.

    ``version(volumes, samples, *beside)`` returns the versions with these numbers, one for each of
    the volumes, and the factor of their gradients. Batches are filled across subjects.
    """
    _check_samples(samples)
    bar = runtime.progress((), label=label, total=len(volumes) * samples, show=progress)

    def explainer(batch: Tensor, targets: Tensor, *others: Tensor) -> Tensor:
        total = torch.zeros_like(batch)
        pairs = torch.cartesian_prod(torch.arange(len(batch)), torch.arange(samples))
        for pair in pairs.split(batch_size):
            subject = pair[:, 0].to(batch.device)
            inputs, factor = version(batch[subject], pair[:, 1], *(o[subject] for o in others))
            gradients = voxel_gradient(model, inputs, targets[subject])
            total.index_add_(0, subject, factor * gradients)
            bar.update(len(pair))
        return total / samples

    with bar:
        return explain_in_batches(
            model, volumes, target, batch_size=batch_size, explainer=explainer, beside=beside
        )


def _over_voxels(values: Float[Tensor, "batch"]) -> Float[Tensor, "batch 1 1 1 1"]:
    return rearrange(values, "batch -> batch 1 1 1 1")


def _check_samples(samples: int) -> None:
    if samples < 1:
        raise ValueError(f"expected 1 sample or step, or more, got {samples}")


def _checked(baselines: Tensor | None, volumes: Tensor) -> Tensor:
    if baselines is None:
        return torch.zeros_like(volumes[:1])
    if baselines.ndim != 5 or baselines.shape[1:] != volumes.shape[1:] or not len(baselines):
        raise ValueError(
            f"expected baselines with the axes (baseline, 1, x, y, z) and the volumes' "
            f"{tuple(volumes.shape[2:])} voxels, got shape {tuple(baselines.shape)}"
        )
    if not baselines.isfinite().all():
        raise ValueError("the baselines hold NaN or infinite voxels")
    return baselines.detach()
