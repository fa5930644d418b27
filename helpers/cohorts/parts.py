"""The parts of a planted effect, and twins: the same person with some of the parts.

A twin has the person's head, pose, scanner and noise, and the same divisors of the intensities.
Only what was planted differs. So what a network says of the twins tells what it makes of each part.
"""

import functools
import itertools
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from helpers import anatomy, fields
from helpers.cohorts import healthy
from helpers.cohorts.cohort import Cohort
from helpers.cohorts.shapes import Body
from helpers.cohorts.simulation import Parameters, render_brain, scanned

MOST_PARTS = 8  # 256 twins; every part more would double them
HEAD_SIZE = "head size"


@dataclass(frozen=True, eq=False)
class Twins:
    """One person, with and without each planted part.

    Attributes
    ----------
    parts : tuple of str
        Structures that grow or shrink, ``"head size"``, lesions and tags of this person.
    present : tensor of shape (twin, part)
        Which parts each twin has.
    volumes : tensor of shape (twin, 1, x, y, z)
    """

    parts: tuple[str, ...]
    present: Bool[Tensor, "twin part"]
    volumes: Float[Tensor, "twin 1 x y z"]

    def __len__(self) -> int:
        return len(self.present)


def planted_parts(cohort: Cohort, subject: int) -> tuple[str, ...]:
    """Return the names of what was planted into one person; of a control, none.

    Raises
    ------
    ValueError
        If the person is not simulated.

    Examples
    --------
    >>> from helpers import cohorts
    >>> patients = cohorts.simulate("atrophy", subjects=2)
    >>> cohorts.planted_parts(patients, int(patients.labels.argmax()))[:2]
    ('hippocampus left', 'hippocampus right')
    """
    return tuple(_named(_parameters(cohort, subject)))


def twins(
    cohort: Cohort, subject: int, *, present: Bool[Tensor, "twin part"] | None = None
) -> Twins:
    """Render the twins of one person.

    Parameters
    ----------
    cohort : Cohort
        Simulated, or planted into real scans.
    subject : int
        Position in the cohort.
    present : tensor of shape (twin, part), optional
        Which of the `planted_parts` each twin has. Default every subset, with the twin that has
        nothing first and the person last; the last part changes fastest.

    Returns
    -------
    Twins
        The one with all parts equals the person's volume to the bit.

    Raises
    ------
    ValueError
        If the person is not simulated, carries nothing, or has more than 8 parts and no subsets
        are named.

    Examples
    --------
    >>> from helpers import cohorts
    >>> pair = cohorts.simulate("shortcut", subjects=2)
    >>> patient = int(pair.labels.argmax())
    >>> both = cohorts.twins(pair, patient)
    >>> both.parts, both.present.tolist()
    (('disease', 'tag'), [[False, False], [False, True], [True, False], [True, True]])
    >>> bool((both.volumes[-1] == pair.volumes[patient]).all())
    True
    """
    person = _parameters(cohort, subject)
    parts = tuple(_named(person))
    if not parts:
        raise ValueError(
            f"nothing is planted into subject {subject}, so there are no twins; choose a patient"
        )
    if present is None:
        if len(parts) > MOST_PARTS:
            raise ValueError(
                f"subject {subject} has {len(parts)} parts, more than {MOST_PARTS}, and thus "
                f"{2 ** len(parts)} twins; name those that you need with present="
            )
        present = torch.tensor(list(itertools.product([False, True], repeat=len(parts))))
    if present.ndim != 2 or present.shape[1] != len(parts) or present.dtype != torch.bool:
        raise ValueError(
            f"expected true or false for each twin and each of the {len(parts)} parts {parts}, "
            f"got shape {tuple(present.shape)} of {present.dtype}"
        )
    template = anatomy.template(cohort.grid)

    @functools.cache  # the healthy deformation is the same for all twins with one size of head
    def field(head_size: float) -> Tensor:
        return healthy.displacement(person.variation, cohort.grid, head_size=head_size)

    def brain(twin: Parameters, **medians) -> healthy.Brain:
        if twin.variation is None:  # lesions in a real scan
            return render_brain(twin, template)
        head_size = 1.0 if twin.deformation is None else twin.deformation.head_size
        return render_brain(twin, template, field=field(head_size), **medians)

    whole = brain(person)
    volumes = []
    for row in present.tolist():
        twin = _with_parts(person, dict(zip(parts, row, strict=True)))
        same_form = twin.deformation is None or all(row)
        drawn = whole if same_form else brain(twin, medians=whole.medians)
        volumes.append(scanned(twin, drawn, cohort.grid))
    return Twins(parts, present, torch.stack(volumes))


def part_places(
    cohort: Cohort, subject: int, *, within: float = 1.0
) -> dict[str, Bool[Tensor, "1 x y z"]]:
    """Return where each planted part lies in this person, to ask what a map says of each.

    A structure lies where the person's own form has brought it, also where it neither grows nor
    shrinks. Head size has no place.

    Parameters
    ----------
    within : float
        Radius of the structures as a share of their own; lesions and tags have their own voxels.

    Returns
    -------
    dict
        From the part's name to its voxels. A control has the structures of the task, and no bodies.

    Raises
    ------
    ValueError
        If the person is not simulated, or a structure has no voxel in the brain.

    Examples
    --------
    >>> from helpers import cohorts
    >>> people = cohorts.simulate("atrophy", subjects=1)
    >>> places = cohorts.part_places(people, 0)
    >>> list(places)[2], tuple(places["hippocampus left"].shape)
    ('lateral ventricle left', (1, 48, 56, 48))
    """
    person = _parameters(cohort, subject)
    grid, brain = cohort.grid, cohort.volumes[subject] != 0
    places: dict[str, Tensor] = {}
    if person.deformation is not None:
        structures = person.deformation.structures
        field = healthy.displacement(person.variation, grid, head_size=person.deformation.head_size)
        balls = torch.cat([structure.ball(grid, within=within) for structure in structures])
        moved = fields.warp(balls[None].float(), field)[0] > 0.5
        places = {s.name: ball[None] & brain for s, ball in zip(structures, moved, strict=True)}
    named = _named(person)
    places |= {name: body.mask(grid) for name, body in named.items() if isinstance(body, Body)}
    for name, place in places.items():
        if not place.any():
            raise ValueError(
                f"{name} of subject {subject} has no voxel; use a larger share than {within}, or a "
                f"finer grid"
            )
    return places


def _parameters(cohort: Cohort, subject: int) -> Parameters:
    if cohort.parameters is None:
        raise ValueError(
            "expected a simulated cohort: only of people who were planted is it known what they "
            "would look like without it"
        )
    return cohort.parameters[subject]


def _named(person: Parameters) -> dict[str, object]:
    """Return what was planted, by name."""
    named: dict[str, object] = {}
    if person.deformation is not None:
        strength = person.deformation.strength
        named |= {s.name: s for s in person.deformation.structures if strength * s.share != 0}
        if person.deformation.head_size != 1:
            named[HEAD_SIZE] = person.deformation.head_size
    lesions = [body for body in person.disease if body.visible]
    disease = "disease" if person.shortcut else "lesion"
    for kind, bodies in ((disease, lesions), ("tag", [b for b in person.shortcut if b.visible])):
        names = [kind] if len(bodies) == 1 else [f"{kind} {k + 1}" for k in range(len(bodies))]
        named |= dict(zip(names, bodies, strict=True))
    return named


def _with_parts(person: Parameters, has: dict[str, bool]) -> Parameters:
    """Return the parameters of a twin; what is no part of the person stays as it is."""
    deformation = person.deformation
    if deformation is not None:
        deformation = replace(
            deformation,
            structures=tuple(
                s if has.get(s.name, True) else replace(s, share=0.0)
                for s in deformation.structures
            ),
            head_size=deformation.head_size if has.get(HEAD_SIZE, True) else 1.0,
        )
    gone = {id(part) for name, part in _named(person).items() if not has[name]}

    def without(bodies):
        return tuple(replace(b, visible=b.visible and id(b) not in gone) for b in bodies)

    return replace(
        person,
        deformation=deformation,
        disease=without(person.disease),
        shortcut=without(person.shortcut),
    )
