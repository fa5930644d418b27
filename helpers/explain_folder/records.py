"""What is written about a folder of scans, and what an earlier run has finished of it.

A scan is finished if its record holds the scan's key and the checksums of its files. Whatever is
lost, damaged or about another scan is done again; what is damaged is named.
"""

import hashlib
import json
import warnings
from pathlib import Path

import pandas as pd
import torch

from helpers import evaluation, grids, runtime
from helpers.anatomy import Atlas
from helpers.cohorts.report import QUALITY
from helpers.cohorts.scans import Scan
from helpers.errors import BrokenScanError
from helpers.grids import Grid

# What a scan's name is followed by. The record is written last.
MAP, MNI_MAP, PICTURE, RECORD = ENDINGS = (
    "_map.nii.gz",
    "_space-MNI152_map.nii.gz",
    "_map.png",
    "_map.json",
)


def check_settings(output: Path, settings: dict) -> None:
    """Raise a ValueError if the output holds maps that were made with other settings."""
    found = _read(output / "settings.json", "a record's own key says how its map was made")
    if found is not None and found != settings:
        raise ValueError(
            f"{output} holds maps that were made with {found}, this run has {settings}; "
            f"name another output folder"
        )


def write_settings(output: Path, settings: dict) -> None:
    """Write ``settings.json``."""
    _write(output / "settings.json", settings)


def key(scan: Scan, grid: Grid, settings: dict) -> str | None:
    """Return what changes with the scan, its mask or the settings; None if a file is missing."""
    try:
        scan_key = scan.kept_name(grid)
    except (BrokenScanError, OSError):
        return None
    return hashlib.sha256(json.dumps([scan_key, settings]).encode()).hexdigest()


def finished(output: Path, scan: Scan, key: str | None) -> bool:
    """Say whether a scan's files are all there, whole, and about this scan."""
    again = f"{scan.file} is explained again"
    record = _read(output / f"{scan.name}{RECORD}", again)
    if record is None or key is None or record.get("key") != key or "sha256" not in record:
        return False
    for ending, expected in record["sha256"].items():
        file = output / f"{scan.name}{ending}"
        if not file.exists():
            return False
        if _checksum(file) != expected:
            _warn(file, again)
            return False
    return True


def remove(output: Path, scan: Scan) -> None:
    """Remove what an earlier run has left of a scan, the record first."""
    for ending in reversed(ENDINGS):
        (output / f"{scan.name}{ending}").unlink(missing_ok=True)


def write(output: Path, scan: Scan, record: dict) -> None:
    """Write a scan's record, with the checksums of the files that it vouches for."""
    if "problem" not in record:
        files = {ending: output / f"{scan.name}{ending}" for ending in (MAP, MNI_MAP, PICTURE)}
        record = {**record, "sha256": {end: _checksum(file) for end, file in files.items()}}
    whose = {
        "name": scan.name,
        "participant_id": scan.participant_id,
        "session": scan.session,
        "scan": scan.file,
    }
    _write(output / f"{scan.name}{RECORD}", {**whose, **record})


def read_all(output: Path, scans: list[Scan]) -> pd.DataFrame:
    """Return the records of all scans, one row each."""
    columns = ["name", "scan", "problem", "predicted", "predicted_probability", "explained"]
    columns += ["explained_probability", "strongest", "x_mm", "y_mm", "z_mm"]
    columns += ["share_outside_brain", *QUALITY, "warnings"]
    files = [output / f"{scan.name}{RECORD}" for scan in scans]
    return pd.DataFrame([json.loads(file.read_text()) for file in files]).reindex(columns=columns)


def write_tables(output: Path, table: pd.DataFrame, grid: Grid, atlas: Atlas) -> None:
    """Write ``scans.csv``, ``regions.csv`` and ``summary.json``."""
    good = table[table["problem"].isna()]
    columns = ["name", "region", "side", "voxels", "mean", "mean_absolute"]
    regions = [_regions(output, name, grid, atlas) for name in good["name"]]
    regions = pd.concat(regions) if regions else pd.DataFrame(columns=columns)
    tables = {"scans.csv": table, "regions.csv": regions}
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
    _write(output / "summary.json", counts)


def _regions(output: Path, name: str, grid: Grid, atlas: Atlas) -> pd.DataFrame:
    values = torch.from_numpy(grids.read(output / f"{name}{MNI_MAP}")[0])[None, None]
    rows = evaluation.by_region(values, grid, atlas).drop(columns="sd")
    rows["mean_absolute"] = evaluation.by_region(values.abs(), grid, atlas)["mean"]
    rows.insert(0, "name", name)
    return rows


def _read(path: Path, otherwise: str) -> dict | None:
    """Return what a JSON file holds; None if it is missing or, after a warning, damaged."""
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
    except (ValueError, OSError):
        content = None
    if isinstance(content, dict):
        return content
    _warn(path, otherwise)
    return None


def _warn(path: Path, otherwise: str) -> None:
    warnings.warn(f"{path} is damaged; {otherwise}", stacklevel=2)


def _write(path: Path, content: dict) -> None:
    with runtime.replacing(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n")


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
