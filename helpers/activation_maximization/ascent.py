"""The loop: change an image until a network's objective is as large as it gets.

References
----------
Erhan, Bengio, Courville, Vincent (2009), Visualizing higher-layer features of a deep network.
Eitel, Melkonyan, Ritter (2022), Feature visualization for CNNs trained on neuroimaging data,
arXiv 2203.13120.
"""

import copy
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from helpers import fields, grids, runtime
from helpers.activation_maximization.images import Image
from helpers.activation_maximization.network import watched
from helpers.activation_maximization.objectives import Objective
from helpers.activation_maximization.regularizers import Blur, Penalty
from helpers.activation_maximization.transforms import Transform
from helpers.errors import InterruptedWarning


@dataclass(frozen=True, eq=False)
class Maximized:
    """What `maximize` found.

    Attributes
    ----------
    volume : tensor of shape (image, 1, x, y, z)
        On the CPU.
    history : DataFrame
        One row a step and image, before this step's change: ``step``, ``image``, ``objective``
        (after the transforms), each penalty times its strength under its name, and ``total``, the
        objective minus all penalties.
    snapshots : dict
        From the number of steps taken to the volumes (image 1 x y z) at that time.
    image : Image
        The optimised image itself, for example for ``image.displacement()`` of a warp.
    """

    volume: Float[Tensor, "image 1 x y z"]
    history: pd.DataFrame
    snapshots: dict[int, Tensor]
    image: Image


def maximize(
    model: nn.Module,
    objective: Objective,
    *,
    image: Image,
    regularizers: Sequence[Penalty | Blur] = (),
    transforms: Sequence[Transform] = (),
    steps: int = 200,
    learning_rate: float = 0.05,
    seed: int = 0,
    snapshots: int = 0,
    patience: int | None = None,
    progress: bool = False,
) -> Maximized:
    """Change the image by gradient ascent (Adam) until the objective is as large as it gets.

    The images of a batch do not touch each other (but for `diversity`), so one run can ask for many
    neurons or start from many seeds.

    Parameters
    ----------
    model : Module
        Looked at in evaluation mode on its own device, with frozen weights, and left as it was.
    objective : Objective
        See `helpers.activation_maximization.objectives`.
    image : Image
        Where to start and what may change; a copy of it is optimised.
    regularizers : sequence of Penalty or Blur
    transforms : sequence of callables
        Applied in this order to what the network sees; the penalties see the volumes unmoved.
    steps : int
        At most so many, default 200.
    learning_rate : float
        Of Adam: in voxel space about the change of a voxel in one step.
    seed : int
        Of the transforms. The same seed and image give the same volume on the same machine.
    snapshots : int
        How many pictures to keep, evenly spaced from the start to the end; 0 or at least 2.
    patience : int, optional
        Stop when the total, as a mean over the images, has not grown for so many steps.
    progress : bool
        Show a bar with the objective.

    Returns
    -------
    Maximized
        With ``volume``, ``history``, ``snapshots`` and ``image``.

    Warns
    -----
    InterruptedWarning
        If a cell of a notebook is stopped (Ctrl-C): what is returned is the image so far. A program
        that is stopped stops.

    Raises
    ------
    ValueError
        If a layer or unit does not exist, or the objective is NaN or does not depend on an image;
        the message says at which step and why.

    Examples
    --------
    >>> from helpers import anatomy, models
    >>> from helpers.activation_maximization import images, logit, maximize
    >>> start = images.Voxels(anatomy.template().t1[None])
    >>> result = maximize(models.pretrained("lesion"), logit(3), image=start, steps=3)
    >>> tuple(result.volume.shape)
    (1, 1, 48, 56, 48)
    """
    if steps < 1 or not learning_rate > 0 or snapshots == 1 or snapshots < 0:
        raise ValueError(
            "expected steps of 1 or more, a learning_rate above 0 and snapshots of 0 or at least "
            f"2; got {steps}, {learning_rate} and {snapshots}"
        )
    image = copy.deepcopy(image).to(next(model.parameters()).device)
    penalties, gradient_blurs, image_blurs = _sorted(regularizers, image)
    optimizer = torch.optim.Adam(image.parameters(), lr=learning_rate)
    generator = runtime.generator(seed)
    wanted = set(np.linspace(0, steps, snapshots).round().astype(int).tolist())
    kept: dict[int, Tensor] = {}
    rows: list[dict] = []
    best, best_step = -float("inf"), 0

    with watched(model, objective.layers) as look:
        bar = runtime.progress(range(steps), label="maximizing", show=progress)
        try:
            for step in bar:
                volumes = image()
                if step in wanted:
                    kept[step] = _stored(volumes)
                seen = volumes
                for transform in transforms:
                    seen = transform(seen, generator)
                values = objective.function(look(seen))
                gradient = _gradient(values, volumes, step)
                for blur in gradient_blurs:
                    gradient = fields.gaussian_blur(gradient, blur.sigma_voxels)
                terms = {
                    p.name: p.strength * p.function(_subject(p, image, volumes)) for p in penalties
                }
                # The chain rule in two parts: what the network says, and what the penalties say.
                optimizer.zero_grad()
                torch.autograd.backward(
                    [volumes, *(term.sum() for term in terms.values())],
                    [-gradient, *(None for _ in terms)],
                )
                optimizer.step()
                for blur in image_blurs:
                    parameter = getattr(image, blur.of)
                    parameter.data = fields.gaussian_blur(parameter.data, blur.sigma_voxels)
                image.project()

                measured = {"objective": values, **terms}
                total = values - sum(terms.values())
                rows.append(
                    {name: v.detach().cpu() for name, v in {**measured, "total": total}.items()}
                )
                mean = float(rows[-1]["total"].mean())
                bar.set_postfix(total=f"{mean:.2f}")
                if mean > best:
                    best, best_step = mean, step
                if patience is not None and step - best_step >= patience:
                    break
        except KeyboardInterrupt:
            if not (rows and runtime.interactive()):
                raise
            image.project()
            warnings.warn(
                f"stopped by hand after {len(rows)} of {steps} steps: this is the image so far",
                InterruptedWarning,
                stacklevel=2,
            )
        volume = _stored(image())
    if wanted:
        kept[len(rows)] = volume
    return Maximized(volume, _history(rows), kept, image.cpu())


def activation(
    model: nn.Module,
    objective: Objective,
    volumes: Float[Tensor, "subject 1 x y z"],
    *,
    batch_size: int = 16,
) -> Float[Tensor, "subject"]:
    """Return the objective of given volumes: what real or simulated subjects reach.

    Examples
    --------
    >>> from helpers import cohorts, models
    >>> from helpers.activation_maximization import activation, logit
    >>> volumes = cohorts.simulate("lesion", subjects=2).volumes
    >>> tuple(activation(models.pretrained("lesion"), logit(1), volumes).shape)
    (2,)
    """
    grids.check_volumes(volumes)
    device = next(model.parameters()).device
    with watched(model, objective.layers) as look, torch.no_grad():
        values = [objective.function(look(v.to(device))).cpu() for v in volumes.split(batch_size)]
    return torch.cat(values)


def _sorted(regularizers: Sequence[Penalty | Blur], image: Image) -> tuple[list, list, list]:
    """Return the penalties, the blurs of the gradient and the blurs of the image."""
    penalties = [r for r in regularizers if isinstance(r, Penalty)]
    blurs = [r for r in regularizers if isinstance(r, Blur)]
    twice = [name for name, count in Counter(p.name for p in penalties).items() if count > 1]
    if twice:
        raise ValueError(f"the history needs one name a penalty; {twice} come more than once")
    spatial = [name for name, p in image.named_parameters() if p.ndim == 5]
    own = [p.of for p in penalties if p.of != "volumes"]
    own += [blur.of for blur in blurs if blur.of != "gradient"]
    for name in own:
        if name not in spatial:
            raise ValueError(
                f"{type(image).__name__} has no {name!r} in voxels to regularize; it has {spatial}"
            )
    gradient_blurs = [blur for blur in blurs if blur.of == "gradient"]
    return penalties, gradient_blurs, [blur for blur in blurs if blur.of != "gradient"]


def _subject(penalty: Penalty, image: Image, volumes: Tensor) -> Tensor:
    return volumes if penalty.of == "volumes" else getattr(image, penalty.of)


def _gradient(values: Tensor, volumes: Tensor, step: int) -> Tensor:
    """Return the objective's gradient by the volumes, and stop where there is none."""
    if values.shape != (len(volumes),):
        raise ValueError(
            f"an objective gives one number for each of the {len(volumes)} images, "
            f"got shape {tuple(values.shape)}"
        )
    bad = torch.nonzero(~values.isfinite()).flatten().tolist()
    if bad:
        broken = not bool(volumes.isfinite().all())
        cause = (
            "the volumes hold NaN or infinite voxels by now: lower the learning rate"
            if broken
            else "the network makes it of finite volumes: look for broken weights"
        )
        raise ValueError(
            f"step {step}: the objective is {values[bad[0]]} for images {bad}; {cause}"
        )
    gradient = None
    if values.requires_grad:
        (gradient,) = torch.autograd.grad(values.sum(), volumes, allow_unused=True)
    gradient = torch.zeros_like(volumes) if gradient is None else gradient
    flat = torch.nonzero(gradient.flatten(1).abs().amax(1) == 0).flatten().tolist()
    if flat:
        raise ValueError(
            f"step {step}: the objective is constant for images {flat}: no voxel changes it. A "
            f"ReLU that is off passes no gradient: start from noise or a scan that excites the "
            f"unit, or take the layer before the ReLU"
        )
    return gradient


def _stored(volumes: Tensor) -> Tensor:
    return volumes.detach().cpu().float().clone()


def _history(rows: list[dict]) -> pd.DataFrame:
    parts = [
        pd.DataFrame({"step": step, "image": range(len(row["total"])), **row})
        for step, row in enumerate(rows)
    ]
    return pd.concat(parts, ignore_index=True)
