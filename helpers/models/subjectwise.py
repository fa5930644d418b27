"""Does a network look at each subject alone, and the same way every time? Else there is no map.

If the logit of one subject depends on who else is in the batch, or on dice, a map made in batches,
of many noisy copies or with many windows explains no network that anybody has.
"""

import random

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

from helpers.models.frozen import FrozenNetwork, class_logits

# Rounding, as a share of the largest logit; convolutions on a GPU keep 10 bits by default.
_ROUNDING = {"cpu": 3e-5, "cuda": 3e-3}
# Rounding, as a share of how far the logits move when all of the volume is another one.
_SHARE = 1e-3

# Steps that work on each row of their first argument alone, whatever their other arguments say.
_ROW_BY_ROW = {
    *("conv3d", "linear", "max_pool3d", "avg_pool3d", "adaptive_max_pool3d", "adaptive_avg_pool3d"),
    *("relu", "relu_", "leaky_relu", "leaky_relu_", "elu", "elu_", "gelu", "silu", "sigmoid"),
    *("tanh", "prelu", "instance_norm", "group_norm", "contiguous", "clone", "to"),
    *("dropout", "dropout3d"),  # while training they draw random numbers, which is seen
}


def check_subjectwise(
    network: FrozenNetwork, volume: Float[Tensor, "1 1 x y z"]
) -> Float[Tensor, "1 classes"]:
    """Return the logits of one volume; refuse a network whose answer is not the volume's alone.

    One pass beside another volume shows whether random numbers are drawn and which steps are taken.
    If all of them are known to work row by row, that is all. Else the volume passes once more,
    alone, and its logits must stay.

    Parameters
    ----------
    network : FrozenNetwork
        From `helpers.models.frozen`.
    volume : tensor of shape (1, 1, x, y, z)

    Raises
    ------
    ValueError
        If the network draws random numbers, mixes the subjects of a batch, or makes logits of a
        volume that are not finite.

    Examples
    --------
    >>> import torch
    >>> from helpers import models
    >>> with models.frozen(models.build("course")) as network:
    ...     logits = models.check_subjectwise(network, torch.rand(1, 1, 16, 20, 24))
    >>> tuple(logits.shape)
    (1, 2)
    """
    pair = torch.cat([volume, 0.5 * volume.flip((2, 3, 4))]).detach().requires_grad_()
    before = _random_state(network.device)
    try:
        with _Steps() as steps:
            output = network(pair)
    except RuntimeError as error:
        network(volume)  # a network that fails on one as well says why
        raise ValueError(
            f"the network takes a volume alone and fails on two: {error}; look for a reshape that "
            f"names the size of the batch"
        ) from error
    logits = class_logits(output.detach())
    if _random_state(network.device) != before:
        raise ValueError(
            "the network draws random numbers in evaluation mode, so its maps would be chance; "
            "look for dropout or noise written as a function without training=self.training"
        )
    if not logits[0].isfinite().all():
        raise ValueError(
            f"the network makes logits of {logits[0].tolist()} of a finite volume; "
            f"look for broken weights"
        )
    if steps.unknown:
        with torch.no_grad():
            _compare(class_logits(network(volume)), logits)
    return logits[:1].float().cpu()


def _compare(alone: Tensor, both: Tensor) -> None:
    change, response = ((row - alone[0]).abs().max() for row in both)
    rounding = _ROUNDING.get(alone.device.type, 3e-3) * alone.abs().max()
    if not change <= torch.maximum(rounding, _SHARE * response):
        raise ValueError(
            f"the network's logits of one volume change by {float(change):.2g} when another one is "
            f"beside it in the batch, so a map would depend on the company; look for BatchNorm "
            f"with track_running_stats=False, and for means or softmaxes over axis 0"
        )


def _random_state(device: torch.device) -> tuple:
    """Return the state of every generator that a network may draw from without saying so."""
    on_gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.empty(0)
    numpy = np.random.get_state()  # noqa: NPY002
    states = (torch.get_rng_state(), on_gpu, torch.from_numpy(numpy[1].astype(np.int64)))
    return (*(bytes(state.numpy()) for state in states), numpy[2], random.getstate())


class _Steps(TorchFunctionMode):
    """Watch a network run; ``unknown`` if a step is not known to work row by row.

    The volumes have a row for each subject. If every step keeps rows apart, so does the network.
    What depends on the volumes requires a gradient; all known steps have one.
    """

    def __init__(self):
        super().__init__()
        self.unknown = False

    def __torch_function__(self, function, types, args=(), kwargs=None):
        options = kwargs or {}
        known = _row_by_row(function.__name__, args, options)
        output = function(*args, **options)
        self.unknown |= isinstance(output, Tensor) and not known
        return output


def _row_by_row(name: str, args: tuple, options: dict) -> bool:
    def argument(index: int, called: str, default=None):
        return args[index] if len(args) > index else options.get(called, default)

    if name in ("add", "add_", "__add__", "__iadd__", "__radd__"):
        return len({t.ndim for t in args if isinstance(t, Tensor)}) == 1
    if not args:
        return False
    if name == "cat":
        return argument(1, "dim", 0) == 1
    if not isinstance(args[0], Tensor) or args[0].ndim < 2:
        return False
    if name == "batch_norm":
        return not argument(5, "training", False)
    if name == "flatten":
        return argument(1, "start_dim", 0) >= 1
    if name in ("mean", "sum", "amax"):
        axes = argument(1, "dim")
        axes = (axes,) if isinstance(axes, int) else axes
        return axes is not None and len(axes) > 0 and min(axes) >= 1
    others = (*args[1:], *options.values())  # such as weights, which may not come from the volumes
    return name in _ROW_BY_ROW and not any(getattr(t, "requires_grad", False) for t in others)
