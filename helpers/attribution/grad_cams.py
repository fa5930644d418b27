"""Grad-CAM: which places of a convolutional layer speak for a class?

References
----------
Selvaraju et al. (2017), Grad-CAM: visual explanations from deep networks, arXiv 1610.02391.
"""

import warnings

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from helpers import models
from helpers.attribution.contract import captured, chosen_logits, explain_in_batches


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
    model : Module
        A classifier with one logit a class.
    volumes : tensor of shape (subject, 1, x, y, z)
    target : int or tensor of shape (subject,), optional
        Class to explain; default each subject's predicted class.
    layer : str, optional
        Name of a layer or block, see `helpers.models.layers`; default the last convolution, before
        its normalization and ReLU, as in the other libraries. A whole block, such as
        ``"block4"`` of the course network, is often the better choice.
    batch_size : int
        Subjects at a time.

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
    name = _last_convolution(model) if layer is None else layer
    module = models.layer(model, name)

    def explainer(batch: Tensor, targets: Tensor) -> Tensor:
        with captured(module) as outputs:
            # Also where all weights are frozen there must be a path for the gradient.
            logits = chosen_logits(model(batch.requires_grad_()), targets)
        if len(outputs) != 1 or outputs[0].ndim != 5:
            what = f"shape {tuple(outputs[0].shape)}" if outputs else "nothing"
            raise ValueError(
                f"layer {name!r} was passed {len(outputs)} times and put out {what}; "
                f"Grad-CAM needs a layer with one set of 3D feature maps"
            )
        features = outputs[0]
        gradients = torch.autograd.grad(logits.sum(), features)[0]
        weights = gradients.mean(dim=(2, 3, 4), keepdim=True)
        coarse = F.relu((weights * features).sum(dim=1, keepdim=True))
        return F.interpolate(coarse, batch.shape[2:], mode="trilinear", align_corners=False)

    maps = explain_in_batches(model, volumes, target, batch_size=batch_size, explainer=explainer)
    empty = torch.nonzero(maps.flatten(1).amax(1) == 0).flatten().tolist()
    if empty:
        warnings.warn(
            f"Grad-CAM of {name!r} is zero everywhere for subjects {empty}: no place of this layer "
            f"speaks for the class. This is not a map that finds nothing important.",
            stacklevel=2,
        )
    return maps


def _last_convolution(model: nn.Module) -> str:
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv3d)]
    if not names:
        raise ValueError("the model has no Conv3d; name the layer whose feature maps to use")
    return names[-1]
