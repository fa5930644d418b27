"""The scans of a folder: each knows its files, is brought to a grid once, and is told the way home.

A `Scan` is born with all its paths; nothing below looks a path up again. What `Scan.prepare` makes
of it is kept in a cache that is laid out as BIDS derivatives are. The JSON file beside each volume
holds a key of the contents, so that an interrupted run goes on, and a scan that has changed is done
again.

References
----------
BIDS 1.10, Derivatives: https://bids-specification.readthedocs.io/en/stable/derivatives/
"""

import hashlib
import json
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from helpers import errors, grids, runtime
from helpers.cohorts import native, plausibility, preprocessing
from helpers.cohorts.report import Report
from helpers.errors import BrokenScanError, CannotWriteError
from helpers.grids import Grid

# What BIDS calls the space of the template.
SPACE = "MNI152NLin2009aSym"
# And that of a person who was only turned and shifted onto it.
OWN_SIZE = "individual"
TRANSFORM = f"_from-T1w_to-{SPACE}_mode-image_xfm.json"


@dataclass(frozen=True)
class Scan:
    """One T1-weighted scan of a folder, and where everything about it is.

    Attributes
    ----------
    image : Path
        The scan's file.
    mask : Path, optional
        Its brain mask or parcellation; the file may be missing, which `prepare` says. On a grid of
        `helpers.grids.native`, the segmentation stands in for it.
    participant_id, session : str
        Whose it is and from which visit; "" where the folder does not say.
    file : str
        The scan's file relative to the folder, as tables name it.
    segmentation : Path, optional
        This person's own regions; the file may be missing, too.
    """

    image: Path
    mask: Path | None = None
    participant_id: str = ""
    session: str = ""
    file: str = ""
    segmentation: Path | None = None

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return without_ending(self.image)

    def derived(self, folder: str | Path, ending: str) -> Path:
        """Return where something about this scan belongs, as in BIDS derivatives.

        Examples
        --------
        >>> from pathlib import Path
        >>> from helpers.cohorts.scans import Scan
        >>> scan = Scan(Path("study/a/b_T1w.nii"), file="a/b_T1w.nii")
        >>> scan.derived("out", "_desc-brain_mask.nii.gz").as_posix()
        'out/a/b_desc-brain_mask.nii.gz'
        """
        name = f"{self.name.removesuffix('_T1w')}{ending}"
        return Path(folder) / Path(self.file).parent / name

    def key(self, grid: Grid | None = None) -> str:
        """Return ten letters that change with the contents of scan and mask, and with the grid.

        Raises
        ------
        FileNotFoundError
            If there is no such scan.
        BrokenScanError
            If its mask is missing.
        """
        parts = [preprocessing.VERSION]
        if grid is not None:
            parts += [grid.shape, np.round(grid.affine, 4).tolist()]
        parts += [runtime.checksum(file) for file in self._files(grid)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:10]

    def is_prepared(self, grid: Grid, cache: str | Path) -> bool:
        """Say whether `prepare` would find this scan, as it is now, in a cache.

        Raises
        ------
        FileNotFoundError, BrokenScanError
            As `key`.
        """
        return self._kept(grid, cache) is not None and self.kept_report(cache) is not None

    def kept_report(self, cache: str | Path) -> Report | None:
        """Return what a cache holds of the registration of this scan, as it is now, if it does.

        Raises
        ------
        FileNotFoundError, BrokenScanError
            As `key`.
        """
        try:
            return Report.load(self.derived(cache, TRANSFORM), key=self.key())
        except (ValueError, FileNotFoundError):  # not there yet, of another scan, or damaged
            return None

    def prepare(self, grid: Grid, cache: str | Path) -> tuple[Float[Tensor, "1 x y z"], Report]:
        """Preprocess the scan, or read what an earlier call has kept.

        The report is kept once and serves every grid, each volume by its grid: the scan is
        registered once. What takes a moment, the way to a grid of `helpers.grids.native`, is gone
        each time anew.

        Parameters
        ----------
        grid : Grid
            In MNI space or of `helpers.grids.rigid`; or of `helpers.grids.native`: then nothing is
            registered.
        cache : str or Path
            Folder of the kept volumes (NIfTI) and reports (JSON). Several programs may share it.

        Returns
        -------
        volume : tensor of shape (1, x, y, z)
            Background 0, median of the brain 1.
        report : Report
            How it was moved: `to_scan` brings maps back.

        Raises
        ------
        FileNotFoundError
            If there is no such scan.
        BrokenScanError
            If a file is damaged, the mask is missing, or the registration failed.
        """
        if grid.is_native:
            image, *masks = self._files(grid)
            return native.centred(image, grid, mask=masks[0] if masks else None)
        kept, report = self._kept(grid, cache), self.kept_report(cache)
        if kept is not None and report is not None:
            return torch.from_numpy(grids.read(kept)[0])[None], report
        key, registered = self.key(grid), report is not None
        volume, report = preprocessing.preprocess(
            self.image, grid=grid, mask=self.mask, report=report
        )
        kept = grids.save(volume, grid, self.derived(cache, preprocessed(grid)))
        said = {
            **self.sidecar(grid),
            "Key": key,
            # Tells that two programs with other masks have written here at the same time.
            "SHA256": runtime.checksum(kept),
        }
        runtime.write_json(self.derived(cache, preprocessed(grid, ".json")), said)
        if not registered:
            report.save(self.derived(cache, TRANSFORM), key=self.key())
        return volume, report

    def sidecar(self, grid: Grid) -> dict:
        """Return what BIDS wants to know about a brain on a grid that was made of this scan."""
        said = {
            "Sources": [f"bids:raw:{self.file or self.image.name}"],
            "SkullStripped": True,
            "Resolution": f"{' x '.join(f'{mm:g}' for mm in grid.spacing_mm)} mm",
        }
        if grid.is_rigid:  # a space that BIDS wants to have explained
            affine = self.derived("", TRANSFORM).name
            said["SpatialReference"] = f"rotation and shift of the affine in {affine}"
        return said

    def on(self, grid: Grid, cache: str | Path) -> tuple[Float[Tensor, "1 x y z"], Report]:
        """Return the scan on a model's grid: prepared, or as it is if it lies there already.

        A scan that lies there and was prepared all the same is taken from the cache: a network that
        was trained on prepared scans then sees them.

        Raises
        ------
        FileNotFoundError
            If there is no such scan.
        BrokenScanError
            As `prepare`; and if the scan lies on the grid but is no standardised brain.
        """
        self._files(grid)
        own = grids.read_grid(self.image)
        # Of a head that was turned and shifted already, nothing says what has become of its size.
        lies_there = own.upright() == grid and not (grid.is_native or grid.is_rigid)
        if not lies_there or self.is_prepared(grid, cache):
            return self.prepare(grid, cache)
        data, _ = grids.read(self.image)
        volume = torch.from_numpy(np.ascontiguousarray(data))[None]  # a flipped axis has no copy
        try:
            correlation = plausibility.check_standardised(volume, grid)
        except BrokenScanError as error:
            raise BrokenScanError(
                f"{self.image} lies on the model's grid, so it is not preprocessed again; but "
                f"{error}. Make it so with intensities.standardise, or give the raw scan"
            ) from error
        return volume, Report(own, np.eye(4), None, None, correlation, volume_ratio=1.0)

    def _kept(self, grid: Grid, cache: str | Path) -> Path | None:
        """Return where a cache holds this scan's volume, as it is now; None unless it is whole."""
        kept = self.derived(cache, preprocessed(grid))
        try:
            said = json.loads(self.derived(cache, preprocessed(grid, ".json")).read_text())
            whole = said["Key"] == self.key(grid) and said["SHA256"] == runtime.checksum(kept)
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            self._files(grid)  # is it the scan that is missing?
            return None
        return kept if whole else None

    def _files(self, grid: Grid | None = None) -> list[Path]:
        """Return the scan, and the mask that it has on a grid; raise if one is missing."""
        if not self.image.exists():  # also a link to content that was never fetched (DataLad)
            raise FileNotFoundError(f"{self.image} does not exist, or is a link that leads nowhere")
        mask = self.mask
        if mask is None and grid is not None and grid.is_native:
            mask = self.segmentation
        if mask is None:
            return [self.image]
        if not mask.exists():
            # Falling back on the template's mask would cut this brain out in another way than the
            # rest, and a network may learn the cut.
            raise BrokenScanError(f"its mask is missing: expected {mask}")
        return [self.image, mask]


def preprocessed(grid: Grid, suffix: str = ".nii.gz") -> str:
    """Return how the name of a preprocessed volume on a grid ends.

    Examples
    --------
    >>> from helpers import grids
    >>> from helpers.cohorts.scans import preprocessed
    >>> preprocessed(grids.mni(4.0))
    '_space-MNI152NLin2009aSym_res-4_desc-preproc_T1w.nii.gz'
    >>> preprocessed(grids.mni(1.5, (80, 96, 80)), ".json")
    '_space-MNI152NLin2009aSym_res-1p5x80x96x80_desc-preproc_T1w.json'
    """
    return f"{on_grid(grid)}_desc-preproc_T1w{suffix}"


def on_grid(grid: Grid) -> str:
    """Return the part of a name that says on which voxels a volume lies."""
    spacing = grid.spacing_mm[0]
    whole = np.allclose(np.multiply(grid.shape, grid.spacing_mm), grids.FIELD_OF_VIEW_MM)
    crop = "" if whole else "".join(f"x{side}" for side in grid.shape)
    space = OWN_SIZE if grid.is_rigid else SPACE
    return f"_space-{space}_res-{spacing:g}{crop}".replace(".", "p")


def without_ending(file: Path) -> str:
    """Return the name of a NIfTI file without its ending."""
    return file.name.removesuffix(".gz").removesuffix(".nii")


def prepare(
    scans: Sequence[Scan],
    grid: Grid,
    cache: str | Path,
    *,
    n_procs: int = 1,
    progress: bool = True,
) -> Iterator[tuple[Tensor, Report] | str]:
    """Prepare many scans; yield each volume and report, or what is wrong with the scan.

    Whatever goes wrong with one scan stops no other. Iterate within ``contextlib.closing``, as over
    `helpers.runtime.in_processes`.

    Raises
    ------
    CannotWriteError
        If the cache cannot be written.
    """
    if n_procs > 1:  # a process takes seconds to start
        waiting = sum(not _takes_no_time(scan, grid, cache) for scan in scans)
        n_procs = max(1, min(n_procs, waiting))
    prepare_one = partial(prepare_or_say, grid=grid, cache=cache)
    return runtime.in_processes(
        prepare_one, scans, n_procs=n_procs, label="preprocessing", show=progress
    )


def to_scan(explained_map: Float[Tensor, "1 x y z"], report: Report, grid: Grid) -> np.ndarray:
    """Bring a map from the grid of a model or cohort to the voxels of the scan's file.

    Going back and forth through the registration, it needs no second one. Where the grid does not
    reach, the map is zero.

    Examples
    --------
    >>> from helpers import cohorts, grids
    >>> cohort = cohorts.from_bids("my_study")  # doctest: +SKIP
    >>> report = cohort.reports[3]  # doctest: +SKIP
    >>> values = cohorts.to_scan(maps[3], report, cohort.grid)  # doctest: +SKIP
    >>> grids.save(values, report.native, "map_of_the_fourth.nii.gz")  # doctest: +SKIP
    """
    values = explained_map[0].numpy()
    if grid.is_native:  # its voxels may lie on the scan's: the outermost, too
        grid = grids.widened(grid)
    on_grid = Grid(report.native.shape, report.onto(grid) @ report.native.affine)
    return _moved(values, grid, on_grid)


def to_mni(explained_map: Float[Tensor, "1 x y z"], report: Report, grid: Grid) -> Tensor:
    """Bring a map from a grid of `helpers.grids.rigid` to MNI space; one that lies there stays.

    The affine that the registration found gives the head the template's size after all.

    Returns
    -------
    tensor of shape (1, x, y, z)
        On the grid of `helpers.grids.mni` of as many voxels of the same size.
    """
    if not grid.is_rigid:
        return explained_map
    moved = _moved(explained_map[0].numpy(), report.in_mni(grid), mni_of(grid))
    return torch.from_numpy(moved)[None]


def mni_of(grid: Grid) -> Grid:
    """Return the grid in MNI space that maps on a grid are brought to, see `to_mni`."""
    return grids.mni(grid.spacing_mm[0], grid.shape) if grid.is_rigid else grid


def _moved(values: np.ndarray, grid: Grid, target: Grid) -> np.ndarray:
    # On the grid's own voxels, in whatever order, nothing is interpolated.
    moved = grids.resample(values, grid, target, nearest=target.upright() == grid)
    # Splines overshoot: a map that is nowhere negative must not become so.
    return moved.clip(min(0.0, float(values.min())), max(0.0, float(values.max())))


def prepare_or_say(scan: Scan, grid: Grid, cache: str | Path) -> tuple[Tensor, Report] | str:
    """Prepare a scan, or say what is wrong with it: one scan stops no other.

    Raises
    ------
    CannotWriteError
        If the cache cannot be written.
    """
    try:
        return scan.prepare(grid, cache)
    except CannotWriteError:  # the disk's fault, not the scan's
        raise
    except (BrokenScanError, FileNotFoundError) as error:
        return errors.beside_name(error, scan.image)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return (
            f"{type(error).__name__}: {error} "
            f"(in {place.name}, {Path(place.filename).name}, line {place.lineno})"
        )


def _takes_no_time(scan: Scan, grid: Grid, cache: str | Path) -> bool:
    """Say whether a scan is in the cache, or cannot be prepared at all."""
    try:
        return scan.is_prepared(grid, cache)
    except (BrokenScanError, OSError):
        return True
