"""Explain every scan of a folder: a map on the scan's own voxels, tables, a picture to look at.

Each scan's files are written all or nothing and its record last, so that an interrupted run goes
on where it stopped and several processes share the work without getting in each other's way.
"""

import inspect
import json
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from PIL import Image
from torch import Tensor, nn

from helpers import anatomy, attribution, evaluation, grids, keyed, models, runtime
from helpers.anatomy import Atlas
from helpers.cohorts import bids, preprocessing
from helpers.cohorts.report import QUALITY
from helpers.cohorts.scans import Scan, find_scans, load_scan, to_scan
from helpers.errors import BrokenScanError
from helpers.grids import Grid
from helpers.processes import launched_fabric
from helpers.viewers.sheet import sheet

# What a scan's name is followed by. The record comes last, so a scan with one is finished.
MAP, MNI_MAP, PICTURE, RECORD = (
    "_map.nii.gz",
    "_space-MNI152_map.nii.gz",
    "_map.png",
    "_map.json",
)


def explain_folder(
    model: nn.Module,
    folder: str | Path,
    output: str | Path,
    *,
    method: str,
    target: str | None = None,
    layer: str | None = None,
    atlas: Atlas | None = None,
    masks: str | None = None,
    cache: str | Path | None = None,
    fabric: Fabric | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Write a map, a picture and a record for each scan, and tables about all of them.

    For the scan ``NAME.nii.gz``: ``NAME_map.nii.gz`` (on the scan's voxels, with its affine),
    ``NAME_space-MNI152_map.nii.gz`` (on the model's grid, for statistics over subjects),
    ``NAME_map.png`` and ``NAME_map.json``. For all: ``scans.csv`` with one row a scan,
    ``regions.csv`` with one row a scan, region and side, ``summary.json`` with counts, and
    ``settings.json``.

    Parameters
    ----------
    model : Module
        From `helpers.models.pretrained`: its ``card`` names classes and grid. It is moved to the
        device of ``fabric``.
    folder : str or Path
        Holds NIfTI files, or BIDS subfolders ``sub-*``. A scan on the model's grid is taken as it
        is; any other is preprocessed as in `helpers.cohorts.from_bids`.
    output : str or Path
        Scans that are finished there are skipped. A scan that changed since is done again.
    method : str
        One of `helpers.attribution.METHODS`, with its default options.
    target : str, optional
        Class to explain; default each scan's predicted class.
    layer : str, optional
        For methods that look at a layer.
    atlas : Atlas, optional
        On the model's grid; default the tissues of the template.
    masks : str, optional
        Where each scan's brain mask is, see `helpers.cohorts.from_bids`. In a folder of NIfTI
        files, ``{participant_id}`` is the file's name without its ending.
    cache : str or Path, optional
        For preprocessed volumes; default ``preprocessed`` beside ``output``, where the next method
        finds them.
    fabric : Fabric, optional
        Launched. Default: the GPU if there is one; all processes that ``torchrun`` or
        ``fabric run`` started, which divide the scans among them.
    progress : bool
        Show a bar.

    Returns
    -------
    DataFrame
        What ``scans.csv`` holds. ``problem`` says why a scan could not be explained.

    Raises
    ------
    FileNotFoundError
        If there is no scan in the folder.
    ValueError
        If the method, target, layer or atlas do not fit, or ``output`` holds maps that were made
        with other settings.
    """
    folder, output = Path(folder), Path(output)
    grid, classes = model_grid(model), list(model.card["classes"])
    if target is not None and target not in classes:
        raise ValueError(f"there is no class {target!r}; the model knows {classes}")
    atlas = anatomy.atlas(grid) if atlas is None else atlas
    if atlas.grid != grid:
        raise ValueError("the atlas lies on another grid; make it with anatomy.atlas(grid, ...)")
    scans = find_scans(folder)
    if output.resolve() == folder.resolve():
        raise ValueError(f"maps in the folder of the scans would pass for scans: {output}")
    cache = output.parent / "preprocessed" if cache is None else Path(cache)
    fabric = fabric or launched_fabric()
    # Bars of several processes would write over each other.
    explain = _explainer(model, method, layer, progress and fabric.world_size == 1)
    model.to(fabric.device)
    settings = {
        "weights_sha256": keyed.fingerprint(model),
        "method": method,
        "target": target or "predicted",
        "layer": layer,
    }
    _check_settings(output / "settings.json", settings)

    def load(scan: dict) -> Scan:
        mask = bids.find_mask(folder, masks, scan)
        return load_scan(folder / scan["scan"], grid, cache=cache, mask=mask)

    keys = {scan["name"]: _key(folder, scan, grid, masks) for scan in scans}
    pending = [scan for scan in scans if not _finished(output, scan["name"], keys[scan["name"]])]
    fabric.barrier()  # all have looked before one writes
    if fabric.is_global_zero:
        _write_json(output / "settings.json", settings)
    mine = pending[fabric.global_rank :: fabric.world_size]
    for scan in runtime.progress(mine, label=method, show=progress and fabric.is_global_zero):
        name = scan["name"]
        for ending in (RECORD, MAP, MNI_MAP, PICTURE):
            (output / f"{name}{ending}").unlink(missing_ok=True)
        try:
            loaded = load(scan)
        except (BrokenScanError, FileNotFoundError) as error:
            record = {"problem": str(error)}
        else:
            found, explained_map = _explained(model, loaded.volume, explain, target)
            record = {**found, **_place(explained_map, grid), **loaded.report.quality()}
            _write_maps(output / name, explained_map, loaded, grid)
            lines = [method, *_in_words(record)]
            _write_picture(output / f"{name}{PICTURE}", loaded, explained_map, grid, name, lines)
        _write_json(output / f"{name}{RECORD}", {"scan": scan["scan"], "key": keys[name], **record})
    fabric.barrier()
    table = _read_records(output, scans)
    if fabric.is_global_zero:
        _write_tables(output, table, grid, atlas)
    fabric.barrier()
    return table


def model_grid(model: nn.Module) -> Grid:
    """Return the MNI grid that a model reads, from its card.

    Raises
    ------
    ValueError
        If the card is missing or incomplete, or its shape is not the grid's.
    """
    card = getattr(model, "card", {})
    missing = sorted({"classes", "shape", "spacing_mm"} - card.keys())
    if missing:
        raise ValueError(f"the model's card does not say {missing}; see models.save_pretrained")
    grid = grids.mni(card["spacing_mm"])
    if tuple(card["shape"]) != grid.shape:
        raise ValueError(
            f"the model reads {tuple(card['shape'])} voxels, the MNI grid of "
            f"{card['spacing_mm']} mm has {grid.shape}: scans cannot be brought to it"
        )
    return grid


def _explainer(model: nn.Module, method: str, layer: str | None, progress: bool) -> Callable:
    if method not in attribution.METHODS:
        raise ValueError(f"unknown method {method!r}; there are {sorted(attribution.METHODS)}")
    explain = attribution.METHODS[method]
    known = inspect.signature(explain).parameters
    options = {"progress": progress} if "progress" in known else {}
    if layer is not None:
        if "layer" not in known:
            raise ValueError(f"{method} looks at no layer; leave {layer!r} out")
        models.layer(model, layer)  # says which there are
        options["layer"] = layer
    return partial(explain, **options)


def _explained(model, volume, explain, target) -> tuple[dict, Tensor]:
    """Return what the model says and why."""
    classes = model.card["classes"]
    probabilities = models.predict(model, volume[None])[0].softmax(0)
    predicted = int(probabilities.argmax())
    chosen = predicted if target is None else classes.index(target)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        explained_map = explain(model, volume[None], chosen)[0]
    found = {
        "predicted": classes[predicted],
        "predicted_probability": round(float(probabilities[predicted]), 6),
        "explained": classes[chosen],
        "explained_probability": round(float(probabilities[chosen]), 6),
        "warnings": "; ".join(dict.fromkeys(str(w.message) for w in caught)),
    }
    return found, explained_map


def _place(explained_map: Tensor, grid: Grid) -> dict:
    """Say where, in MNI millimetres, the map is strongest, and how strong."""
    values = explained_map[0].numpy()
    peak = np.unravel_index(np.abs(values).argmax(), values.shape)
    where = dict(zip(("x_mm", "y_mm", "z_mm"), grid.millimetres(peak).tolist(), strict=True))
    return {"strongest": float(values[peak]), **where}


def _in_words(record: dict) -> list[str]:
    return [
        f"predicted: {record['predicted']}, p = {record['predicted_probability']:.2f}",
        f"explained: {record['explained']}, p = {record['explained_probability']:.2f}",
        *([f"warning: {record['warnings']}"] if record["warnings"] else []),
    ]


def _write_maps(path: Path, explained_map: Tensor, scan: Scan, grid: Grid) -> None:
    grids.save(explained_map, grid, path.with_name(path.name + MNI_MAP))
    native = to_scan(explained_map, scan.report, grid)
    grids.save(native, scan.report.native, path.with_name(path.name + MAP))


def _write_picture(path: Path, scan: Scan, explained_map: Tensor, grid, name, lines) -> None:
    # The volume that the network saw, not the file: no faces, and the same slices for everybody.
    picture = sheet(scan.volume, explained_map, grid=grid, title=name, lines=lines)
    with runtime.replacing(path) as unfinished:
        Image.fromarray(picture).save(unfinished)


def _write_tables(output: Path, table: pd.DataFrame, grid: Grid, atlas: Atlas) -> None:
    good = table[table["problem"].isna()]
    regions = []
    for name in good["name"]:
        values = torch.from_numpy(grids.read(output / f"{name}{MNI_MAP}")[0])[None, None]
        rows = evaluation.by_region(values, grid, atlas).drop(columns="sd")
        rows["mean_absolute"] = evaluation.by_region(values.abs(), grid, atlas)["mean"]
        rows.insert(0, "name", name)
        regions.append(rows)
    tables = {"scans.csv": table, "regions.csv": pd.concat(regions) if regions else pd.DataFrame()}
    for file, rows in tables.items():
        with runtime.replacing(output / file) as unfinished:
            rows.to_csv(unfinished, index=False)
    broken = table[table["problem"].notna()]
    counts = {
        "scans": len(table),
        "explained": len(good),
        "with_warnings": int((good["warnings"] != "").sum()),
        "broken": len(broken),
        "problems": dict(zip(broken["scan"], broken["problem"], strict=True)),
    }
    _write_json(output / "summary.json", counts)


def _read_records(output: Path, scans: list[dict]) -> pd.DataFrame:
    columns = ["name", "scan", "problem", "predicted", "predicted_probability", "explained"]
    columns += ["explained_probability", "strongest", "x_mm", "y_mm", "z_mm", *QUALITY]
    records = [
        {"name": scan["name"], **json.loads((output / f"{scan['name']}{RECORD}").read_text())}
        for scan in scans
    ]
    return pd.DataFrame(records).reindex(columns=[*columns, "warnings"])


def _key(folder: Path, scan: dict, grid: Grid, masks: str | None) -> str | None:
    """Return a name that changes with the scan or its mask; None if one of them is missing."""
    try:
        mask = bids.find_mask(folder, masks, scan)
        return preprocessing.kept_name(folder / scan["scan"], grid, mask)
    except (BrokenScanError, FileNotFoundError):
        return None


def _finished(output: Path, name: str, key: str | None) -> bool:
    files = [output / f"{name}{ending}" for ending in (MAP, MNI_MAP, PICTURE, RECORD)]
    if not all(file.exists() for file in files):
        return False
    return json.loads(files[-1].read_text())["key"] == key


def _check_settings(path: Path, settings: dict) -> None:
    if path.exists() and (found := json.loads(path.read_text())) != settings:
        raise ValueError(
            f"{path.parent} holds maps that were made with {found}, this run has {settings}; "
            f"name another output folder"
        )


def _write_json(path: Path, content: dict) -> None:
    with runtime.replacing(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n")
