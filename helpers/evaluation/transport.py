"""How far would a map have to be carried to become the truth?

Scores that count voxels punish a map one voxel beside the truth as hard as one in the other
hemisphere. The earth mover's distance does not: it is the mean way, in millimetres, that the map's
mass has to travel.

References
----------
Clark, Wilming, Haufe (2024), XAI-TRIS: non-linear image benchmarks to quantify false positive
post-hoc attribution: the distance as a score of maps. Rubner, Tomasi, Guibas (2000).
"""

import numpy as np
import ot
import pandas as pd
from jaxtyping import Bool, Float
from torch import Tensor

from helpers.evaluation.masks import counted, warn_of_zero_maps
from helpers.grids import Grid


def earth_movers_distance(
    maps: Float[Tensor, "subject 1 x y z"],
    truth: Float[Tensor, "subject 1 x y z"],
    *,
    within: Bool[Tensor, "#subject 1 x y z"],
    grid: Grid,
    block_mm: float = 16.0,
) -> pd.DataFrame:
    """Return how far the size of each map lies from the truth, one row a subject.

    Mass is first gathered in blocks, each at the centre of the mass in it; the blocks are small
    beside the ways between structures, and the problem becomes small enough to be solved exactly.

    Parameters
    ----------
    maps : tensor of shape (subject, 1, x, y, z)
        Their absolute value is scored.
    truth : tensor of the same shape
        0 or above: a planted mask as numbers, or what each voxel's part is worth.
    within : boolean tensor of the same shape, or of one subject for all
        Voxels that count: the brain, ``volumes != 0``.
    grid : Grid
    block_mm : float
        Side of a block.

    Returns
    -------
    DataFrame
        ``distance_mm``, and ``chance_mm``: that of a map which is the same everywhere within. An
        empty map scores as that.

    Raises
    ------
    ValueError
        If shapes differ, a value is negative in the truth or not a number, or a subject's truth is
        empty.

    Examples
    --------
    >>> from helpers import cohorts, evaluation
    >>> patients = cohorts.simulate("atrophy", subjects=2)
    >>> patients = patients[patients.labels == 1]
    >>> truth = patients.truth.mask.float()
    >>> table = evaluation.earth_movers_distance(
    ...     truth, truth, within=patients.volumes != 0, grid=patients.grid
    ... )
    >>> float(table["distance_mm"].round(3).iloc[0])
    0.0
    """
    if maps.shape != truth.shape or tuple(maps.shape[2:]) != grid.shape:
        raise ValueError(
            f"maps and truth need one shape on a grid of {grid.shape}, got {tuple(maps.shape)} and "
            f"{tuple(truth.shape)}"
        )
    if not block_mm >= max(grid.spacing_mm):
        raise ValueError(f"block_mm must be a voxel's side or more, got {block_mm}")
    inside = counted(maps, within)
    counted(truth, within)
    warn_of_zero_maps(maps, inside)
    positions = grid.centers_mm().movedim(0, -1).double().numpy()
    rows = []
    for i in range(len(maps)):
        counts = inside[i, 0].numpy()
        places, mass, right = positions[counts], maps[i, 0].abs().numpy()[counts], truth[i, 0]
        right = right.numpy()[counts]
        if right.min() < 0 or right.max() == 0:
            raise ValueError(
                f"the truth of subject {i} must be 0 or above and somewhere above 0 among the "
                f"voxels that count; score only subjects with an effect"
            )
        even = np.ones_like(mass)
        goal = _blocks(places, right, block_mm)
        chance = _distance(_blocks(places, even, block_mm), goal)
        found = _distance(_blocks(places, mass, block_mm), goal) if mass.max() > 0 else chance
        rows.append({"distance_mm": found, "chance_mm": chance})
    return pd.DataFrame(rows)


def _blocks(places: np.ndarray, mass: np.ndarray, block_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the centre of mass and the mass of each block that has any."""
    places, mass = places[mass > 0], mass[mass > 0].astype(float)
    _, block = np.unique(np.floor(places / block_mm).astype(int), axis=0, return_inverse=True)
    total = np.bincount(block.ravel(), mass)
    centers = [np.bincount(block.ravel(), mass * along) / total for along in places.T]
    return np.stack(centers, axis=1), total


def _distance(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> float:
    (from_here, mass), (to_there, goal) = one, other
    ways = ot.dist(from_here, to_there, metric="euclidean")
    return float(ot.emd2(mass / mass.sum(), goal / goal.sum(), ways))
