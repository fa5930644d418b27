"""Layer-wise relevance propagation: share a logit out, layer by layer, down to the voxels.

What a unit has received, it hands on to the units below in proportion to what each of them put in.
How "what it put in" is counted is the layer's rule.

Written as in Samek et al. (2021): the map is input times gradient, where only convolutions and
linear layers have a backward pass of their own. All other steps that are allowed (ReLU, pooling,
sums, reshaping) are straight lines through zero around any input. For them, input times gradient
already is the share: all to the winner of a max pooling, in proportion in an average or a sum.

References
----------
Bach et al. (2015), On pixel-wise explanations by layer-wise relevance propagation, PLOS ONE.
Montavon et al. (2019), Layer-wise relevance propagation: an overview.
Samek et al. (2021), Explaining deep neural networks and beyond, Proceedings of the IEEE.
Böhle et al. (2019), LRP for MRI-based Alzheimer's disease classification: alpha and beta.
"""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from helpers import models
from helpers._docs import filled
from helpers.attribution.contract import explain_in_batches
from helpers.attribution.tracing import RESHAPING, Traced

RULES = ("composite", "epsilon")

# For these, input times gradient is the output, or the output less an offset.
_STRAIGHT_THROUGH_ZERO = {
    *("relu", "relu_", "leaky_relu", "leaky_relu_"),
    *("max_pool3d", "adaptive_max_pool3d", "amax"),
    *("avg_pool3d", "adaptive_avg_pool3d", "mean", "sum"),
    *("add", "add_", "__add__", "__radd__", "__iadd__"),
    *("cat", "stack", "dropout", "dropout3d", *RESHAPING),
}

_REFUSAL = "LRP has no rule for {name}, so its map would be wrong. It knows {known}."


@filled
def lrp(
    model: nn.Module,
    volumes: Float[Tensor, "subject 1 x y z"],
    target: int | Tensor | None = None,
    *,
    rule: str = "composite",
    alpha: float = 1.0,
    epsilon: float = 1e-6,
    batch_size: int = 8,
) -> Float[Tensor, "subject 1 x y z"]:
    """Share each subject's logit out to its voxels.

    Parameters
    ----------
    model : Module
        A classifier with one logit a class, of convolutions, linear layers, BatchNorm, ReLU (or
        leaky ReLU, or ELU), poolings and sums. BatchNorm behind a convolution or a linear layer is
        folded into it.
    {volumes}
    {target}
    rule : str
        ``"composite"``: alpha-beta for convolutions, epsilon for linear layers. ``"epsilon"`` for
        all: with a small epsilon this is input times gradient, noise included.
    alpha : float
        Of the composite, 1 or more. A unit's relevance is shared out ``alpha`` times among what
        excited it and ``1 - alpha`` times (minus beta) among what inhibited it. 1 asks only what
        excited it: the z-plus rule.
    epsilon : float
        Takes in a little of the relevance where a sum nearly cancels; in units of the layer.
    {batch_size}

    Returns
    -------
    tensor of shape (subject, 1, x, y, z)
        In logits, signed. The map sums to the logit, less what the offsets of the layers with the
        epsilon rule take in. Under alpha-beta, offsets take nothing, but a unit that fires from its
        offset alone, such as those in the empty background, has nobody to hand relevance to.

    Raises
    ------
    ValueError
        If the network does something for which LRP has no rule, or an option is out of range.

    Examples
    --------
    >>> from helpers import attribution, cohorts, models
    >>> volumes = cohorts.simulate("lesion", subjects=1).volumes
    >>> maps = attribution.lrp(models.pretrained("lesion"), volumes)
    >>> maps.shape == volumes.shape
    True
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {RULES}, got {rule!r}")
    if not (1 <= alpha < float("inf") and 0 < epsilon < float("inf")):
        raise ValueError(f"expected alpha from 1 and epsilon above 0, got {alpha} and {epsilon}")
    for_all = partial(_epsilon_rule, epsilon=epsilon)
    for_convolutions = for_all if rule == "epsilon" else partial(_alpha_beta_rule, alpha=alpha)
    steps = {
        "conv3d": partial(_layer, for_convolutions),
        "linear": partial(_layer, for_all),
        "batch_norm": partial(_batch_norm, rule == "epsilon"),
        "elu": _elu,
    }

    def explainer(batch: Tensor, targets: Tensor) -> Tensor:
        with Traced(_STRAIGHT_THROUGH_ZERO, steps, _REFUSAL):
            logits = model(batch.requires_grad_().clone())
        explained = models.target_logits(logits, targets).sum()
        return batch * torch.autograd.grad(explained, batch)[0]

    return explain_in_batches(model, volumes, target, batch_size=batch_size, explainer=explainer)


def _epsilon_rule(layer, weight, bias, x, output, relevance, *, epsilon: float) -> Tensor:
    """Share out in proportion to input times weight; the offset takes its part too."""
    # Near zero, a sum recomputed with folded weights would differ from the output by rounding.
    stable = output + torch.where(output >= 0, epsilon, -epsilon)
    return torch.autograd.grad(layer(x, weight, bias), x, relevance / stable)[0]


def _alpha_beta_rule(layer, weight, bias, x, output, relevance, *, alpha: float) -> Tensor:
    """Share out alpha times among what excites and 1 - alpha times among what inhibits."""
    high, low = weight.clamp(min=0), weight.clamp(max=0)
    excites = _by_sign(layer, x, high, low)
    if alpha == 1:
        return torch.autograd.grad(excites, x, _ratio(relevance, excites))[0]
    inhibits = _by_sign(layer, x, low, high)
    # Where nothing inhibits, as at the brain's edge, what excites takes all once, not alpha times.
    both = (excites != 0) & (inhibits != 0)
    up = torch.where(both, alpha, 1.0) * _ratio(relevance, excites)
    down = torch.where(both, 1 - alpha, 0.0) * _ratio(relevance, inhibits)
    return torch.autograd.grad([excites, inhibits], x, [up, down])[0]


def _by_sign(layer, x, for_positive, for_negative) -> Tensor:
    """Let positive and negative inputs meet different weights. There is no offset."""
    z = layer(x.clamp(min=0), for_positive, None)
    if (x < 0).any():  # seldom: behind a ReLU there is nothing below zero
        z = z + layer(x.clamp(max=0), for_negative, None)
    return z


def _ratio(relevance, z) -> Tensor:
    # A unit that nothing has gone into has nobody to hand its relevance to: it is lost.
    return torch.where(z == 0, 0.0, relevance / z.detach())


class _Share(torch.autograd.Function):
    """Puts out what was computed; on the way back, the rule says who gets what.

    Autograd carries relevance for each unit of input. Times the input, it is the relevance.
    """

    @staticmethod
    def forward(ctx, x, output, rule):
        ctx.save_for_backward(x, output)
        ctx.rule = rule
        return output.clone()  # an in-place ReLU behind would overwrite what was kept

    @staticmethod
    def backward(ctx, gradients):
        x, output = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return ctx.rule(x, output, gradients * output), None, None


def _layer(rule, function, input, weight, bias=None, *options, **named) -> Tensor:
    """Compute a convolution or a linear layer."""

    def layer(x, weight, bias):
        return function(x, weight, bias, *options, **named)

    return _weighted_sum(
        input, layer(input.detach(), weight, bias), partial(rule, layer), weight, bias
    )


def _weighted_sum(x, output, rule, weight, bias) -> Tensor:
    shared = _Share.apply(x, output, partial(rule, weight, bias))
    shared.weighted_sum = (shared._version, x, rule, weight, bias)  # for a BatchNorm behind
    return shared


def _batch_norm(
    may_stand_alone,
    function,
    input,
    running_mean,
    running_var,
    weight=None,
    bias=None,
    training=False,
    momentum=0.1,
    eps=1e-5,
) -> Tensor:
    """Fold the normalization into the layer before it."""
    output = function(input, running_mean, running_var, weight, bias, False, momentum, eps)
    version, *source = getattr(input, "weighted_sum", (None,))
    if version != input._version:  # from something else, or changed in place since
        if may_stand_alone:
            return output
        raise ValueError(
            "LRP can fold a BatchNorm only into a convolution or a linear layer right before it. "
            "Elsewhere its offset would take in relevance that is meant for the voxels. "
            "Use rule='epsilon', which lets all offsets take their part, or another method."
        )
    x, rule, layer_weight, layer_bias = source
    scale = torch.rsqrt(running_var + eps) * (1 if weight is None else weight)
    offset = (0 if bias is None else bias) - running_mean * scale
    folded = layer_weight * scale.view(-1, *[1] * (layer_weight.ndim - 1))
    folded_bias = offset + (0 if layer_bias is None else layer_bias * scale)
    return _weighted_sum(x, output.detach(), rule, folded, folded_bias)


def _elu(function, input, alpha=1.0, inplace=False) -> Tensor:
    """Hand on to the only input all that the output has received."""
    if inplace:
        raise ValueError("LRP has no rule for an ELU in place; build it with inplace=False")
    output = function(input.detach(), alpha)
    return _Share.apply(input, output, lambda x, output, relevance: _ratio(relevance, x))
