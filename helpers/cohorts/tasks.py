"""The tasks: what a subject of each class carries.

A task draws the effect of one subject. It draws it in the same way for every class, controls
included, and only then decides what is visible, in which shape and how strong: place, size and
brightness can then not tell the classes apart.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from helpers.cohorts.deformations import STRUCTURES, Deformation
from helpers.cohorts.shapes import SHAPES, Body
from helpers.grids import Grid

_TRIES = 300
_FIT = 0.98  # share of a body's volume that must lie where it is allowed to
LOCATIONS = ("white matter", "brain")
TAGS = ("label", "random", "none")


@dataclass(frozen=True)
class Task:
    """A labelled experiment: its classes, and how to draw one subject's effect.

    Either ``bodies(label, white_matter, brain, grid, generator, **options)``, which returns the
    bodies whose truth is the disease and the bodies that are a shortcut, or
    ``deformation(label, generator, **options)``.
    """

    classes: tuple[str, ...]
    bodies: Callable[..., tuple[list[Body], list[Body]]] | None = None
    deformation: Callable[..., Deformation] | None = None


def draw_lesions(
    label: int,
    white_matter: Float[Tensor, "1 x y z"],
    brain: Float[Tensor, "1 x y z"],
    *,
    grid: Grid,
    generator: torch.Generator,
    radius_mm: float = 15.0,
    lesions: int = 1,
    opaque: bool = True,
    intensity: float = 1.7,
    location: str = "white matter",
) -> tuple[list[Body], list[Body]]:
    """Draw the lesions of one subject: healthy, or one of four shapes.

    Parameters
    ----------
    label : int
        0 is healthy; 1 to 4 are ball, cube, rod, shell.
    white_matter, brain : tensor of shape (1, x, y, z)
        Fraction of each voxel, 0 to 1.
    radius_mm : float
        Radius of the ball of the same volume, default 15 mm (14 ml).
    lesions : int
        Lesions per subject, all of the subject's shape, not touching each other.
    opaque : bool
        True replaces the tissue by ``intensity``; False multiplies the tissue by it.
    intensity : float
        Mean over subjects; one subject differs from it by 5 % (SD).
    location : str
        Where the centre lies: ``"white matter"`` or anywhere in the ``"brain"``. The whole body is
        inside the brain either way.
    """
    if location not in LOCATIONS:
        raise ValueError(f"unknown location {location!r}; there are {LOCATIONS}")
    if not (radius_mm > 0 and intensity >= 0 and lesions >= 1):
        raise ValueError(
            "radius_mm must be above 0, intensity 0 or above and lesions 1 or more; "
            f"got {radius_mm}, {intensity} and {lesions}"
        )
    centers = white_matter if location == "white matter" else brain
    intensity = intensity * (1 + 0.05 * float(torch.randn(1, generator=generator)))
    sham = int(torch.randint(len(SHAPES), (1,), generator=generator))
    shape = list(SHAPES)[label - 1 if label > 0 else sham]
    free, bodies = brain.clone(), []
    for _ in range(lesions):
        place = _find_place(centers, free, grid, generator, radius_mm)
        body = Body(
            shape=shape,
            center_mm=place.center_mm,
            rotation_deg=place.rotation_deg,
            radius_mm=radius_mm,
            intensity=intensity,
            opaque=opaque,
            visible=label > 0,
        )
        bodies.append(body)
        for name in SHAPES:
            free = free * (1 - body.as_shape(name).occupancy(grid))
    return bodies, []


def draw_shortcut(
    label: int,
    white_matter: Float[Tensor, "1 x y z"],
    brain: Float[Tensor, "1 x y z"],
    *,
    grid: Grid,
    generator: torch.Generator,
    tag: str = "label",
    intensity: float = 0.9,
) -> tuple[list[Body], list[Body]]:
    """Draw a disease that is hard to see, and a scanner tag that is easy to see.

    The disease is one faint dark spot in the white matter. The tag is a bright marker beside the
    left temple, as a capsule taped to the head would show.

    Parameters
    ----------
    label : int
        0 is control, 1 is patient.
    tag : str
        ``"label"``: patients carry the tag (the training set of a careless study). ``"random"``:
        half of the subjects do, whatever their label. ``"none"``: nobody does.
    intensity : float
        Factor of the spot on the tissue, 0 to 1: the lower, the easier to see.
    """
    if tag not in TAGS:
        raise ValueError(f"unknown tag {tag!r}; there are {TAGS}")
    if not 0 <= intensity <= 1:
        raise ValueError(f"the spot is dark: intensity must be from 0 to 1, got {intensity}")
    place = _find_place(white_matter, brain, grid, generator, radius_mm=7.0)
    coin = bool(torch.rand(1, generator=generator) < 0.5)
    wobble_mm = 1.5 * torch.randn(3, generator=generator)
    brightness = 1.5 + 0.1 * float(torch.randn(1, generator=generator))
    spot = Body(
        "ball",
        place.center_mm,
        place.rotation_deg,
        7.0,
        intensity,
        opaque=False,
        visible=label == 1,
    )
    marker = Body(
        "rod",
        torch.tensor([-84.0, 10.0, -20.0]) + wobble_mm,
        torch.zeros(3),
        6.0,
        brightness,
        visible={"label": label == 1, "random": coin, "none": False}[tag],
    )
    return [spot], [marker]


def draw_disease(
    structures: str, label: int, *, generator: torch.Generator, severity: float = 1.0
) -> Deformation:
    """Draw how strongly the structures of one subject grow and shrink.

    Parameters
    ----------
    structures : str
        Key of `helpers.cohorts.deformations.STRUCTURES`.
    label : int
        0 is control (strength 0), 1 is patient.
    severity : float
        Mean strength of patients, 0 or above; one patient has 0.7 to 1.3 times as much.
    """
    strength = _draw_strength(severity, generator)
    return Deformation(STRUCTURES[structures], strength if label == 1 else 0.0)


def draw_mixed(
    label: int,
    *,
    generator: torch.Generator,
    severity: float = 1.0,
    structures: str = "mixed",
    alone: float = 0.0,
) -> Deformation:
    """Draw a disease that differs from person to person: each structure has its own strength.

    Two in five structures of a patient are spared, one at least is not. The others have any
    strength up to twice the mean.

    Parameters
    ----------
    label : int
        0 is control (strength 0 everywhere), 1 is patient.
    severity : float
        Mean strength of a structure that is not spared, 0 or above.
    structures : str
        ``"mixed"``: hippocampi, lateral ventricles, insulae, superior frontal. ``"alcohol"``: those
        of that task.
    alone : float
        Share of patients, 0 to 1, in whom all structures but one are spared, and that one has the
        mean strength or more. Who learns from them cannot live off the ventricles alone.
    """
    if structures not in STRUCTURES:
        raise ValueError(f"unknown structures {structures!r}; there are {sorted(STRUCTURES)}")
    if not 0 <= alone <= 1:
        raise ValueError(f"alone must be a share of patients from 0 to 1, got {alone}")
    _check_severity(severity)
    planted = STRUCTURES[structures]
    spared, strengths = torch.rand(2, len(planted), generator=generator)
    kept = spared >= 0.4
    only = int(torch.randint(len(planted), (1,), generator=generator))
    if not kept.any():
        kept[only] = True
    if float(torch.rand(1, generator=generator)) < alone:
        kept = torch.arange(len(planted)) == only
        strengths = 0.5 + strengths / 2
    shares = (2 * strengths * kept).tolist()
    return Deformation(
        tuple(replace(s, share=share) for s, share in zip(planted, shares, strict=True)),
        severity if label == 1 else 0.0,
    )


def draw_sex(
    label: int,
    *,
    generator: torch.Generator,
    severity: float = 1.0,
    head_size: float = 0.036,
) -> Deformation:
    """Draw a concept that is spread over the brain: head size and many small changes.

    Half of each difference goes to each class, in opposite directions. The signs and places are
    made up; nothing here is a finding about women or men.

    Parameters
    ----------
    label : int
        0 is female, 1 is male.
    severity : float
        Mean strength of the difference in the structures, 0 or above.
    head_size : float
        Mean difference of head size along each axis, default 3.6 % (about 11 % of volume); one
        subject differs from another by 3 % (SD) anyway.
    """
    side = (-0.5, 0.5)[label]
    strength = _draw_strength(severity, generator)
    return Deformation(STRUCTURES["sex"], side * strength, 1 + side * head_size)


TASKS: dict[str, Task] = {
    "lesion": Task(("healthy", *SHAPES), bodies=draw_lesions),
    "shortcut": Task(("control", "patient"), bodies=draw_shortcut),
    "atrophy": Task(("control", "patient"), deformation=partial(draw_disease, "atrophy")),
    "alcohol": Task(("control", "patient"), deformation=partial(draw_disease, "alcohol")),
    "mixed": Task(("control", "patient"), deformation=draw_mixed),
    "sex": Task(("female", "male"), deformation=draw_sex),
}


def _draw_strength(severity: float, generator: torch.Generator) -> float:
    _check_severity(severity)
    return severity * (0.7 + 0.6 * float(torch.rand(1, generator=generator)))


def _check_severity(severity: float) -> None:
    if not (math.isfinite(severity) and severity >= 0):
        raise ValueError(f"severity must be a number of 0 or above, got {severity}")


def _find_place(
    centers: Tensor, free: Tensor, grid: Grid, generator: torch.Generator, radius_mm: float
) -> Body:
    """Draw a centre and a turn at which *every* shape fits into the free tissue.

    Asking for one shape only would let the place tell the shape: a long rod fits in fewer places
    than a ball.
    """
    candidates = torch.nonzero(centers[0] > 0.5)
    if len(candidates) == 0:
        raise ValueError("there is no tissue to place a lesion in; check the brain mask")
    for _ in range(_TRIES):
        pick = int(torch.randint(len(candidates), (1,), generator=generator))
        within_voxel = torch.rand(3, generator=generator) - 0.5
        center = torch.from_numpy(grid.millimetres(candidates[pick] + within_voxel)).float()
        turn = 360 * torch.rand(3, generator=generator)
        place = Body("ball", center, turn, radius_mm, 0.0)
        if all(_share_inside(place.as_shape(name), free, grid) >= _FIT for name in SHAPES):
            return place
    raise ValueError(
        f"found no place for a lesion of radius {radius_mm} mm in {_TRIES} tries; "
        f"ask for smaller or fewer lesions"
    )


def _share_inside(body: Body, free: Tensor, grid: Grid) -> float:
    box, occupancy = body.local_occupancy(grid)
    return float((occupancy * free[0][box]).sum() / occupancy.sum().clamp_min(1e-6))
