"""Files that know what they were made from, and notice when they are damaged.

A checkpoint of a training and a part of a long computation are worth something only for the data,
the networks and the settings that made them. Both are written here: tensors and facts in one
safetensors file, which cannot run code when it is read, with a key and a checksum.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from helpers import runtime

Key = Mapping[str, str | int | float | bool | None]
_PLAIN = (bool, int, float, complex, str, bytes, type(None), PurePath, range)


def fingerprint(thing: Any) -> str:
    """Return a SHA-256 of content: the same for equal things, another when anything changes.

    - Tensors and arrays count with type, shape and every element.
    - Networks count with their weights, and with the class and the plain attributes of every layer,
      such as a stride; not with their mode or device, and not with the code of the class.
    - Functions count with name, code, constants, defaults, what they closed over, and the plain
      global values that they name; not with the functions that they call. ``functools.partial``
      and objects count with everything they hold.

    Examples
    --------
    >>> import torch
    >>> from helpers import keyed
    >>> layer = torch.nn.Conv3d(1, 2, 3)
    >>> keyed.fingerprint(layer) == keyed.fingerprint(layer.eval())
    True
    >>> before = keyed.fingerprint(layer)
    >>> layer.stride = (2, 2, 2)
    >>> keyed.fingerprint(layer) == before
    False
    """
    digest = hashlib.sha256()
    _feed(thing, digest.update, frozenset())
    return digest.hexdigest()


def save(path: str | Path, *, key: Key, tensors: Mapping[str, Tensor], facts: Any) -> None:
    """Write tensors and JSON facts, all or nothing, with a key and a checksum.

    Examples
    --------
    >>> import pathlib, tempfile, torch
    >>> from helpers import keyed
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "part.safetensors"
    >>> keyed.save(path, key={"seed": 0}, tensors={"map": torch.ones(2)}, facts=[0.97])
    >>> keyed.load(path, key={"seed": 0})
    ({'map': tensor([1., 1.])}, [0.97])
    """
    # Cloned: safetensors refuses tensors that share memory, as tied weights do.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    plain = functools.partial(json.dumps, default=lambda value: value.item())  # numpy's numbers
    words = {"key": plain(dict(key)), "facts": plain(facts)}
    words["checksum"] = _checksum(tensors, words)
    with runtime.replacing(path) as unfinished:
        safetensors.torch.save_file(tensors, unfinished, metadata=words)


def load(path: str | Path, *, key: Key) -> tuple[dict[str, Tensor], Any]:
    """Read what `save` wrote under the same key.

    Raises
    ------
    ValueError
        If the file is damaged or no such file, or was made under another key; the message says
        what differs.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            words = dict(stored.metadata() or {})
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        intact = words.pop("checksum") == _checksum(tensors, words)
    except (SafetensorError, KeyError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged, or not a file of this course ({error})") from error
    if not intact:
        raise ValueError(f"{path} is damaged: its content does not match its checksum")
    there, here = json.loads(words["key"]), json.loads(json.dumps(dict(key)))
    if there != here:
        raise ValueError(f"{path} was made from something else: {_differences(there, here)}")
    return tensors, json.loads(words["facts"])


def _checksum(tensors: Mapping[str, Tensor], words: Mapping[str, str]) -> str:
    return fingerprint([sorted(tensors.items()), sorted(words.items())])


def _differences(there: dict, here: dict) -> str:
    def short(values: dict, name: str) -> str:
        return str(values[name])[:12] if name in values else "not there"

    names = [name for name in {**here, **there} if there.get(name, "") != here.get(name, "")]
    return "; ".join(
        f"{name} is {short(there, name)} in the file and {short(here, name)} now" for name in names
    )


def _feed(thing: Any, update: Callable[[bytes], None], inside: frozenset[int]) -> None:
    """Give an unambiguous description of a thing to a digest; ``inside`` are those around it."""
    if id(thing) in inside:  # a function that closes over itself
        update(b"again;")
        return
    feed = functools.partial(_feed, update=update, inside=inside | {id(thing)})
    kind = type(thing)
    update(f"{kind.__module__}.{kind.__qualname__};".encode())
    if isinstance(thing, _PLAIN):
        update(f"{len(repr(thing))}:{thing!r};".encode())
    elif isinstance(thing, Tensor):
        update(f"{thing.dtype} {tuple(thing.shape)};".encode())
        flat = thing.detach().cpu().contiguous().flatten()
        update(flat.view(torch.uint8).numpy())
    elif isinstance(thing, np.ndarray | np.generic):
        update(f"{thing.dtype} {thing.shape};".encode())
        update(thing.tobytes())
    elif isinstance(thing, pd.DataFrame):
        feed(thing.to_dict("split"))
    elif isinstance(thing, nn.Module):
        for name, layer in thing.named_modules():
            feed([name, type(layer), _plain_attributes(layer)])
        feed(dict(thing.state_dict()))
    elif isinstance(thing, Mapping | list | tuple | set | frozenset):
        items = list(thing.items()) if isinstance(thing, Mapping) else list(thing)
        if isinstance(thing, set | frozenset):
            items = sorted(map(fingerprint, items))
        update(f"{len(items)};".encode())
        for item in items:
            for part in item if isinstance(thing, Mapping) else (item,):
                feed(part)
    elif isinstance(thing, functools.partial):
        feed([thing.func, thing.args, thing.keywords])
    elif isinstance(thing, MethodType):
        feed([thing.__func__, thing.__self__])
    elif isinstance(thing, FunctionType):
        feed([thing.__module__, thing.__qualname__, thing.__code__, thing.__defaults__])
        feed([thing.__kwdefaults__, [cell.cell_contents for cell in thing.__closure__ or ()]])
        named = ((name, thing.__globals__.get(name)) for name in thing.__code__.co_names)
        feed([pair for pair in named if isinstance(pair[1], _PLAIN)])
    elif isinstance(thing, CodeType):
        feed([thing.co_code, thing.co_consts, thing.co_names])
    else:  # classes and built-in functions by name, other objects by what they hold
        feed([getattr(thing, "__module__", ""), getattr(thing, "__qualname__", "")])
        feed({} if isinstance(thing, type) else dict(getattr(thing, "__dict__", {})))


def _plain_attributes(layer: nn.Module) -> dict[str, Any]:
    """Return what a layer was built with, without its mode and private matters."""
    return {
        name: value
        for name, value in sorted(vars(layer).items())
        if name != "training"
        and not name.startswith("_")
        and all(isinstance(v, _PLAIN) for v in (value if isinstance(value, tuple) else (value,)))
    }
