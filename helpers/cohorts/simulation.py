"""Make a cohort whose answer is known."""

from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from helpers import anatomy, grids, runtime, tensors
from helpers.anatomy import Anatomy
from helpers.cohorts import healthy
from helpers.cohorts.cohort import Cohort, Truth
from helpers.cohorts.deformations import Deformation
from helpers.cohorts.shapes import Body
from helpers.cohorts.tasks import TASKS
from helpers.grids import Grid

_VARIATION, _EFFECT, _LABELS = range(3)  # independent random streams of one seed


@dataclass(frozen=True, eq=False)
class Parameters:
    """Everything that made one subject; `render` turns it into a volume.

    Attributes
    ----------
    variation : Variation or None
        The healthy brain; None when the brain is a real scan that was not deformed.
    disease, shortcut : tuple of Body
        What was planted: the effect that defines the label, and what merely goes along with it.
    deformation : Deformation or None
        The effect that defines the label, where it is one of form.
    scan : tensor of shape (1, x, y, z) or None
        The real scan that all this was planted into; None for a brain made of the template.
    """

    variation: healthy.Variation | None
    disease: tuple[Body, ...] = ()
    shortcut: tuple[Body, ...] = ()
    deformation: Deformation | None = None
    scan: Float[Tensor, "1 x y z"] | None = None


def simulate(
    task: str,
    subjects: int | None = None,
    seed: int = 0,
    *,
    grid: Grid | None = None,
    base: Cohort | None = None,
    matched: bool = False,
    progress: bool = False,
    **options,
) -> Cohort:
    """Make a cohort with planted effects and keep the truth.

    Parameters
    ----------
    task : str
        ``"lesion"``: healthy, or a lesion shaped as ball, cube, rod or shell, all of one volume
        and brightness. ``"shortcut"``: a faint disease and a scanner tag that goes with it.
        ``"atrophy"``, ``"alcohol"``: structures that grow and shrink. ``"mixed"``: the same, and
        every patient has other structures, each with a strength of its own. ``"sex"``: head size
        and small changes in many places; made up, no finding about women or men.
    subjects : int, optional
        Default 200, or every scan of ``base``. The classes take turns, so they are equally large.
    seed : int
        Subject 7 of a seed is the same whether 10 or 1000 are made.
    grid : Grid, optional
        Default the 4 mm MNI grid, or that of ``base``.
    base : Cohort, optional
        Plant into these scans instead of the warped template. Labels of ``base`` are not used. The
        scans have their noise already, so an opaque body has none in it. To deform a scan means to
        interpolate it once more; controls are turned a little and interpolated just the same.
    matched : bool
        Everybody comes once in each class: same head, pose, scanner and noise, and the effect would
        lie in the same place. Nothing but the effect tells such classes apart, so a network learns
        a faint one from fewer people. The two have one ``participant_id``.
    progress : bool
        Show a progress bar.
    **options
        The task's own, see `helpers.cohorts.tasks`: ``draw_lesions``, ``draw_shortcut``,
        ``draw_disease``, ``draw_mixed``, ``draw_sex``.

    Returns
    -------
    Cohort
        With ``truth`` and ``parameters``. Everything about disease in it is a simulation.

    Examples
    --------
    >>> from helpers import cohorts
    >>> cohort = cohorts.simulate("lesion", subjects=5)
    >>> cohort.classes
    ('healthy', 'ball', 'cube', 'rod', 'shell')
    >>> tuple(cohort.volumes.shape)
    (5, 1, 48, 56, 48)
    """
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; there are {sorted(TASKS)}")
    if base is not None and grid is not None and grid != base.grid:
        raise ValueError("a cohort planted into base has the grid of base; leave grid out")
    if base is not None and matched:
        raise ValueError("every scan of base comes once; leave matched out")
    if subjects is None:
        subjects = 200 if base is None else len(base)
    if subjects < 1 or (base is not None and subjects > len(base)):
        available = "" if base is None else f" and at most the {len(base)} of base"
        raise ValueError(f"expected at least one subject{available}, got {subjects}")
    grid = base.grid if base is not None else grids.mni() if grid is None else grid
    template = anatomy.template(grid)
    classes = len(TASKS[task].classes)
    labels = _balanced_labels(subjects, classes, seed)

    shape = (subjects, 1, *grid.shape)
    volumes = tensors.zeros(shape)
    mask, place, shortcut = (tensors.zeros(shape, torch.bool) for _ in range(3))
    log_expansion = tensors.zeros(shape) if TASKS[task].deformation else None
    people = [i // classes if matched else i for i in range(subjects)]  # labels come in rounds
    parameters = []
    for i in runtime.progress(range(subjects), label=f"simulating {task}", show=progress):
        scan = None if base is None else base.volumes[i]
        label = int(labels[i])
        drawn, brain = _draw_subject(task, label, template, scan, seed, people[i], options)
        volumes[i] = scanned(drawn, brain, grid)
        if drawn.deformation is not None:
            place[i], mask[i] = brain.place, brain.changed
            log_expansion[i] = brain.log_expansion
        for body in drawn.disease:
            place[i] |= body.mask(grid)
            mask[i] |= body.mask(grid) & body.visible
        for body in drawn.shortcut:
            place[i] |= body.mask(grid)
            shortcut[i] |= body.mask(grid) & body.visible
        parameters.append(drawn)
    return Cohort(
        volumes=volumes,
        labels=labels,
        classes=TASKS[task].classes,
        participants=_participants(parameters, people, labels, TASKS[task].classes, base),
        grid=grid,
        truth=Truth(mask=mask, place=place, shortcut=shortcut, log_expansion=log_expansion),
        parameters=parameters,
    )


def render(parameters: Parameters, grid: Grid) -> Tensor:
    """Return the volume (1, x, y, z) of one subject again, from its parameters alone."""
    return scanned(parameters, render_brain(parameters, anatomy.template(grid)), grid)


def _draw_subject(task, label, template: Anatomy, scan, seed, i, options):
    variation_stream = runtime.generator(seed, _VARIATION, i)
    effect_stream = runtime.generator(seed, _EFFECT, i)
    if TASKS[task].deformation:
        variation = (healthy.draw if scan is None else healthy.draw_pose)(variation_stream)
        deformation = TASKS[task].deformation(label, generator=effect_stream, **options)
        drawn = Parameters(variation, deformation=deformation, scan=scan)
        return drawn, render_brain(drawn, template)
    variation = healthy.draw(variation_stream) if scan is None else None
    brain = render_brain(Parameters(variation, scan=scan), template)
    disease, shortcut = TASKS[task].bodies(
        label,
        brain.tissues[1:2],
        brain.mask.float(),
        grid=template.grid,
        generator=effect_stream,
        **options,
    )
    return Parameters(variation, tuple(disease), tuple(shortcut), scan=scan), brain


def render_brain(
    parameters: Parameters, template: Anatomy, *, field=None, medians=None
) -> healthy.Brain:
    """Return a brain before any body is planted; ``field`` and ``medians`` as `healthy.render`."""
    head, scan = template, parameters.scan
    if scan is not None:
        mask = scan != 0
        head = Anatomy(template.grid, scan, template.tissues * mask, mask)
        if parameters.deformation is None:
            nowhere = torch.zeros_like(mask)
            return healthy.Brain(scan, head.tissues, mask, nowhere, nowhere, medians=())
    return healthy.render(
        parameters.variation, head, parameters.deformation, field=field, medians=medians
    )


def scanned(parameters: Parameters, brain: healthy.Brain, grid: Grid) -> Tensor:
    """Plant the bodies, then scan the result (a real scan has been scanned already)."""
    volume = brain.t1
    for body in (*parameters.disease, *parameters.shortcut):
        volume = body.paint(volume, grid)
    if parameters.variation is None:
        return volume
    return healthy.acquire(volume, parameters.variation, brain.mask)


def _balanced_labels(subjects: int, classes: int, seed: int) -> Tensor:
    """Return labels in shuffled rounds: every class once a round."""
    rounds = [
        torch.randperm(classes, generator=runtime.generator(seed, _LABELS, r))
        for r in range(-(-subjects // classes))
    ]
    return torch.cat(rounds)[:subjects]


def _participants(parameters, people, labels, classes, base) -> pd.DataFrame:
    if base is not None:
        table = base.participants.iloc[: len(labels)].reset_index(drop=True)
    else:
        table = pd.DataFrame({"participant_id": [f"sim-{person:05d}" for person in people]})
        table["head_size"] = [float(p.variation.size.mean()) for p in parameters]
        table["noise"] = [p.variation.noise for p in parameters]
    if parameters[0].deformation is not None:
        people = [p.deformation for p in parameters]
        structures = people[0].structures
        if all(structure.share == 1 for structure in structures):
            table["strength"] = [person.strength for person in people]
        else:
            for k, structure in enumerate(structures):
                strengths = [person.strength * person.structures[k].share for person in people]
                table[f"strength {structure.name}"] = strengths
    table["diagnosis"] = [classes[label] for label in labels.tolist()]
    table["tag"] = [any(body.visible for body in p.shortcut) for p in parameters]
    return table
