"""Exercises of chapter 1: brains as tensors."""

import numpy as np

from helpers import anatomy, grids
from helpers.exercises.answers import equal, near, numbers, word
from helpers.exercises.checks import Exercise

_POINT_MM = (-25, -21, -15)


def _nearest_voxel(given) -> bool:
    return np.array_equal(given, np.round(grids.mni().voxels(_POINT_MM)))


def _affine_of_the_flipped_array(given) -> bool:
    grid = grids.mni()
    last = grid.shape[1] - 1
    right = grid.affine.copy()
    right[:, 3] += right[:, 1] * last
    right[:, 1] *= -1
    return np.allclose(given, right, atol=1e-3)


def _litres_of_white_matter(given) -> bool:
    brain = anatomy.template()
    right = float(brain.tissues[1].sum()) * brain.grid.voxel_volume_mm3 / 1e6
    return near(right, within=0.02 * right)(given)


EXERCISES = {
    "1.1": Exercise(
        read=numbers(3),
        right=_nearest_voxel,
        praise="You went through the inverse of the affine and took the nearest centre.",
        hint=(
            "brain.grid.voxels turns millimetres into indices, with fractions. Which whole number "
            "is nearest to 16.75? Cutting the fraction off is not rounding."
        ),
    ),
    "1.2": Exercise(
        read=word("left", "right"),
        right=equal("left"),
        praise="In RAS+ the index grows towards the right, so small indices are on the left.",
        hint=(
            "Ask the grid for the millimetres of voxel (10, 0, 0). What does the sign of x say in "
            "RAS+? It is the subject's side that counts, not the side of the picture."
        ),
    ),
    "1.3": Exercise(
        read=numbers(4, 4),
        right=_affine_of_the_flipped_array,
        praise="The step along y changed its sign, and voxel 0 moved to where the last one was.",
        hint=(
            "Only the second row of the affine changes. Test your matrix at two voxels of the "
            "flipped array, since a shift alone can repair one. Voxel (0, 0, 0) holds what voxel "
            "(0, 55, 0) held, and (0, 55, 0) what (0, 0, 0) held. Your matrix times (i, j, k, 1) "
            "must give each of them the millimetres that it had before."
        ),
    ),
    "1.4": Exercise(
        read=numbers(),
        right=_litres_of_white_matter,
        praise="Partly filled voxels count with the part that is filled.",
        hint=(
            "Sum the fractions of the right map (see anatomy.TISSUES) rather than counting voxels, "
            "multiply by the volume of one voxel, and go from cubic millimetres to litres."
        ),
    ),
}
