"""What stands on the leaderboard: attribution, simulators, and maps that see no network."""

import functools
from collections.abc import Callable

import torch
from heads import RealHeads, SimulatedHeads
from torch import Tensor, nn

from helpers import attribution, evaluation, warping
from helpers.cohorts import Cohort

SIMULATED = ("atrophy", "alcohol")
BLIND = ("random numbers", "brightness", "edges of the scan", "distance from healthy mean")
LABEL_AWARE = ("difference of means", "t-map", "SVM weights", "SVM pattern (Haufe)")

Heads = SimulatedHeads | RealHeads
Method = Callable[[nn.Module, Tensor, Tensor], Tensor]  # (model, volumes, target) -> maps


def entrants(task: str, heads: Heads) -> dict[str, tuple[str, Method]]:
    """Return everything that ships: attribution, simulators, and maps that see no network."""
    found = {name: ("attribution", method) for name, method in attribution.METHODS.items()}
    compare = functools.partial(expected_gradients, task, heads)
    found["expected_gradients"] = ("attribution", compare)
    if task in SIMULATED:
        found["simulator"] = ("simulator", simulated)
    found |= {name: ("blind", functools.partial(blind, task, heads, name)) for name in BLIND}
    found |= {
        name: ("label-aware", functools.partial(label_aware, task, heads, name))
        for name in LABEL_AWARE
    }
    return found


def expected_gradients(
    task: str, heads: Heads, model: nn.Module, volumes: Tensor, target: Tensor
) -> Tensor:
    """Return expected gradients that compare with other people instead of a black volume."""
    baselines = compared_with(task, heads)
    return attribution.expected_gradients(
        model, volumes, target, baselines=baselines, samples=2 * len(baselines)
    )


@functools.lru_cache(maxsize=1)
def compared_with(task: str, heads: Heads) -> Tensor:
    """Return the baselines of expected gradients, made once."""
    return heads.compared(task)


def simulated(model: nn.Module, volumes: Tensor, target: Tensor) -> Tensor:
    """Return how the simulator of this network's seed, taught by the others, deforms people."""
    card = model.card
    simulator = warping.pretrained(card["task"], seed=card["training"].get("weights_seed", 0))
    with torch.no_grad():
        return simulator(volumes, "remove").log_expansion


def blind(
    task: str, heads: Heads, name: str, model: nn.Module, volumes: Tensor, target: Tensor
) -> Tensor:
    """Return a map that sees the scan alone."""
    return blind_maps(task, heads)[name](volumes)


@functools.lru_cache(maxsize=1)
def blind_maps(task: str, heads: Heads) -> dict[str, evaluation.Rival]:
    """Return the maps that see the scan alone, made once."""
    return evaluation.blind_rivals(heads.healthy(task))


def label_aware(
    task: str, heads: Heads, name: str, model: nn.Module, volumes: Tensor, target: Tensor
) -> Tensor:
    """Return one map a class, made from the scans and labels of those who are learned from."""
    maps = torch.zeros_like(volumes)
    for label in target.unique().tolist():
        asked = target == label
        maps[asked] = label_aware_maps(task, heads, label)[name](volumes[asked])
    return maps


@functools.lru_cache(maxsize=4)
def label_aware_maps(task: str, heads: Heads, target: int) -> dict[str, evaluation.Rival]:
    """Return the maps that know the labels of those whom the first network has learned from."""
    people = learners(task, heads)
    return evaluation.label_aware_rivals(people.volumes, people.labels, target)


@functools.lru_cache(maxsize=1)
def learners(task: str, heads: Heads) -> Cohort:
    """Return people whom the first network of a task has learned from, made once."""
    return heads.learners(task)
