"""Simulate, for every scan of a study, how this brain would look if it were of the other class.

A network's map says where it looks. Here the brain itself is deformed, step by step, until the
network sees a typical person of the other class; how much tissue grew or shrank on the way is what
the network asks for, in the language of anatomy.

That a network changes its mind proves no anatomy: deformations that agree with nobody's anatomy
change every mind as well (chapter 12 has a simulator that does so). Ask networks that took no part,
and try the same on people in whom the answer was planted.
"""

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor, nn

from helpers import anatomy, evaluation, fields, grids, keyed, models, runtime
from helpers.anatomy import Atlas
from helpers.cohorts.finding import check_names
from helpers.cohorts.report import QUALITY
from helpers.cohorts.scans import Scan, on_grid, to_scan
from helpers.grids import Grid
from helpers.study import records
from helpers.study.explaining import model_grid
from helpers.study.folders import Study
from helpers.study.records import SIMULATED, Maps
from helpers.study.typical import Asked, Typical
from helpers.viewers.sheet import sheet
from helpers.warping import potentials

CAVEAT = (
    "A simulation: what this network asks for in this brain. A changed mind alone proves no "
    "anatomy: deformations that agree with nobody's anatomy change it as well. It says nothing "
    "about this person's health or future; not for clinical use."
)
STEPS = 80
BLUR_MM = 10.0  # as of the simulators in chapter 12
_SEVENFOLD = 2.0  # in log expansion, a little more than it
_COLUMNS = ("name", "participant_id", "session", "scan", "problem", "fold")
_COLUMNS += ("predicted", "predicted_after")
_COLUMNS += ("target", "target_probability", "target_probability_after", "share_of_the_way")
_COLUMNS += ("judges_for_target", "judges_for_target_after")
_COLUMNS += ("strongest", "x_mm", "y_mm", "z_mm", "largest_displacement_mm", "folded")
_COLUMNS += ("share_outside_brain", *QUALITY, "warnings")


def simulate(
    study: Study,
    model: nn.Module,
    *,
    target: str | None = None,
    typical: Study | None = None,
    atlas: Atlas | None = None,
    steps: int = STEPS,
    blur_mm: float = BLUR_MM,
    judges: Sequence[nn.Module] = (),
    scans: bool = True,
    tables: bool = True,
    progress: bool = True,
) -> pd.DataFrame:
    """Deform each brain until the network sees a typical person of the other class.

    For the scan ``sub-01_T1w.nii.gz``: the simulated brain,
    ``sub-01_space-MNI152NLin2009aSym_res-4_desc-simulated_T1w.nii.gz`` (and JSON); the log
    expansion from the scan to it, above 0 where tissue grew, ``sub-01_desc-simulated_map.nii.gz``
    (on the scan's voxels) and the same with ``_space-MNI152NLin2009aSym_res-4`` (on the model's
    grid); a picture (PNG) and a record (JSON). For all, in ``group``:
    ``desc-simulated_scans.tsv`` with one row a scan, ``desc-simulated_regions.tsv`` with one row a
    scan, region and side, and ``desc-simulated_summary.json`` with counts.

    A changed mind alone proves no anatomy, see the head of this module. Nothing here is a finding
    about a person, or for clinical use.

    Parameters
    ----------
    study : Study
        A scan on the model's grid is taken as it is; any other is preprocessed, or read from where
        `preprocess` has left it. What is finished is skipped; a scan that changed is done again.
        Typical is who stands in the middle of those whom the network takes for a class, in the
        whole folder, also if the study is about some of its people only. If that becomes somebody
        else, all scans are done again.
    model : Module
        From `helpers.models.load`, with two classes; it stays as it is. What several that were
        trained alike ask for together, as a `helpers.models.Ensemble` with a card, is less often a
        quirk of one.
    target : str, optional
        Class to move everybody to, for a comparison of groups; default each scan's other class.
    typical : Study, optional
        Whose scans say what is typical, where the network finds one class only in this folder.
    atlas : Atlas, optional
        On the model's grid; default the tissues of the template.
    steps : int
        As of `helpers.warping.optimize`.
    blur_mm : float
        Standard deviation of the Gaussian that keeps deformations smooth, in millimetres.
    judges : sequence of Module
        Networks that took no part, for the same classes on the same grid: trained on other people,
        or from other weights. They are asked about each brain before and after.
    scans, tables : bool
        Simulate each scan; write what is about all of them. Where several programs share the scans,
        the tables are written once, when all are done.
    progress : bool
        Show a bar.

    Returns
    -------
    DataFrame
        One row a scan. ``problem`` says why it could not be simulated, ``warnings`` why its
        simulation should not be believed. Probabilities are of ``target``. ``share_of_the_way``
        says how far the log odds came towards the typical person's (1: there);
        ``judges_for_target`` and ``judges_for_target_after`` are the shares of the judges that take
        scan and simulated brain for the target; ``strongest`` is the
        log expansion of largest size in the brain, and where; ``folded`` the share of voxels that
        turn over themselves, as no anatomy does. A map's places are those of the simulated brain,
        at most ``largest_displacement_mm`` from the scan's.

    Raises
    ------
    ValueError
        If the network has not two classes, fails on the template's brain, or cannot be changed by
        deforming; if it takes everybody for one class; if target, judges, atlas or options do not
        fit; or
        the output holds simulations that were made with other settings.
    CannotWriteError
        If the disk is full or refuses.

    Warns
    -----
    UserWarning
        If a file of an earlier run is damaged; what it stood for is done again.

    Examples
    --------
    >>> from helpers import cohorts, models
    >>> from helpers.study import Study, simulating
    >>> mine = Study(cohorts.real_study(), "results")
    >>> table = simulating.simulate(mine, models.load("sex"))  # doctest: +SKIP
    >>> table["predicted_after"].value_counts()  # doctest: +SKIP
    """
    how = {"target": target, "steps": steps, "blur_mm": blur_mm, "judges": judges}
    maps = maps_of(study, model, **how)
    atlas = anatomy.atlas(maps.grid) if atlas is None else atlas
    if atlas.grid != maps.grid:
        raise ValueError("the atlas lies on another grid; make it with anatomy.atlas(grid, ...)")
    check_names(study.folder, study.scans, maps.endings)
    maps.check_settings()
    if scans:
        asked = Asked(model, maps.grid, steps=steps, blur_mm=blur_mm)
        asked.check_template()
        study.describe()
        known = asked.typical(typical or study, locked_by=study, progress=progress)
        asked.check_way(known)
        maps.write_settings()
        copies = [copy.deepcopy(judge).float().eval().to(runtime.device()) for judge in judges]
        votes = partial(_votes, copies)
        one = partial(_simulate, maps=maps, asked=asked, known=known, target=target, votes=votes)
        left = [scan for scan in study.scans if not _is_done(scan, maps, known)]
        in_turn = study.in_turn(left)
        for scan in runtime.progress(in_turn, label="simulate", total=len(left), show=progress):
            if not _is_done(scan, maps, known):  # another program may have done it meanwhile
                key = maps.key(scan)
                maps.remove(scan)
                maps.write(scan, key, records.attempt(one, scan))
    return maps.write_tables(atlas) if tables else maps.table()


def maps_of(
    study: Study,
    model: nn.Module,
    *,
    target: str | None = None,
    steps: int = STEPS,
    blur_mm: float = BLUR_MM,
    judges: Sequence[nn.Module] = (),
) -> "Simulations":
    """Return what `simulate` writes for a network, and where.

    Raises
    ------
    ValueError
        If the network has not two classes, or the target, a judge or an option does not fit.
    """
    grid = model_grid(model)
    classes = list(model.card["classes"])
    if len(classes) != 2:
        raise ValueError(
            f"a simulation leads from one class to the other, so it takes a network with two "
            f"classes; the card names {len(classes)}: {classes}"
        )
    if target is not None and target not in classes:
        raise ValueError(f"there is no class {target!r}; the model knows {classes}")
    if not (steps >= 1 and 0 < blur_mm < math.inf):
        raise ValueError(
            f"expected steps of 1 or more and a blur_mm above 0, got {steps} and {blur_mm}"
        )
    potentials.checked_shape(grid.shape)
    settings = {
        "weights_sha256": keyed.fingerprint(model),
        "method": SIMULATED,
        "target": target or "the other class",
        "intensity": model.card.get("intensity", "median"),
        "steps": steps,
        "blur_mm": blur_mm,
        **({"judges_sha256": _checked_judges(judges, model)} if judges else {}),
    }
    return Simulations(study, SIMULATED, grid, settings)


class Simulations(Maps):
    """The simulations of a study, and everything that is written about them."""

    columns = _COLUMNS
    done = SIMULATED

    @property
    def endings(self) -> tuple[str, ...]:
        """What a scan's name is followed by: maps, brain and its JSON, picture, record."""
        own, in_mni, *rest = super().endings
        brain = f"{on_grid(self.grid)}_desc-{self.label}_T1w"
        return own, in_mni, f"{brain}.nii.gz", f"{brain}.json", *rest

    def write_tables(self, atlas: Atlas) -> pd.DataFrame:
        """Write tables of scans and regions and a summary into ``group``; return that of scans."""
        table = super().write_tables(atlas)
        good = table[table["problem"].isna()]
        changed = good["predicted"] != good["predicted_after"]
        summary = records.read(self.group("_summary.json"), "it was written just now")
        summary |= {"changed_their_class": int(changed.sum()), "what": CAVEAT}
        runtime.write_json(self.group("_summary.json"), summary)
        return table


def _is_done(scan: Scan, maps: Simulations, known: Typical) -> bool:
    """Say whether a scan is finished, and was led to those who are typical now."""
    if not maps.finished(scan, maps.key(scan)):
        return False
    record = records.read(maps.files(scan)[-1], f"{scan.file} is simulated again") or {}
    before = record.get("typical", {})
    return all(before.get(name, {}).get("key") == now["key"] for name, now in known.said.items())


def _checked_judges(judges: Sequence[nn.Module], model: nn.Module) -> list[str]:
    """Return the weights' fingerprints of networks that took no part, if they can judge."""
    prints = [keyed.fingerprint(judge) for judge in judges]
    if keyed.fingerprint(model) in prints or len(set(prints)) != len(prints):
        raise ValueError("a judge takes no part, and each is asked once: this one is there twice")
    for judge in judges:
        if list(judge.card["classes"]) != list(model.card["classes"]):
            raise ValueError(
                f"a judge knows {judge.card['classes']}, the model {model.card['classes']}; "
                f"expected the same classes in the same order"
            )
        if model_grid(judge) != model_grid(model):
            raise ValueError(
                "a judge reads another grid than the model: what was deformed for one would be cut "
                "or resampled for the other, and its answer be about that"
            )
    return prints


def _votes(
    judges: Sequence[nn.Module],
    label: int,
    before: Float[Tensor, "1 x y z"],
    after: Float[Tensor, "1 x y z"],
) -> dict[str, float]:
    """Return the shares of the judges that take a scan and its simulation for the target."""
    return {
        f"judges_for_target{when}": sum(
            int(
                models.predict(judge, models.as_the_network_reads(brain[None], judge.card)).argmax()
            )
            == label
            for judge in judges
        )
        / len(judges)
        for when, brain in (("", before), ("_after", after))
        if judges
    }


def _simulate(
    scan: Scan,
    *,
    maps: Simulations,
    asked: Asked,
    known: Typical,
    target: str | None,
    votes: Callable[..., dict[str, float]],
) -> dict:
    """Simulate one scan and write its files; return its record."""
    volume, report = scan.on(maps.grid, maps.study.preprocessed)
    fold = asked.fold(scan.participant_id)
    asked = asked.unseen(scan.participant_id)
    seen = asked.read(volume)
    label = int(asked.log_odds(seen) <= 0) if target is None else asked.classes.index(target)
    found = asked.way(seen, label, known)
    moved = found.displacement
    brain = _cut_out(volume, moved) if moved.any() else volume
    expansion = found.log_expansion[0]
    record = {
        "fold": fold,
        **asked.minds(label, known, seen, found.volumes, asked.read(brain)),
        **votes(label, volume, brain),
        **_sizes(expansion, moved, (volume != 0) | (brain != 0), maps.grid),
        **report.quality(),
    }
    record["warnings"] = "; ".join(_doubts(record))
    own, in_mni, simulated, about, drawn, _ = maps.files(scan)
    grids.save(brain, maps.grid, simulated)
    runtime.write_json(about, {**scan.sidecar(maps.grid), "what": CAVEAT})
    grids.save(expansion, maps.grid, in_mni)
    grids.save(to_scan(expansion, report, maps.grid), report.native, own)
    shown = expansion * (volume != 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a map of zeros, which the record speaks of
        lines = _in_words(record)
        picture = sheet(volume, shown, grid=maps.grid, title=scan.name, lines=lines)
    with runtime.replacing(drawn) as unfinished:
        Image.fromarray(picture).save(unfinished, compress_level=4)
    return {**record, "typical": known.said, "what": CAVEAT}


def _cut_out(
    volume: Float[Tensor, "1 x y z"], displacement: Float[Tensor, "1 3 x y z"]
) -> Float[Tensor, "1 x y z"]:
    """Return a deformed brain whose edge is as sharp as a scan's.

    A rim of half brain, half air would count as brain wherever intensities are standardised.
    """
    brain = fields.warp((volume != 0).float()[None], displacement)[0]
    moved = fields.warp(volume[None], displacement)[0]
    return (moved / brain.clamp_min(0.5)) * (brain > 0.5)


def _sizes(
    expansion: Float[Tensor, "1 x y z"],
    displacement: Float[Tensor, "1 3 x y z"],
    inside: Bool[Tensor, "1 x y z"],
    grid: Grid,
) -> dict:
    """Say how much was moved, and where, in MNI millimetres, tissue changed its volume most."""
    values = (expansion * inside)[0].numpy()
    peak = np.unravel_index(np.abs(values).argmax(), values.shape)
    where = dict(zip(("x_mm", "y_mm", "z_mm"), grid.millimetres(peak).tolist(), strict=True))
    moved_mm = float((displacement.norm(dim=1) * inside).max()) * grid.spacing_mm[0]
    return {
        "strongest": float(values[peak]),
        **where,
        "largest_displacement_mm": round(moved_mm, 3),
        "folded": float(fields.folding_fraction(displacement)),
        "share_outside_brain": round(
            float(evaluation.share_outside(expansion[None], inside[None])), 6
        ),
    }


def _doubts(record: dict) -> list[str]:
    """Return why a simulation should not be believed."""
    target, strongest = record["target"], record["strongest"]
    outside = record["share_outside_brain"]
    doubts = {
        f"the network took this scan for {target} before": record["predicted"] == target,
        "nothing was moved": strongest == 0,
        f"the network does not take the simulated brain for {target}": (
            record["predicted_after"] != target
        ),
        f"read from its file, the simulated brain is {record['predicted_of_file']}": (
            record["predicted_of_file"] != record["predicted_after"]
        ),
        "most networks that took no part do not take the simulated brain for it": (
            record.get("judges_for_target_after", 1) <= 0.5
        ),
        f"a log expansion of {strongest:.2g} is no anatomy": abs(strongest) > _SEVENFOLD,
        f"{record['folded']:.2%} of the voxels turn over themselves": record["folded"] > 0,
        f"{outside:.0%} of the map lies outside the brain": outside > 0.5,
    }
    return [doubt for doubt, holds in doubts.items() if holds]


def _in_words(record: dict) -> list[str]:
    target = record["target"]
    before, after = (record[f"target_probability{when}"] for when in ("", "_after"))
    return [
        f"log expansion from the scan to its simulation as {target}",
        f"p({target}): {before:.2f}, then {after:.2f}",
        *([f"warning: {record['warnings']}"] if record["warnings"] else []),
        "A changed mind alone proves no anatomy.",
    ]
