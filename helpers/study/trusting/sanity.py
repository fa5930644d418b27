"""Two questions to a network with a planted effect that no map's score answers.

Do the maps depend on what it has learned? What is each planted part worth to it?
"""

from collections.abc import Mapping

import pandas as pd
from torch import Tensor, nn

from helpers import evaluation, models
from helpers.study.trusting.judging import Explain, Setting

_PEOPLE = 4
_MOST_LAYERS = 20  # steps of the randomization: beyond it, blocks forget as one
_COLUMNS = [
    "method",
    "step",
    "layer",
    "correlation",
    "correlation_low",
    "correlation_high",
    "people",
]


def randomization(
    setting: Setting, explainers: Mapping[str, Explain], *, seed: int, progress: bool
) -> tuple[pd.DataFrame, str]:
    """Make the first network forget all its layers, one after the other, and follow the maps.

    Returns
    -------
    DataFrame
        One row a method and step: ``method``, ``step``, ``layer`` that has just forgotten,
        ``correlation`` with the trained network's map, ``correlation_low`` and ``_high`` (95 % over
        people) and ``people``.
    str
        Why it could not be asked; empty if it was.
    """
    network, rows = next(setting.ill())
    if isinstance(network, models.Ensemble):
        network = network.networks[0]
    stubborn = sorted(
        {
            type(part).__name__
            for part in network.modules()
            if list(part.parameters(recurse=False)) and not hasattr(part, "reset_parameters")
        }
    )
    if stubborn:
        return pd.DataFrame(columns=_COLUMNS), (
            f"{' and '.join(stubborn)} have weights, and no reset_parameters that says how to draw "
            f"new ones"
        )
    rows = rows[:_PEOPLE]
    tables = []
    for name, explain in explainers.items():
        found = evaluation.randomization_check(
            network,
            explain,
            setting.seen(rows),
            setting.cohort.labels[rows],
            layers=layers_to_forget(network),
            within=setting.within(rows),
            seed=seed,
            progress=progress,
        )
        by = evaluation.intervals(found, by=["step", "layer"], seed=seed)
        tables.append(_named(by, "correlation").assign(method=name))
    return pd.concat(tables, ignore_index=True).assign(people=len(rows))[_COLUMNS], ""


def layers_to_forget(network: nn.Module, most: int = _MOST_LAYERS) -> list[str]:
    """Return all layers with weights, the last first; where there are too many, blocks of them.

    A network within a wrapper has one part only, so the parts are opened until they are as many as
    asked for.

    Examples
    --------
    >>> from torch import nn
    >>> from helpers import models
    >>> from helpers.study.trusting.sanity import layers_to_forget
    >>> layers_to_forget(nn.Sequential(models.build("course")), most=5)
    ['0.classifier', '0.block4', '0.block3', '0.block2', '0.block1']
    """

    def inside(name: str, part: nn.Module) -> list[tuple[str, nn.Module]]:
        return [
            (f"{name}.{own}".lstrip("."), child)
            for own, child in part.named_children()
            if any(True for _ in child.parameters())
        ]

    parts, opened = inside("", network), True
    while opened:
        opened = False
        for i, (name, part) in enumerate(parts):
            children = inside(name, part)
            if list(part.parameters(recurse=False)) or not children:
                continue
            if len(parts) - 1 + len(children) <= most:
                parts[i : i + 1] = children
                opened = True
                break
    return [name for name, _ in parts[::-1]]


class _Reading(nn.Module):
    """A network that makes the intensities itself: for twins, whose median is 1."""

    def __init__(self, network: nn.Module, card: Mapping):
        super().__init__()
        self.network, self.card = network, card

    def forward(self, volumes: Tensor) -> Tensor:
        return self.network(models.as_the_network_reads(volumes, self.card))


def reliance(setting: Setting, *, seed: int, progress: bool) -> pd.DataFrame:
    """Return what each planted part is worth to the networks that explain people.

    Returns
    -------
    DataFrame
        One row a part: ``part``, ``value`` in logits (mean Shapley value) with ``value_low`` and
        ``value_high`` (95 % over people), ``share`` of all parts, and ``people`` who have it.
    """
    tables = []
    for network, rows in setting.ill():
        asked = _Reading(network, setting.card).eval()
        tables.append(evaluation.reliance(asked, setting.cohort[rows], progress=progress))
    table = pd.concat(tables, ignore_index=True)[["participant_id", "part", "value"]]
    by = evaluation.intervals(table, by=["part"], clusters=["participant_id"], seed=seed)
    by = _named(by, "value")
    by["share"] = by["value"] / by["value"].sum()
    by["people"] = by["part"].map(table["part"].value_counts())
    return by[["part", "value", "value_low", "value_high", "share", "people"]]


def _named(intervals: pd.DataFrame, measure: str) -> pd.DataFrame:
    ends = {"mean": measure, "low": f"{measure}_low", "high": f"{measure}_high"}
    return intervals.rename(columns=ends).drop(columns="measure")
