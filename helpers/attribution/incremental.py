"""Recompute only what a small change of the volume changes, exactly.

A window of 8 voxels changes 10 after a 3x3x3 convolution and 5 or 6 after pooling: in the early
layers, where nearly all of the time goes, almost everything stays as it was. So the network runs
once on the undisturbed volume and every layer's input and output is kept. For each patch, a layer
then works on a small crop: the changed values, surrounded by what the undisturbed volume had there.
A convolution is linear, so it needs the change alone: its output is added to the undisturbed one.

Layers are followed as long as each one looks only at a neighbourhood and hands its output to the
next one alone (convolution, batch normalization, pooling, ReLU and its relatives). From the first
other step on (global pooling, a flattening, a residual branch), the network's own code takes over.

References
----------
Nakandala, Kumar, Papakonstantinou (2019), Incremental and approximate inference for faster
occlusion-based deep CNN explanations (Krypton), SIGMOD; for 2D.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class Undisturbed:
    """A network's pass over one volume, kept to tell what a patch in the volume would change.

    Parameters
    ----------
    model : Module
        In evaluation mode.
    volume : tensor of shape (1, channel, x, y, z)
        On the model's device.

    Attributes
    ----------
    logits : tensor of shape (1, classes)
        Of the undisturbed volume.
    layers : list of Layer
        The first layers, on which only crops are computed. Empty where the network's code could
        not be followed: then each patch costs a full pass.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from helpers import models
    >>> model, volume = models.build("course").eval(), torch.rand(1, 1, 16, 20, 24)
    >>> corners = np.array([[0, 0, 0], [9, 9, 9]])
    >>> Undisturbed(model, volume).with_patches(torch.zeros(2, 1, 4, 4, 4), corners).shape
    torch.Size([2, 2])
    """

    def __init__(self, model: nn.Module, volume: Float[Tensor, "1 channel x y z"]):
        self.model, self.volume = model, volume
        with torch.no_grad():
            self.logits = model(volume.clone())
            seen = volume.clone()  # a network may change its input in place
            with _Recorder() as recorder:
                model(seen)
            self.calls, self.layers = _leading_layers(recorder.calls, seen)
            self.inputs, self.outputs, self.last = [], [], volume
            for layer in self.layers:
                self.inputs.append(layer.pad(self.last))
                self.last = layer.run(self.inputs[-1])
                self.outputs.append(self.last)

    @torch.no_grad()
    def with_patches(
        self, patches: Float[Tensor, "patch channel a b c"], corners: Int[np.ndarray, "patch 3"]
    ) -> Float[Tensor, "patch classes"]:
        """Return the logits of copies of the volume, each with one patch pasted in.

        Parameters
        ----------
        patches : tensor of shape (patch, channel, a, b, c)
            New intensities.
        corners : array of shape (patch, 3)
            Index of each patch's first voxel; patches lie within the volume.
        """
        for layer, padded, output in zip(self.layers, self.inputs, self.outputs, strict=True):
            patches, corners = layer.with_patches(padded, output, patches, corners)
        changed = self.last.repeat(len(patches), 1, 1, 1, 1)
        _paste(patches, corners, into=changed, at=np.zeros_like(corners))
        if not self.calls:
            return self.model(changed)
        volumes = self.volume.expand(len(patches), -1, -1, -1, -1)
        with _Resume(self.calls, changed):
            return self.model(volumes)

    def changed_sizes(
        self, corners: Int[np.ndarray, "patch 3"], size: tuple[int, int, int]
    ) -> Int[np.ndarray, "patch sides"]:
        """Return the sides of the boxes that each patch of this size can change, layer by layer."""
        low, high = corners, corners + np.array(size)
        sizes = []
        for layer, padded in zip(self.layers, self.inputs, strict=True):
            low, high = layer.reach(padded, low, high)
            sizes.append(high - low)
        return np.concatenate(sizes, axis=1) if sizes else np.zeros((len(corners), 1), int)


@dataclass(frozen=True)
class Layer:
    """A layer that looks at ``kernel`` voxels every ``stride`` voxels; ``run`` does not pad.

    ``spread``, where the layer is linear and has a stride of 1, returns what a change adds to the
    output, with as many voxels beyond each side of the change as it is told.
    """

    run: Callable[[Tensor], Tensor]
    kernel: np.ndarray
    stride: np.ndarray
    padding: np.ndarray
    border: float = 0.0
    spread: Callable[[Tensor, np.ndarray], Tensor] | None = None

    def pad(self, volume: Tensor) -> Tensor:
        """Return the whole input with what the layer sees beyond the border."""
        x, y, z = self.padding.tolist()
        return F.pad(volume, (z, z, y, y, x, x), value=self.border)

    def reach(self, padded: Tensor, low: np.ndarray, high: np.ndarray) -> tuple:
        """Return the box of outputs that see any input from ``low`` up to before ``high``."""
        shape = (np.array(padded.shape[2:]) - self.kernel) // self.stride + 1  # of the output
        first = -(-(low + self.padding - self.kernel + 1) // self.stride)  # rounded up
        last = (high + self.padding - 1) // self.stride
        first = np.clip(first, 0, shape - 1)
        return first, np.clip(last + 1, first + 1, shape)  # one at least, where none sees them

    def with_patches(
        self, padded: Tensor, output: Tensor, patches: Tensor, corners: np.ndarray
    ) -> tuple[Tensor, np.ndarray]:
        """Return the outputs that changed patches of the input can change, and their corners."""
        if (self.kernel == 1).all() and (self.stride == 1).all() and not self.padding.any():
            return self.run(patches), corners
        low, high = self.reach(padded, corners, corners + patches.shape[2:])
        size = (high - low).max(axis=0)
        low = np.minimum(low, high.max(axis=0) - size)  # one size for all, none sticks out
        if self.spread is None:
            crops = _cut(padded, low * self.stride, (size - 1) * self.stride + self.kernel)
            _paste(patches, corners + self.padding, into=crops, at=low * self.stride)
            return self.run(crops), low
        change = patches - _cut(padded, corners + self.padding, np.array(patches.shape[2:]))
        # Where patches span an axis, nothing lies beyond its border: it is padded as ever.
        whole = np.array(patches.shape[2:]) == np.array(padded.shape[2:]) - 2 * self.padding
        beyond = np.where(whole, self.padding, self.kernel - 1)
        outputs = _cut(output, low, size)
        _add(self.spread(change, beyond), corners + self.padding - beyond, to=outputs, at=low)
        return outputs, low


def _cut(volume: Tensor, corners: np.ndarray, size: np.ndarray) -> Tensor:
    """Return crops of one volume, one for each corner."""
    if (corners < 0).any() or (corners + size > np.array(volume.shape[2:])).any():
        raise RuntimeError(f"a crop of {size} voxels sticks out of {tuple(volume.shape[2:])}")
    shape, strides = (1, volume.shape[1], *size.tolist()), volume.stride()
    # Thousands of small crops: one view each, where slicing would make five.
    starts = volume.storage_offset() + corners @ np.array(strides[2:])
    return torch.cat([volume.as_strided(shape, strides, start) for start in starts.tolist()])


def _paste(patches: Tensor, corners: np.ndarray, *, into: Tensor, at: np.ndarray) -> None:
    """Write patches into crops, leaving out what lies beyond a crop; ``at`` is its corner."""
    for here, there in _shared(patches, corners, into, at):
        into[there] = patches[here]


def _add(patches: Tensor, corners: np.ndarray, *, to: Tensor, at: np.ndarray) -> None:
    """Add patches to crops, leaving out what lies beyond a crop; ``at`` is its corner."""
    for here, there in _shared(patches, corners, to, at):
        to[there] += patches[here]


def _shared(patches: Tensor, corners: np.ndarray, crops: Tensor, at: np.ndarray) -> Iterator:
    """Yield the slices of patches, and of crops, that are the same places."""
    low = np.maximum(corners, at)
    size = np.maximum(np.minimum(corners + patches.shape[2:], at + crops.shape[2:]) - low, 0)
    there, here = low - at, low - corners
    rows = np.arange(len(patches))[:, None]
    places = np.concatenate([rows, rows + 1, here, there, size], axis=1)
    if (places[:, 2:] == places[0, 2:]).all():  # as it is far from the border: all at once
        places = places[:1]
        places[0, 1] = len(patches)
    for i, j, u, v, w, x, y, z, a, b, c in places.tolist():
        yield (
            (slice(i, j), ..., slice(u, u + a), slice(v, v + b), slice(w, w + c)),
            (slice(i, j), ..., slice(x, x + a), slice(y, y + b), slice(z, z + c)),
        )


@dataclass(frozen=True)
class _Call:
    """One call of a torch function while the network ran."""

    index: int
    function: Callable
    arguments: tuple
    options: dict
    output: object

    def inputs(self) -> list:
        return list(_flat([self.arguments, *self.options.values()]))


def _flat(values):
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


class _Recorder(TorchFunctionMode):
    """Write down every torch function that the network calls, whatever its modules are named."""

    def __init__(self):
        super().__init__()
        self.calls: list[_Call] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        options = dict(kwargs or {})
        if function in _LAYERS and "inplace" in options:
            options["inplace"] = False  # each step's output is a tensor of its own
        output = function(*args, **options)
        if function not in _QUESTIONS:
            self.calls.append(_Call(len(self.calls), function, args, options, output))
        return output


class _Resume(TorchFunctionMode):
    """Let the network run its own code, but start it after the layers that are known already."""

    def __init__(self, known: list[_Call], activation: Tensor):
        super().__init__()
        self.known, self.activation, self.index = known, activation, -1
        self.by_index = {call.index: call for call in known}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in _QUESTIONS:
            return function(*args, **(kwargs or {}))
        self.index += 1
        call = self.by_index.get(self.index)
        if call is None:
            return function(*args, **(kwargs or {}))
        if call.function is not function:
            raise RuntimeError("the network took another path than before; is it random?")
        if call is self.known[-1]:
            return self.activation
        return call.output.expand(len(self.activation), -1, -1, -1, -1)  # only its shape matters


def _leading_layers(calls: list[_Call], volume: Tensor) -> tuple[list[_Call], list[Layer]]:
    """Return the first calls that form a chain of layers with a known neighbourhood."""
    chain: list[_Call] = []
    layers: list[Layer] = []
    current = volume
    for call in calls:
        if call.arguments and call.arguments[0] is current and call.function in _LAYERS:
            layer = _LAYERS[call.function](call, *call.arguments, **call.options)
            if layer is None:
                break
            chain.append(call)
            layers.append(layer)
            current = call.output
    # What a second step reads too (a residual branch) must be whole: the chain ends before it.
    for length, call in enumerate(chain):
        source = call.arguments[0]
        if sum(any(value is source for value in other.inputs()) for other in calls) > 1:
            return chain[:length], layers[:length]
    return chain, layers


def _convolution(
    call, volumes, weight, bias=None, stride=1, padding=0, dilation=1, groups=1
) -> Layer | None:
    if isinstance(padding, str):
        return None

    def run(crops):
        output = torch.conv3d(crops, weight, bias, stride=stride, dilation=dilation, groups=groups)
        # With the channels last in memory, pooling on a CPU takes a tenth of the time.
        return output.contiguous(memory_format=torch.channels_last_3d)

    def spread(change, beyond):
        return torch.conv3d(
            change, weight, padding=beyond.tolist(), dilation=dilation, groups=groups
        )

    kernel = _three(dilation) * (np.array(weight.shape[2:]) - 1) + 1
    linear = spread if (_three(stride) == 1).all() else None
    return Layer(run, kernel, _three(stride), _three(padding), spread=linear)


def _max_pool(
    call,
    volumes,
    kernel_size,
    stride=None,
    padding=0,
    dilation=1,
    ceil_mode=False,
    return_indices=False,
) -> Layer | None:
    if ceil_mode or return_indices:
        return None
    stride = kernel_size if stride is None else stride
    run = partial(F.max_pool3d, kernel_size=kernel_size, stride=stride, dilation=dilation)
    kernel = _three(dilation) * (_three(kernel_size) - 1) + 1
    return Layer(run, kernel, _three(stride), _three(padding), border=-math.inf)


def _average_pool(
    call,
    volumes,
    kernel_size,
    stride=None,
    padding=0,
    ceil_mode=False,
    count_include_pad=True,
    divisor_override=None,
) -> Layer | None:
    if ceil_mode or _three(padding).any():
        return None
    stride = kernel_size if stride is None else stride
    run = partial(
        F.avg_pool3d, kernel_size=kernel_size, stride=stride, divisor_override=divisor_override
    )
    return Layer(run, _three(kernel_size), _three(stride), _three(0))


def _batch_norm(
    call, volumes, mean, variance, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
) -> Layer | None:
    if training:
        return None  # the statistics of the batch look at more than one voxel
    return _pointwise(call, volumes, mean, variance, weight, bias, False, momentum, eps)


def _dropout(call, volumes, p=0.5, training=True, inplace=False) -> Layer | None:
    return None if training else _pointwise(call, volumes, p, False)


def _pointwise(call, volumes, *arguments, **options) -> Layer | None:
    def run(crops):
        return call.function(crops, *arguments, **options)

    return Layer(run, _three(1), _three(1), _three(0))


def _three(value: int | tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.array(value), (3,))


_LAYERS: dict[Callable, Callable] = {
    torch.conv3d: _convolution,
    F.max_pool3d: _max_pool,
    F.avg_pool3d: _average_pool,
    F.batch_norm: _batch_norm,
    F.dropout: _dropout,
    F.dropout3d: _dropout,
    **dict.fromkeys(
        [
            F.relu,
            torch.relu,
            F.leaky_relu,
            F.elu,
            F.gelu,
            F.silu,
            torch.sigmoid,
            torch.tanh,
        ],
        _pointwise,
    ),
}

# Questions about a tensor that do not look at its values.
_QUESTIONS = {
    Tensor.dim,
    Tensor.size,
    Tensor.shape.__get__,
    Tensor.ndim.__get__,
    Tensor.dtype.__get__,
    Tensor.device.__get__,
    Tensor.is_floating_point,
}
