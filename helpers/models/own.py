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

from helpers.models import cards
from helpers.models.shipped import WEIGHTS, load_weights, pretrained

# What people call the weights in a checkpoint that holds more than them.
_INSIDE = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
# What several GPUs, torch.compile and training frameworks put before the names of weights.
_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.")
_BUNDLED_NETWORK = ("network_def", "network")


def load(
    source: str | Path, *, weights: str | Path | None = None, card: str | Path | None = None
) -> nn.Module:
    """Return a trained network in evaluation mode, with its card.

    Parameters
    ----------
    source : str or Path
        - a pretrained task, such as ``"lesion"`` (see `pretrained`);
        - ``"mine.safetensors"``, beside its card ``mine.json``, as `save_pretrained` writes them;
        - ``"file.py:build"``, a function without arguments that returns the network;
        - a folder of a MONAI bundle.
    weights : path, optional
        For a function: a state dict that ``torch.save`` has written, alone or in a checkpoint, or a
        safetensors file. For a bundle, by default its ``models/model.pt``.
    card : path, optional
        TOML or JSON, see `helpers.models.cards`; by default beside the weights (``x.toml`` or
        ``x.json`` for ``x.pt``), or ``card.toml`` in the bundle.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the function cannot be called or returns no network, the weights do not fit it, or the
        card is missing or does not fit.

    Examples
    --------
    >>> from helpers import models
    >>> models.load("lesion").card["shape"]
    [48, 56, 48]
    >>> models.load("net.py:build", weights="net.pt", card="net.toml")  # doctest: +SKIP
    """
    text = str(source)
    if _is_shipped(text):
        for name, value in (("weights", weights), ("card", card)):
            if value is not None:
                raise ValueError(f"{text} brings its own {name}; leave {value} out")
        return _shipped(text)
    model = load_network(text, weights=weights)
    if card is None:
        beside = Path(text) / "card" if Path(text).is_dir() else Path(weights)
        card = _first(beside.with_suffix(".toml"), beside.with_suffix(".json"))
    model.card = cards.read_card(card)
    _check_answers(model)
    return model


def load_network(source: str | Path, *, weights: str | Path | None = None) -> nn.Module:
    """Return a trained network from elsewhere in evaluation mode, as `load`, but without a card.

    Raises
    ------
    FileNotFoundError, ValueError
        As `load`.
    """
    text = str(source)
    file, _, function = text.rpartition(":")
    if file.endswith(".py"):
        if weights is None:
            raise ValueError(f"{text} builds a network; say where its trained weights are")
        model = _built(Path(file), function)
    elif Path(text).is_dir():
        model = _bundled(Path(text))
        weights = Path(text) / "models" / "model.pt" if weights is None else weights
    else:
        raise ValueError(f"expected file.py:function or the folder of a MONAI bundle, got {text}")
    fill(model, weights)
    return model.eval()


def _is_shipped(text: str) -> bool:
    """Say whether a network comes with its card: a task, or weights as `save_pretrained` writes."""
    if text.rpartition(":")[0].endswith(".py"):
        return False
    # A folder that is called like a task is in nobody's way.
    return not Path(text).is_dir() or (WEIGHTS / f"{text}.safetensors").exists()


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
    expected = model.state_dict()
    found = _unwrapped(_state_dict(path), expected)
    missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected)
    other = [
        f"{name} {tuple(found[name].shape)} where the network has {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & found.keys())
        if found[name].shape != expected[name].shape
    ]
    for what, names in (("misses", missing), ("has too many", unknown), ("differs in", other)):
        if names:
            raise ValueError(
                f"{path} was made for another network: it {what} {len(names)} of "
                f"{len(expected)} weights: {', '.join(names[:3])}{', ...' if names[3:] else ''}"
            )
    model.load_state_dict(found)


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


def _shipped(source: str) -> nn.Module:
    if not source.endswith(".safetensors"):
        return pretrained(source)
    weights = Path(source)
    for file in (weights, weights.with_suffix(".json")):
        if not file.exists():
            raise FileNotFoundError(f"no {file}; weights lie beside a card of the same name")
    if "network" not in cards.read_card(weights.with_suffix(".json")):
        raise ValueError(f"{weights.with_suffix('.json')} does not say ['network']")
    return pretrained(weights.stem, folder=weights.parent)


def _first(*paths: Path) -> Path:
    """Return the first that is there; if none is, the first, which is then said to be missing."""
    return next((path for path in paths if path.exists()), paths[0])


def _check_answers(model: nn.Module) -> None:
    """Raise unless the network takes what its card says and has a logit for each class."""
    drafted = cards.draft_card(
        model, tuple(model.card["shape"]), spacing_mm=model.card["spacing_mm"]
    )
    there, named = len(drafted["classes"]), model.card["classes"]
    if there != len(named):
        raise ValueError(
            f"the network tells {there} classes apart, its card names {len(named)}: {named}"
        )
