"""Which lesion does an optimised picture show? Correlation with the four shapes.

The matching rule, in full. What counts is the picture's *deviation* from the brain it started from.
Each shape of `helpers.cohorts.shapes` is rendered as it is in the cohorts, at one volume. Around
every voxel of the brain the deviation inside a ball, the same for all shapes and just large enough
for the longest, is correlated with the rendered shape (Pearson's r: the mean is subtracted, the
contrast divided out, so that neither brightness nor size of the signal helps). First every shape is
tried everywhere, in the same set of turns and of places between the voxels. From its best few tries
place and turn are then refined. Without this a ball, which fits in any turn, would beat a cube that
no turn of the set quite meets. The shape with the highest r wins.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation
from torch import Tensor

from helpers import runtime
from helpers.cohorts.shapes import SHAPES, Body
from helpers.grids import Grid

_REACH = 1.75  # radius of the window in radii of the ball: no shape extends farther
_TRIES = 3  # coarse fits of a shape that are refined
_FAINT = 0.05  # windows that deviate less than this share of the strongest one are not looked at


def match_shapes(
    deviations: Float[Tensor, "image 1 x y z"],
    grid: Grid,
    mask: Bool[Tensor, "1 x y z"],
    *,
    radius_mm: float = 15.0,
    turns: int = 24,
) -> pd.DataFrame:
    """Return how well each shape fits each picture, at its best place and turn.

    Parameters
    ----------
    deviations : tensor of shape (image, 1, x, y, z)
        Optimised volume minus what it started from.
    grid : Grid
    mask : tensor of shape (1, x, y, z)
        Where the centre of a shape may lie, as a rule the brain; the deviation outside counts as 0.
    radius_mm : float
        Radius of the ball of the same volume, default 15 mm, that of the ``lesion`` cohort.
    turns : int
        Turns in which each shape is tried everywhere, default 24.

    Returns
    -------
    DataFrame
        One row an image and shape: ``image``, ``shape``, ``correlation`` (Pearson's r, -1 to 1),
        the voxel ``x``, ``y``, ``z`` of the best place, and ``best`` (True for one shape an image).

    Raises
    ------
    ValueError
        If a deviation is zero everywhere inside the mask.

    Examples
    --------
    >>> import torch
    >>> from helpers import anatomy
    >>> from helpers.evaluation import matching
    >>> from helpers.cohorts.shapes import Body
    >>> brain = anatomy.template()
    >>> rod = Body("rod", torch.tensor([20.0, 0, 30]), torch.tensor([40.0, 10, 0]), 15.0, 1.0)
    >>> table = matching.match_shapes(rod.occupancy(brain.grid)[None], brain.grid, brain.mask)
    >>> table.loc[table["best"], "shape"].tolist()
    ['rod']
    """
    if tuple(deviations.shape[2:]) != grid.shape or tuple(mask.shape[1:]) != grid.shape:
        raise ValueError(
            f"deviations {tuple(deviations.shape)} and mask {tuple(mask.shape)} must lie on the "
            f"grid {grid.shape}"
        )
    library = _library(grid, radius_mm, turns)
    rows = []
    for image, deviation in enumerate(deviations[:, 0].detach().cpu().float() * mask[0]):
        if not deviation.abs().max() > 0:
            raise ValueError(f"image {image} does not deviate inside the mask: nothing to match")
        spectrum = torch.fft.rfftn(deviation)
        sums = _correlate(spectrum, library.window, grid)
        squares = _correlate(torch.fft.rfftn(deviation.square()), library.window, grid)
        spread = (squares - sums.square() / library.size).clamp_min(0).sqrt()
        looked_at = mask[0] & (spread > _FAINT * spread.max())
        for shape in SHAPES:
            tries = []
            for body, rendered in library.tries[shape]:
                fit = torch.where(looked_at, _correlate(spectrum, rendered, grid) / spread, -1.0)
                tries.append((float(fit.max()), int(fit.argmax()), body))
            tries.sort(key=lambda one: -one[0])
            refined = [
                _refined(deviation, np.unravel_index(place, grid.shape), body, grid)
                for _, place, body in tries[:_TRIES]
            ]
            correlation, body = max(refined, key=lambda one: one[0])
            rows.append(
                [image, shape, correlation, *grid.voxels(body.center_mm).round().astype(int)]
            )
    table = pd.DataFrame(rows, columns=["image", "shape", "correlation", "x", "y", "z"])
    highest = table.groupby("image")["correlation"].transform("idxmax")
    return table.assign(best=highest == table.index)


def around(
    deviation: Float[Tensor, "1 x y z"], voxel: tuple[int, int, int], *, reach: int = 7
) -> Float[Tensor, "1 side side side"]:
    """Cut a cube around a voxel out of a picture, ``2 * reach + 1`` voxels wide, zeros beyond."""
    padded = F.pad(deviation, (reach,) * 6)
    return padded[(slice(None), *(slice(v, v + 2 * reach + 1) for v in voxel))]


def specimens(
    grid: Grid, *, reach: int = 7, radius_mm: float = 15.0
) -> tuple[Grid, Float[Tensor, "shape 1 side side side"]]:
    """Return the grid of what `around` cuts out, 0 mm in its middle, with the four shapes upright.

    Examples
    --------
    >>> from helpers import grids
    >>> from helpers.evaluation import matching
    >>> small, shapes = matching.specimens(grids.mni(4.0))
    >>> small.shape, tuple(shapes.shape)
    ((15, 15, 15), (4, 1, 15, 15, 15))
    """
    affine = grid.affine.copy()
    affine[:3, 3] = affine[:3, :3] @ np.full(3, -reach)
    small = Grid((2 * reach + 1,) * 3, affine)
    bodies = [Body(name, torch.zeros(3), torch.zeros(3), radius_mm, 1.0) for name in SHAPES]
    return small, torch.stack([body.occupancy(small) for body in bodies])


@dataclass(frozen=True, eq=False)
class _Library:
    """Conjugate spectra, ready for correlation: the window, and every shape in all turns."""

    window: Tensor
    size: float
    tries: dict[str, list[tuple[Body, Tensor]]]


@lru_cache(maxsize=2)
def _library(grid: Grid, radius_mm: float, turns: int) -> _Library:
    """Render every shape around the middle voxel, with mean 0 and norm 1 inside the window."""
    middle = torch.tensor([n // 2 for n in grid.shape])
    window = _window(grid, middle, radius_mm)
    angles = Rotation.random(turns, random_state=0).as_euler("xyz", degrees=True)
    between = torch.rand(turns, 3, generator=runtime.generator(0)) - 0.5
    places = torch.from_numpy(grid.millimetres(middle + between)).float()
    tries = {name: [] for name in SHAPES}
    for place, turn in zip(places, torch.from_numpy(angles).float(), strict=True):
        for name in SHAPES:
            body = Body(name, place, turn, radius_mm, 1.0)
            rendered = body.occupancy(grid)[0]
            rendered = (rendered - rendered[window].mean()) * window
            tries[name].append((body, _spectrum(rendered / rendered.norm(), middle)))
    return _Library(_spectrum(window.float(), middle), float(window.sum()), tries)


def _window(grid: Grid, voxel, radius_mm: float) -> Bool[Tensor, "x y z"]:
    """Return the ball around a voxel in which pictures and shapes are compared."""
    center = torch.from_numpy(grid.millimetres(voxel)).float()
    distance = (grid.centers_mm() - center.view(3, 1, 1, 1)).square().sum(0).sqrt()
    return distance <= _REACH * radius_mm + min(grid.spacing_mm)


def _spectrum(picture: Float[Tensor, "x y z"], middle: Tensor) -> Tensor:
    # The middle voxel goes to the corner, so that the correlation lands on the centre's voxel.
    return torch.fft.rfftn(picture.roll((-middle).tolist(), dims=(0, 1, 2))).conj()


def _correlate(spectrum: Tensor, rendered: Tensor, grid: Grid) -> Float[Tensor, "x y z"]:
    return torch.fft.irfftn(spectrum * rendered, s=grid.shape)


def _refined(deviation: Tensor, voxel, body: Body, grid: Grid) -> tuple[float, Body]:
    """Move and turn a body around a voxel until it correlates best (Nelder and Mead)."""
    # Only the box around the window matters.
    reach = math.ceil(_REACH * body.radius_mm / min(grid.spacing_mm)) + 1
    low = np.maximum(np.array(voxel) - reach, 0)
    box = tuple(slice(a, v + reach + 1) for a, v in zip(low, voxel, strict=True))
    affine = grid.affine.copy()
    affine[:3, 3] = grid.millimetres(low)
    local = Grid(tuple(deviation[box].shape), affine)
    window = _window(local, np.array(voxel) - low, body.radius_mm)
    picture = deviation[box][window]
    middle = torch.from_numpy(grid.millimetres(voxel)).float()

    def moved(change: np.ndarray) -> Body:
        shift, turn = torch.from_numpy(change).float().split(3)
        return replace(body, center_mm=middle + shift, rotation_deg=body.rotation_deg + turn)

    def unlike(change: np.ndarray) -> float:
        rendered = moved(change).occupancy(local)[0][window]
        return -float(torch.corrcoef(torch.stack([picture, rendered]))[0, 1])

    corners = np.vstack([np.zeros(6), np.diag([2.0, 2, 2, 15, 15, 15])])  # mm and degrees
    found = minimize(
        unlike,
        np.zeros(6),
        method="Nelder-Mead",
        options={"initial_simplex": corners, "maxfev": 120, "fatol": 1e-4, "xatol": 0.1},
    )
    return -float(found.fun), moved(found.x)
