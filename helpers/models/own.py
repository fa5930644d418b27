"""Networks from elsewhere: a function in a file and its weights, or a bundle of MONAI's.

Weights are read with ``weights_only=True``: a weights file from a stranger cannot run code. The
file with the function, and a bundle's configuration, are code: run only what you trust.
"""

import importlib.util
import inspect
import os
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from helpers.models.shipped import fill_in, load_weights

# What people call the weights in a checkpoint that holds more than them.
_INSIDE = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
# What several GPUs, torch.compile and training frameworks put before the names of weights.
_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.")
_BUNDLED_NETWORK = ("network_def", "network")


def load_network(source: str | Path, *, weights: str | Path | None = None) -> nn.Module:
    """Return a trained network from elsewhere in evaluation mode, as `load`, but without a card.

    Raises
    ------
    FileNotFoundError, ValueError
        As `load`.
    """
    model = untrained(source)
    if weights is None:
        if not Path(source).is_dir():
            raise ValueError(f"{source} builds a network; say where its trained weights are")
        weights = Path(source) / "models" / "model.pt"
    fill(model, weights)
    return model.eval()


def untrained(source: str | Path) -> nn.Module:
    """Return the network that a function in a file or a bundle's configuration builds.

    Raises
    ------
    FileNotFoundError
        If there is no such file or bundle.
    ValueError
        If the function cannot be called or returns no network.
    """
    file, _, function = str(source).rpartition(":")
    if file.endswith(".py"):
        return _built(Path(file), function)
    if Path(source).is_dir():
        return _bundled(Path(source))
    raise ValueError(f"expected file.py:function or the folder of a MONAI bundle, got {source}")


def fill(model: nn.Module, path: str | Path) -> None:
    """Fill a network with the weights of a file: a state dict, a checkpoint, or safetensors.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it holds no weights, or they are made for another network.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no weights at {path}")
    if path.suffix == ".safetensors":
        load_weights(model, path)
        return
    fill_in(model, _unwrapped(_state_dict(path), model.state_dict()), path)


def _state_dict(path: Path) -> dict[str, Tensor]:
    """Return the weights of a file, alone or in a checkpoint."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(
            f"{path} holds more than weights, or none ({str(error).splitlines()[0]:.120}). It is "
            f"not loaded, because it could run code: write torch.save(network.state_dict(), path)"
        ) from error
    for name in _INSIDE:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not (isinstance(found, Mapping) and found):
        raise ValueError(f"{path} holds a {type(found).__name__}; expected a state dict")
    weights = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    if not weights:
        raise ValueError(f"{path} holds no weights, but {list(found)[:5]}")
    return weights


def _unwrapped(weights: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights without a word that a wrapper put before all their names."""
    for wrapper in _WRAPPERS:
        if all(name.startswith(wrapper) for name in weights) and not any(
            name.startswith(wrapper) for name in expected
        ):
            return {name.removeprefix(wrapper): value for name, value in weights.items()}
    return weights


def _built(file: Path, function: str) -> nn.Module:
    """Run a file and return what its function builds."""
    if not file.exists():
        raise FileNotFoundError(f"no file {file} to build the network with")
    name = f"_built_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    sys.path.insert(0, str(file.resolve().parent))  # for what lies beside the file
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{file} does not run: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    build = getattr(module, function, None)
    if not callable(build):
        known = [n for n, v in vars(module).items() if inspect.isfunction(v) and n[0] != "_"]
        raise ValueError(f"{file} has no function {function!r}; there are {known}")
    needed = [
        parameter.name
        for parameter in inspect.signature(build).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if needed:
        raise ValueError(
            f"{function} in {file} needs {needed}; write a function that needs nothing, such as "
            f"`def network(): return {function}(...)`"
        )
    return _network(build(), f"{function} in {file}")


def _bundled(folder: Path) -> nn.Module:
    """Return the untrained network that a bundle's configuration describes."""
    configs = sorted((folder / "configs").glob("inference.*"))
    if not configs:
        raise FileNotFoundError(
            f"{folder} is no bundle of MONAI's: it has no configs/inference.json or .yaml"
        )
    parser = ConfigParser()
    parser.read_config(configs[0])
    parser["bundle_root"] = os.fspath(folder)
    for name in _BUNDLED_NETWORK:
        if name in parser:
            return _network(parser.get_parsed_content(name), f"{name} in {configs[0]}")
    raise ValueError(f"{configs[0]} has none of {list(_BUNDLED_NETWORK)}")


def _network(found: Any, where: str) -> nn.Module:
    if not isinstance(found, nn.Module):
        raise ValueError(f"{where} gives a {type(found).__name__}; expected a torch Module")
    return found
