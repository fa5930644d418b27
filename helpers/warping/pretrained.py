"""Simulators that ship with the course: safetensors and a card, as for the classifiers."""

import json
from pathlib import Path

import safetensors.torch
from torch import nn

from helpers import runtime
from helpers.models import load_weights
from helpers.warping.simulators import Simulator

WEIGHTS = Path(__file__).parent / "weights"


def pretrained(task: str, *, seed: int = 0, folder: str | Path = WEIGHTS) -> Simulator:
    """Return a trained simulator in evaluation mode.

    Parameters
    ----------
    task : str
        ``"atrophy"`` or ``"alcohol"``, see `helpers.cohorts.simulate`.
    seed : int
        Which of several that were trained alike from other initial weights.
    folder : path
        Where the weights (``.safetensors``) and cards (``.json``) lie.

    Returns
    -------
    Simulator
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
    >>> card = {"simulator": {"shape": (16, 20, 24)}}
    >>> warping.save_pretrained(warping.Simulator((16, 20, 24)), "own", card, folder=folder)
    >>> warping.pretrained("own", folder=folder).shape
    (16, 20, 24)
    """
    folder, name = Path(folder), _name(task, seed)
    if not (folder / f"{name}.safetensors").exists() or not (folder / f"{name}.json").exists():
        known = sorted(path.stem for path in folder.glob("*.safetensors"))
        raise ValueError(f"no pretrained simulator {name!r}; there are {known}")
    card = json.loads((folder / f"{name}.json").read_text())
    options = dict(card["simulator"])
    simulator = Simulator(tuple(options.pop("shape")), **options)
    load_weights(simulator, folder / f"{name}.safetensors")
    simulator.card = card
    return simulator.eval()


def save_pretrained(
    simulator: nn.Module, task: str, card: dict, *, seed: int = 0, folder: str | Path = WEIGHTS
) -> None:
    """Write a simulator's weights and card, each all or nothing."""
    folder, name = Path(folder), _name(task, seed)
    weights = {key: value.cpu().contiguous() for key, value in simulator.state_dict().items()}
    with runtime.replacing(folder / f"{name}.safetensors") as unfinished:
        safetensors.torch.save_file(weights, unfinished)
    with runtime.replacing(folder / f"{name}.json") as unfinished:
        unfinished.write_text(json.dumps(card, indent=2) + "\n")


def _name(task: str, seed: int) -> str:
    return task if seed == 0 else f"{task}-{seed}"
