"""Checkpoints of a training: where it stood, and what it was a training of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from helpers import keyed
from helpers.cohorts import Cohort


class Progress(NamedTuple):
    """How far a training has come.

    Attributes
    ----------
    history : list of dict
        One row an epoch.
    weights, best : dict
        State of the network after the last epoch, and after the best one, if there is validation.
    optimizer : dict
        State of the optimizer, by the number of the parameter.
    """

    history: list[dict[str, float]]
    weights: dict[str, Tensor]
    best: dict[str, Tensor]
    optimizer: dict[int, dict[str, Tensor]]

    def restore(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Put a network and its optimizer back as they were."""
        model.load_state_dict(self.weights)
        optimizer.load_state_dict({**optimizer.state_dict(), "state": self.optimizer})


@dataclass(frozen=True)
class Checkpoint:
    """A file that a training goes on from, if it is the same training.

    Parameters
    ----------
    path : path
    key : mapping
        Name and value of everything that decides how the training ends: settings as they are,
        data and networks as `helpers.keyed.fingerprint`.
    """

    path: Path
    key: Mapping[str, Any]

    def save(self, progress: Progress) -> None:
        """Write how far the training has come, all or nothing."""
        tensors = {f"weights/{name}": value for name, value in progress.weights.items()}
        tensors |= {f"best/{name}": value for name, value in progress.best.items()}
        for index, state in progress.optimizer.items():
            tensors |= {f"optimizer/{index}/{name}": value for name, value in state.items()}
        keyed.save(self.path, key=self.key, tensors=tensors, facts=progress.history)

    def load(self, fabric: Fabric) -> Progress | None:
        """Return how far the training had come; None if there is no file.

        The first process reads; a machine that does not see the file goes on from it as well.

        Raises
        ------
        ValueError
            If the file is damaged or belongs to another training. In every process.
        """
        found = fabric.broadcast(self._read() if fabric.is_global_zero else None)
        if isinstance(found, ValueError):
            raise found
        return found

    def _read(self) -> Progress | ValueError | None:
        if not self.path.exists():
            return None
        try:
            tensors, history = keyed.load(self.path, key=self.key)
        except ValueError as error:
            return ValueError(f"{error}; remove the file to start anew")
        progress = Progress(history, {}, {}, {})
        for name, value in tensors.items():
            part, rest = name.split("/", 1)
            if part == "optimizer":
                index, field = rest.split("/", 1)
                progress.optimizer.setdefault(int(index), {})[field] = value
            else:
                getattr(progress, part)[rest] = value
        return progress


def checkpoint_for(
    path: str | Path | None, fabric: Fabric, key: Callable[[], Mapping[str, Any]]
) -> Checkpoint | None:
    """Return a checkpoint where one is wanted; only then data and networks are fingerprinted."""
    if path is None:
        return None
    how = {"processes": fabric.world_size, "precision": fabric.strategy.precision.precision}
    return Checkpoint(Path(path), {**key(), **how})


def data_key(name: str, cohort: Cohort) -> dict[str, str]:
    """Return what a training's data are known by in its key."""
    return {
        f"{name} volumes": keyed.fingerprint(cohort.volumes),
        f"{name} labels": keyed.fingerprint(cohort.labels),
    }
