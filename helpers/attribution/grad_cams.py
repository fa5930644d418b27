"""Grad-CAM and its relatives: which places of a convolutional layer speak for a class?

References
----------
Selvaraju et al. (2017), Grad-CAM: visual explanations from deep networks, arXiv 1610.02391; guided
Grad-CAM too.
Chattopadhay et al. (2018), Grad-CAM++: improved visual explanations, arXiv 1710.11063.
"""

import warnings
from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from helpers import models
from helpers._docs import filled
from helpers.attribution.contract import captured, explain_in_batches
from helpers.attribution.guided import OnlyReLU, guided_gradient


@filled
def grad_cam(
    model: nn.Module,
    volumes: Float[Tensor, "subject 1 x y z"],
    target: int | Tensor | None = None,
    *,
    layer: str | None = None,
    batch_size: int = 8,
) -> Float[Tensor, "subject 1 x y z"]:
    """Return a layer's feature maps, weighted by their mean gradient, summed and rectified.

    Parameters
    ----------
    {model}
    {volumes}
    {target}
    layer : str, optional
        Name of a layer or block, see `helpers.models.layers`; default the last convolution, before
        its normalization and ReLU, as in the other libraries. A whole block, such as
        ``"block4"`` of the course network, is often the better choice.
    {batch_size}

    Returns
    -------
    tensor of shape (subject, 1, x, y, z)
        Zero or above, not normalised, brought from the layer's grid to the volumes' linearly. The
        detail is the layer's: at 8-fold pooling one value covers 32 mm at 4 mm voxels.

    Warns
    -----
    UserWarning
        If a map is zero everywhere: no place of the layer speaks for the class.

    Raises
    ------
    ValueError
        If the layer does not exist, is never reached, or puts out no feature maps.

    Examples
    --------
    >>> from helpers import attribution, cohorts, models
    >>> volumes = cohorts.simulate("lesion", subjects=2).volumes
    >>> maps = attribution.grad_cam(models.pretrained("lesion"), volumes, layer="block4")
    >>> bool((maps >= 0).all())
    True
    """
    return _explain(_cam_by_mean_gradient, model, volumes, target, layer, batch_size, "Grad-CAM")


def grad_cam_plus_plus(
    model: nn.Module,
    volumes: Float[Tensor, "subject 1 x y z"],
    target: int | Tensor | None = None,
    *,
    layer: str | None = None,
    batch_size: int = 8,
) -> Float[Tensor, "subject 1 x y z"]:
    """Return Grad-CAM with weights in which every place that raises the logit counts.

    The mean gradient of Grad-CAM is small for a feature that matters in few places. Here, positive
    gradients are weighted, so that two lesions of different size both show.

    Parameters
    ----------
    model, volumes, target, layer, batch_size
        As for `grad_cam`.

    Returns
    -------
    tensor of shape (subject, 1, x, y, z)
        Zero or above, brought from the layer's grid to the volumes' linearly. The unit is arbitrary
        and differs between subjects: the paper's factor exp(logit) is left out, because it soon
        exceeds every number.

    Warns
    -----
    UserWarning
        If a map is zero everywhere.

    Raises
    ------
    ValueError
        If the layer does not exist, is never reached, or puts out no feature maps.

    Examples
    --------
    >>> from helpers import attribution, cohorts, models
    >>> model, volumes = models.pretrained("lesion"), cohorts.simulate("lesion", subjects=2).volumes
    >>> maps = attribution.grad_cam_plus_plus(model, volumes, layer="block4")
    >>> bool((maps >= 0).all())
    True
    """
    return _explain(_cam_plus_plus, model, volumes, target, layer, batch_size, "Grad-CAM++")


def guided_grad_cam(
    model: nn.Module,
    volumes: Float[Tensor, "subject 1 x y z"],
    target: int | Tensor | None = None,
    *,
    layer: str | None = None,
    batch_size: int = 8,
) -> Float[Tensor, "subject 1 x y z"]:
    """Return guided backprop, multiplied by Grad-CAM: fine detail, only in the places of the class.

    Parameters
    ----------
    model : Module
        A classifier with one logit a class and with ReLUs, see `guided_backprop`.
    volumes, target, layer, batch_size
        As for `grad_cam`.

    Returns
    -------
    tensor of shape (subject, 1, x, y, z)
        Signed, zero where Grad-CAM is zero.

    Warns
    -----
    UserWarning
        If a map is zero everywhere.

    Raises
    ------
    ValueError
        As `grad_cam` and `guided_backprop` do.

    Examples
    --------
    >>> from helpers import attribution, cohorts, models
    >>> model, volumes = models.pretrained("lesion"), cohorts.simulate("lesion", subjects=2).volumes
    >>> maps = attribution.guided_grad_cam(model, volumes, layer="block4")
    >>> maps.shape == volumes.shape
    True
    """

    def guided(logits: Tensor, features: Tensor, batch: Tensor) -> Tensor:
        cam = _cam_by_mean_gradient(logits, features, batch)
        return cam * guided_gradient(logits, batch)

    return _explain(guided, model, volumes, target, layer, batch_size, "guided Grad-CAM", OnlyReLU)


def _explain(
    cam: Callable,
    model,
    volumes,
    target,
    layer: str | None,
    batch_size: int,
    label: str,
    tracing: Callable = nullcontext,
) -> Float[Tensor, "subject 1 x y z"]:
    """Run the model, keep a layer's feature maps and make maps of them.

    ``cam(logits, features, batch)`` gets each subject's logit, the feature maps and the volumes.
    The network runs inside ``tracing()``.
    """
    name = _convolutions(model)[-1] if layer is None else layer
    module = models.layer(model, name)

    def explainer(batch: Tensor, targets: Tensor) -> Tensor:
        batch.requires_grad_()
        with captured(module) as outputs, tracing():
            output = model(batch.clone())
        if not outputs and layer is None:
            *others, unused = _convolutions(model)
            raise ValueError(
                f"the last convolution that was built, {unused!r}, is never passed; name one that "
                f"is with layer=, such as {others[-1:]} or a block"
            )
        if len(outputs) != 1 or outputs[0].ndim != 5:
            what = f"shape {tuple(outputs[0].shape)}" if outputs else "nothing"
            raise ValueError(
                f"layer {name!r} was passed {len(outputs)} times and put out {what}; "
                f"{label} needs a layer with one set of 3D feature maps"
            )
        if outputs[0].shape[2:].numel() == 1:
            warnings.warn(
                f"layer {name!r} has one place only, so its map is the same everywhere: name an "
                f"earlier layer",
                stacklevel=4,
            )
        return cam(models.target_logits(output, targets), outputs[0], batch)

    return explain_in_batches(
        model,
        volumes,
        target,
        batch_size=batch_size,
        explainer=explainer,
        when_zero=f"for {label}, no place of {name!r} speaks for the class. This is not a map that "
        f"finds nothing important.",
    )


def _cam_by_mean_gradient(logits: Tensor, features: Tensor, batch: Tensor) -> Tensor:
    gradients = torch.autograd.grad(logits.sum(), features, retain_graph=True)[0]
    return _weighted(features, gradients.mean(dim=(2, 3, 4), keepdim=True), batch)


def _cam_plus_plus(logits: Tensor, features: Tensor, batch: Tensor) -> Tensor:
    gradients = torch.autograd.grad(logits.sum(), features)[0]
    squares = gradients**2
    below = 2 * squares + (features * gradients**3).sum(dim=(2, 3, 4), keepdim=True)
    share = squares / torch.where(below == 0, 1.0, below)
    return _weighted(features, (share * F.relu(gradients)).sum((2, 3, 4), keepdim=True), batch)


def _weighted(features: Tensor, weights: Tensor, batch: Tensor) -> Tensor:
    coarse = F.relu((weights * features).sum(dim=1, keepdim=True))
    return F.interpolate(coarse, batch.shape[2:], mode="trilinear", align_corners=False)


def _convolutions(model: nn.Module) -> list[str]:
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv3d)]
    if not names:
        raise ValueError("the model has no Conv3d; name the layer whose feature maps to use")
    return names
