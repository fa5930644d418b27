"""Gradients of a logit with respect to the voxels.

References
----------
Simonyan, Vedaldi, Zisserman (2014), Deep inside convolutional networks, arXiv 1312.6034.
Shrikumar et al. (2016), Not just a black box, arXiv 1605.01713: gradient times input.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from helpers import models
from helpers._docs import filled
from helpers.attribution.contract import explain_in_batches


@filled
def gradient(
    model: nn.Module,
    volumes: Float[Tensor, "subject 1 x y z"],
    target: int | Tensor | None = None,
    *,
    batch_size: int = 8,
) -> Float[Tensor, "subject 1 x y z"]:
    """Return the derivative of the target's logit with respect to each voxel.

    It answers: if this voxel were a little brighter, how much would the logit rise? Take the
    absolute value to ask only whether it matters.

    Parameters
    ----------
    {model}
    {volumes}
    {target}
    {batch_size}

    Returns
    -------
    tensor of shape (subject, 1, x, y, z)
        Logits per unit of intensity, signed.

    Examples
    --------
    >>> from helpers import attribution, cohorts, models
    >>> volumes = cohorts.simulate("lesion", subjects=2).volumes
    >>> maps = attribution.gradient(models.pretrained("lesion"), volumes)
    >>> maps.shape == volumes.shape
    True
    """

    def explainer(batch: Tensor, targets: Tensor) -> Tensor:
        return voxel_gradient(model, batch, targets)

    return explain_in_batches(model, volumes, target, batch_size=batch_size, explainer=explainer)


@filled
def input_x_gradient(
    model: nn.Module,
    volumes: Float[Tensor, "subject 1 x y z"],
    target: int | Tensor | None = None,
    *,
    batch_size: int = 8,
) -> Float[Tensor, "subject 1 x y z"]:
    """Return the gradient, multiplied by the voxel's own intensity.

    It answers: how much of the logit would go if this voxel went to zero, were the network a
    straight line? In a network of convolutions, ReLUs and max poolings without offsets, the map
    sums to the logit.

    Parameters
    ----------
    {model}
    {volumes}
    {target}
    {batch_size}

    Returns
    -------
    tensor of shape (subject, 1, x, y, z)
        In logits, signed; zero wherever the volume is zero.

    Examples
    --------
    >>> from helpers import attribution, cohorts, models
    >>> volumes = cohorts.simulate("lesion", subjects=2).volumes
    >>> maps = attribution.input_x_gradient(models.pretrained("lesion"), volumes)
    >>> bool((maps[volumes == 0] == 0).all())
    True
    """

    def explainer(batch: Tensor, targets: Tensor) -> Tensor:
        return batch * voxel_gradient(model, batch, targets)

    return explain_in_batches(model, volumes, target, batch_size=batch_size, explainer=explainer)


def voxel_gradient(
    model: nn.Module, batch: Float[Tensor, "batch 1 x y z"], targets: Tensor
) -> Float[Tensor, "batch 1 x y z"]:
    """Return the gradient of each volume's target logit, for a batch on the model's device."""
    batch = batch.detach().requires_grad_()
    # Subjects do not touch each other in evaluation mode: one sum gives all gradients.
    return torch.autograd.grad(models.target_logits(model(batch.clone()), targets).sum(), batch)[0]
