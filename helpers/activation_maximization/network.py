"""Look at a frozen network: any layers by name, nothing left changed."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from helpers import models, runtime

OUTPUT = "the model's output"  # the key of what the whole network puts out
Outputs = dict[str, Tensor]


@contextmanager
def watched(model: nn.Module, layers: Iterable[str]) -> Iterator[Callable[[Tensor], Outputs]]:
    """Yield a function from volumes to what the named layers put out for them.

    Inside the block the network is in evaluation mode and its weights are frozen, so that no time
    goes into their gradients. Afterwards, also after an error, modes, `requires_grad` and hooks are
    as they were. On a GPU the network runs in the precision of `helpers.runtime.profile`.

    Parameters
    ----------
    layers : iterable of str
        Names, see `helpers.models.layers`; `OUTPUT` for the logits.

    Raises
    ------
    ValueError
        If a layer does not exist; in the yielded function, if it is not passed exactly once.
    """
    names = [name for name in dict.fromkeys(layers) if name != OUTPUT]
    modules = [models.layer(model, name) for name in names]
    modes = {module: module.training for module in model.modules()}
    trainable = {parameter: parameter.requires_grad for parameter in model.parameters()}
    device = next(iter(trainable)).device
    mixed = device.type == "cuda" and runtime.profile().precision == "bf16-mixed"
    collected: dict[str, list[Tensor]] = {}

    def keeper(name: str):
        def keep(module, inputs, output):
            if not isinstance(output, Tensor):
                raise ValueError(f"layer {name!r} puts out {type(output).__name__}, not a tensor")
            collected[name].append(output)
            return output.clone()  # an in-place ReLU behind would overwrite what was kept

        return keep

    def look(volumes: Tensor) -> Outputs:
        collected.update((name, []) for name in names)
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            output = model(volumes)
        for name in names:
            if len(collected[name]) != 1:
                raise ValueError(
                    f"layer {name!r} was passed {len(collected[name])} times in one forward pass; "
                    f"name a layer that is passed exactly once"
                )
        return {OUTPUT: output.float()} | {name: collected[name][0].float() for name in names}

    hooks = []
    try:
        model.eval().requires_grad_(False)
        hooks += [m.register_forward_hook(keeper(n)) for n, m in zip(names, modules, strict=True)]
        with torch.enable_grad():
            yield look
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
        for parameter, required in trainable.items():
            parameter.requires_grad_(required)
