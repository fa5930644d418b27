"""What is written about a study's scans, and what an earlier run has finished of it.

A scan is finished if its record holds the scan's key and the checksums of its files. Whatever is
lost, damaged or about another scan is done again; what is damaged is named.
"""

import hashlib
import json
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from helpers import errors, evaluation, fields, grids, runtime
from helpers.anatomy import Atlas
from helpers.cohorts.report import QUALITY
from helpers.cohorts.scans import Scan, mni_of, on_grid
from helpers.errors import BrokenScanError, CannotWriteError, LeftOutWarning
from helpers.grids import Grid
from helpers.study.folders import Study
from helpers.study.segmentations import by_own_region

SIMULATED = "simulated"  # what the maps of `helpers.study.simulate` are called
_COLUMNS = ("name", "participant_id", "session", "scan", "problem", "fold", "predicted")
_COLUMNS += ("predicted_probability", "explained", "explained_probability", "strongest")
_COLUMNS += ("x_mm", "y_mm", "z_mm", "share_outside_brain", *QUALITY, "warnings")


@dataclass(frozen=True)
class Maps:
    """The maps that one method has made in a study, and everything that is written about them.

    Attributes
    ----------
    study : Study
    method : str
        One of `helpers.attribution.METHODS`.
    grid : Grid
        Of the network.
    settings : dict
        What two runs must agree in.
    """

    study: Study
    method: str
    grid: Grid
    settings: dict

    columns: ClassVar[tuple[str, ...]] = _COLUMNS
    done: ClassVar[str] = "explained"  # what a finished scan is, in messages and counts

    @property
    def label(self) -> str:
        """How the method is called in names of files: letters only, as BIDS wants it."""
        return self.method.replace("_", "")

    @property
    def in_mni(self) -> Grid:
        """Where in MNI space maps lie; the network's own grid, unless heads keep their size."""
        return mni_of(self.grid)

    @property
    def endings(self) -> tuple[str, ...]:
        """What a scan's name is followed by: map, map in MNI space, picture, record (the last).

        Of a network in native space, there is no map in MNI space.
        """
        own = f"_desc-{self.label}_map"
        in_mni = [] if self.grid.is_native else [f"{on_grid(self.in_mni)}{own}.nii.gz"]
        return f"{own}.nii.gz", *in_mni, f"{own}.png", f"{own}.json"

    def files(self, scan: Scan) -> list[Path]:
        """Return where a scan's map, map in MNI space, picture and record belong."""
        return [scan.derived(self.study.output, ending) for ending in self.endings]

    def check_settings(self) -> None:
        """Raise a ValueError if the output holds maps that were made with other settings."""
        found = read(self._settings_file(), "a record's own key says how its map was made")
        if found is not None and found != self.settings:
            raise ValueError(
                f"{self.study.output} holds maps that were made with {found}, this run has "
                f"{self.settings}; name another output folder"
            )

    def write_settings(self) -> None:
        """Write what holds of all maps; as BIDS has it, a file at the root is about all below.

        Of two programs that begin at once with other settings, one is refused.
        """
        with self.study.lock(self._settings_file().stem):
            self.check_settings()
            runtime.write_json(self._settings_file(), self.settings)

    def shown(self, explained_map: Float[Tensor, "1 x y z"]) -> Float[Tensor, "1 x y z"]:
        """Return what of a map is looked at, in the air as well, where a map should be 0."""
        width = self.settings.get("smooth_mm", 0) / fields.FWHM_PER_SD / self.grid.spacing_mm[0]
        shown = fields.gaussian_blur(explained_map[None], width)[0] if width else explained_map
        return shown * (shown.abs() >= self.settings.get("threshold", 0) * shown.abs().max())

    def key(self, scan: Scan) -> str | None:
        """Return what changes with scan, mask or settings; None if a file is missing."""
        try:
            scan_key = scan.key(self.grid)
        except (BrokenScanError, OSError):
            return None
        return hashlib.sha256(json.dumps([scan_key, self.settings]).encode()).hexdigest()

    def finished(self, scan: Scan, key: str | None) -> bool:
        """Say whether a scan's files are all there, whole, and about this scan."""
        again = f"{scan.file} is {self.done} again"
        *files, record_file = self.files(scan)
        record = read(record_file, again)
        if record is None or key is None or record.get("key") != key or "sha256" not in record:
            return False
        for file, expected in zip(files, record["sha256"], strict=True):
            if not file.exists():
                return False
            if runtime.checksum(file) != expected:
                _warn(file, again)
                return False
        return True

    def remove(self, scan: Scan) -> None:
        """Remove what an earlier run has left of a scan, the record first."""
        for file in reversed(self.files(scan)):
            file.unlink(missing_ok=True)

    def write(self, scan: Scan, key: str | None, record: dict) -> None:
        """Write a scan's record, with the checksums of the files that it vouches for.

        The key is the scan's when its explanation began: a scan that changed since is done again.
        """
        *files, record_file = self.files(scan)
        if "problem" not in record:
            record = {**record, "sha256": [runtime.checksum(file) for file in files]}
        whose = {
            "name": scan.name.removesuffix("_T1w"),
            "participant_id": scan.participant_id,
            "session": scan.session,
            "scan": scan.file,
            "Sources": [f"bids:raw:{scan.file}"],
            "key": key,
        }
        runtime.write_json(record_file, {**whose, **record})

    def table(self) -> pd.DataFrame:
        """Return the records of all scans, one row each."""
        rows = []
        for scan in self.study.scans:
            record = read(self.files(scan)[-1], f"{scan.file} counts as not {self.done}")
            missing = {"scan": scan.file, "problem": f"it has not been {self.done} yet"}
            rows.append(missing if record is None else record)
        return pd.DataFrame(rows).reindex(columns=self.columns)

    def write_tables(
        self, atlas: Atlas | None, segmentation_names: str | Path | None = None
    ) -> pd.DataFrame:
        """Write tables of scans and regions and a summary into ``group``; return that of scans.

        Without an atlas, as in native space, there is no table of regions.

        With names of their labels, also a table by the regions of each person's own segmentation.
        """
        table = self.table()
        good = table["problem"].isna()
        columns = ["name", "region", "side", "voxels", "mean", "mean_absolute"]
        scans = [scan for scan, whole in zip(self.study.scans, good, strict=True) if whole]
        write_table(table, self.group("_scans.tsv"))
        if atlas is not None:
            regions = [self._regions(scan, atlas) for scan in scans]
            regions = pd.concat(regions) if regions else pd.DataFrame(columns=columns)
            write_table(regions, self.group("_regions.tsv"))
        if segmentation_names is not None:
            own = [self._own_regions(scan, segmentation_names) for scan in scans]
            own = pd.concat(own) if own else pd.DataFrame(columns=columns)
            write_table(own, self.group("_ownregions.tsv"))
        broken = table[~good]
        counts = {
            "scans": len(table),
            self.done: int(good.sum()),
            "with_warnings": int((table.loc[good, "warnings"] != "").sum()),
            "broken": len(broken),
            "problems": dict(zip(broken["scan"], broken["problem"], strict=True)),
        }
        runtime.write_json(self.group("_summary.json"), counts)
        return table

    def group(self, ending: str) -> Path:
        """Return where a result about all maps belongs."""
        return self.study.group(f"desc-{self.label}{ending}")

    def _regions(self, scan: Scan, atlas: Atlas) -> pd.DataFrame:
        values = self.shown(torch.from_numpy(grids.read(self.files(scan)[1])[0])[None])[None]
        rows = evaluation.by_region(values, self.in_mni, atlas).drop(columns="sd")
        rows["mean_absolute"] = evaluation.by_region(values.abs(), self.in_mni, atlas)["mean"]
        rows.insert(0, "name", scan.name.removesuffix("_T1w"))
        return rows

    def _own_regions(self, scan: Scan, names: str | Path) -> pd.DataFrame:
        volume, report = scan.on(self.grid, self.study.preprocessed)
        own_map = self.files(scan)[0]
        try:
            rows = by_own_region(scan, own_map, volume, report, self.grid, names=names)
        except BrokenScanError as error:
            warnings.warn(f"{scan.file} has no own regions: {error}", LeftOutWarning, stacklevel=3)
            return pd.DataFrame()
        rows.insert(0, "name", scan.name.removesuffix("_T1w"))
        return rows.drop(columns="sd")

    def _settings_file(self) -> Path:
        return self.study.output / f"desc-{self.label}_map.json"


def attempt(make: Callable[[Scan], dict], scan: Scan, *, check: Callable = lambda: None) -> dict:
    """Return a scan's record, or one that says why there is none: one scan ends no run.

    What failed for another reason than the scan is `check`'s to say, by raising an error.
    """
    try:
        return make(scan)
    except CannotWriteError:  # the disk's fault, not the scan's
        raise
    except (BrokenScanError, FileNotFoundError) as error:
        return {"problem": errors.beside_name(error, scan.image)}
    except Exception as error:
        check()
        said = f"{type(error).__name__}: {error}".removesuffix(": ")
        return {"problem": said, "traceback": traceback.format_exc()}


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as BIDS has it: tabs, and n/a for what is missing."""
    with runtime.replacing(path) as unfinished:
        table.to_csv(unfinished, sep="\t", index=False, na_rep="n/a")


def read(path: Path, otherwise: str) -> dict | None:
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
