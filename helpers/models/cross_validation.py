"""Everybody is tested once, by a network that has not seen her: cross-validation over people.

A small study has nobody to spare for a test. So it is divided into folds; each in turn is set aside
while a new network learns from the others. What a network says, and later every map, then comes
from people who are new to it. Simple models answer on the very same folds.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from helpers.cohorts import Cohort
from helpers.models.reference_models import reference_logits, reference_numbers
from helpers.models.registry import build
from helpers.models.scoring import number_scores, predict, scores
from helpers.models.training import target_scale, train

NETWORK = "network"


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """What a cross-validation found.

    Attributes
    ----------
    cohort : Cohort
        Whom it was about.
    target : str or None
        The column of numbers that was to be said; None for the classes.
    folds : tensor of shape (subject,)
        The fold that each subject was tested in.
    networks : list of Module
        One a fold: ``networks[folds[i]]`` has not seen subject ``i``.
    said : dict of str to tensor of shape (subject, classes) or (subject, 1)
        What each model says of the subjects that it has not seen, as logits or in the target's own
        units: ``"network"``, and simple models of brain volume and voxels.
    history : DataFrame
        That of each training, see `helpers.models.train`, with the column ``fold``.
    """

    cohort: Cohort
    target: str | None
    folds: Int[Tensor, "subject"]
    networks: list[nn.Module]
    said: dict[str, Float[Tensor, "subject outputs"]]
    history: pd.DataFrame

    def scores(self, *, seed: int = 0) -> pd.DataFrame:
        """Return a row a model, over all subjects: `models.scores`, or `models.number_scores`."""
        rows = [
            scores(said, self.cohort, name=name, seed=seed)
            if self.target is None
            else number_scores(said[:, 0], self._true(), name=name, seed=seed)
            for name, said in self.said.items()
        ]
        return pd.concat(rows, ignore_index=True)

    def predictions(self) -> pd.DataFrame:
        """Return one row a subject: who it is, fold, what is true, what the network says."""
        table = self.cohort.participants[["participant_id"]].assign(fold=self.folds.tolist())
        said, classes = self.said[NETWORK], self.cohort.classes
        if self.target is not None:
            return table.assign(true=self._true(), predicted=said[:, 0].tolist())
        table = table.assign(
            true=[classes[k] for k in self.cohort.labels.tolist()],
            predicted=[classes[k] for k in said.argmax(1).tolist()],
            probability=said.softmax(1).amax(1).tolist(),
        )
        return table.assign(correct=table["true"] == table["predicted"])

    def _true(self) -> np.ndarray:
        return pd.to_numeric(self.cohort.participants[self.target]).to_numpy(dtype=float)


def cross_validate(
    network: str | Callable[[int], nn.Module],
    cohort: Cohort,
    *,
    target: str | None = None,
    folds: int = 5,
    seed: int = 0,
    batch_size: int = 16,
    components: int = 50,
    share: float = 1.0,
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
    target : str, optional
        A column of numbers, such as ``"age"``, to be said instead of the class; every fold then has
        its share of the low and the high ones. A network by its name gets one output.
    folds : int
        Default 5; every class needs as many people.
    seed : int
        Of the folds, the weights, and the order of subjects.
    batch_size : int
        Smaller if a fold leaves fewer people to learn from, with a warning.
    components : int
        Of the simple model, see `helpers.models.baselines`.
    share : float
        Learn from this share of the other folds only, for a learning curve; default from all.
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
        If a class has fewer people than there are folds, or the share is not above 0 and at most
        1; and what `helpers.models.train` raises.

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
    if not 0 < share <= 1:
        raise ValueError(f"share is above 0 and at most 1, got {share}")
    fold_of = assign_folds(cohort, target, folds, seed)
    smallest = int(share * (len(cohort) - int(fold_of.bincount().max())))
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
        if share < 1:
            (known,) = known.split([share], own_seed, stratify=None if target else "label")
        model = _untrained(network, cohort, target, own_seed)
        rows = train(
            model,
            known,
            target=target,
            batch_size=batch_size,
            seed=own_seed,
            checkpoint=checkpoints and Path(checkpoints) / f"fold-{fold}.safetensors",
            progress=progress,
            **training,
        )
        history.append(rows.assign(fold=fold))
        networks.append(model.cpu())
        if target is None:
            answers = {NETWORK: predict(model, new.volumes, batch_size=batch_size)}
            answers |= reference_logits(known, new, components=components, seed=seed)
        else:
            mean, sd = target_scale(known, target)
            logits = predict(model, new.volumes, batch_size=batch_size)  # of no and of yes
            answers = {NETWORK: mean + sd * logits[:, 1:]}
            answers |= reference_numbers(known, new, target, components=components, seed=seed)
        said.append({name: torch.as_tensor(values).float() for name, values in answers.items()})
        del known, new  # else the next fold's would be made while these take room as well
    # A simple model that could not be fitted in one fold is left out of all.
    names = [name for name in said[0] if all(name in answers for answers in said)]
    gathered = {name: _gathered([answers[name] for answers in said], fold_of) for name in names}
    trained = pd.concat(history, ignore_index=True)
    return CrossValidation(cohort, target, fold_of, networks, gathered, trained)


def assign_folds(
    cohort: Cohort, target: str | None, folds: int, seed: int
) -> Int[Tensor, "subject"]:
    """Return the fold in which `cross_validate` tests each subject.

    Raises
    ------
    ValueError
        If a class has fewer people than there are folds, or the target is no column of numbers.
    """
    if target is None:
        return cohort.folds(folds, seed)
    target_scale(cohort, target)  # says what is wrong with it
    # As many neighbours in the target as there are folds go into one fold each.
    ranks = pd.to_numeric(cohort.participants[target]).rank(method="first") - 1
    ranked = cohort.participants.assign(rank=ranks // folds)
    return replace(cohort, participants=ranked).folds(folds, seed, stratify="rank")


def _untrained(
    network: str | Callable[[int], nn.Module], cohort: Cohort, target: str | None, seed: int
) -> nn.Module:
    if isinstance(network, str):
        outputs = 1 if target is not None else len(cohort.classes)
        return build(network, outputs, tuple(cohort.volumes.shape[2:]), seed=seed)
    return network(seed)


def _gathered(parts: list[Tensor], fold_of: Tensor) -> Tensor:
    """Return what was said fold by fold, in the order of the subjects."""
    parts = [part.reshape(len(part), -1) for part in parts]
    whole = torch.empty(len(fold_of), parts[0].shape[1])
    for fold, part in enumerate(parts):
        whole[fold_of == fold] = part
    return whole
