"""Guided backprop: a gradient from which each ReLU has removed what speaks against.

It draws sharp edges, and much of its sharpness comes from the volume rather than from what the
network has learned: randomize the weights of the upper layers and the picture hardly changes.

References
----------
Springenberg et al. (2014), Striving for simplicity: the all convolutional net, arXiv 1412.6806.
Adebayo et al. (2018), Sanity checks for saliency maps, arXiv 1810.03292.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from helpers import models
from helpers.attribution.contract import explain_in_batches

# The backward steps of activations for which guided backprop is not defined. Sigmoid is left out:
# attention gates use it, and it is no rectifier.
_OTHER_ACTIVATIONS = {
    "elu_backward",
    "gelu_backward",
    "hardswish_backward",
    "hardtanh_backward",  # ReLU6
    "leaky_relu_backward",  # RReLU too
    "mish_backward",
    "_prelu_kernel_backward",
    "silu_backward",
    "softplus_backward",
}


def guided_backprop(
    model: nn.Module,
    volumes: Float[Tensor, "subject 1 x y z"],
    target: int | Tensor | None = None,
    *,
    batch_size: int = 8,
) -> Float[Tensor, "subject 1 x y z"]:
    """Return the gradient, going back through every ReLU only where it is positive.

    Every ReLU is found, however it is written: as a module of any name, as a function, in place.

    Parameters
    ----------
    model : Module
        A classifier with one logit a class and with ReLUs.
    volumes : tensor of shape (subject, 1, x, y, z)
    target : int or tensor of shape (subject,), optional
        Class to explain; default each subject's predicted class.
    batch_size : int
        Subjects at a time; lower it when memory is short.

    Returns
    -------
    tensor of shape (subject, 1, x, y, z)
        Signed: the last step, through the first convolution, is an ordinary one.

    Raises
    ------
    ValueError
        If the network has no ReLU, or other activations beside or in its place: the method is not
        defined there, and the result would be the plain gradient under a wrong name.

    Examples
    --------
    >>> from helpers import attribution, cohorts, models
    >>> volumes = cohorts.simulate("lesion", subjects=2).volumes
    >>> maps = attribution.guided_backprop(models.pretrained("lesion"), volumes)
    >>> maps.shape == volumes.shape
    True
    """

    def explainer(batch: Tensor, targets: Tensor) -> Tensor:
        batch.requires_grad_()
        logits = models.target_logits(model(batch.clone()), targets)
        return guided_gradient(logits, batch)

    return explain_in_batches(model, volumes, target, batch_size=batch_size, explainer=explainer)


def guided_gradient(
    logits: Float[Tensor, "batch"], batch: Float[Tensor, "batch 1 x y z"]
) -> Float[Tensor, "batch 1 x y z"]:
    """Return the guided gradient of logits that were computed from the batch."""
    with _GuidedReLUs() as relus:
        gradients = torch.autograd.grad(logits.sum(), batch)[0]
    if not relus.passed or relus.others:
        others = ", ".join(sorted(relus.others)) or "none either"
        raise ValueError(
            f"guided backprop is defined for networks with ReLU; this one has {relus.passed} ReLUs "
            f"and of other activations: {others}. Use another method, or train it with ReLU."
        )
    return gradients


class _GuidedReLUs(TorchDispatchMode):
    """While active, each ReLU's backward step lets only positive gradients through.

    A dispatch mode sees every elementary step that torch takes, here those of the backward pass.
    """

    def __init__(self):
        super().__init__()
        self.passed = 0
        self.others: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        gradients = function(*args, **(kwargs or {}))
        if name == "threshold_backward":
            gradients.clamp_(min=0)
            self.passed += 1
        elif name in _OTHER_ACTIVATIONS:
            self.others.add(name.removesuffix("_backward"))
        return gradients
