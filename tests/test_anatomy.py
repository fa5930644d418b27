import numpy as np
import torch
from nilearn import datasets, image

from helpers import anatomy, grids


def test_template_is_the_bundled_mni_on_our_grid():
    brain = anatomy.template()
    oracle = image.resample_to_img(
        image.smooth_img(datasets.load_mni152_template(resolution=1), 4),
        grids_as_image(brain.grid),
        force_resample=True,
        copy_header=True,
    ).get_fdata()
    inside = brain.mask[0].numpy()
    assert np.corrcoef(oracle[inside], brain.t1[0].numpy()[inside])[0, 1] > 0.99


def grids_as_image(grid):
    return image.new_img_like(
        datasets.load_mni152_template(resolution=2), np.zeros(grid.shape), affine=grid.affine
    )


def test_template_has_the_size_and_contrast_of_a_brain():
    brain = anatomy.template()
    litres = float(brain.mask.sum()) * brain.grid.voxel_volume_mm3 / 1e6
    assert 1.7 < litres < 2.0  # the ICBM mask includes fluid around the brain
    assert brain.t1[~brain.mask].abs().max() == 0
    assert abs(float(brain.t1[brain.mask].median()) - 1) < 1e-4
    grey, white, fluid = (
        (brain.t1[0] * tissue).sum() / tissue.sum() for tissue in brain.tissues.float()
    )
    assert white > grey > fluid
    total = brain.tissues.sum(0)
    assert total.max() <= 1.001
    assert torch.all(total[~brain.mask[0]] == 0)


def test_same_anatomy_at_two_resolutions():
    coarse, fine = anatomy.template(grids.mni(4.0)), anatomy.template(grids.mni(2.0))
    litres = [float(a.mask.sum()) * a.grid.voxel_volume_mm3 / 1e6 for a in (coarse, fine)]
    assert abs(litres[0] - litres[1]) < 0.03


def test_right_is_right():
    """The template is symmetric but for its bias; the planted side must survive the grid."""
    grid = grids.mni(4.0)
    assert grid.millimetres([47, 0, 0])[0] > 0
    assert grid.millimetres([0, 55, 0])[1] > 0
    assert grid.millimetres([0, 0, 47])[2] > 0
