"""Simulators that ship with the course: safetensors and a card, as for the classifiers."""

import json
from pathlib import Path

from torch import nn

from helpers import models
from helpers.models.shipped import file_name, load_weights
from helpers.warping.registry import build

WEIGHTS = Path(__file__).parent / "weights"


def pretrained(task: str, *, seed: int = 0, folder: str | Path = WEIGHTS) -> nn.Module:
    """Return a trained simulator in evaluation mode.

    Parameters
    ----------
    task : str
        See `helpers.cohorts.simulate`. ``"mixed"`` looks at the person, see `Simulator`, and so
        does ``"mixed_alcohol"``, the same with the structures of ``"alcohol"`` (of the three that
        were scored, seed 0 ships).
        ``"atrophy"`` and ``"alcohol"``, which stand on the leaderboard, are of the course's first
        kind and show what a group has, see `helpers.warping.first`.
    seed : int
        Which of three, 0 to 2. Those of ``"mixed"`` differ in all: initial weights, people,
        classifiers and the classifiers' people.
    folder : path
        Where the weights (``.safetensors``) and cards (``.json``) lie.

    Returns
    -------
    Module
        Its attribute ``card`` is a dict: what it was trained on, and how.

    Raises
    ------
    ValueError
        If there are no such weights, or the file is damaged.

    Examples
    --------
    >>> import tempfile
    >>> from helpers import warping
    >>> folder = tempfile.mkdtemp()
    >>> card = {"simulator": {"name": "course", "shape": (16, 20, 24)}}
    >>> warping.save_pretrained(warping.Simulator((16, 20, 24)), "own", card, folder=folder)
    >>> warping.pretrained("own", folder=folder).shape
    (16, 20, 24)
    """
    folder, name = Path(folder), file_name(task, seed)
    if not (folder / f"{name}.safetensors").exists() or not (folder / f"{name}.json").exists():
        known = sorted(path.stem for path in folder.glob("*.safetensors"))
        raise ValueError(f"no pretrained simulator {name!r}; there are {known}")
    card = json.loads((folder / f"{name}.json").read_text())
    options = dict(card["simulator"])
    simulator = build(options.pop("name"), tuple(options.pop("shape")), **options)
    load_weights(simulator, folder / f"{name}.safetensors")
    simulator.card = card
    return simulator.eval()


def save_pretrained(
    simulator: nn.Module, task: str, card: dict, *, seed: int = 0, folder: str | Path = WEIGHTS
) -> None:
    """Write a simulator's weights and card, each all or nothing."""
    models.save_pretrained(simulator, task, card, seed=seed, folder=folder)
