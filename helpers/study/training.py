"""Train on a study by cross-validation, beside simple models, and ask what goes with the label.

Each scan is explained later by the network that has not seen it.
"""

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from helpers import cohorts, grids, keyed, models, runtime
from helpers.cohorts import Cohort
from helpers.errors import LeftOutWarning
from helpers.models import CrossValidation, cross_validate
from helpers.models.cross_validation import assign_folds
from helpers.models.folds import from_other_weights
from helpers.study.folders import Study
from helpers.study.records import read, write_table

# Head size is a confound of almost everything, and the preprocessing has measured it.
HEAD_SIZE = "volume_ratio"
_SHARES = (0.25, 0.5, 0.75, 1.0)
_BINS = 5


def train(
    study: Study,
    label: str,
    *,
    classes: Sequence[str] | None = None,
    bins: Sequence[float] | None = None,
    regression: bool = False,
    confounds: Sequence[str] = (),
    network: str = "course",
    spacing_mm: float = 4.0,
    folds: int = 5,
    epochs: int = 20,
    batch_size: int = 16,
    balanced: bool = True,
    augment: bool = False,
    learning_curve: bool = False,
    n_procs: int = 1,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Cross-validate a network on a column of ``participants.tsv``; keep it and what it said.

    Writes ``models/LABEL`` (a network a fold, for `helpers.models.load`), and in ``group``:
    ``desc-LABEL_scores.tsv`` (the network and simple models on the same folds, with intervals over
    people), ``desc-LABEL_predictions.tsv`` (what each person's own fold says), ``_history.tsv``,
    for two classes ``_confounds.tsv`` and ``_calibration.tsv``, and on request ``_learning.tsv``.
    A training that is finished is not repeated, one that was interrupted goes on. Scans that are
    more than a gigabyte together are read from the disk as they are asked for, so there may be more
    of them than memory holds; the disk (``TMPDIR``) needs room for them twice, and the simple
    models see coarser voxels.

    Parameters
    ----------
    study : Study
        A BIDS folder with ``participants.tsv``. Scans that are not preprocessed yet, are.
    label : str
        Column to learn.
    classes, bins
        As in `helpers.cohorts.from_bids`.
    regression : bool
        Learn the column as a number, such as age, and not as classes.
    confounds : sequence of str
        Columns that may explain the label: asked beside head size (``"volume_ratio"``), which is
        always asked.
    network : str
        A name for `helpers.models.build`, or ``file.py:function``.
    spacing_mm : float
        Edge of a voxel, default 4.
    folds, epochs, batch_size, seed
        As in `helpers.models.cross_validate`.
    balanced : bool
        Every class counts the same, however few people it has.
    augment : bool
        Move heads a little at every look, see `helpers.models.moved_heads`.
    learning_curve : bool
        Train also on a quarter, half and three quarters of the people: would more help?
    n_procs : int
        Scans that are preprocessed at the same time.
    progress : bool
        Show bars.

    Returns
    -------
    DataFrame
        The scores: a row a model.

    Raises
    ------
    ValueError
        If the column does not fit, a class has fewer people than there are folds, the network is
        unknown, or the output holds a training of this label with other settings.
    """
    builder = from_other_weights(network)
    cohort = _cohort(study, label, classes, bins, regression, spacing_mm, n_procs, progress)
    # Scans that lie in MNI space already have no head size left.
    sized = cohort.participants[HEAD_SIZE].nunique() > 1
    asked = [*([HEAD_SIZE] if sized else []), *(name for name in confounds if name != HEAD_SIZE)]
    models.check_confounds(cohort, asked)
    if label in asked:
        raise ValueError(f"{label} is what is learned; it cannot be a confound of itself")
    target = label if regression else None
    assign_folds(cohort, target, folds, seed)  # says what is wrong before anything is written
    settings = {
        "label": label,
        "classes": list(cohort.classes),
        "regression": regression,
        "confounds": asked,
        "network": network,
        "spacing_mm": spacing_mm,
        "folds": folds,
        "epochs": epochs,
        "batch_size": batch_size,
        "balanced": balanced,
        "augment": augment,
        "learning_curve": learning_curve,
        "seed": seed,
        "volumes": keyed.fingerprint(cohort.volumes),
        "labels": keyed.fingerprint(cohort.labels),
    }
    place, scores = study.output / "models" / label, study.group(f"desc-{label}_scores.tsv")
    with study.lock(f"train-{label}"):
        said = read(place / "settings.json", "the training begins anew")
        if said is not None and said != settings:
            other = {name for name in settings if said.get(name) != settings[name]}
            raise ValueError(
                f"{place} holds a training with other {', '.join(sorted(other))}; name another "
                f"output folder, or remove that one"
            )
        if said is not None and (place / "card.json").exists() and scores.exists():
            return pd.read_csv(scores, sep="\t")
        options = {
            "target": target,
            "folds": folds,
            "seed": seed,
            "epochs": epochs,
            "batch_size": batch_size,
            "balanced": balanced and not regression,
            "augment": models.moved_heads if augment else None,
            "progress": progress,
        }
        study.describe()
        runtime.write_json(place / "settings.json", settings)
        found = cross_validate(builder, cohort, checkpoints=place / "checkpoints", **options)
        models.save_folds(found, place, network=network, spacing_mm=spacing_mm)
        tables = {"scores": found.scores(), "predictions": found.predictions()}
        tables["history"] = found.history
        if regression:
            said = found.said["network"][:, 0]
            tables["confounds"] = models.number_confounds(cohort, said, found.folds, asked, label)
        elif len(cohort.classes) == 2:
            said = found.said["network"]
            tables["confounds"] = models.confounds(cohort, said, found.folds, asked)
            tables["calibration"] = calibration(found)
        if learning_curve:
            tables["learning"] = _learning(builder, found, place / "checkpoints", options)
        for name in reversed(tables):  # the scores last: they say that all is there
            write_table(tables[name], study.group(f"desc-{label}_{name}.tsv"))
        shutil.rmtree(place / "checkpoints", ignore_errors=True)
        return tables["scores"]


def calibration(found: CrossValidation) -> pd.DataFrame:
    """Compare what a network of two classes is sure of with how often it is right.

    Returns
    -------
    DataFrame
        People in order of the probability of the second class, in bins of as many people each:
        ``people``, ``said`` (mean probability) and ``true`` (share of the second class). Equal
        columns are perfect.
    """
    probability = found.said["network"].softmax(1)[:, 1].numpy()
    bins = np.array_split(np.argsort(probability, kind="stable"), _BINS)
    rows = [
        {
            "people": len(people),
            "said": probability[people].mean(),
            "true": found.cohort.labels.numpy()[people].mean(),
        }
        for people in bins
        if len(people)
    ]
    return pd.DataFrame(rows)


def _cohort(
    study: Study,
    label: str,
    classes: Sequence[str] | None,
    bins: Sequence[float] | None,
    regression: bool,
    spacing_mm: float,
    n_procs: int,
    progress: bool,
) -> Cohort:
    """Load the study; a number that is missing leaves its person out, as a missing class does."""
    cohort = cohorts.from_bids(
        study.folder,
        None if regression else label,
        classes=classes,
        bins=bins,
        grid=grids.mni(spacing_mm),
        masks=study.masks,
        cache=study.preprocessed,
        on_error="skip",
        n_procs=n_procs,
        progress=progress,
    )
    if not regression:
        return cohort
    if label not in cohort.participants:
        raise ValueError(
            f"participants.tsv has no column {label!r}; it has "
            f"{[name for name in cohort.participants if name != 'participant_id']}"
        )
    numbers = pd.to_numeric(cohort.participants[label], errors="coerce")
    if numbers.isna().any():
        left_out = cohort.participants["participant_id"][numbers.isna()].tolist()
        warnings.warn(
            f"{label} is no number for {left_out}: left out", LeftOutWarning, stacklevel=3
        )
    return cohort[numbers.notna().to_numpy()]


def _learning(builder, found: CrossValidation, checkpoints: Path, options: dict) -> pd.DataFrame:
    """Return the scores after learning from parts of the other folds."""
    rows = []
    for share in _SHARES:
        part = found
        if share < 1:
            place = checkpoints / f"share-{share:g}"
            part = cross_validate(builder, found.cohort, share=share, checkpoints=place, **options)
        people = round(share * len(found.cohort) * (1 - 1 / len(found.networks)))
        rows.append(part.scores().query("model == 'network'").assign(people=people))
    return pd.concat(rows, ignore_index=True)
