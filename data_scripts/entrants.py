"""What stands on the leaderboard: attribution, simulators, and maps that see no network."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from helpers import attribution, cohorts, evaluation, models, warping
from helpers.cohorts import Cohort

HEALTHY_SEED, COMPARED_SEED = 522, 523  # used by no training, validation or card
TRAINING_PEOPLE = 1000  # at most, whose labels the label-aware maps have seen
SIMULATED = ("atrophy", "alcohol")
LABEL_AWARE = ("difference of means", "t-map", "SVM weights", "SVM pattern (Haufe)")

Method = Callable[[nn.Module, Tensor, Tensor], Tensor]  # (model, volumes, target) -> maps


def entrants(task: str) -> dict[str, tuple[str, Method]]:
    """Return everything that ships: attribution, simulators, and maps that see no network."""
    found = {name: ("attribution", method) for name, method in attribution.METHODS.items()}
    compared = compared_with(task)
    found["expected_gradients"] = (
        "attribution",
        functools.partial(
            attribution.expected_gradients, baselines=compared, samples=2 * len(compared)
        ),
    )
    if task in SIMULATED:
        found["simulator"] = ("simulator", simulated)
    found |= {name: ("blind", functools.partial(blind, name)) for name in blind_maps()}
    found |= {
        name: ("label-aware", functools.partial(label_aware, task, name)) for name in LABEL_AWARE
    }
    return found


@functools.lru_cache(maxsize=1)
def compared_with(task: str) -> Tensor:
    """Return the baselines of expected gradients: people without an effect, or of both classes."""
    people = cohorts.simulate(task, 40, COMPARED_SEED)
    return people[people.labels == 0 if task != "sex" else slice(None)].volumes


def simulated(model: nn.Module, volumes: Tensor, target: Tensor) -> Tensor:
    """Return how the simulator of this network's seed, taught by the others, deforms people."""
    card = model.card
    simulator = warping.pretrained(card["task"], seed=card["training"].get("weights_seed", 0))
    with torch.no_grad():
        return simulator(volumes, "remove").log_expansion


def blind(name: str, model: nn.Module, volumes: Tensor, target: Tensor) -> Tensor:
    """Return a map that sees the scan alone."""
    return blind_maps()[name](volumes)


@functools.cache
def blind_maps() -> dict[str, evaluation.Rival]:
    """Return the maps that see the scan alone, made once."""
    people = cohorts.simulate("lesion", 200, HEALTHY_SEED)
    return evaluation.blind_rivals(people[people.labels == 0].volumes)


def label_aware(task: str, name: str, model: nn.Module, volumes: Tensor, target: Tensor) -> Tensor:
    """Return one map a class, made from the training people's scans and labels."""
    maps = torch.zeros_like(volumes)
    for label in target.unique().tolist():
        asked = target == label
        maps[asked] = label_aware_maps(task, label)[name](volumes[asked])
    return maps


@functools.lru_cache(maxsize=4)
def label_aware_maps(task: str, target: int) -> dict[str, evaluation.Rival]:
    """Return the maps that know the labels of those whom the first network has learned from."""
    people = training_people(task)
    return evaluation.label_aware_rivals(people.volumes, people.labels, target)


@functools.lru_cache(maxsize=1)
def training_people(task: str) -> Cohort:
    """Return people whom the first network of a task has learned from."""
    training = dict(models.pretrained(task).card["training"])
    subjects, seed = training.pop("subjects"), training.pop("seed")
    options = {name: training[name] for name in ("alone", "matched") if name in training}
    return cohorts.simulate(task, min(subjects, TRAINING_PEOPLE), seed, **options)
