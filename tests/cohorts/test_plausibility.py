import numpy as np
import pytest
import torch

from helpers import anatomy, cohorts, grids
from helpers.cohorts import plausibility
from helpers.cohorts.tasks import TASKS
from helpers.errors import BrokenScanError
from helpers.runtime import generator

GRID = grids.mni()
TEMPLATE = anatomy.template(GRID)


@pytest.fixture(scope="module")
def person():
    return cohorts.simulate("sex", subjects=1, seed=3).volumes[0]


@pytest.mark.parametrize("task", TASKS)
def test_simulated_people_and_patients_are_brains(task):
    people = cohorts.simulate(task, subjects=2, seed=17)
    for volume in people.volumes:
        assert plausibility.check_standardised(volume, GRID) > 0.5


def test_correlation_is_numpys(person):
    inside = TEMPLATE.mask[0].numpy()
    expected = np.corrcoef(person[0].numpy()[inside], TEMPLATE.t1[0].numpy()[inside])[0, 1]
    found = plausibility.check_standardised(person, GRID)
    assert found == pytest.approx(expected, abs=1e-5)


def test_the_correlation_is_the_same_for_one_thread_and_two():
    """Reports hold it, and are compared byte by byte."""
    volume, found = cohorts.simulate("lesion", subjects=2, seed=7).volumes[1], set()
    before = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.add(plausibility.check_standardised(volume, GRID))
    finally:
        torch.set_num_threads(before)
    assert len(found) == 1


def test_other_voxel_sizes_are_measured_alike(person):
    found = plausibility.check_standardised(person, GRID)
    for spacing_mm, apart in ((2.0, 0.05), (8.0, 0.15)):
        grid = grids.mni(spacing_mm)
        moved = torch.from_numpy(grids.resample(person[0].numpy(), GRID, grid))
        moved = moved.where(moved > 0.1, 0.0)
        again = plausibility.check_standardised(moved[None], grid)
        assert again == pytest.approx(found, abs=apart)


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (lambda v: v.flip(3), r"it looks upside down: turned back, its correlation is 0\.\d\d"),
        (lambda v: v.flip(2), "it looks back to front: turned back"),
        (lambda v: v.flip(2, 3), "it looks upside down and back to front: turned back"),
        (
            lambda v: torch.nn.functional.pad(v, (4, 4))[:, :, 4:-4].transpose(2, 3),
            r"it looks lying on its side \(its axes are x, z, y\): turned back",
        ),
    ],
)
def test_turned_brains_are_named(person, turn, message):
    with pytest.raises(BrokenScanError, match=message):
        plausibility.check_standardised(turn(person).contiguous(), GRID)


def test_left_and_right_cannot_be_told_apart(person):
    mirrored = plausibility.check_standardised(person.flip(1), GRID)
    assert mirrored == pytest.approx(plausibility.check_standardised(person, GRID), abs=0.1)


@pytest.mark.parametrize("half", ["left", "right", "back", "front", "bottom", "top"])
def test_half_a_brain(person, half):
    axis = ["left", "back", "bottom", "right", "front", "top"].index(half)
    cut = person.clone()
    middle = person.shape[axis % 3 + 1] // 2
    start = 0 if axis < 3 else middle
    cut.narrow(axis % 3 + 1, start, middle).zero_()
    with pytest.raises(BrokenScanError, match=rf"only \d+% of the {half} half of the brain"):
        plausibility.check_standardised(cut, GRID)


def hot(volume, value):
    volume = volume.clone()
    volume[0, 20, 30, 20] = value
    return volume


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda v: v.masked_fill(TEMPLATE.mask, torch.nan), "NaN or infinite"),
        (lambda v: torch.ones_like(v), "constant"),
        (lambda v: (v - v.mean()) / v.std(), r"falls to -0\.\d+; .* no z-scores"),
        (lambda v: -v, "falls to -"),
        (lambda v: (v > 0.5).float(), "only 2 different values; is it a mask"),
        (lambda v: (4 * v).round(), r"only \d+ different values; is it a mask"),
        (lambda v: 300 * v, r"the median of the voxels that are not 0 is \d+"),
        (lambda v: v / 300, r"the median of the voxels that are not 0 is 0\.00"),
        (lambda v: hot(v, 3e38), r"the largest 3e\+38"),
        (lambda v: hot(v, -3e38), r"falls to -3e\+38"),
        (lambda v: v + 0.5, r"it fills 4\d\d% of the template's brain, expected 50% to 180%"),
        (lambda v: v.roll(20, 1), "of the left half of the brain is there"),
        (
            lambda v: torch.rand(v.shape, generator=generator(0)) * 2 * TEMPLATE.mask,
            r"correlation with the template -?0\.0\d, expected at least 0\.45",
        ),
        (lambda v: (2.2 - v).clamp(0) * (v > 0), r"correlation with the template -?0\.[01]\d"),
    ],
)
def test_what_is_no_standardised_brain(person, damage, message):
    with pytest.raises(BrokenScanError, match=message):
        plausibility.check_standardised(damage(person), GRID)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: d * np.nan, "NaN or infinite"),
        (lambda d: d * 0 + 7, "constant"),
        (lambda d: (d - d.mean()) / d.std(), r"runs from -\d.* not z-scores"),
        (lambda d: (d > 50).astype(np.float32), "only 2 different values; is it a mask"),
        (lambda d: np.where(d == d.max(), 3e38, d).astype(np.float32), r"brightest voxel.*3e\+38"),
        (lambda d: d[:, :, :3], "whole brain, not slices"),
    ],
)
def test_what_is_no_raw_scan(person, damage, message):
    data = 100 * person[0].numpy()
    plausibility.check_raw(data)
    with pytest.raises(BrokenScanError, match=message):
        plausibility.check_raw(damage(data))
