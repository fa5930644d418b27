"""Right answers of chapter 1 are accepted, tempting wrong ones are not."""

import numpy as np
import pytest
import torch

from helpers import anatomy, exercises, grids


def says(capsys, name, answer):
    exercises.check(name, answer)
    return capsys.readouterr().out


def turned(offset_mm):
    """Return the affine with the step along y reversed and voxel 0 at a given y."""
    affine = grids.mni().affine.copy()
    affine[1] = [0, -4, 0, offset_mm]
    return affine


def litres(tissue):
    return float(tissue.sum()) * 64 / 1e6


WHITE = anatomy.template().tissues[1]

RIGHT = [
    ("1.1", (17, 27, 17)),
    ("1.1", np.array([17.0, 27.0, 17.0])),
    ("1.2", "left"),
    ("1.2", " Left "),
    ("1.3", turned(92)),
    ("1.3", torch.from_numpy(turned(92)).float()),
    ("1.3", turned(92).tolist()),
    ("1.4", litres(WHITE)),
    ("1.4", round(litres(WHITE), 2)),
]
WRONG = [
    ("1.1", (17, 26, 16)),  # cut off
    ("1.1", (17.25, 26.75, 16.75)),  # not rounded
    ("1.1", (-194, -212, -142)),  # the affine instead of its inverse
    ("1.1", 17),
    ("1.2", "right"),
    ("1.2", "L or R"),
    ("1.3", grids.mni().affine),  # unchanged
    ("1.3", turned(-128)),  # only the sign
    ("1.3", turned(96)),  # one voxel too far
    ("1.3", np.diag([4.0, -4.0, 4.0, 1.0])),
    ("1.4", litres(WHITE > 0.5)),  # counted
    ("1.4", litres(WHITE > 0)),
    ("1.4", litres(WHITE) * 1000),  # millilitres
    ("1.4", litres(anatomy.template().tissues[0])),  # grey matter
]


@pytest.mark.parametrize(("name", "answer"), RIGHT)
def test_right_answer(name, answer, capsys):
    assert f"Exercise {name}: right." in says(capsys, name, answer)


@pytest.mark.parametrize(("name", "answer"), WRONG)
def test_tempting_wrong_answer(name, answer, capsys):
    assert f"Exercise {name}: not yet." in says(capsys, name, answer)


def test_the_hint_of_the_affine_tells_right_from_wrong():
    """A shift without a turn puts the block in its place, and the corners in wrong ones."""
    before, shifted = grids.mni(), grids.mni().affine.copy()
    shifted[1, 3] += 4 * (31 - 24)
    for affine, true in ((turned(92), True), (shifted, False), (turned(-128), False)):
        now = grids.Grid(before.shape, affine)
        here = [now.millimetres(voxel) for voxel in ((0, 0, 0), (0, 55, 0))]
        there = [before.millimetres(voxel) for voxel in ((0, 55, 0), (0, 0, 0))]
        assert np.allclose(here, there) == true
    block = grids.Grid(before.shape, shifted).millimetres((14, 24, 25))
    assert np.allclose(block, before.millimetres((14, 31, 25)))


def test_a_shift_that_repairs_one_voxel_is_refused(capsys):
    shifted = grids.mni().affine.copy()
    shifted[1, 3] += 28
    said = says(capsys, "1.3", shifted)
    assert "not yet." in said
    assert "Voxel (0, 0, 0) holds what voxel (0, 55, 0) held" in said
