"""Look at a network without changing it: one context for all who explain, predict or maximize.

A classifier here has one logit a class. With a single logit z (a sigmoid behind it makes the
probability of class 1), the classes are 0 and 1: z speaks for class 1 and -z for class 0.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from helpers.models import layouts

_HALF = (torch.float16, torch.bfloat16)
# Steps that only bring a tensor into another form, as autograd calls them.
_RESHAPED = ("View", "Reshape", "Squeeze", "Unsqueeze", "Clone", "ToCopy", "Alias", "Flatten")


class FrozenNetwork:
    """What `frozen` yields: call it with volumes on any device; it returns what the model does.

    Attributes
    ----------
    device, dtype
        Of the weights inside the context.
    """

    def __init__(self, model: nn.Module):
        self._model, self._one_logit_checked = model, False
        somewhere = next(chain(model.parameters(), model.buffers()), torch.empty(0))
        self.device, self.dtype = somewhere.device, torch.float32
        numbers = (t for t in chain(model.parameters(), model.buffers()) if t.is_floating_point())
        self.dtype = next(numbers, torch.empty(0)).dtype

    def __call__(self, volumes: Tensor) -> Tensor:
        """Return the model's output; refuse one that is no tensor."""
        output = self._pass(volumes)
        if not isinstance(output, Tensor):
            raise ValueError(
                f"expected one tensor of logits, the network puts out a {type(output).__name__}; "
                f"wrap it in a module whose forward returns the logits alone, such as "
                f"`return self.network(volumes)[0]`"
            )
        if output.ndim == 2 and output.shape[1] == 1 and not self._one_logit_checked:
            self._check_that_it_is_a_logit(volumes[:1])
        return output

    def _pass(self, volumes: Tensor) -> object:  # whatever the network puts out
        # A copy, because a network may change its input in place.
        try:
            return self._model(volumes.to(device=self.device, dtype=self.dtype, copy=True))
        except RuntimeError as error:
            if not layouts.is_of_layout(error):
                raise
        layouts.channels_first(self._model)  # its kernels are copies
        return self._model(volumes.to(device=self.device, dtype=self.dtype, copy=True))

    @torch.no_grad()
    def logits(
        self, volumes: Float[Tensor, "subject 1 x y z"], *, batch_size: int = 16
    ) -> Float[Tensor, "subject classes"]:
        """Return `class_logits` of many volumes, on the CPU, a few at a time."""
        parts = [class_logits(self(part)).float().cpu() for part in volumes.split(batch_size)]
        return torch.cat(parts)

    def _check_that_it_is_a_logit(self, volume: Tensor) -> None:
        """Refuse a probability: it is never below 0, so it would always speak for class 1."""
        with torch.enable_grad():
            seen = volume.detach().to(device=self.device, dtype=self.dtype, copy=True)
            step = self._model(seen.requires_grad_().clone()).grad_fn
        while step is not None and step.name().startswith(_RESHAPED):
            step = step.next_functions[0][0]
        if step is not None and step.name().startswith("Sigmoid"):
            raise ValueError(
                "the network ends in a sigmoid: its one output is a probability, expected the "
                "logit before it; wrap the network without its last step"
            )
        self._one_logit_checked = True


@contextmanager
def frozen(model: nn.Module) -> Iterator[FrozenNetwork]:
    """Put a network into evaluation mode with frozen weights, and afterwards back as it was.

    Inside the block gradients are on, also under `torch.no_grad` and `torch.inference_mode`, and
    what requires one depends on the volumes. Everything is computed in single precision, or double
    where the weights are: a surrounding `torch.autocast` is off, and half-precision weights are
    replaced by their values in single precision, for small gradients would be zero or far off. On a
    CPU, kernels are replaced by copies with the channels last in memory, which makes a batch up to
    twice as fast. Afterwards, also after an error, modes, `requires_grad` and the very same tensors
    are back.

    Parameters
    ----------
    model : Module
        On any device; one without weights runs on the CPU.

    Yields
    ------
    FrozenNetwork

    Raises
    ------
    ValueError
        If the network cannot be looked into (scripted, traced or compiled, or with checkpoints
        whose gradients cannot be asked for); the message says what to do.

    Examples
    --------
    >>> import torch
    >>> from helpers import models
    >>> model = models.build("course").train()
    >>> with models.frozen(model) as network:
    ...     logits = network.logits(torch.rand(3, 1, 16, 20, 24))
    >>> tuple(logits.shape), model.training
    ((3, 2), True)
    """
    _check_open(model)
    modes = {module: module.training for module in model.modules()}
    trained = [p for p in model.parameters() if p.requires_grad and not p.is_inference()]
    replaced: list[tuple[dict, str, Tensor]] = []
    try:
        model.eval()
        for parameter in trained:
            parameter.requires_grad_(False)
        with torch.inference_mode(False), torch.enable_grad():
            _replace_weights(model, replaced)
            network = FrozenNetwork(model)
            with torch.autocast(network.device.type, enabled=False):
                yield network
    except RuntimeError as error:
        if "use_reentrant" not in str(error):
            raise
        raise ValueError(
            "the network uses reentrant checkpoints, through which torch cannot ask for the "
            "gradient of a volume; build it with checkpoint(..., use_reentrant=False) or without "
            "checkpoints"
        ) from error
    finally:
        for tensors, name, original in replaced:
            tensors[name] = original
        for module, mode in modes.items():
            module.training = mode
        for parameter in trained:
            parameter.requires_grad_()


def class_logits(output: Float[Tensor, "subject output"]) -> Float[Tensor, "subject classes"]:
    """Return one column a class, whose softmax are the probabilities.

    Of a single logit z it makes the two columns 0 and z: their softmax is the sigmoid of z.

    Raises
    ------
    ValueError
        If the output is no batch of logits.

    Examples
    --------
    >>> import torch
    >>> from helpers import models
    >>> models.class_logits(torch.tensor([[2.0], [-1.0]])).argmax(1)
    tensor([1, 0])
    """
    if output.ndim != 2 or not output.shape[1]:
        raise ValueError(
            f"expected a classifier with one logit a class, shape (subject, classes), "
            f"got {tuple(output.shape)}"
        )
    return torch.cat([torch.zeros_like(output), output], 1) if output.shape[1] == 1 else output


def target_logits(
    output: Float[Tensor, "subject output"], targets: Int[Tensor, "subject"]
) -> Float[Tensor, "subject"]:
    """Return each subject's logit of its target class; of a single logit z, z or -z.

    Examples
    --------
    >>> import torch
    >>> from helpers import models
    >>> models.target_logits(torch.tensor([[2.0], [-1.0]]), torch.tensor([0, 0]))
    tensor([-2.,  1.])
    """
    if output.shape[1] == 1:
        return output[:, 0] * (2 * targets - 1)
    return output.gather(1, targets[:, None])[:, 0]


def resolve_targets(
    target: int | Tensor | None, logits: Float[Tensor, "row classes"], subjects: int
) -> Int[Tensor, "subject"]:
    """Return the class that is asked about for each subject.

    Parameters
    ----------
    target : int, tensor of shape (subject,) or None
        None asks about each subject's predicted class.
    logits : tensor of shape (subject, classes)
        From `class_logits`. Where a target is given, those of one subject will do.
    subjects : int

    Raises
    ------
    ValueError
        If a target is no class, or there are more or fewer than subjects.

    Examples
    --------
    >>> import torch
    >>> from helpers import models
    >>> models.resolve_targets(None, torch.tensor([[1.0, 3.0], [0.2, 0.1]]), 2)
    tensor([1, 0])
    """
    if target is None:
        return logits.argmax(1).cpu()
    targets, classes = torch.as_tensor(target).cpu(), logits.shape[1]
    if targets.is_floating_point() or targets.shape not in ((), (subjects,)):
        raise ValueError(
            f"expected one target or one a subject ({subjects}), whole numbers, "
            f"got shape {tuple(targets.shape)} of {targets.dtype}"
        )
    if int(targets.min()) < 0 or int(targets.max()) >= classes:
        raise ValueError(f"target must be a class from 0 to {classes - 1}, got {target}")
    return targets.long().expand(subjects)


def _check_open(model: nn.Module) -> None:
    """Refuse what hides the steps of the network, so that nobody can follow them."""
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                "a scripted or traced network hides its steps; "
                "explain the Python network that it was made from"
            )
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None):
            raise ValueError(
                "a compiled network hides its steps; explain the network that was given to "
                "torch.compile (compiled._orig_mod), whose weights are the same"
            )


def _replace_weights(model: nn.Module, replaced: list[tuple[dict, str, Tensor]]) -> None:
    """Put tensors to compute with into the place of those that are slow or no good for gradients.

    Half precision is too coarse; what was made under `torch.inference_mode` allows no gradients.
    """
    found: dict[Tensor, Tensor] = {}  # what modules share stays shared
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None or not _wants_a_copy(tensor):
                    continue
                if tensor not in found:
                    dtype = torch.float32 if tensor.dtype in _HALF else tensor.dtype
                    layout = torch.channels_last_3d if _is_slow(tensor) else torch.preserve_format
                    found[tensor] = tensor.detach().to(dtype, copy=True, memory_format=layout)
                    if isinstance(tensor, nn.Parameter):
                        found[tensor] = nn.Parameter(found[tensor], requires_grad=False)
                replaced.append((tensors, name, tensor))
                tensors[name] = found[tensor]


def _wants_a_copy(tensor: Tensor) -> bool:
    return tensor.dtype in _HALF or tensor.is_inference() or _is_slow(tensor)


def _is_slow(tensor: Tensor) -> bool:
    """Is this a 3D kernel on a CPU? oneDNN and torch's pooling prefer the channels last there."""
    return tensor.ndim == 5 and tensor.device.type == "cpu" and isinstance(tensor, nn.Parameter)
