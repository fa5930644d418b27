"""Plant a known effect into scans of one's own: a lesion, a region that shrinks, or a scanner tag.

A coin and not a label decides who gets it. So nothing but the effect goes along with it: whatever
people differ in, age, illness or scanner, lies in both groups alike but for chance.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from helpers import anatomy, runtime
from helpers.anatomy import Atlas
from helpers.cohorts import Cohort, Truth, concatenate, healthy
from helpers.cohorts.shapes import SHAPES
from helpers.cohorts.simulation import Parameters, render_brain, scanned
from helpers.cohorts.tasks import draw_lesions, draw_shortcut
from helpers.grids import Grid
from helpers.study.trusting.shrinking import shrinkage

EFFECTS = ("lesion", "shrink", "tag")
CLASSES = ("not planted", "planted")
_COIN, _EFFECT, _SHAPE, _AGAIN = range(4)  # independent random streams of one seed

# Draws one person's effect from the class, the healthy brain and a stream of random numbers.
Draw = Callable[[int, healthy.Brain, Grid, torch.Generator], Parameters]


@dataclass(frozen=True)
class Effect:
    """What is planted.

    Attributes
    ----------
    name : str
        One of `EFFECTS`.
    words : str
        What it is, for a reader.
    settings : dict
        What was chosen, for a record.
    classes : tuple of tuple of str
        What the classes of a network that has learned it may be called; the first of each is
        without.
    draw : callable
        ``draw(label, brain, grid, generator)`` returns `Parameters`; the same for every label but
        for what is visible.
    """

    name: str
    words: str
    settings: dict
    classes: tuple[tuple[str, ...], ...]
    draw: Draw

    @property
    def label(self) -> str:
        """What files about it are called: letters and digits, such as ``shrinkHippocampus``."""
        where = self.settings.get("region", "")
        return self.name + "".join(sign for sign in where if sign.isalnum())


def lesion(*, radius_mm: float = 15.0, intensity: float = 1.7, opaque: bool = True) -> Effect:
    """Return a lesion anywhere in the white matter, as the course's task *lesion* has it.

    Parameters
    ----------
    radius_mm : float
        Of a ball of the lesion's volume.
    intensity : float
        Where the median of the brain is 1; one person's differs by 5 % (SD).
    opaque : bool
        False: the tissue is multiplied by the intensity.

    Raises
    ------
    ValueError
        If the radius is not above 0, or the intensity below 0.

    Examples
    --------
    >>> from helpers.study import planting
    >>> planting.lesion(intensity=0.6, opaque=False).words.partition(", ")[2]
    'as large as a ball of 15 mm radius, 0.6 times as bright as the tissue there'
    """
    if not (0 < radius_mm < math.inf and 0 <= intensity < math.inf):
        raise ValueError(
            f"a lesion has radius_mm above 0 and an intensity of 0 or more, got {radius_mm} and "
            f"{intensity}"
        )
    settings = {"radius_mm": radius_mm, "intensity": intensity, "opaque": opaque}

    def draw(label: int, brain: healthy.Brain, grid: Grid, generator: torch.Generator):
        tissues = brain.tissues[1:2], brain.mask.float()
        bodies, _ = draw_lesions(label, *tissues, grid=grid, generator=generator, **settings)
        return Parameters(None, tuple(bodies))

    as_bright = "the brain's median" if opaque else "the tissue there"
    words = (
        f"a lesion in the white matter, as large as a ball of {radius_mm:g} mm radius, "
        f"{intensity:g} times as bright as {as_bright}"
    )
    return Effect("lesion", words, settings, (CLASSES, ("healthy", *SHAPES)), draw)


def shrink(region: str, *, atlas: Atlas, percent: float = 10.0) -> Effect:
    """Return a region of an atlas that loses a share of its volume; what is around it grows.

    Parameters
    ----------
    region : str
        A name in the atlas, or one without its side for both sides.
    atlas : Atlas
        On the grid of the scans that it is planted into.
    percent : float
        Share of the volume that is lost, above 0 and at most 50.

    Raises
    ------
    ValueError
        If there is no such region, most of it lies outside the brain, it is too small for the
        voxels, or the percentage is none.

    Examples
    --------
    >>> from helpers import anatomy
    >>> from helpers.study import planting
    >>> planting.shrink("white matter", atlas=anatomy.atlas(), percent=5).words
    'white matter shrinks by 5 %'
    """
    whole = shrinkage(region, atlas, percent=percent)

    def draw(label: int, brain: healthy.Brain, grid: Grid, generator: torch.Generator):
        if grid != atlas.grid:
            raise ValueError(
                f"the atlas has {atlas.grid.shape} voxels, the scans have {grid.shape} or lie "
                f"elsewhere; make it on their grid, with anatomy.atlas(grid, ...)"
            )
        # What registration leaves over: everybody is interpolated once, with the effect or without.
        pose = healthy.draw_pose(generator)
        return Parameters(pose, deformation=replace(whole, strength=1.0 if label else 0.0))

    names = [structure.name for structure in whole.structures]
    words = (
        f"{' and '.join(names)} {'shrinks' if len(names) == 1 else 'each shrink'} by {percent:g} %"
    )
    settings = {"region": region, "parts": names, "percent": percent}
    return Effect("shrink", words, settings, (CLASSES, ("control", "patient")), draw)


def tag() -> Effect:
    """Return a bright marker beside the left temple: the shortcut of the task *shortcut*.

    It lies outside the brain and is no disease. A network that has learned it lives off a
    shortcut, and a map should say so.

    Examples
    --------
    >>> from helpers.study import planting
    >>> planting.tag().name
    'tag'
    """

    def draw(label: int, brain: healthy.Brain, grid: Grid, generator: torch.Generator):
        tissues = brain.tissues[1:2], brain.mask.float()
        _, markers = draw_shortcut(label, *tissues, grid=grid, generator=generator)
        return Parameters(None, shortcut=tuple(markers))

    words = "a bright marker outside the brain, beside the left temple: a shortcut, and no disease"
    return Effect("tag", words, {}, (CLASSES, ("control", "patient")), draw)


def plant(
    base: Cohort,
    effect: Effect,
    *,
    classes: tuple[str, ...] = CLASSES,
    seed: int = 0,
    draws: int = 0,
) -> Cohort:
    """Plant an effect into half of the people; labels of theirs are not used.

    Parameters
    ----------
    base : Cohort
        Every person once.
    effect : Effect
    classes : tuple of str
        One of the effect's; the first is without. Of several with, those who get it take turns.
    seed : int
        Of the coin and the effects.
    draws : int
        0: everybody comes once, as the coin fell. Else everybody comes so often with an effect that
        is drawn anew, and each time right behind it as the coin did not fall: twins that differ in
        nothing but the effect. The first of each person are those of 0. With two classes only.

    Returns
    -------
    Cohort
        Label 0 is without the effect. ``truth.place`` says where it is or would be,
        ``truth.mask`` and, of a tag, ``truth.shortcut`` where it is.

    Raises
    ------
    ValueError
        If the effect knows no such classes, or misses somebody's brain or field of view.

    Examples
    --------
    >>> from helpers import cohorts
    >>> from helpers.study import planting
    >>> planting.plant(cohorts.real(), planting.tag())
    Cohort(37 subjects: 18 not planted, 19 planted; 48x56x48 voxels)
    """
    if tuple(classes) not in effect.classes:
        raise ValueError(
            f"to see the effect {effect.name!r}, a network has the classes "
            f"{' or '.join(map(str, effect.classes))}, this one has {tuple(classes)}; leave it out "
            f"to train one"
        )
    if draws and len(classes) != 2:
        raise ValueError(f"twins are with or without, but there are the classes {classes}")
    rows = []
    for i, label in enumerate(_labels(len(base), len(classes), seed)):
        for draw in range(max(1, draws)):
            stream = (_AGAIN, i, draw) if draw else (_EFFECT, i)
            for own in (label, 1 - label) if draws else (label,):
                random = runtime.generator(seed, *stream)
                rows.append(_planted(base[[i]], effect, own, classes, random))
    return concatenate(rows)


def _planted(
    one: Cohort, effect: Effect, label: int, classes: tuple[str, ...], generator: torch.Generator
) -> Cohort:
    grid, template, scan = one.grid, anatomy.template(one.grid), one.volumes[0]
    name = one.participants["participant_id"][0]
    healthy_brain = render_brain(Parameters(None, scan=scan), template)
    try:
        drawn = replace(effect.draw(label, healthy_brain, grid, generator), scan=scan)
    except ValueError as error:
        raise ValueError(f"cannot plant the {effect.name} into {name}: {error}") from error
    brain = render_brain(drawn, template)
    place, mask, shortcut = (
        brain.place.clone(),
        brain.changed.clone(),
        torch.zeros_like(brain.place),
    )
    for bodies, seen in ((drawn.disease, mask), (drawn.shortcut, shortcut)):
        for body in bodies:
            place |= body.mask(grid)
            seen |= body.mask(grid) & body.visible
    if not place.any():
        raise ValueError(
            f"the {effect.name} misses {name}: no voxel of {grid.spacing_mm[0]:g} mm would change. "
            f"It is too small for the voxels, or outside the brain or the field of view of "
            f"{grid.shape} voxels"
        )
    truth = {
        "mask": mask,
        "place": place,
        "shortcut": shortcut,
        "log_expansion": brain.log_expansion,
    }
    return Cohort(
        scanned(drawn, brain, grid)[None],
        torch.tensor([label]),
        tuple(classes),
        one.participants.assign(planted=classes[label]),
        grid,
        Truth(**{name: None if part is None else part[None] for name, part in truth.items()}),
        [drawn],
    )


def _labels(people: int, classes: int, seed: int) -> list[int]:
    """Throw the coin in pairs, one of whom gets the effect; several kinds of it take turns."""

    def in_rounds(choices: int, stream: int) -> Tensor:
        rounds = -(-people // choices)
        streams = [runtime.generator(seed, stream, r) for r in range(rounds)]
        return torch.cat([torch.randperm(choices, generator=own) for own in streams])[:people]

    labels, kinds = in_rounds(2, _COIN), 1 + in_rounds(classes - 1, _SHAPE)
    labels[labels == 1] = kinds[: int(labels.sum())]
    return labels.tolist()
