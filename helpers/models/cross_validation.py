"""Everybody is tested once, by a network that has not seen her: cross-validation over people.

A small study has nobody to spare for a test. So it is divided into folds; each in turn is set aside
while a new network learns from the others. What a network says, and later every map, then comes
from people who are new to it. Simple models answer on the very same folds.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from helpers.cohorts import Cohort
from helpers.models.reference_models import reference_logits
from helpers.models.registry import build
from helpers.models.scoring import predict, scores
from helpers.models.training import train

NETWORK = "network"


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """What a cross-validation found.

    Attributes
    ----------
    cohort : Cohort
        Whom it was about.
    folds : tensor of shape (subject,)
        The fold that each subject was tested in.
    networks : list of Module
        One a fold: ``networks[folds[i]]`` has not seen subject ``i``.
    logits : dict of str to tensor of shape (subject, classes)
        What each model says of the subjects that it has not seen: ``"network"``, and the simple
        models of `helpers.models.baselines`.
    history : DataFrame
        That of each training, see `helpers.models.train`, with the column ``fold``.
    """

    cohort: Cohort
    folds: Int[Tensor, "subject"]
    networks: list[nn.Module]
    logits: dict[str, Float[Tensor, "subject classes"]]
    history: pd.DataFrame

    def scores(self, *, seed: int = 0) -> pd.DataFrame:
        """Return balanced accuracy and AUC of each model over all subjects, with intervals."""
        rows = [
            scores(said, self.cohort, name=name, seed=seed) for name, said in self.logits.items()
        ]
        return pd.concat(rows, ignore_index=True)

    def predictions(self) -> pd.DataFrame:
        """Return one row a subject: who it is, fold, label, prediction and its probability."""
        said = self.logits[NETWORK].softmax(1)
        classes = self.cohort.classes
        table = self.cohort.participants[["participant_id"]].assign(
            fold=self.folds.tolist(),
            label=[classes[k] for k in self.cohort.labels.tolist()],
            predicted=[classes[k] for k in said.argmax(1).tolist()],
            probability=said.amax(1).tolist(),
        )
        return table.assign(correct=table["label"] == table["predicted"])


def cross_validate(
    network: str | Callable[[int], nn.Module],
    cohort: Cohort,
    *,
    folds: int = 5,
    seed: int = 0,
    batch_size: int = 16,
    components: int = 50,
    checkpoints: str | Path | None = None,
    progress: bool = True,
    **training,
) -> CrossValidation:
    """Train one network a fold on the other folds, and the simple models beside it.

    Parameters
    ----------
    network : str or callable
        A name for `helpers.models.build`, or ``network(seed) -> Module`` that returns an untrained
        one. Every fold begins from other weights.
    cohort : Cohort
        With several rows of one person, all of them are in one fold.
    folds : int
        Default 5; every class needs as many people.
    seed : int
        Of the folds, the weights, and the order of subjects.
    batch_size : int
        Smaller if a fold leaves fewer people to learn from, with a warning.
    components : int
        Of the simple model, see `helpers.models.baselines`.
    checkpoints : path, optional
        Folder with a checkpoint a fold: a run that was interrupted goes on from them.
    training
        Passed on to `helpers.models.train`, such as ``epochs``, ``augment`` or ``balanced``.

    Returns
    -------
    CrossValidation

    Raises
    ------
    ValueError
        If a class has fewer people than there are folds; and what `helpers.models.train` raises.

    Warns
    -----
    UserWarning
        If the batch had to be smaller, or brain volume is unknown.

    Examples
    --------
    >>> from helpers import cohorts, models
    >>> cohort = cohorts.simulate("shortcut", subjects=6)
    >>> found = models.cross_validate("course", cohort, folds=2, batch_size=2, epochs=1)
    >>> found.scores()["model"].tolist()
    ['network', 'brain volume', 'PCA + logistic regression']
    """
    fold_of = cohort.folds(folds, seed)
    smallest = len(cohort) - int(fold_of.bincount().max())
    if smallest < batch_size:
        warnings.warn(
            f"a fold leaves {smallest} people to learn from, so a batch has {smallest} and not "
            f"{batch_size}",
            stacklevel=2,
        )
        batch_size = smallest
    networks, said, history = [], [], []
    for fold in range(folds):
        known, new = cohort[fold_of != fold], cohort[fold_of == fold]
        own_seed = seed * folds + fold
        model = _untrained(network, cohort, own_seed)
        rows = train(
            model,
            known,
            batch_size=batch_size,
            seed=own_seed,
            checkpoint=checkpoints and Path(checkpoints) / f"fold-{fold}.safetensors",
            progress=progress,
            **training,
        )
        history.append(rows.assign(fold=fold))
        networks.append(model.cpu())
        simple = reference_logits(known, new, components=components, seed=seed)
        said.append({NETWORK: predict(model, new.volumes, batch_size=batch_size), **simple})
    # A simple model that could not be fitted in one fold is left out of all.
    logits = {
        name: _gathered([torch.as_tensor(one[name]).float() for one in said], fold_of)
        for name in said[0]
        if all(name in one for one in said)
    }
    return CrossValidation(cohort, fold_of, networks, logits, pd.concat(history, ignore_index=True))


def _untrained(network: str | Callable[[int], nn.Module], cohort: Cohort, seed: int) -> nn.Module:
    if isinstance(network, str):
        return build(network, len(cohort.classes), tuple(cohort.volumes.shape[2:]), seed=seed)
    return network(seed)


def _gathered(parts: list[Tensor], fold_of: Tensor) -> Tensor:
    """Return what was said fold by fold, in the order of the subjects."""
    whole = torch.empty(len(fold_of), parts[0].shape[1])
    for fold, part in enumerate(parts):
        whole[fold_of == fold] = part
    return whole
