"""Weights that ship with the course: safetensors and a card that says where they come from.

Nothing here ever unpickles a file: a weights file from a stranger cannot run code.
"""

import json
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import nn

from helpers import runtime
from helpers.models.registry import build

WEIGHTS = Path(__file__).parent / "weights"


def pretrained(task: str, *, folder: str | Path = WEIGHTS) -> nn.Module:
    """Return a trained network in evaluation mode.

    Parameters
    ----------
    task : str
        ``"lesion"`` or ``"shortcut"``, see `helpers.cohorts.simulate`.
    folder : path
        Where ``<task>.safetensors`` and ``<task>.json`` lie.

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
    folder = Path(folder)
    if not (folder / f"{task}.safetensors").exists() or not (folder / f"{task}.json").exists():
        known = sorted(path.stem for path in folder.glob("*.safetensors"))
        raise ValueError(f"no pretrained weights for {task!r}; there are {known}")
    card = json.loads((folder / f"{task}.json").read_text())
    model = build(card["network"], len(card["classes"]), tuple(card["shape"]))
    load_weights(model, folder / f"{task}.safetensors")
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
    expected = model.state_dict()
    wrong = sorted(
        name
        for name in expected.keys() | weights.keys()
        if name not in weights
        or name not in expected
        or weights[name].shape != expected[name].shape
    )
    if wrong:
        raise ValueError(
            f"{path} was made for another network: {len(wrong)} weights are missing, unknown or "
            f"of another size, the first is {wrong[0]!r}"
        )
    model.load_state_dict(weights)


def save_pretrained(
    model: nn.Module, task: str, card: dict, *, folder: str | Path = WEIGHTS
) -> None:
    """Write a network's weights and card, each all or nothing."""
    folder = Path(folder)
    weights = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    with runtime.replacing(folder / f"{task}.safetensors") as unfinished:
        safetensors.torch.save_file(weights, unfinished)
    with runtime.replacing(folder / f"{task}.json") as unfinished:
        unfinished.write_text(json.dumps(card, indent=2) + "\n")
