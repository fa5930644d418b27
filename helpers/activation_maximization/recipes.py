"""Compositions that make pictures readable, found by trying (chapters 10 and 13 show how).

`readable` paints into the template. It knows the brain and the scanner, and nothing of any shape:

- the picture is the template plus a deviation, with intensities that occur in the cohort;
- the deviation lies in one place, a ball of brain that is wider than any lesion. Without this the
  picture fills with copies of the same pattern, because max pooling listens to the loudest only;
- at every step the network sees the picture turned and shifted anew. A turned cube is a cube still,
  and a pattern that is tuned to the voxel grid is lost;
- the gradient is blurred, and total variation keeps areas flat;
- of several starts, the one stays that excites the network most over a dozen other moves. The
  network chooses, nobody looks.

`warped` only deforms the template, for concepts that are form and not colour. Its velocity is kept
smooth, and at every step the network sees another head that is deformed in the same way.
"""

import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor, nn

from helpers import runtime
from helpers.activation_maximization import regularizers, transforms
from helpers.activation_maximization.ascent import Maximized, activation, maximize
from helpers.activation_maximization.images import Deviation, Warp, noise
from helpers.activation_maximization.objectives import Objective
from helpers.anatomy import Anatomy

BRIGHTEST = 1.75  # about the brightest that the lesion cohort holds; the brain's median is 1
_DEEP_MM = 24.0  # the middle of a place is at least so far from the edge of the brain
_PLACES, _MOVES = range(2)  # independent random streams of one seed


def one_place(brain: Anatomy, *, seed: int, radius_mm: float = 35.0) -> Float[Tensor, "1 1 x y z"]:
    """Return a ball around a random place deep in the white matter, 0 to 1, with a soft edge.

    Examples
    --------
    >>> from helpers import anatomy
    >>> from helpers.activation_maximization import recipes
    >>> place = recipes.one_place(anatomy.template(), seed=0)
    >>> tuple(place.shape), float(place.max())
    ((1, 1, 48, 56, 48), 1.0)
    """
    depth = ndimage.distance_transform_edt(brain.mask[0].numpy(), sampling=brain.grid.spacing_mm)
    middles = torch.nonzero((brain.tissues[1] > 0.5) & (torch.from_numpy(depth) >= _DEEP_MM))
    pick = torch.randint(len(middles), (1,), generator=runtime.generator(seed, _PLACES))
    center = torch.from_numpy(brain.grid.millimetres(middles[pick][0])).float()
    distance = (brain.grid.centers_mm() - center.view(3, 1, 1, 1)).square().sum(0).sqrt()
    soft = ((radius_mm - distance) / 8 + 0.5).clamp(0, 1)  # falls off within 8 mm
    return (soft * brain.mask)[None]


def readable(
    model: nn.Module,
    objective: Objective,
    brain: Anatomy,
    *,
    seed: int = 0,
    starts: int = 3,
    steps: int = 80,
    snapshots: int = 0,
    progress: bool = False,
) -> Maximized:
    """Maximize an objective in one place of the template; the best of several starts stays.

    Parameters
    ----------
    objective : Objective
        For one image, such as ``class_margin(2)``.
    brain : Anatomy
        What to start from, for example `helpers.anatomy.template`.
    seed : int
        Of places, noise and moves.
    starts : int
        How many to try, in one batch.

    Returns
    -------
    Maximized
        One image, as if it had been optimised alone.

    Examples
    --------
    >>> from helpers import anatomy, models
    >>> from helpers.activation_maximization import class_margin, recipes
    >>> brain, network = anatomy.template(), models.pretrained("lesion")
    >>> found = recipes.readable(network, class_margin(4), brain, starts=2, steps=2)
    >>> tuple(found.volume.shape)
    (1, 1, 48, 56, 48)
    """
    if starts < 1:
        raise ValueError(f"expected one start or more, got {starts}")
    own = range(starts * seed, starts * (seed + 1))  # no two seeds share a start
    image = Deviation(
        brain.t1[None],
        noise(brain.grid.shape, seeds=own, sd=0.02),
        mask=torch.cat([one_place(brain, seed=start) for start in own]),
        bounds=(0.0, BRIGHTEST),
    )
    moves = [transforms.rotation(180), transforms.jitter(2)]
    found = maximize(
        model,
        objective,
        image=image,
        regularizers=[
            regularizers.total_variation(30.0, of="deviation"),
            regularizers.blur_gradient(1.0),
        ],
        transforms=moves,
        steps=steps,
        learning_rate=0.03,
        seed=seed,
        snapshots=snapshots,
        progress=progress,
    )
    best = int(moved_activation(model, objective, found.volume, moves, seed=seed).argmax())
    return _only(found, best)


def warped(
    network: nn.Module,
    objective: Objective,
    brain: Anatomy,
    *,
    seed: int = 0,
    points: tuple[int, int, int] = (12, 14, 12),
    roughness: float = 100.0,
    steps: int = 60,
    snapshots: int = 0,
    progress: bool = False,
) -> Maximized:
    """Maximize an objective by a smooth deformation of the template, the same for many heads.

    Parameters
    ----------
    network : Module
        As a rule a `helpers.models.Ensemble` of several that were trained alike: what only one of
        them wants is more often a quirk than anatomy.
    points : tuple of int
        Control points of the velocity, default one about every 16 mm.
    roughness : float
        Strength of the penalty on the mean squared step between control points.

    Returns
    -------
    Maximized
        ``fields.log_expansion(found.image.displacement())`` says what grew.

    Examples
    --------
    >>> from helpers import anatomy, models
    >>> from helpers.activation_maximization import class_margin, recipes
    >>> network = models.Ensemble([models.pretrained("sex", seed=k) for k in (0, 1)])
    >>> found = recipes.warped(network, class_margin(1), anatomy.template(), steps=2)
    >>> tuple(found.image.displacement().shape)
    (1, 3, 48, 56, 48)
    """
    return maximize(
        network,
        objective,
        image=Warp(brain.t1[None], points=points, seeds=(seed,)),
        regularizers=[regularizers.roughness(roughness, of="velocity")],
        transforms=[transforms.people(brain.grid, seed=seed)],
        steps=steps,
        learning_rate=0.02,
        seed=seed,
        snapshots=snapshots,
        progress=progress,
    )


def moved_activation(
    model: nn.Module,
    objective: Objective,
    volumes: Float[Tensor, "image 1 x y z"],
    moves: list[transforms.Transform],
    *,
    seed: int = 0,
    times: int = 12,
) -> Float[Tensor, "image"]:
    """Return the mean objective over random moves: what does not hang on the voxel grid."""
    generator = runtime.generator(seed, _MOVES)
    total = torch.zeros(len(volumes))
    for _ in range(times):
        moved = volumes
        for move in moves:
            moved = move(moved, generator)
        total += activation(model, objective, moved)
    return total / times


def _only(found: Maximized, index: int) -> Maximized:
    """Return one image of a batch."""
    one = slice(index, index + 1)
    image = found.image
    history = found.history[found.history["image"] == index]
    return Maximized(
        volume=found.volume[one],
        history=history.assign(image=0).reset_index(drop=True),
        snapshots={step: volumes[one] for step, volumes in found.snapshots.items()},
        image=Deviation(
            image.template,
            image.deviation.detach()[one],
            mask=image.mask[one],
            bounds=(image.low, image.high),
        ),
    )
