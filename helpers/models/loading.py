"""One way to any trained network: a task by its name, own files, or one from elsewhere."""

from pathlib import Path

from torch import nn

from helpers.models import cards
from helpers.models.folds import is_folds, load_folds
from helpers.models.own import load_network
from helpers.models.shipped import WEIGHTS, pretrained


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
        - a folder of a MONAI bundle;
        - a folder of networks that `save_folds` has written.
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
    if _brings_its_card(text):
        for name, value in (("weights", weights), ("card", card)):
            if value is not None:
                raise ValueError(f"{text} brings its own {name}; leave {value} out")
        return load_folds(text) if is_folds(text) else _shipped(text)
    model = load_network(text, weights=weights)
    if card is None:
        beside = Path(text) / "card" if Path(text).is_dir() else Path(weights)
        card = _first(beside.with_suffix(".toml"), beside.with_suffix(".json"))
    model.card = cards.read_card(card)
    _check_answers(model)
    return model


def _brings_its_card(text: str) -> bool:
    """Say whether a network comes with its card: a task, or weights that this package wrote."""
    if text.rpartition(":")[0].endswith(".py"):
        return False
    # A folder that is called like a task is in nobody's way.
    shipped = (WEIGHTS / f"{text}.safetensors").exists()
    return not Path(text).is_dir() or shipped or is_folds(text)


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
