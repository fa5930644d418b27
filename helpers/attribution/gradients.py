"""Gradients of a logit with respect to the voxels.

References
----------
Simonyan, Vedaldi, Zisserman (2014), Deep inside convolutional networks, arXiv 1312.6034.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from helpers.attribution.contract import chosen_logits, explain_in_batches


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
    model : Module
        A classifier with one logit a class.
    volumes : tensor of shape (subject, 1, x, y, z)
    target : int or tensor of shape (subject,), optional
        Class to explain; default each subject's predicted class.
    batch_size : int
        Subjects at a time; lower it when memory is short.

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
        batch.requires_grad_()
        # Subjects do not touch each other in evaluation mode: one sum gives all gradients.
        return torch.autograd.grad(chosen_logits(model(batch), targets).sum(), batch)[0]

    return explain_in_batches(model, volumes, target, batch_size=batch_size, explainer=explainer)
