"""Exercises of chapter 1: brains as tensors."""

import numpy as np

from helpers import anatomy, grids
from helpers.exercises.check import Exercise

_POINT_MM = (-25, -21, -15)


def _nearest_voxel(answer) -> bool:
    given = np.asarray(answer, dtype=float).ravel()
    right = np.round(grids.mni().voxels(_POINT_MM))
    return given.shape == (3,) and np.array_equal(given, right)


def _affine_of_the_flipped_array(answer) -> bool:
    grid = grids.mni()
    last = grid.shape[1] - 1
    right = grid.affine.copy()
    right[:, 3] += right[:, 1] * last
    right[:, 1] *= -1
    given = np.asarray(answer, dtype=float)
    return given.shape == (4, 4) and np.allclose(given, right, atol=1e-3)


def _litres_of_white_matter(answer) -> bool:
    brain = anatomy.template()
    right = float(brain.tissues[1].sum()) * brain.grid.voxel_volume_mm3 / 1e6
    return abs(float(answer) - right) < 0.02 * right


EXERCISES = {
    "1.1": Exercise(
        right=_nearest_voxel,
        praise="You went through the inverse of the affine and took the nearest centre.",
        hint=(
            "brain.grid.voxels turns millimetres into indices, with fractions. Which whole number "
            "is nearest to 16.75? Cutting the fraction off is not rounding."
        ),
    ),
    "1.2": Exercise(
        right=lambda answer: str(answer).strip().lower() in ("left", "l"),
        praise="In RAS+ the index grows towards the right, so small indices are on the left.",
        hint=(
            "Ask the grid for the millimetres of voxel (10, 0, 0). What does the sign of x say in "
            "RAS+? It is the subject's side that counts, not the side of the picture."
        ),
    ),
    "1.3": Exercise(
        right=_affine_of_the_flipped_array,
        praise="The step along y changed its sign, and voxel 0 moved to where the last one was.",
        hint=(
            "Two numbers of the affine change, both in its second row. Test your matrix: the "
            "flipped array's voxel (14, 24, 25) holds the block, so grids.Grid(brain.grid.shape, "
            "answer).millimetres((14, 24, 25)) must give the block's place in the head."
        ),
    ),
    "1.4": Exercise(
        right=_litres_of_white_matter,
        praise="Partly filled voxels count with the part that is filled.",
        hint=(
            "Sum the fractions of the right map (see anatomy.TISSUES) rather than counting voxels, "
            "multiply by the volume of one voxel, and go from cubic millimetres to litres."
        ),
    ),
}
