"""Networks of a cross-validation on the disk, and who has not been seen by which."""

import ast
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from helpers import runtime
from helpers.models import cards
from helpers.models.cross_validation import CrossValidation
from helpers.models.ensemble import Ensemble
from helpers.models.own import fill, untrained
from helpers.models.registry import NETWORKS, build
from helpers.models.shipped import save_weights

CARD, FOLDS = "card.json", "folds.tsv"


class FoldSet(Ensemble):
    """The networks of a cross-validation, and who was set aside for which.

    As one network it says the mean of their logits.

    Parameters
    ----------
    networks : sequence of Module
    fold_of : dict of str to int
        For each person, the network that has not seen her.
    card : dict
        As of any network, see `helpers.models.cards`.
    """

    def __init__(
        self, networks: Sequence[nn.Module], fold_of: Mapping[str, int], card: dict[str, Any]
    ):
        super().__init__(networks)
        self.fold_of, self.card = dict(fold_of), card

    def not_seen(self, participant_id: str) -> list[nn.Module]:
        """Return the networks that have not seen a person: one, or all for somebody new."""
        fold = self.fold_of.get(participant_id)
        return list(self.networks) if fold is None else [self.networks[fold]]


def save_folds(found: CrossValidation, folder: str | Path, *, network: str, spacing_mm: float):
    """Write the networks of a cross-validation, their card and who is in which fold.

    Parameters
    ----------
    found : CrossValidation
    folder : str or Path
    network : str
        What built them: a name for `build`, or ``file.py:function``; the file is copied.
    spacing_mm : float
        Of the cohort's grid, one of `helpers.grids.mni` or `helpers.grids.rigid`.
    """
    folder, cohort = Path(folder), found.cohort
    for fold, model in enumerate(found.networks):
        save_weights(model, folder / f"fold-{fold}.safetensors")
    if network not in NETWORKS:
        file, _, function = network.rpartition(":")
        shutil.copyfile(file, folder / Path(file).name)
        network = f"{Path(file).name}:{function}"
    card = {
        "network": network,
        "classes": list(cohort.classes),
        "shape": list(cohort.grid.shape),
        "spacing_mm": spacing_mm,
        "intensity": "median",
        **({"space": "rigid"} if cohort.grid.is_rigid else {}),
        "folds": len(found.networks),
    }
    if found.target is not None:
        mean = found.predictions()["true"].mean()
        card["classes"] = [f"{found.target} below {mean:.1f}", f"{found.target} above {mean:.1f}"]
        card["target"] = found.target
    people = cohort.participants[["participant_id"]].assign(fold=found.folds.tolist())
    with runtime.replacing(folder / FOLDS) as unfinished:
        people.drop_duplicates().to_csv(unfinished, sep="\t", index=False)
    runtime.write_json(folder / CARD, card)


def is_folds(folder: str | Path) -> bool:
    """Say whether a folder holds the networks of a cross-validation."""
    return (Path(folder) / FOLDS).exists()


def load_folds(folder: str | Path) -> FoldSet:
    """Return what `save_folds` has written, in evaluation mode.

    Raises
    ------
    FileNotFoundError
        If the card or weights are missing.
    ValueError
        If a file is damaged or belongs to another network.
    """
    folder = Path(folder)
    card = cards.read_card(folder / CARD)
    people = pd.read_csv(folder / FOLDS, sep="\t", dtype={"participant_id": str})
    networks = []
    for fold in range(card["folds"]):
        if card["network"] in NETWORKS:
            outputs = 1 if "target" in card else len(card["classes"])
            model = build(card["network"], outputs, tuple(card["shape"]))
        else:
            model = untrained(folder / card["network"])
        fill(model, folder / f"fold-{fold}.safetensors")
        networks.append(model.eval())
    fold_of = dict(zip(people["participant_id"], people["fold"], strict=True))
    return FoldSet(networks, fold_of, card).eval()


@dataclass(frozen=True)
class Builder:
    """A function in a file, as `cross_validate` takes it: it builds with a seed's weights.

    Parameters
    ----------
    source : str
        ``file.py:function``.
    code : str
        What the file says: so its `helpers.keyed.fingerprint` is another after an edit.
    """

    source: str
    code: str

    def __call__(self, seed: int) -> nn.Module:
        """Return an untrained network."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return untrained(self.source)


def from_other_weights(network: str) -> str | Builder:
    """Return what `cross_validate` takes: a name, or a function that builds with a seed's weights.

    Raises
    ------
    FileNotFoundError, ValueError
        As `untrained`; and if the file needs another one, because it is kept alone.
    """
    if network in NETWORKS:
        return network
    if ".py:" not in network:
        raise ValueError(
            f"unknown network {network!r}; there are {sorted(NETWORKS)}, or file.py:function"
        )
    untrained(network)  # says what is wrong with it before any scan is read
    file = Path(network.rpartition(":")[0])
    code = file.read_text(encoding="utf-8")
    if beside := _imported_from(file.parent, code):
        raise ValueError(
            f"{file} imports {beside} from its own folder, but it is kept alone with the networks "
            f"that are trained; write what it needs of {beside} into it"
        )
    return Builder(network, code)


def _imported_from(folder: Path, code: str) -> list[str]:
    """Return the modules that a file's code imports, or may import later, from a folder."""
    imports = set()
    for step in ast.walk(ast.parse(code)):
        if isinstance(step, ast.Import):
            imports |= {alias.name for alias in step.names}
        elif isinstance(step, ast.ImportFrom) and not step.level:
            imports.add(step.module)
    tops = {name.partition(".")[0] for name in imports}
    return sorted(n for n in tops if (folder / f"{n}.py").exists() or any(folder.glob(f"{n}/*.py")))
