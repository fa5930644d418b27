"""Explain every scan of a study: a map on the scan's own voxels, tables, a picture to look at.

Each scan's files are written all or nothing and its record last, so that an interrupted run goes
on where it stopped and several processes share the work without getting in each other's way.
"""

import functools
import inspect
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from PIL import Image
from torch import Tensor, nn

from helpers import anatomy, attribution, evaluation, grids, keyed, models, runtime
from helpers.anatomy import Atlas
from helpers.cohorts.finding import check_names
from helpers.cohorts.scans import Scan, mni_of, to_mni, to_scan
from helpers.errors import InterruptedWarning
from helpers.grids import Grid
from helpers.processes import launched_fabric, together
from helpers.study import records
from helpers.study.folders import Study
from helpers.study.records import Maps
from helpers.viewers.sheet import sheet

_NATIVE = (
    'this network reads scans that were not registered (space = "native" in its card), and what '
    "lies in MNI space does not lie on them: leave the atlas out and name each person's own "
    "regions instead (--segmentations, --segmentation-names). Of the verbs, only explain takes it; "
    "trust, simulate and maximize need a network of registered scans"
)
_OWN_SIZE = (
    'this network reads heads that keep their size (space = "rigid" in its card), so a voxel is '
    "another place in each of them. Of the verbs, only explain takes it, and brings the maps to "
    "MNI space; trust, simulate and maximize need a network of heads of the template's size"
)
_FROM = "mm from the brain's middle"
# Share of a brain.
_WORTH_A_WARNING = 0.005


def explain(
    study: Study,
    model: nn.Module,
    *,
    method: str,
    target: str | None = None,
    layer: str | None = None,
    smooth_mm: float = 0.0,
    threshold: float = 0.0,
    atlas: Atlas | None = None,
    segmentation_names: str | Path | None = None,
    scans: bool = True,
    tables: bool = True,
    fabric: Fabric | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Write a map, a picture and a record for each scan, and tables about all of them.

    For the scan ``sub-01_T1w.nii.gz`` and Grad-CAM: ``sub-01_desc-gradcam_map.nii.gz`` (on the
    scan's voxels, with its affine), the same with ``_space-MNI152NLin2009aSym_res-4`` (on the
    model's grid, for statistics over subjects), a picture (PNG) and a record (JSON). For all, in
    ``group``: ``desc-gradcam_scans.tsv`` with one row a scan, ``desc-gradcam_regions.tsv`` with
    one row a scan, region and side, and ``desc-gradcam_summary.json`` with counts.

    A network whose card says ``space = "native"`` sees each brain in its own space, see
    `helpers.cohorts.native`: nothing is registered, there is no map in MNI space, no table by an
    atlas, and places are in the scan's own millimetres. The record says how much of the brain the
    network's voxels cut off (``cut_off``, a share), the warnings from half a percent on.

    Parameters
    ----------
    study : Study
        A scan on the model's grid is taken as it is; any other is preprocessed, or read from where
        `preprocess` has left it. Scans that are finished are skipped. A scan that changed since is
        done again, and so is one whose files were lost or damaged since.
    model : Module
        From `helpers.models.load`: its ``card`` names classes, grid and intensities. It is moved to
        the device of ``fabric``. Of a cross-validation's networks, each scan is explained by the
        one that has not seen it, and a scan of somebody new by all: the mean of their maps.
    method : str
        One of `helpers.attribution.METHODS`, with its default options.
    target : str, optional
        Class to explain; default each scan's predicted class.
    layer : str, optional
        For methods that look at a layer.
    smooth_mm : float
        Width (FWHM) of the Gaussian before the strongest place is looked for, the picture drawn and
        the regions of the atlas measured; default 0. The maps themselves stay as they came.
    threshold : float
        What is weaker than this share of the strongest counts as 0 in picture and regions, 0 to 1;
        default 0.
    atlas : Atlas, optional
        On the model's grid; default the tissues of the template. None for a network in native
        space.
    segmentation_names : str or Path, optional
        Names of the labels of the study's ``segmentations``, see `helpers.anatomy.atlas`: writes
        ``desc-gradcam_ownregions.tsv``, each map by its person's own regions.
    scans, tables : bool
        Explain each scan; write what is about all of them. Where several programs share the scans,
        the tables are written once, when all are done.
    fabric : Fabric, optional
        Launched. Default: the GPU if there is one; all processes that ``torchrun`` or
        ``fabric run`` started, which divide the scans among them.
    progress : bool
        Show a bar.

    Returns
    -------
    DataFrame
        One row a scan. ``problem`` says why a scan could not be explained: the scan is broken, or
        the method failed on it. ``share_outside_brain`` is the share of the map's size where the
        network's volume is 0.

    Raises
    ------
    ValueError
        If the method, target, layer, an option or atlas do not fit, the method fails on the
        template's brain too, scans would overwrite each other's maps, or the output holds maps of
        this method that were made with other settings.
    CannotWriteError
        If the disk is full or refuses.
    OtherProcessError
        If another process ended with one of these.

    Warns
    -----
    UserWarning
        If a file of an earlier run is damaged; what it stood for is done again.
    """
    fabric = fabric or launched_fabric()
    pending = None
    with together(fabric):
        grid = _grid(model)
        if grid.is_native and atlas is not None:
            raise ValueError(_NATIVE)
        if not grid.is_native and atlas is None:
            atlas = anatomy.atlas(mni_of(grid))
        if atlas is not None and atlas.grid != mni_of(grid):
            raise ValueError(
                "the atlas lies on another grid; make it with anatomy.atlas(grid, ...)"
            )
        # Bars of several processes would write over each other.
        explain_one = _explainer(model, method, layer, progress and fabric.world_size == 1)
        how = {"target": target, "layer": layer, "smooth_mm": smooth_mm, "threshold": threshold}
        maps = maps_of(study, model, method=method, **how)
        check_names(study.folder, study.scans, maps.endings)
        model.to(fabric.device)
        if fabric.is_global_zero:  # one looks for all, before anything is written
            maps.check_settings()
            pending = unexplained(maps) if scans else []
            study.describe()
            maps.write_settings()
    pending = fabric.broadcast(pending)

    def explain_scan(scan: Scan) -> dict:
        volume, report = scan.on(grid, study.preprocessed)
        networks = _networks(model, scan)
        found, explained_map = _explained(networks, model.card, volume, explain_one, target)
        if isinstance(model, models.FoldSet):
            found["fold"] = model.fold_of.get(scan.participant_id)
        shown = maps.shown(explained_map)
        where = report.in_scan(grid) if grid.is_native else maps.in_mni
        record = {**found, **_place(to_mni(shown, report, grid), where), **report.quality()}
        if grid.is_native:
            record |= _reach(record, report.cut_off)
        lines = [method, *([_FROM] if grid.is_native else []), *_in_words(record)]
        # The volume that the network saw, not the file: no faces, the same slices for everybody.
        picture = sheet(volume, shown, grid=grid, title=scan.name, lines=lines)
        own, *in_mni, drawn, _ = maps.files(scan)
        for file in in_mni:
            grids.save(to_mni(explained_map, report, grid), maps.in_mni, file)
        grids.save(to_scan(explained_map, report, grid), report.native, own)
        with runtime.replacing(drawn) as unfinished:
            # Half the time of Pillow's default, for files that are 2 % larger.
            Image.fromarray(picture).save(unfinished, compress_level=4)
        return record

    @functools.cache
    def check_method() -> None:
        try:
            networks = _networks(model, None)
            _explained(networks, model.card, anatomy.template(grid).t1, explain_one, target)
        except Exception as error:
            raise ValueError(
                f"{method} fails with this network on the template's brain as well, so no scan "
                f"can be explained: {type(error).__name__}: {error}"
            ) from error

    with together(fabric):
        mine = pending[fabric.global_rank :: fabric.world_size]
        show = progress and fabric.is_global_zero
        for scan in runtime.progress(study.in_turn(mine), label=method, total=len(mine), show=show):
            key = maps.key(scan)
            if not maps.finished(scan, key):  # another program may have done it meanwhile
                maps.remove(scan)
                maps.write(scan, key, records.attempt(explain_scan, scan, check=check_method))
    with together(fabric):
        if fabric.is_global_zero and tables:
            return maps.write_tables(atlas, segmentation_names)
        return maps.table()


def maps_of(
    study: Study,
    model: nn.Module,
    *,
    method: str,
    target: str | None = None,
    layer: str | None = None,
    smooth_mm: float = 0.0,
    threshold: float = 0.0,
) -> Maps:
    """Return what `explain` writes for a network and a method, and where.

    Raises
    ------
    ValueError
        If the method or the target is unknown, or an option does not fit.
    """
    if not (0 <= smooth_mm < math.inf and 0 <= threshold <= 1):
        raise ValueError(
            f"expected a smooth_mm of 0 or more and a threshold from 0 to 1, got {smooth_mm} and "
            f"{threshold}"
        )
    if method not in attribution.METHODS:
        raise ValueError(f"unknown method {method!r}; there are {sorted(attribution.METHODS)}")
    classes = list(model.card["classes"])
    if target is not None and target not in classes:
        raise ValueError(f"there is no class {target!r}; the model knows {classes}")
    shown = {"smooth_mm": smooth_mm, "threshold": threshold}
    settings = {
        "weights_sha256": keyed.fingerprint(model),
        "method": method,
        "target": target or "predicted",
        "layer": layer,
        "intensity": model.card.get("intensity", "median"),
        **{name: value for name, value in shown.items() if value},
    }
    grid = _grid(model)
    space = model.card.get("space", "mni")
    return Maps(study, method, grid, settings | ({} if space == "mni" else {"space": space}))


def unexplained(maps: Maps) -> list[Scan]:
    """Return the scans that are not explained yet, or not as they are now."""
    return [scan for scan in maps.study.scans if not maps.finished(scan, maps.key(scan))]


def model_grid(model: nn.Module) -> Grid:
    """Return the grid in MNI space that a model reads, from its card.

    Raises
    ------
    ValueError
        If the card is missing, incomplete or wrong, see `helpers.models.cards`, or the network
        reads scans in their own space, or heads of their own size.
    """
    if _grid(model).is_rigid:
        raise ValueError(_OWN_SIZE)
    return maps_grid(model)


def maps_grid(model: nn.Module) -> Grid:
    """Return the grid in MNI space that a model's maps are brought to, from its card.

    Raises
    ------
    ValueError
        If the card is missing, incomplete or wrong, or the network reads scans in their own space.
    """
    grid = _grid(model)
    if grid.is_native:
        raise ValueError(_NATIVE)
    return mni_of(grid)


def _grid(model: nn.Module) -> Grid:
    """Return the grid that a model reads, in whatever space."""
    card = getattr(model, "card", {})
    models.check_card(card, "the model's card")
    return models.card_grid(card)


def _explainer(model: nn.Module, method: str, layer: str | None, progress: bool) -> Callable:
    if method not in attribution.METHODS:
        raise ValueError(f"unknown method {method!r}; there are {sorted(attribution.METHODS)}")
    explain = attribution.METHODS[method]
    known = inspect.signature(explain).parameters
    options = {"progress": progress} if "progress" in known else {}
    if layer is not None:
        if "layer" not in known:
            raise ValueError(f"{method} looks at no layer; leave {layer!r} out")
        models.layer(_networks(model, None)[0], layer)  # says which there are
        options["layer"] = layer
    return functools.partial(explain, **options)


def _networks(model: nn.Module, scan: Scan | None) -> list[nn.Module]:
    """Return the networks that may explain a scan; without one, any."""
    if not isinstance(model, models.FoldSet):
        return [model]
    return list(model.networks) if scan is None else model.not_seen(scan.participant_id)


def _explained(
    networks: list[nn.Module],
    card: dict,
    volume: Tensor,
    explain_one: Callable,
    target: str | None,
) -> tuple[dict, Tensor]:
    """Return what networks say of a standardised brain, and why: the means of their answers."""
    classes = card["classes"]
    seen = models.as_the_network_reads(volume[None], card)
    logits = torch.stack([models.predict(network, seen)[0] for network in networks])
    probabilities = logits.mean(0).softmax(0)
    if len(probabilities) != len(classes):
        raise ValueError(
            f"the network tells {len(probabilities)} classes apart, its card names {list(classes)}"
        )
    predicted = int(probabilities.argmax())
    chosen = predicted if target is None else classes.index(target)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        maps = [explain_one(network, seen, chosen)[0] for network in networks]
        explained_map = torch.stack(maps).mean(0)
    if any(issubclass(warning.category, InterruptedWarning) for warning in caught):
        raise KeyboardInterrupt  # a map that was stopped halfway is no result
    if not (probabilities.isfinite().all() and explained_map.isfinite().all()):
        raise FloatingPointError(
            f"the network's answer or the map is not finite; the scan's values reach "
            f"{float(volume.abs().max()):.3g}, expected about 1"
        )
    outside = float(evaluation.share_outside(explained_map[None], volume[None] != 0))
    said = [str(warning.message) for warning in caught]
    if outside > 0.5:
        said.append(f"{outside:.0%} of the map lies outside the brain, where the volume is 0")
    found = {
        "predicted": classes[predicted],
        "predicted_probability": round(float(probabilities[predicted]), 6),
        "explained": classes[chosen],
        "explained_probability": round(float(probabilities[chosen]), 6),
        "share_outside_brain": round(outside, 6),
        "warnings": "; ".join(dict.fromkeys(said)),
    }
    return found, explained_map


def _place(explained_map: Tensor, grid: Grid) -> dict:
    """Say where, in the grid's millimetres, the map is strongest, and how strong."""
    values = explained_map[0].numpy()
    peak = np.unravel_index(np.abs(values).argmax(), values.shape)
    where = dict(zip(("x_mm", "y_mm", "z_mm"), grid.millimetres(peak).tolist(), strict=True))
    return {"strongest": float(values[peak]), **where}


def _reach(record: dict, cut_off: float) -> dict:
    """Say how much of a brain the network has not seen."""
    said = [record["warnings"]] if record["warnings"] else []
    if cut_off >= _WORTH_A_WARNING:
        said.append(f"{cut_off:.0%} of the brain does not fit onto the network's voxels")
    return {"cut_off": cut_off, "warnings": "; ".join(said)}


def _in_words(record: dict) -> list[str]:
    return [
        f"predicted: {record['predicted']}, p = {record['predicted_probability']:.2f}",
        f"explained: {record['explained']}, p = {record['explained_probability']:.2f}",
        f"outside the brain: {record['share_outside_brain']:.0%}",
        *([f"warning: {record['warnings']}"] if record["warnings"] else []),
    ]
