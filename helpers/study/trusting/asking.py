"""Can the maps be trusted on these scans? Plant a known effect into them, and see who finds it.

The scans' own labels are not used: a coin decides who gets the effect, so nothing else goes along
with it. A network learns to see it, or a given one is asked; people are explained by a network that
has not seen them, and their maps are scored against what was planted.
"""

import inspect
import platform
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from helpers import attribution, grids, keyed, models, runtime
from helpers.cohorts import Cohort
from helpers.errors import InterruptedWarning
from helpers.study import pages, records
from helpers.study.explaining import model_grid
from helpers.study.folders import Study
from helpers.study.trusting import judging, page, planting, sanity
from helpers.study.trusting.judging import Explain, Setting
from helpers.study.trusting.page import Trial
from helpers.study.trusting.people import check_number, everybody
from helpers.study.trusting.planting import Effect

METHODS = ("gradient", "input_x_gradient", "grad_cam", "guided_grad_cam", "lrp")

# What asks "is it anywhere?" finds a lesion; a region has a place, which the other one reads.
_NETWORKS = {"lesion": "course", "tag": "course", "shrink": "course_with_places"}
# A few dozen people see the effect in some hundred places, and networks have as many looks.
_PAIRS, _STEPS, _FEWEST_EPOCHS = 400, 240, 3
_PACKAGES = ("brain-cnn-helpers", "monai", "numpy", "scikit-learn", "torch")


class _Files(NamedTuple):
    """Where the findings about an effect lie."""

    page: Path
    summary: Path
    scores: Path
    randomization: Path

    @classmethod
    def of(cls, study: Study, effect: Effect) -> "_Files":
        start = f"desc-trust{effect.label}"
        return cls(
            study.output / f"trust-{effect.label}.html",
            study.group(f"{start}_summary.json"),
            study.group(f"{start}_scores.tsv"),
            study.group(f"{start}_randomization.tsv"),
        )


def trust(
    study: Study,
    *,
    effect: str | Effect = "lesion",
    methods: Sequence[str] = METHODS,
    model: nn.Module | None = None,
    network: str | Callable[[int], nn.Module] | None = None,
    folds: int = 5,
    draws: int | None = None,
    seed: int = 0,
    spacing_mm: float = 4.0,
    layer: str | None = None,
    progress: bool = True,
    **training,
) -> pd.DataFrame:
    """Plant an effect into half of the people, and ask whether methods find it, and rivals too.

    Writes, for a lesion, ``trust-lesion.html``, and in ``group`` ``desc-trustlesion_scores.tsv``
    (what is returned), ``..._randomization.tsv`` and ``..._summary.json`` (settings, verdicts);
    other effects have their `Effect.label` there. With the same settings and scans, what is there
    is returned.

    Parameters
    ----------
    study : Study
        Of a person with several scans, the first is taken. Labels are not used. A scan on the
        network's grid is taken as it is; any other is preprocessed, unless `preprocess` has done
        so.
    effect : str or Effect
        ``"lesion"`` or ``"tag"``, or what `helpers.study.planting` makes: a lesion of a size, or
        a region that shrinks.
    methods : sequence of str
        Of `helpers.attribution.METHODS`, with their default options.
    model : Module, optional
        A trained network whose card has the classes of the effect. It should not have been trained
        on these people. Default: a network is trained by cross-validation.
    network : str or callable, optional
        What is trained, as in `helpers.models.cross_validate`. Default the course's networks: with
        places for a region, without for a lesion or a tag.
    folds : int
        Default 5. Networks that are trained here, and rivals, learn from all folds but one and
        are tested on that one.
    draws : int, optional
        Learn from everybody so often with the effect, drawn anew each time, and as often without,
        which differs in nothing else. Default as many as make about 400 such pairs. 0: from
        everybody once, as in a study of patients and controls. Tested is everybody once either
        way, as the coin fell.
    seed : int
        Of the coin, the effects, the folds and the training.
    spacing_mm : float
        Edge of a voxel, default 4; a given model has its own.
    layer : str, optional
        For the methods that look at a layer.
    progress : bool
        Show bars.
    **training
        Passed on to `helpers.models.train`, such as ``epochs`` (default as many as make about 240
        steps, at least 3) or ``learning_rate``.

    Returns
    -------
    DataFrame
        One row a map, see `helpers.study.trusting.judging.summarised`: methods with their
        verdicts, rivals that have never seen the network, and guessing. If it is not shown that
        the network sees the effect, or fewer than 6 people have it, there is no verdict, and the
        scores say nothing. ``attrs["problems"]`` lists the scans that are broken and left out.

    Raises
    ------
    ValueError
        If effect, methods or the model's classes do not fit, the effect misses a brain, there are
        too few people for the folds, a method fails with the network, or the output holds a run of
        this effect with other settings.
    CannotWriteError
        If the disk is full or refuses.

    Warns
    -----
    LeftOutWarning
        If scans are broken.

    Examples
    --------
    >>> from helpers import anatomy, cohorts, study
    >>> from helpers.study import planting
    >>> mine = study.Study(cohorts.real_study(), "results")
    >>> less = planting.shrink("white matter", atlas=anatomy.atlas(), percent=20)
    >>> study.trust(mine, effect=less, folds=3)["verdict"].head(1)  # doctest: +SKIP
    """
    effect = _effect(effect)
    explainers = _explainers(methods, layer)
    if model is not None and (network is not None or draws is not None or training):
        raise ValueError(
            f"a given model is not trained; leave {['network', 'draws', *training]} out, or the "
            f"model"
        )
    grid = grids.mni(spacing_mm) if model is None else model_grid(model)
    classes = planting.CLASSES if model is None else tuple(model.card["classes"])
    network = _NETWORKS[effect.name] if network is None else network
    people = everybody(study, grid, progress=progress)
    check_number(len(people), folds)
    if draws is None:
        draws = 0 if model is not None else max(1, round(_PAIRS / len(people)))
    whole = planting.plant(people, effect, classes=classes, seed=seed, draws=draws)
    epochs = _epochs(len(whole), folds, training.get("batch_size", 16))
    training = {"epochs": epochs, **training}
    settings = {
        "effect": effect.name,
        "planted": effect.words,
        **effect.settings,
        "methods": list(methods),
        "layer": layer,
        **_network_settings(model, network, training),
        "folds": folds,
        "draws": draws,
        "seed": seed,
        "voxels_mm": grid.spacing_mm[0],
        "volumes": keyed.fingerprint(people.volumes),
    }
    files = _Files.of(study, effect)
    tested = whole[:: len(whole) // len(people)]  # as the coin fell
    _check_methods(explainers, model, network, tested)
    with study.lock(f"trust-{effect.label}"):
        if (finished := _finished(files, settings)) is not None:
            finished.attrs["problems"] = people.participants.attrs["problems"]
            return finished
        study.describe()
        place = study.output / "models" / f"trust-{keyed.fingerprint(settings)[:10]}"
        if model is None:
            options = {"folds": folds, "seed": seed, "checkpoints": place, "progress": progress}
            options |= {"matched": True} if draws else {}
            found = models.cross_validate(network, whole, **options, **training)
            setting = _setting(whole, tested, found.folds, {"classes": list(classes)})
            for fold, one in enumerate(found.networks):
                setting.networks.append((one.eval(), _rows(setting.folds == fold)))
        else:
            either = replace(whole, labels=(whole.labels > 0).long(), classes=planting.CLASSES)
            setting = _setting(whole, tested, either.folds(folds, seed), model.card)
            setting.networks.extend(_who_explains(model, tested))
        trial = _tried(study, effect, setting, explainers, settings, progress)
        records.write_table(trial.randomization, files.randomization)
        records.write_table(trial.scores, files.scores)
        pages.write(files.page, page.page(trial))
        runtime.write_json(files.summary, _summary(trial))  # the last: all is there
        shutil.rmtree(place, ignore_errors=True)
        trial.scores.attrs["problems"] = people.participants.attrs["problems"]
        return trial.scores


def _tried(
    study: Study,
    effect: Effect,
    setting: Setting,
    explainers: Mapping[str, Explain],
    settings: Mapping,
    progress: bool,
) -> Trial:
    """Ask networks, methods and rivals."""
    seed = settings["seed"]
    for network, _ in setting.networks:
        network.to(runtime.device())
    network = judging.network_scores(setting, seed=seed)
    refused = judging.refusal(network)
    people, maps = judging.person_scores(setting, explainers, progress=progress)
    randomization, unasked = sanity.randomization(setting, explainers, seed=seed, progress=progress)
    return Trial(
        name=study.folder.resolve().name,
        effect=effect,
        cohort=setting.cohort,
        settings=settings,
        network=network,
        refused=refused,
        scores=judging.summarised(people, refused, seed=seed),
        randomization=randomization,
        unasked=unasked,
        reliance=sanity.reliance(setting, seed=seed, progress=progress),
        maps=maps,
    )


def _summary(trial: Trial) -> dict:
    methods = trial.scores[trial.scores["kind"] == judging.METHOD]
    return {
        "settings": trial.settings,
        "labels_of_the_study_used": False,
        "network": trial.network,
        "refused": trial.refused,
        "verdicts": {
            row["map"]: {"verdict": row["verdict"], "because": row["because"]}
            for row in methods.to_dict("records")
        },
        "reliance": trial.reliance.to_dict("records"),
        "randomization_not_asked": trial.unasked,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in _PACKAGES},
        },
    }


def _network_settings(
    model: nn.Module | None, network: str | Callable[[int], nn.Module], training: Mapping
) -> dict:
    if model is not None:
        return {"network": type(model).__name__, "weights": keyed.fingerprint(model)}
    named = network if isinstance(network, str) else keyed.fingerprint(network)
    return {"network": named, **{name: _plain(value) for name, value in training.items()}}


def _epochs(volumes: int, folds: int, batch_size: int) -> int:
    """Return how often to look at everybody: about as many steps for few people as for many."""
    return max(_FEWEST_EPOCHS, round(_STEPS * batch_size / (volumes * (1 - 1 / folds))))


def _plain(value):
    """Return a value as a JSON file holds it."""
    plain = isinstance(value, (bool, int, float, str)) or value is None
    return value if plain else keyed.fingerprint(value)


def _setting(whole: Cohort, tested: Cohort, fold_of: Tensor, card: Mapping) -> Setting:
    step = len(whole) // len(tested)
    return Setting(tested, fold_of[::step], whole, fold_of, [], card)


def _effect(effect: str | Effect) -> Effect:
    if isinstance(effect, Effect):
        return effect
    if effect == "shrink":
        raise ValueError(
            "name the region that shrinks: effect=planting.shrink(region, atlas=..., percent=10)"
        )
    if effect not in planting.EFFECTS:
        raise ValueError(f"unknown effect {effect!r}; there are {planting.EFFECTS}")
    return {"lesion": planting.lesion, "tag": planting.tag}[effect]()


def _explainers(methods: Sequence[str], layer: str | None) -> dict[str, Explain]:
    if not methods or len(set(methods)) != len(methods):
        raise ValueError(f"expected one method or more, each once, got {list(methods)}")
    explainers, looking = {}, []
    for name in methods:
        if name not in attribution.METHODS:
            raise ValueError(f"unknown method {name!r}; there are {sorted(attribution.METHODS)}")
        method = attribution.METHODS[name]
        known = inspect.signature(method).parameters
        options = {"progress": False} if "progress" in known else {}
        if layer is not None and "layer" in known:
            options["layer"] = layer
            looking.append(name)
        explainers[name] = partial(_uninterrupted, partial(method, **options))
    if layer is not None and not looking:
        raise ValueError(f"{' and '.join(methods)} look at no layer; leave {layer!r} out")
    return explainers


def _uninterrupted(explain: Explain, network: nn.Module, volumes: Tensor, target) -> Tensor:
    """Explain, by the mean map of several networks; a map that was stopped halfway is no result."""
    networks = network.networks if isinstance(network, models.Ensemble) else [network]
    with warnings.catch_warnings():
        warnings.simplefilter("error", InterruptedWarning)
        try:
            return torch.stack([explain(one, volumes, target) for one in networks]).mean(0)
        except InterruptedWarning as stopped:
            raise KeyboardInterrupt from stopped


def _rows(chosen: Tensor) -> Tensor:
    return chosen.nonzero()[:, 0]


def _who_explains(model: nn.Module, people: Cohort) -> list[tuple[nn.Module, Tensor]]:
    """Return whom a given network explains: of several, each whom it has not seen."""
    if not isinstance(model, models.FoldSet):
        return [(model, torch.arange(len(people)))]
    new = len(model.networks)  # who is in no fold was seen by none of them: all explain her
    fold_of = [model.fold_of.get(name, new) for name in people.participants["participant_id"]]
    return [
        (model if fold == new else model.networks[fold], _rows(torch.tensor(fold_of) == fold))
        for fold in sorted({*fold_of})
    ]


def _finished(files: _Files, settings: Mapping) -> pd.DataFrame | None:
    """Return what an earlier run with these settings has found, if all of it is there."""
    summary = records.read(files.summary, "its work is done again")
    if summary is None:
        return None
    if summary.get("settings") != settings:
        there = summary.get("settings", {})
        other = sorted(
            name for name in {**there, **settings} if there.get(name) != settings.get(name)
        )
        raise ValueError(
            f"{files.page} is of a run with other {', '.join(other)}; name another output folder "
            f"(the preprocessed scans may stay where they are)"
        )
    if not all(file.exists() for file in files):
        return None
    return pd.read_csv(files.scores, sep="\t", keep_default_na=False, na_values="n/a")


def _check_methods(
    explainers: Mapping[str, Explain],
    model: nn.Module | None,
    network: str | Callable[[int], nn.Module],
    people: Cohort,
) -> None:
    """Raise a ValueError if a method fails with the network: better now than after the training."""
    if model is None:
        shape = tuple(people.grid.shape)
        asked = (models.build(network, 2, shape) if isinstance(network, str) else network(0)).eval()
        seen = people.volumes[:1]
    else:
        asked = _who_explains(model, people)[0][0]
        seen = models.as_the_network_reads(people.volumes[:1], model.card)
    for name, explain in explainers.items():
        try:
            explain(asked, seen, 1)
        except Exception as error:
            raise ValueError(
                f"{name} fails with this network: {type(error).__name__}: {error}"
            ) from error
