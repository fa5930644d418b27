"""Weights that ship with the course: safetensors and a card that says where they come from.

Nothing here ever unpickles a file: a weights file from a stranger cannot run code.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from helpers import runtime
from helpers.models.registry import build

WEIGHTS = Path(__file__).parent / "weights"


def pretrained(task: str, *, seed: int = 0, folder: str | Path = WEIGHTS) -> nn.Module:
    """Return a trained network in evaluation mode.

    Parameters
    ----------
    task : str
        ``"lesion"``, ``"shortcut"``, ``"atrophy"``, ``"alcohol"``, ``"mixed"`` or ``"sex"``, see
        `helpers.cohorts.simulate`; ``"mixed_alcohol"``, which is *mixed* with the structures of
        *alcohol*; or ``"mixed_real"``, which has learned *mixed* in real heads.
    seed : int
        Which of several networks that were trained alike from other initial weights.
    folder : path
        Where the weights (``.safetensors``) and cards (``.json``) lie.

    Returns
    -------
    Module
        Its attribute ``card`` is a dict: what it was trained on and its held-out scores.

    Raises
    ------
    ValueError
        If there are no such weights, or the file is damaged or belongs to another network.

    Examples
    --------
    >>> from helpers import models
    >>> models.pretrained("lesion").card["classes"]
    ['healthy', 'ball', 'cube', 'rod', 'shell']
    """
    folder, name = Path(folder), file_name(task, seed)
    if not (folder / f"{name}.safetensors").exists() or not (folder / f"{name}.json").exists():
        known = sorted(path.stem for path in folder.glob("*.safetensors"))
        raise ValueError(f"no pretrained weights for {name!r}; there are {known}")
    card = json.loads((folder / f"{name}.json").read_text())
    model = build(card["network"], len(card["classes"]), tuple(card["shape"]))
    load_weights(model, folder / f"{name}.safetensors")
    model.card = card
    return model.eval()


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Fill a network with the weights of a safetensors file.

    Raises
    ------
    ValueError
        If the file is damaged, of another format, or made for another network.
    """
    try:
        weights = safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a readable safetensors file ({error}); "
            f"other formats are not loaded, because they can run code"
        ) from error
    fill_in(model, weights, path)


def fill_in(model: nn.Module, weights: Mapping[str, Tensor], path: str | Path) -> None:
    """Give a network its weights, or raise a ValueError that says why they do not fit.

    Parameters
    ----------
    path : str or Path
        Where they are from.
    """
    expected = model.state_dict()
    missing, unknown = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected)
    other = [
        f"{name} {tuple(weights[name].shape)} where the network has {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & weights.keys())
        if weights[name].shape != expected[name].shape
    ]
    for what, names in (("misses", missing), ("has too many", unknown), ("differs in", other)):
        if names:
            raise ValueError(
                f"{path} was made for another network: it {what} {len(names)} of "
                f"{len(expected)} weights: {', '.join(names[:3])}{', ...' if names[3:] else ''}"
            )
    model.load_state_dict(weights)


def save_pretrained(
    model: nn.Module, task: str, card: dict, *, seed: int = 0, folder: str | Path = WEIGHTS
) -> None:
    """Write a network's weights and card, each all or nothing."""
    folder, name = Path(folder), file_name(task, seed)
    save_weights(model, folder / f"{name}.safetensors")
    runtime.write_json(folder / f"{name}.json", card)


def save_weights(model: nn.Module, path: str | Path) -> None:
    """Write a network's weights, all or nothing."""
    weights = {key: value.cpu().contiguous() for key, value in model.state_dict().items()}
    with runtime.replacing(path) as unfinished:
        safetensors.torch.save_file(weights, unfinished)


def file_name(task: str, seed: int) -> str:
    """Return what a network's weights and card are called, without the ending."""
    return task if seed == 0 else f"{task}-{seed}"
