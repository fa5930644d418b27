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
from helpers._docs import filled
from helpers.attribution.contract import explain_in_batches
from helpers.attribution.tracing import RESHAPING, Traced, tensors

# No activations: sums with weights, normalizations, poolings, and what moves values around.
_NO_ACTIVATION = {
    *("conv3d", "conv_transpose3d", "linear", "batch_norm", "instance_norm", "group_norm"),
    *("layer_norm", "max_pool3d", "adaptive_max_pool3d", "amax"),
    *("avg_pool3d", "adaptive_avg_pool3d", "mean", "sum", "interpolate", "pad"),
    *("add", "add_", "__add__", "__radd__", "__iadd__"),
    *("sub", "sub_", "__sub__", "__rsub__", "__isub__", "rsub", "neg"),
    *("cat", "stack", "dropout", "dropout3d", "relu", "relu_", *RESHAPING),
}
_GATES = {"sigmoid", "sigmoid_"}
_QUOTIENTS = {"div", "div_", "__truediv__", "__itruediv__"}
_PRODUCTS = {"mul", "mul_", "__mul__", "__rmul__", "__imul__", *_QUOTIENTS}
_REFUSAL = (
    "guided backprop is defined for networks with ReLU and no other activation; this one calls "
    "{name}. Use another method, or train it with ReLU. A sigmoid may only be a gate, one value "
    "for a whole channel or place, that the features are multiplied with. Allowed are {known}."
)


@filled
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
    {volumes}
    {target}
    {batch_size}

    Returns
    -------
    tensor of shape (subject, 1, x, y, z)
        Signed: the last step, through the first convolution, is an ordinary one.

    Raises
    ------
    ValueError
        If the network has no ReLU, or other activations beside or in its place, however they are
        written: the method is not defined there, and the result would be the plain gradient under a
        wrong name. Sigmoid gates of whole channels or places are no activations.

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
        with OnlyReLU():
            output = model(batch.clone())
        return guided_gradient(models.target_logits(output, targets), batch)

    return explain_in_batches(model, volumes, target, batch_size=batch_size, explainer=explainer)


def guided_gradient(
    logits: Float[Tensor, "batch"], batch: Float[Tensor, "batch 1 x y z"]
) -> Float[Tensor, "batch 1 x y z"]:
    """Return the guided gradient of logits that were computed from the batch, in `OnlyReLU`."""
    with _GuidedReLUs() as relus:
        gradients = torch.autograd.grad(logits.sum(), batch)[0]
    if not relus.passed:
        raise ValueError(
            "guided backprop is defined for networks with ReLU; this one has none, so the map "
            "would be the plain gradient. Use another method, or train it with ReLU."
        )
    return gradients


class OnlyReLU(Traced):
    """While active, a network with another activation than ReLU is refused.

    A sigmoid is let through as a gate, as in squeeze-and-excitation: one value that a whole channel
    or a whole place of the features is multiplied with. In an activation such as x * sigmoid(x),
    each value has a weight of its own.
    """

    def __init__(self):
        super().__init__(_NO_ACTIVATION | _GATES | _PRODUCTS, {}, _REFUSAL)
        self.gates: list[Tensor] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        output = super().__torch_function__(function, types, args, kwargs)
        inputs = [t for t in tensors((*args, *(kwargs or {}).values())) if t.requires_grad]
        gates = [t for t in inputs if any(t is gate for gate in self.gates)]
        name = function.__name__
        if not isinstance(output, Tensor) or not (gates or name in _GATES | _PRODUCTS):
            return output
        features = [t for t in inputs if not any(t is gate for gate in gates)]
        if name in _GATES or (not features and name in _PRODUCTS | RESHAPING):
            self.gates.append(output)  # times a number it is a gate as well
        elif (
            name not in _PRODUCTS
            or (len(inputs) > 1 and not _gated(features, gates))
            or (name in _QUOTIENTS and getattr(args[1], "requires_grad", False))
        ):
            what = "sigmoid as an activation" if gates else f"{name} of things that it computed"
            raise ValueError(self.refusal.format(name=what, known=", ".join(sorted(self.known))))
        return output


def _gated(features: list[Tensor], gates: list[Tensor]) -> bool:
    return len(features) == len(gates) == 1 and gates[0].numel() < features[0].numel()


class _GuidedReLUs(TorchDispatchMode):
    """While active, each ReLU's backward step lets only positive gradients through.

    A dispatch mode sees every elementary step that torch takes, here those of the backward pass.
    """

    def __init__(self):
        super().__init__()
        self.passed = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        gradients = function(*args, **(kwargs or {}))
        if name == "threshold_backward":
            gradients.clamp_(min=0)
            self.passed += 1
        return gradients
