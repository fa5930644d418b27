"""What does this network use? The exact share of each planted part in its decision.

A map is often scored against the place where an effect was planted. But a network need not use all
of it. Twins of one person, with every subset of the planted parts, tell what each part adds to the
network's decision, averaged over all orders in which the parts can be added: its Shapley value. No
map, no gradient and no approximation is involved.

References
----------
Shapley (1953), A value for n-person games. Castro, Gómez, Tejada (2009), Polynomial calculation of
the Shapley value based on sampling: for many parts.
"""

import math
from collections.abc import Hashable, Mapping

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from helpers import cohorts, models, runtime
from helpers.cohorts import Cohort


def reliance(
    networks: nn.Module | Mapping[Hashable, nn.Module],
    cohort: Cohort,
    *,
    permutations: int | None = None,
    seed: int = 0,
    batch_size: int = 16,
    progress: bool = False,
) -> pd.DataFrame:
    """Return how much each planted part adds to a network's decision for each person.

    The decision is the margin of the person's own class: its logit minus the logarithm of the sum
    of the exponentials of the others (with two classes, the difference of the two logits).

    Parameters
    ----------
    networks : Module or mapping from name to Module
        Classifiers of the cohort's classes. Several are shown the same twins, which are rendered
        once.
    cohort : Cohort
        Simulated, or planted into real scans. People who carry nothing have no rows.
    permutations : int, optional
        Sample so many orders of the parts, two or more, instead of going through all subsets.
        Needed above 8 parts.
    seed : int
        Of the sampled orders.
    batch_size : int
        Twins that pass a network at a time.
    progress : bool
        Show a progress bar.

    Returns
    -------
    DataFrame
        One row a network, person and part: ``network``, ``participant_id``, ``part``, ``value`` (in
        logits; of one person, they add up to ``margin`` minus ``margin_without``), ``margin`` (of
        the person), ``margin_without`` (of the twin that has none of the parts) and
        ``standard_error`` of a sampled value, 0 of an exact one.

    Raises
    ------
    ValueError
        If nobody carries anything, a person was not simulated, has more than 8 parts and no
        ``permutations`` are asked for, or a network has other classes or another grid.

    Examples
    --------
    >>> from helpers import cohorts, evaluation, models
    >>> patients = cohorts.simulate("atrophy", subjects=2)
    >>> table = evaluation.reliance(models.pretrained("atrophy"), patients)
    >>> list(table["part"])[:2]
    ['hippocampus left', 'hippocampus right']
    """
    if isinstance(networks, nn.Module):
        networks = {"network": networks}
    _check(networks, cohort, permutations)
    rows = []
    for subject in runtime.progress(range(len(cohort)), label="reliance", show=progress):
        parts = cohorts.planted_parts(cohort, subject)
        if not parts:
            continue
        orders, present = None, None
        if permutations is not None:
            orders = _orders(permutations, len(parts), runtime.generator(seed, subject))
            present = _prefixes(orders)
        twins = cohorts.twins(cohort, subject, present=present)
        label = int(cohort.labels[subject])
        for name, network in networks.items():
            logits = models.predict(network, twins.volumes, batch_size=batch_size)
            if logits.shape[1] != len(cohort.classes):
                raise ValueError(
                    f"network {name!r} has {logits.shape[1]} classes, the cohort "
                    f"{len(cohort.classes)}: {cohort.classes}"
                )
            margins = margin(logits, label)
            if orders is None:
                values, errors = shapley_values(margins.double(), twins.present), None
                without, whole = margins[0], margins[-1]
            else:
                values, errors = _sampled(margins.double(), orders)
                without, whole = margins[0], margins[len(parts)]
            for k, part in enumerate(parts):
                rows.append(
                    {
                        "network": name,
                        "participant_id": cohort.participants["participant_id"][subject],
                        "part": part,
                        "value": float(values[k]),
                        "margin": float(whole),
                        "margin_without": float(without),
                        "standard_error": 0.0 if errors is None else float(errors[k]),
                    }
                )
    if not rows:
        raise ValueError("nobody in this cohort carries a planted part; pass patients")
    return (
        pd.DataFrame(rows)
        .sort_values("network", key=lambda names: names.map(list(networks).index), kind="stable")
        .reset_index(drop=True)
    )


def margin(logits: Float[Tensor, "row classes"], label: int) -> Float[Tensor, "row"]:
    """Return by how much one class leads: its logit against the log-sum-exp of the others.

    Examples
    --------
    >>> import torch
    >>> from helpers.evaluation import shapley
    >>> shapley.margin(torch.tensor([[1.0, 3.0]]), 1)
    tensor([2.])
    """
    others = torch.arange(logits.shape[1]) != label
    return logits[:, label] - logits[:, others].logsumexp(1)


def shapley_values(
    values: Float[Tensor, "subset"], present: Bool[Tensor, "subset part"]
) -> Float[Tensor, "part"]:
    """Return the Shapley value of each part, exactly, from the values of all subsets.

    Parameters
    ----------
    values : tensor of shape (subset,)
        What each subset is worth.
    present : tensor of shape (subset, part)
        Every subset once, in any order.

    Examples
    --------
    A pair of gloves is worth 1, one glove nothing:

    >>> import torch
    >>> from helpers.evaluation import shapley
    >>> present = torch.tensor([[False, False], [False, True], [True, False], [True, True]])
    >>> shapley.shapley_values(torch.tensor([0.0, 0.0, 0.0, 1.0]), present)
    tensor([0.5000, 0.5000])
    """
    parts = present.shape[1]
    number = present.long() @ (2 ** torch.arange(parts))
    if sorted(number.tolist()) != list(range(2**parts)):
        raise ValueError(f"expected each of the {2**parts} subsets of {parts} parts once")
    by_number = torch.empty_like(values)
    by_number[number] = values
    size = present.sum(1)
    found = []
    for part in range(parts):
        without = ~present[:, part]
        # Of all orders of the parts, the share in which exactly this subset comes before the part.
        share = torch.tensor(
            [1 / (parts * math.comb(parts - 1, k)) for k in size[without].tolist()],
            dtype=values.dtype,
        )
        gain = by_number[number[without] + 2**part] - values[without]
        found.append((share * gain).sum())
    return torch.stack(found)


def _orders(
    permutations: int, parts: int, generator: torch.Generator
) -> Int[Tensor, "permutation part"]:
    return torch.stack([torch.randperm(parts, generator=generator) for _ in range(permutations)])


def _prefixes(orders: Int[Tensor, "permutation part"]) -> Bool[Tensor, "twin part"]:
    """Return the twins on the way: nobody's parts, then one more at a time, order after order."""
    rank = orders.argsort(1)
    added = torch.arange(orders.shape[1] + 1)
    return (rank[:, None, :] < added[None, :, None]).flatten(0, 1)


def _sampled(
    margins: Float[Tensor, "twin"], orders: Int[Tensor, "permutation part"]
) -> tuple[Float[Tensor, "part"], Float[Tensor, "part"]]:
    """Return each part's mean gain over the orders, and its standard error."""
    permutations, parts = orders.shape
    gains = margins.view(permutations, parts + 1).diff(dim=1)
    by_part = torch.zeros_like(gains).scatter_(1, orders, gains)
    return by_part.mean(0), by_part.std(0) / math.sqrt(permutations)


def _check(
    networks: Mapping[Hashable, nn.Module], cohort: Cohort, permutations: int | None
) -> None:
    if permutations is not None and permutations < 2:
        raise ValueError(
            f"expected two permutations or more, got {permutations}: of one, nobody can tell how "
            f"far the values are off"
        )
    for name, network in networks.items():
        card = getattr(network, "card", {})
        shape, classes = card.get("shape"), card.get("classes")
        if shape is not None and tuple(shape) != cohort.grid.shape:
            raise ValueError(
                f"network {name!r} was trained on volumes of {tuple(shape)}, the cohort has "
                f"{cohort.grid.shape}; simulate it on the network's grid"
            )
        if classes is not None and tuple(classes) != cohort.classes:
            raise ValueError(
                f"network {name!r} tells {tuple(classes)} apart, the cohort has {cohort.classes}"
            )
