"""Browse subjects, classes and attribution methods; on a static page, a figure with a menu.

With a kernel, `explore` returns ipywidgets whose picture is drawn anew for every choice. Widgets
with a Python callback freeze on a page without a kernel, so there `explore` computes every method
once for the first subject and returns a figure of `helpers.viewers.slices`, whose menu and sliders
need no kernel.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import SupportsFloat

import ipywidgets as widgets
import numpy as np
import plotly.graph_objects as go
import torch
from torch import Tensor, nn

from helpers.cohorts import Cohort
from helpers.grids import Grid
from helpers.viewers import display, rendering
from helpers.viewers.frames import AXES, EDGES
from helpers.viewers.planes import slices
from helpers.viewers.scene import Scene, crosshair, number, scene

Methods = Mapping[str, Callable[..., Tensor]]

_NO_MAP = "none"
_PREDICTED = "predicted"


def explore(
    source: Cohort | Tensor | np.ndarray,
    model: nn.Module | None = None,
    methods: Methods | None = None,
    *,
    grid: Grid | None = None,
    classes: Sequence[str] | None = None,
    subject: int = 0,
    position_mm: Sequence[SupportsFloat] | np.ndarray | None = None,
    title: str | None = None,
) -> widgets.Widget | go.Figure:
    """Look through volumes and ask a network about them.

    Parameters
    ----------
    source : Cohort, or tensor or array of shape (x, y, z), (1, x, y, z) or (subject, 1, x, y, z)
        A cohort brings its grid, classes and, if planted, the truth, which is outlined.
    model : Module, optional
        A network that returns one logit a class. Without it only volumes are shown.
    methods : dict of str to function, optional
        ``method(model, volumes, target=None)`` returns maps of shape (subject, 1, x, y, z).
        Default: `helpers.attribution.METHODS`. On a static page **every** method given is
        computed, so give only those that the page needs: three or four.
    grid : Grid, optional
        Needed if the source is not a cohort.
    classes : sequence of str, optional
        Names of the classes, default the cohort's.
    subject : int
        Whom to start with.
    position_mm : three numbers, optional
        Where to start; default as in `slices`.
    title : str, optional

    Returns
    -------
    ipywidgets.Widget or plotly.graph_objects.Figure
        The figure on a static page (``HELPERS_STATIC_SITE``), else the widgets.

    Raises
    ------
    ValueError
        If a tensor comes without its grid, the subject does not exist, methods come without a
        model, or a method's map has another shape than the volume.

    Examples
    --------
    >>> from helpers import anatomy, viewers
    >>> brain = anatomy.template()
    >>> browser = viewers.explore(brain.t1, grid=brain.grid)
    """
    cohort = source if isinstance(source, Cohort) else None
    if cohort is None and grid is None:
        raise ValueError("volumes without a cohort need their grid: explore(volumes, grid=grid)")
    grid = cohort.grid if cohort is not None else grid
    volumes = cohort.volumes if cohort is not None else _batch(source)
    masks = cohort.truth.mask if cohort is not None and cohort.truth is not None else None
    if not 0 <= subject < len(volumes):
        raise ValueError(f"subject is 0 to {len(volumes) - 1}, got {subject}")
    if model is None and methods:
        raise ValueError("methods explain a network: give the model as well")
    if classes is None and cohort is not None:
        classes = cohort.classes
    asked = Questions(volumes, model, _methods(model, methods), classes)
    labels = cohort.labels.tolist() if cohort is not None else None
    if display.static():
        return _still(asked, labels, masks, grid, subject, position_mm, title)
    return Browser(asked, labels, masks, grid, subject, position_mm, title)


class Questions:
    """What a network says about each volume; every answer is computed once."""

    def __init__(
        self,
        volumes: Tensor,
        model: nn.Module | None,
        methods: Methods,
        classes: Sequence[str] | None,
    ):
        self.volumes, self.model, self.methods = volumes, model, dict(methods)
        self._classes = None if classes is None else tuple(classes)
        self._maps: dict[tuple, Tensor] = {}
        self._chances: dict[int, Tensor] = {}

    def chances(self, subject: int) -> Tensor:
        """Return the probability of each class."""
        if subject not in self._chances:
            from helpers import models  # only when asked for: viewers of volumes need no network

            logits = models.predict(self.model, self.volumes[subject : subject + 1])
            self._chances[subject] = logits[0].softmax(0)
        return self._chances[subject]

    def map(self, subject: int, method: str, target: int | None = None) -> Tensor:
        """Return a method's map of one subject, shape (1, x, y, z)."""
        asked = (subject, method, target)
        if asked not in self._maps:
            volume = self.volumes[subject : subject + 1]
            found = self.methods[method](self.model, volume, target=target)
            if tuple(found.shape) != tuple(volume.shape):
                raise ValueError(
                    f"the method {method!r} returned a map of shape {tuple(found.shape)}, "
                    f"expected the volume's {tuple(volume.shape)}"
                )
            self._maps[asked] = found[0].detach().cpu()
        return self._maps[asked]

    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes, numbered ones if nobody named them."""
        if self._classes is None and self.model is not None:
            self._classes = tuple(f"class {i}" for i in range(len(self.chances(0))))
        return self._classes or ()

    def verdict(self, subject: int, label: int | None) -> str:
        """Say what the subject is and what the network takes it for."""
        said = [f"subject {subject}"]
        if label is not None and self.classes():
            said.append(f"true class: {self.classes()[label]}")
        if self.model is not None:
            chance, winner = self.chances(subject).max(0)
            said.append(f"network: {self.classes()[int(winner)]} ({float(chance):.0%})")
        return ", ".join(said)


class Browser(widgets.VBox):
    """The widgets of `explore`: choices on top, three slices, sliders for the position."""

    def __init__(self, asked: Questions, labels, masks, grid, subject, position_mm, title):
        self._asked, self._labels, self._masks, self._grid = asked, labels, masks, grid
        self._position_mm = position_mm
        self._scene: Scene | None = None
        self.subject = widgets.Dropdown(
            options=range(len(asked.volumes)), value=subject, description="subject"
        )
        self.method = widgets.Dropdown(options=[*asked.methods, _NO_MAP], description="method")
        self.target = widgets.Dropdown(
            options=[(_PREDICTED, None), *((name, i) for i, name in enumerate(asked.classes()))],
            description="class",
        )
        share = {"min": 0.0, "max": 1.0, "step": 0.05}
        self.opacity = widgets.FloatSlider(1.0, description="opacity", **share)
        self.threshold = widgets.FloatSlider(0.0, description="hide below", **share)
        self.position = tuple(
            widgets.IntSlider(0, 0, n - 1, description=f"{a} (voxel)")
            for a, n in zip(AXES, grid.shape, strict=True)
        )
        self.verdict = widgets.HTML()
        self.picture = widgets.Image(format="webp", layout={"width": "100%", "max_width": "1100px"})
        self.picture.alt = "Sagittal, coronal and axial slice; left is left."
        choices = [self.subject] if len(asked.volumes) > 1 else []
        if asked.model is not None:
            choices += [self.method, self.target, self.opacity, self.threshold]
        row = widgets.Layout(flex_flow="row wrap")
        head = [widgets.HTML(f"<b>{title}</b>")] if title else []
        super().__init__(
            [
                *head,
                widgets.HBox(choices, layout=row),
                self.verdict,
                self.picture,
                widgets.HBox(self.position, layout=row),
            ]
        )
        for choice in (self.subject, self.method, self.target):
            choice.observe(self._ask, "value")
        for slider in (self.opacity, self.threshold, *self.position):
            slider.observe(self._draw, "value")
        self._ask()

    def _ask(self, change=None) -> None:
        """Compute what was chosen, then draw it."""
        subject = self.subject.value
        overlay = None
        if self._asked.model is not None and self.method.value != _NO_MAP:
            overlay = self._asked.map(subject, self.method.value, self.target.value)
        mask = None if self._masks is None else self._masks[subject]
        first = self._scene is None
        if mask is not None and not mask.any():
            mask = None
        self._scene, voxel = scene(
            self._asked.volumes[subject],
            overlay,
            grid=self._grid,
            mask=mask,
            position_mm=self._position_mm,
        )
        label = None if self._labels is None else self._labels[subject]
        self.verdict.value = self._asked.verdict(subject, label)
        if first or (change is not None and change["owner"] is self.subject):
            with self.hold_trait_notifications():
                for slider, value in zip(self.position, voxel, strict=True):
                    slider.value = value
        self._draw()

    def _draw(self, change=None) -> None:
        """Draw the three slices at the sliders' position."""
        if self._scene is None:
            return
        voxel = tuple(slider.value for slider in self.position)
        frame = replace(self._scene.frame, pixels=2 * self._scene.frame.pixels)
        pictures = []
        for axis in range(3):
            picture = self._scene.picture(
                axis,
                voxel[axis],
                frame=frame,
                overlay=next(iter(self._scene.overlays), None),
                opacity=self.opacity.value,
                threshold=self.threshold.value,
            )
            across, up = crosshair(frame, axis, voxel)
            column, row = (
                min(max(int(share * frame.pixels), 0), frame.pixels - 1)
                for share in (across, 1 - up)
            )
            picture[row] = picture[row] // 2 + 110
            picture[:, column] = picture[:, column] // 2 + 110
            picture = rendering.lettered(picture, EDGES[axis])
            pictures.append(np.pad(picture, ((0, 0), (0, 8), (0, 0))))
        self.picture.value = rendering.webp(np.concatenate(pictures, axis=1), 85)
        millimetres = self._grid.millimetres(voxel)
        for slider, axis, mm in zip(self.position, AXES, millimetres, strict=True):
            slider.description = f"{axis} = {number(mm)} mm"


def _still(
    asked: Questions, labels, masks, grid: Grid, subject: int, position_mm, title
) -> go.Figure:
    """Return a figure of one subject with all methods' maps in its menu."""
    label = None if labels is None else labels[subject]
    mask = None if masks is None or not masks[subject].any() else masks[subject]
    maps = {name: asked.map(subject, name) for name in asked.methods}
    verdict = asked.verdict(subject, label)
    return slices(
        asked.volumes[subject],
        maps or None,
        grid=grid,
        mask=mask,
        position_mm=position_mm,
        title=f"{title}: {verdict}" if title else verdict[0].upper() + verdict[1:],
    )


def _batch(volumes: Tensor | np.ndarray) -> Tensor:
    volumes = torch.as_tensor(volumes)
    if volumes.ndim not in (3, 4, 5):
        raise ValueError(
            f"expected (x, y, z), (1, x, y, z) or (subject, 1, x, y, z), got {tuple(volumes.shape)}"
        )
    return volumes.reshape(-1, 1, *volumes.shape[-3:])


def _methods(model: nn.Module | None, methods: Methods | None) -> Methods:
    if model is None:
        return {}
    if methods is not None:
        return methods
    from helpers import attribution

    return attribution.METHODS
