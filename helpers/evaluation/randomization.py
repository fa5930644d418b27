"""Does the map depend on what the network has learned?

A map that stays the same while the network forgets everything cannot explain what it knew. It may
still look convincing: an edge detector draws brains too.

References
----------
Adebayo et al. (2018), Sanity checks for saliency maps, arXiv 1810.03292.
"""

import copy
from collections.abc import Callable, Sequence

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from helpers import models, runtime
from helpers.evaluation.agreements import rank_correlation
from helpers.evaluation.masks import counted, warn_of_zero_maps


def randomization_check(
    model: nn.Module,
    method: Callable[..., Float[Tensor, "subject 1 x y z"]],
    volumes: Float[Tensor, "subject 1 x y z"],
    target: int | Int[Tensor, "subject"] | None = None,
    *,
    layers: Sequence[str] | None = None,
    within: Bool[Tensor, "#subject 1 x y z"] | None = None,
    seed: int = 0,
    progress: bool = True,
    **options,
) -> pd.DataFrame:
    """Make the network forget, from the top layer down, and follow what becomes of the maps.

    A layer forgets by going back to where its training began: new random weights from its own
    ``reset_parameters``; a BatchNorm gets scale 1, offset 0 and the running statistics 0 and 1.
    After the last step the network is an untrained one.

    Parameters
    ----------
    model : Module
        A classifier with one logit a class. A copy forgets; the model is left as it was.
    method : callable
        Any of `helpers.attribution.METHODS`.
    volumes : tensor of shape (subject, 1, x, y, z)
    target : int or tensor of shape (subject,), optional
        Class to explain; default the class that the trained network predicts, at every step.
    layers : sequence of str, optional
        Layers or blocks in the order in which they forget; what forgot stays so. Default the
        parts of the network that have weights, from the one defined last to the first.
    within : boolean tensor of the volumes' shape, or of one subject for all, optional
        Voxels that count; default those where the volume is not 0.
    seed : int
        Seed of the new weights.
    progress : bool
        Show a bar.
    **options
        Passed on to the method.

    Returns
    -------
    DataFrame
        One row a step and subject: ``step`` (from 1), ``layer`` that has just forgotten,
        ``subject``, ``correlation``: Spearman's, between the absolute values of the trained
        network's map and this one's. **The method fails where it stays high**, above all in the
        last step. A method that passes need not be right: it only has passed this check.

    Raises
    ------
    ValueError
        If a layer does not exist, has no weights, or cannot be randomized.

    Warns
    -----
    UserWarning
        If a map is zero everywhere; its correlation is 0, because it ranks nothing.

    Examples
    --------
    >>> from helpers import attribution, cohorts, evaluation, models
    >>> volumes = cohorts.simulate("lesion", subjects=1).volumes
    >>> network = models.pretrained("lesion")
    >>> table = evaluation.randomization_check(network, attribution.gradient, volumes)
    >>> table["layer"].tolist()
    ['classifier', 'block4', 'block3', 'block2', 'block1']
    """
    names = _with_weights(model) if layers is None else list(layers)
    if target is None:
        target = models.predict(model, volumes).argmax(1)
    inside = (volumes != 0) if within is None else within
    trained = method(model, volumes, target, **options)
    warn_of_zero_maps(trained, counted(trained, inside))
    forgetful = copy.deepcopy(model)
    rows = []
    for step, name in enumerate(runtime.progress(names, label="randomization", show=progress), 1):
        _forget(forgetful, name, seed=int(runtime.generator(seed, step).initial_seed()))
        maps = method(forgetful, volumes, target, **options)
        warn_of_zero_maps(maps, counted(maps, inside))
        correlations = rank_correlation(trained, maps, counted(maps, inside))
        rows += [
            {"step": step, "layer": name, "subject": subject, "correlation": correlation}
            for subject, correlation in enumerate(correlations)
        ]
    return pd.DataFrame(rows)


def _with_weights(model: nn.Module) -> list[str]:
    parts = [name for name, part in model.named_children() if list(part.parameters())]
    if not parts:
        raise ValueError("no part of the model has weights, so there is nothing to forget")
    return parts[::-1]


def _forget(model: nn.Module, name: str, *, seed: int) -> None:
    modules = list(models.layer(model, name).modules())
    with_weights = [m for m in modules if list(m.parameters(recurse=False))]
    if not with_weights:
        raise ValueError(f"layer {name!r} has no weights, so there is nothing to forget")
    for module in with_weights:
        if not hasattr(module, "reset_parameters"):
            raise ValueError(
                f"a {type(module).__name__} in {name!r} has weights but no reset_parameters "
                f"that says how to draw new ones; name other layers"
            )
    device = next(with_weights[0].parameters(recurse=False)).device
    # The caller's random numbers go on as if nothing had been drawn here.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for module in with_weights:
            module.reset_parameters()
