"""Feature pictures of a network: what would make each of its classes most likely?

A picture is looked for in two spaces. *Painted*: any intensity may change in one place of the
template's brain, for what has a look, such as a lesion (chapter 10). *Warped*: the template may
only be deformed, for what is form, such as atrophy (chapter 13). Beside each picture stands the
same of an untrained copy of the network: what both show comes from the architecture, the recipe and
the template, and not from anything that was learned.

A picture can convince a network more than any person does. It says what the network responds to,
not how people differ.

References
----------
Eitel, Melkonyan, Ritter (2022), Feature visualization for CNNs trained on neuroimaging data,
arXiv 2203.13120. Adebayo et al. (2018), Sanity checks for saliency maps, arXiv 1810.03292: the
network that has learned nothing.
"""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from torch import nn

from helpers import anatomy, grids, keyed, models, runtime
from helpers.activation_maximization import activation
from helpers.anatomy import Anatomy
from helpers.cohorts.scans import on_grid
from helpers.grids import Grid
from helpers.study import records
from helpers.study.explaining import model_grid
from helpers.study.features import (
    SPACES,
    Reading,
    Wish,
    check_place,
    maximized,
    measured,
    said_of,
    untrained,
    wishes_of,
)
from helpers.study.folders import Study
from helpers.viewers.sheet import sheet

CAVEAT = (
    "What this network responds to, and not how people differ. What the picture of the untrained "
    "network shows as well was not learned. Nothing here is for clinical use."
)
_MAPS = {"painted": "deviation", "warped": "expansion"}
_COLUMNS = ("picture", "space", "network", "file", "objective_template", "objective")
_COLUMNS += ("objective_moved", "objective_of_trained", "probability_template", "probability")
_COLUMNS += ("probability_of_trained", "strongest", "x_mm", "y_mm", "z_mm", "fine_share")


def maximize(
    study: Study,
    model: nn.Module,
    *,
    target: str | None = None,
    layer: str | None = None,
    channels: Sequence[int] = (),
    spaces: Sequence[str] = SPACES,
    steps: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Make pictures of what a network responds to, each with that of an untrained copy.

    In ``group``, for the class ``patient``: the picture, ``space-MNI152NLin2009aSym_res-4_
    desc-patientPainted_feature.nii.gz``; what differs from the template (``_deviation.nii.gz``, in
    units of the brain's median; of a warp ``_expansion.nii.gz``, the log expansion of tissue); both
    for the untrained copy (``desc-patientPaintedUntrained``); one PNG of both, the trained network
    above; a record (JSON). Then ``desc-feature_pictures.tsv``, with one row a picture. Pictures
    that are finished are skipped, and those of earlier calls stay in the table.

    Parameters
    ----------
    study : Study
        Whose output the pictures go to; its scans are not looked at.
    model : Module
        From `helpers.models.load`; it stays as it is. A picture that several networks agree on,
        as a `helpers.models.Ensemble` with a card, is less often a quirk of one.
    target : str, optional
        One class; default every class. It is maximized by its margin, the log odds.
    layer, channels : str, sequence of int
        Instead of classes: the mean of each of these channels of a layer.
    spaces : sequence of str
        ``"painted"`` and ``"warped"``, see the head of this module.
    steps : int, optional
        Default 80 painted, 60 warped.
    seed : int
        Of places, noise, moves, and the weights of the untrained copy.
    progress : bool
        Show a bar.

    Returns
    -------
    DataFrame
        One row a picture. ``objective`` is what its own network says of it (for a class, the log
        odds), ``objective_template`` of the template, ``objective_moved`` of the picture turned and
        shifted a dozen times, or in a dozen other heads; ``objective_of_trained`` is what the
        trained network says of it. Probabilities likewise; none for channels. ``strongest`` is the
        largest difference from the template, and where; ``fine_share`` the share of its energy in
        grain finer than four voxels.

    Raises
    ------
    ValueError
        If the network fails on the template's brain, does not fit its card, is not differentiable
        or has nothing to forget; if target, layer, channels or spaces do not fit; or the output
        holds pictures of another network.
    CannotWriteError
        If the disk is full or refuses.

    Examples
    --------
    >>> from helpers import cohorts, models
    >>> from helpers.study import Study, maximizing
    >>> mine = Study(cohorts.real_study(), "results")
    >>> table = maximizing.maximize(mine, models.load("lesion"), target="rod")  # doctest: +SKIP
    >>> table[["picture", "space", "network", "probability"]]  # doctest: +SKIP
    """
    grid = model_grid(model)
    wishes = wishes_of(model, target, layer, channels)
    unknown = sorted(set(spaces) - set(SPACES))
    if unknown or not spaces or (steps is not None and steps < 1):
        raise ValueError(
            f"expected spaces of {list(SPACES)} and steps of 1 or more, got {list(spaces)} and "
            f"{steps}"
        )
    brain = anatomy.template(grid)
    if "painted" in spaces:
        check_place(brain)
    settings = {
        "weights_sha256": keyed.fingerprint(model),
        "intensity": model.card.get("intensity", "median"),
        "grid": [*grid.shape, grid.spacing_mm[0]],
    }
    networks = {
        name: Reading(network, model.card).eval().to(runtime.device())
        for name, network in (
            ("trained", copy.deepcopy(model)),
            ("untrained", untrained(model, seed)),
        )
    }
    _check_network(networks["trained"], brain, wishes)
    how = {"steps": steps, "seed": seed}
    pictures = [
        _Picture(study, grid, wish, space, {**settings, "space": space, **how})
        for wish in wishes
        for space in spaces
    ]
    with study.lock("maximize"):
        _check_settings(study, settings)
        left = [picture for picture in pictures if not picture.is_finished()]
        study.describe()
        runtime.write_json(_settings_file(study), settings)
        for picture in runtime.progress(left, label="maximize", show=progress):
            picture.remove()
            picture.write(networks, brain, **how)
        table = _table(study, settings)
        records.write_table(table, study.group("desc-feature_pictures.tsv"))
        return table


@dataclass(frozen=True)
class _Picture:
    """A picture of both networks in one space, and its files."""

    study: Study
    grid: Grid
    wish: Wish
    space: str
    settings: dict

    @property
    def key(self) -> str:
        """What changes with all that the picture depends on."""
        parts = [self.settings, self.wish.name]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def file(self, ending: str, network: str = "trained") -> Path:
        """Return where a file of one network belongs."""
        whose = "" if network == "trained" else network.capitalize()
        what = f"{self.wish.label}{self.space.capitalize()}{whose}"
        return self.study.group(f"{on_grid(self.grid)[1:]}_desc-{what}_{ending}")

    def files(self) -> list[Path]:
        """Return where picture and map of both networks belong, the PNG, and the record (last)."""
        volumes = [
            self.file(f"{what}.nii.gz", network)
            for network in ("trained", "untrained")
            for what in ("feature", _MAPS[self.space])
        ]
        return [*volumes, self.file("feature.png"), self.file("feature.json")]

    def is_finished(self) -> bool:
        """Say whether all files are there, whole, and made with these settings."""
        *files, record_file = self.files()
        record = records.read(record_file, "its picture is made again")
        return (
            record is not None
            and record.get("key") == self.key
            and [runtime.checksum(file) for file in files if file.exists()] == record.get("sha256")
        )

    def remove(self) -> None:
        """Remove what an earlier run has left, the record first."""
        for file in reversed(self.files()):
            file.unlink(missing_ok=True)

    def write(
        self, networks: Mapping[str, nn.Module], brain: Anatomy, *, steps: int | None, seed: int
    ) -> None:
        """Maximize for both networks, and write what they found, the record last."""
        rows, drawn = [], []
        for name, network in networks.items():
            volume, difference = maximized(
                network, self.wish.objective, brain, self.space, steps=steps, seed=seed
            )
            row = {"picture": self.wish.name, "space": self.space, "network": name}
            row |= said_of(
                self.wish, network, networks["trained"], brain, volume, space=self.space, seed=seed
            )
            row |= measured(difference, brain)
            row["file"] = self.file("feature.nii.gz", name).name
            grids.save(volume, self.grid, self.file("feature.nii.gz", name))
            grids.save(difference, self.grid, self.file(f"{_MAPS[self.space]}.nii.gz", name))
            shown = sheet(
                brain.t1,
                difference * brain.mask,
                grid=self.grid,
                title=f"{self.wish.name}, {self.space}",
                lines=_in_words(row),
            )
            rows.append(row)
            drawn.append(shown)
        with runtime.replacing(self.file("feature.png")) as unfinished:
            Image.fromarray(np.concatenate(drawn)).save(unfinished, compress_level=4)
        *files, record_file = self.files()
        runtime.write_json(
            record_file,
            {
                **self.settings,
                "what": CAVEAT,
                "pictures": rows,
                "key": self.key,
                "sha256": [runtime.checksum(file) for file in files],
            },
        )


def _check_network(reading: Reading, brain: Anatomy, wishes: Sequence[Wish]) -> None:
    """Raise a ValueError unless the network has an answer to the template's brain."""
    classes = list(reading.card["classes"])
    seen = models.as_the_network_reads(brain.t1[None], reading.card)
    try:
        logits = models.predict(reading.network, seen)
        for wish in wishes:
            activation(reading, wish.objective, brain.t1[None])
    except Exception as error:
        raise ValueError(
            f"the network fails on the template's brain, so there is no picture: "
            f"{type(error).__name__}: {error}"
        ) from error
    if logits.shape[1] != len(classes) or not logits.isfinite().all():
        raise ValueError(
            f"expected a finite logit for each of {classes}, the network says "
            f"{logits[0].tolist()} of the template's brain"
        )


def _check_settings(study: Study, settings: dict) -> None:
    found = records.read(_settings_file(study), "its pictures are made again where they differ")
    if found is not None and found != settings:
        raise ValueError(
            f"{study.output} holds feature pictures of another network ({found}, this one is "
            f"{settings}); name another output folder"
        )


def _settings_file(study: Study) -> Path:
    return study.group("desc-feature_pictures.json")


def _table(study: Study, settings: dict) -> pd.DataFrame:
    """Return one row for each finished picture of this network, also of earlier calls."""
    rows = []
    for file in sorted(study.group("").glob("*_feature.json")):
        record = records.read(file, "its pictures are left out of the table") or {}
        if settings.items() <= record.items():
            rows += record["pictures"]
    return pd.DataFrame(rows).reindex(columns=_COLUMNS)


def _in_words(row: dict) -> list[str]:
    """Say what a picture is, for a reader who has only the PNG."""
    lines = [f"{row['network']} network"]
    if "probability" in row:
        before, after = row["probability_template"], row["probability"]
        lines.append(f"p: {before:.2f} for the template, {after:.2f} for the picture")
        if row["network"] == "untrained":
            lines.append(f"p of the trained network: {row['probability_of_trained']:.2f}")
            lines.append("What both pictures show was not learned.")
    else:
        before, after = row["objective_template"], row["objective"]
        lines.append(f"mean: {before:.3g} for the template, {after:.3g} for the picture")
    return lines
