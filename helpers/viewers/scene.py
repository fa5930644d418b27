"""What a viewer shows: a volume, overlays and an outline on one frame, checked and with a scale."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from helpers.grids import Grid
from helpers.viewers import frames, rendering, style
from helpers.viewers.frames import ACROSS, AXES, Frame

Voxel = tuple[int, int, int]

MINUS = "\N{MINUS SIGN}"
LATTICE_VOXELS = 3  # from one line of the drawn grid to the next


@dataclass(frozen=True, eq=False)
class Scene:
    """Checked layers, from back to front.

    Attributes
    ----------
    frame : Frame
    volume : ndarray of shape (x, y, z)
    window : tuple of float
        Intensities shown as black and white.
    overlays : dict of str to ndarray of shape (x, y, z)
    limits : dict of str to float
        Absolute value that gets the strongest colour, for each overlay.
    mask : ndarray of shape (x, y, z), optional
    smooth : bool
        Interpolate between voxels, or show them as squares.
    displacement : ndarray of shape (3, x, y, z), optional
        The field that made the volume, in voxels.
    """

    frame: Frame
    volume: Float[np.ndarray, "x y z"]
    window: tuple[float, float]
    overlays: dict[str, Float[np.ndarray, "x y z"]]
    limits: dict[str, float]
    mask: Bool[np.ndarray, "x y z"] | None = None
    smooth: bool = True
    displacement: Float[np.ndarray, "3 x y z"] | None = None

    def grey(self, axis: int, *, frame: Frame | None = None, voxels: slice | None = None):
        """Paint the volume's slices along an axis: (slice, row, column)."""
        tiles = rendering.tiles(
            self.volume, frame or self.frame, axis, voxels=voxels, smooth=self.smooth
        )
        return rendering.paint_grey(tiles, *self.window)

    def colors(
        self,
        name: str,
        axis: int,
        *,
        frame: Frame | None = None,
        voxels: slice | None = None,
        threshold: float = 0.0,
    ):
        """Paint an overlay's slices along an axis: (slice, row, column, 4)."""
        tiles = rendering.tiles(
            self.overlays[name], frame or self.frame, axis, voxels=voxels, smooth=self.smooth
        )
        return style.overlay_colors(tiles / self.limits[name], threshold)

    def outline(self, axis: int, *, frame: Frame | None = None, voxels: slice | None = None):
        """Paint the mask's outline in the slices along an axis: (slice, row, column, 4)."""
        tiles = rendering.tiles(
            self.mask.astype(np.float32),
            frame or self.frame,
            axis,
            voxels=voxels,
            smooth=self.smooth,
        )
        return rendering.paint_outline(tiles)

    def lattice(self, axis: int, *, frame: Frame | None = None, voxels: slice):
        """Paint planes of the undeformed volume where one slice cuts them now: (row, column, 4).

        A displacement says where each voxel came from: the lines are where this is a multiple of
        `LATTICE_VOXELS`.
        """
        came_from = self.displacement + np.indices(self.volume.shape)
        options = {"voxels": voxels, "smooth": self.smooth}
        shown = rendering.tiles(
            np.ones_like(self.volume), frame or self.frame, axis, voxels=voxels, smooth=False
        )
        positions = np.concatenate(
            [
                rendering.tiles(
                    came_from[a].astype(np.float32), frame or self.frame, axis, **options
                )
                for a in ACROSS[axis]
            ]
        )
        return rendering.paint_lattice(positions, LATTICE_VOXELS) * (shown[0, ..., None] > 0.5)

    def picture(
        self,
        axis: int,
        voxel: int,
        *,
        frame: Frame | None = None,
        overlay: str | None = None,
        opacity: float = 1.0,
        threshold: float = 0.0,
    ) -> UInt8[np.ndarray, "row column 3"]:
        """Return one slice with everything on it, as one opaque picture."""
        one = {"frame": frame, "voxels": slice(voxel, voxel + 1)}
        picture = np.repeat(self.grey(axis, **one)[0, ..., None].astype(float), 3, axis=-1)
        layers = []
        if overlay is not None:
            layers.append((self.colors(overlay, axis, threshold=threshold, **one)[0], opacity))
        if self.displacement is not None:
            layers.append((self.lattice(axis, **one), 1.0))
        if self.mask is not None:
            layers.append((self.outline(axis, **one)[0], 1.0))
        for layer, strength in layers:
            share = layer[..., 3:] / 255 * strength
            picture = picture * (1 - share) + layer[..., :3] * share
        return picture.round().astype(np.uint8)

    def values(self) -> str:
        """Say in words what the overlays and the mask hold; nothing without them."""
        said = []
        for name, overlay in self.overlays.items():
            peak = np.unravel_index(np.abs(overlay).argmax(), overlay.shape)
            strongest = f"{overlay[peak]:.3g}".replace("-", MINUS)
            said.append(
                f"Colour shows {name} from {MINUS}{self.limits[name]:.3g} (blue) to "
                f"{self.limits[name]:.3g} (orange), strongest ({strongest}) at "
                f"{place(self.frame.grid, peak)}."
            )
        if self.mask is not None and self.mask.any():
            volume_ml = int(self.mask.sum()) * self.frame.grid.voxel_volume_mm3 / 1000
            center = np.argwhere(self.mask).mean(axis=0)
            said.append(
                f"An outline marks a region of {volume_ml:.3g} ml around "
                f"{place(self.frame.grid, center)}."
            )
        return " ".join(said)


def scene(
    volume,
    overlay=None,
    *,
    grid: Grid,
    mask=None,
    limit: float | int | None = None,
    window=None,
    position_mm=None,
    name: str = "map",
    smooth: bool = True,
    crop: bool = True,
) -> tuple[Scene, Voxel]:
    """Check all layers, choose scales and frame, and say which voxel to look at first.

    Warns
    -----
    UserWarning
        If an overlay is zero everywhere, or the mask is empty: nothing of it can be seen.
    """
    volume = frames.checked(volume, grid)
    named = overlay if isinstance(overlay, Mapping) else {name: overlay}
    overlays = {
        key: frames.checked(values, grid, _called(key))
        for key, values in named.items()
        if values is not None
    }
    if limit is not None and not limit > 0:
        raise ValueError(f"limit is the overlay's strongest value shown, above 0; got {limit}")
    limits = {}
    for key, values in overlays.items():
        limits[key] = float(limit or rendering.limit_of(values))
        if not values.any():
            warnings.warn(
                f"the {_called(key)} is zero everywhere, so nothing of it can be seen; if a "
                f"method made it, check that the method reached the input",
                UserWarning,
                stacklevel=3,
            )
            limits[key] = float(limit or 1.0)
    if mask is not None:
        mask = frames.checked(mask, grid, "mask") > 0.5
        if not mask.any():
            warnings.warn("the mask is empty: there is no outline", UserWarning, stacklevel=3)
    if window is None:
        window = rendering.window(volume)
    elif len(window) != 2 or not window[0] < window[1]:
        raise ValueError(f"window is (black, white) with black below white, got {window}")
    shown = np.ones(grid.shape, bool)
    if crop:
        shown = frames.content(volume)
        for layer in (*overlays.values(), mask):
            if layer is not None and layer.any():
                shown = shown | frames.content(layer.astype(np.float32))
    whole = frames.frame(grid, np.ones(grid.shape, bool))
    first = next(iter(overlays.values()), None)
    if position_mm is not None:
        voxel = frames.focus(whole, position_mm=position_mm)
        shown[voxel] = True
    framed = frames.frame(grid, shown)
    voxel = frames.focus(framed, position_mm=position_mm, overlay=first, mask=mask)
    return Scene(
        framed, volume, (float(window[0]), float(window[1])), overlays, limits, mask, smooth
    ), voxel


def place(grid: Grid, voxel) -> str:
    """Write a voxel's position as ``x 12, y 4, z 20 mm``."""
    position = grid.millimetres(np.asarray(voxel, dtype=float))
    return ", ".join(f"{a} {number(mm)}" for a, mm in zip(AXES, position, strict=True)) + " mm"


def number(mm: float) -> str:
    """Write millimetres without a needless decimal, and never as minus zero."""
    rounded = round(float(mm), 1) + 0.0
    written = f"{rounded:.0f}" if rounded == int(rounded) else f"{rounded:.1f}"
    return written.replace("-", MINUS)


def crosshair(frame: Frame, axis: int, voxel: Voxel) -> tuple[float, float]:
    """Return where a voxel lies in its tile along an axis: share from the left, from below."""
    return tuple(round(frame.fraction(a, voxel[a]), 4) for a in ACROSS[axis])


def _called(name: str) -> str:
    return "overlay" if name == "map" else f"overlay {name!r}"
