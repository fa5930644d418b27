"""Train on a study by cross-validation, beside simple models, and ask what goes with the label.

Each scan is explained later by the network that has not seen it.
"""

import shutil
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd

from helpers import cohorts, grids, keyed, models, runtime
from helpers.cohorts import Cohort
from helpers.errors import LeftOutWarning
from helpers.grids import Grid
from helpers.models import CrossValidation, cross_validate
from helpers.models.cross_validation import assign_folds
from helpers.models.folds import from_other_weights
from helpers.processes import launched_fabric, together
from helpers.study.folders import Study
from helpers.study.records import read, write_table

# Head size is a confound of almost everything, and the preprocessing has measured it.
HEAD_SIZE = "volume_ratio"
_SPACES = {"mni": grids.mni, "rigid": grids.rigid}
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
    space: str = "mni",
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
    for two classes or a number ``_confounds.tsv``, for two classes ``_calibration.tsv``, and on
    request ``_learning.tsv``. A training that is finished is not repeated, one that was interrupted
    goes on. Processes that ``torchrun`` or ``srun`` started share each training; the first writes.
    Scans that are more than a gigabyte together are read from the disk as they are asked for, so
    there may be more of them than memory holds; the disk (``TMPDIR``) needs room for them twice,
    and the simple models see coarser voxels.

    Parameters
    ----------
    study : Study
        A folder of scans with ``participants.tsv``. Scans that are not preprocessed yet, are.
    label : str
        Column to learn.
    classes, bins
        As in `helpers.cohorts.from_bids`.
    regression : bool
        Learn the column as a number, such as age, and not as classes.
    confounds : sequence of str
        Columns that may explain a label of two classes, or a number: asked beside head size
        (``"volume_ratio"``), which is then always asked.
    network : str
        A name for `helpers.models.build`, or ``file.py:function``: a function without arguments
        that returns a network with one logit a class, or one output for a number. The file is kept
        with the networks, alone.
    spacing_mm : float
        Edge of a voxel, default 4.
    space : str
        ``"mni"`` (default): heads get the template's size by an affine; or ``"rigid"``: they are
        only turned and shifted, so that the network sees how large they are.
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
        The scores: a row a model. ``attrs["problems"]`` lists the scans and people that were left
        out, as in `helpers.cohorts.from_bids`.

    Raises
    ------
    ValueError
        If the column does not fit, a class has fewer people than there are folds, the network is
        unknown or does not fit the classes, or the output holds a training of this label with other
        settings.
    """
    if regression and (classes is not None or bins is not None):
        raise ValueError(
            "with regression the column is learned as a number; leave classes and bins out, or "
            "regression"
        )
    builder = from_other_weights(network)
    fabric = launched_fabric()
    if space not in _SPACES:
        raise ValueError(f"unknown space {space!r}; there are {sorted(_SPACES)}")
    grid = _SPACES[space](spacing_mm)
    column = (label, classes, bins, regression)
    with together(fabric):  # the first process prepares the scans, and speaks
        if fabric.is_global_zero:
            cohort = _cohort(study, *column, grid, n_procs, progress)
    if not fabric.is_global_zero:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LeftOutWarning)
            cohort = _cohort(study, *column, grid, n_procs, progress=False)
    asked = _asked(cohort, label, confounds, regression)
    target = label if regression else None
    # These say what is wrong before anything is written.
    assign_folds(cohort, target, folds, seed)
    if not isinstance(builder, str):
        models.check_outputs(builder(seed), cohort, target)
    settings = {
        "label": label,
        "classes": list(cohort.classes),
        "regression": regression,
        "confounds": asked,
        "network": builder if isinstance(builder, str) else keyed.fingerprint(builder),
        "spacing_mm": spacing_mm,
        **({} if space == "mni" else {"space": space}),
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
    place = study.output / "models" / label
    with ExitStack() as until_the_end:
        scores = None
        with together(fabric):
            if fabric.is_global_zero:  # one process holds the lock for all of them
                until_the_end.enter_context(study.lock(f"train-{label}"))
                scores = _finished(study, label, settings)
                if scores is None:
                    study.describe()
                    runtime.write_json(place / "settings.json", settings)
        scores = fabric.broadcast(scores)
        if scores is None:
            found = cross_validate(builder, cohort, checkpoints=place / "checkpoints", **options)
            tables = _tables(found, asked)
            if learning_curve:
                tables["learning"] = _learning(builder, found, place / "checkpoints", options)
            with together(fabric):
                if fabric.is_global_zero:
                    models.save_folds(found, place, network=network, spacing_mm=spacing_mm)
                    for name in reversed(tables):  # the scores last: they say that all is there
                        write_table(tables[name], study.group(f"desc-{label}_{name}.tsv"))
                    shutil.rmtree(place / "checkpoints", ignore_errors=True)
            scores = tables["scores"]
    scores.attrs["problems"] = cohort.participants.attrs["problems"]
    return scores


def _asked(cohort: Cohort, label: str, confounds: Sequence[str], regression: bool) -> list[str]:
    """Return the confounds that are asked about, or say why they cannot be."""
    if not regression and len(cohort.classes) != 2:
        if confounds:
            raise ValueError(
                f"confounds are asked of two classes or of a number, and {label!r} has the classes "
                f"{list(cohort.classes)}; name two of them as classes, or leave confounds out"
            )
        return []
    # Scans that lie in MNI space already have no head size left.
    sized = cohort.participants[HEAD_SIZE].nunique() > 1
    asked = [*([HEAD_SIZE] if sized else []), *(name for name in confounds if name != HEAD_SIZE)]
    models.check_confounds(cohort, asked)
    if label in asked:
        raise ValueError(f"{label} is what is learned; it cannot be a confound of itself")
    return asked


def _finished(study: Study, label: str, settings: dict) -> pd.DataFrame | None:
    """Return the scores of a training that was done with these settings, None if it was not."""
    place, scores = study.output / "models" / label, study.group(f"desc-{label}_scores.tsv")
    said = read(place / "settings.json", "the training begins anew")
    if said is not None and said != settings:
        other = {name for name in {**said, **settings} if said.get(name) != settings.get(name)}
        raise ValueError(
            f"{place} holds a training with other {', '.join(sorted(other))}; name another "
            f"output folder, or remove that one"
        )
    if said is None or not (place / "card.json").exists() or not scores.exists():
        return None
    return pd.read_csv(scores, sep="\t")


def _tables(found: CrossValidation, asked: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Return what is written about a cross-validation, by name."""
    tables = {"scores": found.scores(), "predictions": found.predictions()}
    tables["history"] = found.history
    cohort, rows = found.cohort, []
    if found.target is None and len(cohort.classes) != 2:
        return tables
    for name, said in found.said.items():
        if found.target is None:
            those = models.confounds(cohort, said, found.folds, asked)
        else:
            those = models.number_confounds(cohort, said[:, 0], found.folds, asked, found.target)
        those.insert(0, "model", name)
        rows.append(those)
    tables["confounds"] = pd.concat(rows, ignore_index=True)
    if found.target is None:
        tables["calibration"] = calibration(found)
    return tables


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
    grid: Grid,
    n_procs: int,
    progress: bool,
) -> Cohort:
    """Load the study; a number that is missing leaves its person out, as a missing class does."""
    cohort = cohorts.from_bids(
        study.folder,
        None if regression else label,
        classes=classes,
        bins=bins,
        grid=grid,
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
