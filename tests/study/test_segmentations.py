"""Maps by each person's own regions, on the real scans that ship."""

import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
from small_study import CARD, GRID, network

from helpers import anatomy, cohorts, grids, study
from helpers.cohorts.real_brains import STUDY_MASKS
from helpers.errors import LeftOutWarning
from helpers.grids import Grid
from helpers.study import Study

PEOPLE = ("sub-04", "sub-58", "sub-11")
NAMES = "index,name\n10,ctx-lh-front\n20,ctx-lh-back\n11,ctx-rh-front\n21,ctx-rh-back\n"


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Quarters of each brain as its segmentation: but one lies in MNI space and one is missing."""
    place = tmp_path_factory.mktemp("own")
    for name in PEOPLE:
        for folder in (name, f"derivatives/masks/{name}"):
            shutil.copytree(cohorts.real_study() / folder, place / "scans" / folder)
        mask, grid = grids.read(place / "scans" / STUDY_MASKS.format(participant_id=name))
        x, y, _ = grid.centers_mm().numpy()
        middle = [np.median(axis[mask > 0]) for axis in (x, y)]
        labels = np.where(x < middle[0], 0, 1) + np.where(y > middle[1], 10, 20)
        labels = labels * (mask > 0)
        if name == "sub-58":
            mni = anatomy.template(grids.mni(2.0))
            labels, grid = 10 * mni.mask[0].numpy(), mni.grid
            grid = Grid(grid.shape, grid.affine + np.diag([0, 0, 0, 0]), "scanner")
            labels = np.roll(labels, 30, axis=1)
        if name != "sub-11":
            grids.save(labels.astype(np.float32), grid, place / f"scans/own/{name}_dseg.nii.gz")
    (place / "names.csv").write_text(NAMES)
    mine = Study(
        place / "scans",
        place / "out",
        masks=STUDY_MASKS,
        segmentations="own/{participant_id}_dseg.nii.gz",
    )
    model = network()
    model.card = CARD
    options = {"method": "gradient", "segmentation_names": place / "names.csv", "progress": False}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        study.explain(mine, model, **options)
    said = [str(one.message) for one in caught if one.category is LeftOutWarning]
    return mine, said, pd.read_csv(place / "out/group/desc-gradient_ownregions.tsv", sep="\t")


def test_a_map_is_averaged_within_the_persons_own_regions(own):
    mine, _, table = own
    assert set(table["name"]) == {"sub-04"}
    values, _ = grids.read(mine.output / "sub-04/anat/sub-04_desc-gradient_map.nii.gz")
    labels, _ = grids.read(mine.folder / "own/sub-04_dseg.nii.gz")
    found = table.set_index(["region", "side"])["mean"]
    for label, region, side in ((10, "front", "left"), (21, "back", "right")):
        row = next(name for name in found.index if region in name[0] and name[1] == side)
        assert found[row] == pytest.approx(values[labels == label].mean(dtype=float), rel=1e-4)


def test_a_segmentation_elsewhere_and_one_that_is_missing_are_named(own):
    _, said, _ = own
    assert len(said) == 2
    assert any("sub-58" in one and "does not lie on its brain" in one for one in said)
    assert any("sub-11" in one and "its segmentation is missing" in one for one in said)


def test_the_grid_of_the_network_does_not_matter(own):
    mine, _, _ = own
    _, grid = grids.read(mine.output / "sub-04/anat/sub-04_desc-gradient_map.nii.gz")
    assert grid != GRID
