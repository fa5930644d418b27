"""See every step of a network, and refuse the first one that a method is not defined for.

A method that is right for some steps only has to know all that a network does, however it is
written: as a module, a function, in place, with operators. So it lists what is allowed: a list of
what is forbidden would be never complete.
"""

from collections.abc import Callable, Mapping, Set

from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

# Steps that only move values around.
RESHAPING = {
    *("flatten", "view", "reshape", "squeeze", "unsqueeze", "permute", "transpose"),
    *("__getitem__", "contiguous", "clone"),
}


class Traced(TorchFunctionMode):
    """While active, every call into torch is seen, and one that is not known is refused.

    Only what depends on the volumes counts: what requires a gradient, for the weights are frozen.
    A comparison or a detached copy has no gradient, although it depends on them: it is refused.

    Parameters
    ----------
    known : set of str
        Functions that are computed as they are.
    steps : mapping of str to callable
        Functions in whose place another one is called: with the function and its arguments.
    refusal : str
        The message; ``{name}`` and ``{known}`` are filled in.
    """

    def __init__(self, known: Set[str], steps: Mapping[str, Callable], refusal: str):
        super().__init__()
        self.steps, self.refusal = steps, refusal
        self.known = known | steps.keys()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name, kwargs = function.__name__, kwargs or {}
        if not any(v.requires_grad for v in tensors((*args, *kwargs.values()))):
            return function(*args, **kwargs)
        if name in self.steps:
            output = self.steps[name](function, *args, **kwargs)
        else:
            output = function(*args, **kwargs)
        # Sizes may be asked for. What puts out tensors has to be known, and gradients be on in it.
        if not all(name in self.known and tensor.requires_grad for tensor in tensors(output)):
            called, known = resolve_name(function) or name, ", ".join(sorted(self.known))
            raise ValueError(self.refusal.format(name=called, known=known))
        return output


def tensors(values) -> list[Tensor]:
    """Return the tensors in nested lists and tuples."""
    if isinstance(values, list | tuple):
        return [tensor for value in values for tensor in tensors(value)]
    return [values] if isinstance(values, Tensor) else []
