"""Look at the layers of a frozen network by their names."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from helpers import models

OUTPUT = "the model's output"  # the key of what the whole network puts out
Outputs = dict[str, Tensor]


@contextmanager
def watched(model: nn.Module, layers: Iterable[str]) -> Iterator[Callable[[Tensor], Outputs]]:
    """Yield a function from volumes to what the named layers put out for them.

    Inside the block the network is frozen, see `helpers.models.frozen`; afterwards, also after an
    error, it is as it was.

    Parameters
    ----------
    layers : iterable of str
        Names, see `helpers.models.layers`; `OUTPUT` for the logits.

    Raises
    ------
    ValueError
        If a layer does not exist; in the yielded function, if it is not passed exactly once.
    """
    modules = {name: models.layer(model, name) for name in layers if name != OUTPUT}
    passing: dict[str, list[Tensor]] = {name: [] for name in modules}
    # A network may be passed again for `frozen`: before, where its layout did not fit and the pass
    # broke off, and after, to tell a logit from a probability. What counts is the first whole pass.
    whole: list[dict[str, list[Tensor]]] = []

    def begin(*_):
        for outputs in passing.values():
            outputs.clear()

    def end(*_):
        whole.append({name: list(outputs) for name, outputs in passing.items()})

    def keeper(name: str):
        def keep(module, inputs, output):
            if not isinstance(output, Tensor):
                raise ValueError(f"layer {name!r} puts out {type(output).__name__}, not a tensor")
            passing[name].append(output)
            return output.clone()  # an in-place ReLU behind would overwrite what was kept

        return keep

    with models.frozen(model) as network, ExitStack() as hooks:
        hooks.callback(model.register_forward_pre_hook(begin).remove)
        hooks.callback(model.register_forward_hook(end).remove)
        for name, module in modules.items():
            hooks.callback(module.register_forward_hook(keeper(name)).remove)

        def look(volumes: Tensor) -> Outputs:
            whole.clear()
            found = {OUTPUT: network(volumes)}
            for name, outputs in whole[0].items():
                if len(outputs) != 1:
                    raise ValueError(
                        f"layer {name!r} was passed {len(outputs)} times in one forward pass; "
                        f"name a layer that is passed exactly once"
                    )
                found[name] = outputs[0]
            return found

        yield look
