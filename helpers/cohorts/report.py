"""What preprocessing did to one scan: where it came from, how it was moved, how well it fits."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from helpers import grids, runtime
from helpers.grids import Grid

# What a table about many scans shows of each report.
QUALITY = ("mask_dice", "template_correlation", "volume_ratio")


@dataclass(frozen=True, eq=False)
class Report:
    """How one scan came to its volume, and so how a map finds its way back.

    Attributes
    ----------
    native : Grid
        The voxels of the scan's file, in the order of the file.
    to_mni : ndarray of shape (4, 4)
        Maps the scan's millimetres to MNI millimetres, or on a grid of `helpers.grids.native` to
        that grid's: it then turns and shifts only.
    mutual_information : float or None
        Mattes mutual information with the template at the end of the registration, in nats;
        larger is better. None for a scan that was not registered.
    mask_dice : float or None
        Overlap of the moved brain mask and the template's, 0 to 1; None if no mask was given,
        because the template's own mask then stands in.
    template_correlation : float or None
        Pearson correlation with the template's intensities inside the template's brain; None for
        a scan in its own space.
    volume_ratio : float
        Factor by which the affine enlarges the head: above 1 for heads smaller than the template.
        Removing head size removes information (it differs between the sexes); here it is.
    rough_to_mni : ndarray of shape (4, 4), optional
        The first of two fits, which says where the brain is when no mask does.
    cut_off : float, optional
        Of a scan in its own space, the share of the brain that the grid does not reach, 0 to 1.
    """

    native: Grid
    to_mni: Float[np.ndarray, "4 4"]
    mutual_information: float | None
    mask_dice: float | None
    template_correlation: float | None
    volume_ratio: float
    rough_to_mni: Float[np.ndarray, "4 4"] | None = None
    cut_off: float | None = None

    def quality(self) -> dict[str, float | None]:
        """Return the numbers of `QUALITY`, for a table."""
        return {name: getattr(self, name) for name in QUALITY}

    def onto(self, grid: Grid) -> Float[np.ndarray, "4 4"]:
        """Return what takes the scan's millimetres to those of a grid.

        That is `to_mni`, but on a grid of `helpers.grids.rigid` only its rotation and shift: head
        size and form stay the person's own. What the affine takes to `grids.MIDDLE_MM` is then in
        the middle as well.
        """
        if not grid.is_rigid:
            return self.to_mni
        left, _, right = np.linalg.svd(self.to_mni[:3, :3])  # of the polar decomposition
        turn = left @ right
        middle = np.linalg.inv(self.to_mni) @ [*grids.MIDDLE_MM, 1.0]
        moved = np.eye(4)
        moved[:3, :3], moved[:3, 3] = turn, -turn @ middle[:3]
        return moved

    def in_scan(self, grid: Grid) -> Grid:
        """Return where the voxels of a grid lie in the scan's own millimetres."""
        return Grid(grid.shape, np.linalg.inv(self.onto(grid)) @ grid.affine, self.native.space)

    def in_mni(self, grid: Grid) -> Grid:
        """Return where the voxels of a grid lie in MNI space."""
        return Grid(grid.shape, self.to_mni @ self.in_scan(grid).affine, "mni")

    def save(self, path: str | Path, *, key: str = "") -> None:
        """Write the report as JSON, completely or not at all.

        Parameters
        ----------
        key : str
            Of the state of the scan that the report is about; `load` asks for the same.
        """
        runtime.write_json(path, {"key": key, **asdict(self)}, default=np.ndarray.tolist)

    @classmethod
    def load(cls, path: str | Path, *, key: str = "") -> "Report":
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            If the file is damaged, or about another state of the scan.
        """
        try:
            kept = json.loads(Path(path).read_text())
            if kept.pop("key", "") != key:
                raise ValueError("it is about another state of the scan")
            native = kept.pop("native")
            kept["native"] = Grid(
                tuple(native["shape"]), np.array(native["affine"]), native["space"]
            )
            for name in ("to_mni", "rough_to_mni"):
                if kept[name] is not None:
                    kept[name] = np.array(kept[name], dtype=float)
            return cls(**kept)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} is not a whole report of preprocessing: {error}") from error
