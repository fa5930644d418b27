"""A network from elsewhere on real scans: MONAI's DenseNet121, a .pt and a card of four lines."""

import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from captum.attr import Saliency
from monai.networks.nets import DenseNet121
from monai.transforms import CenterSpatialCrop, NormalizeIntensity
from small_study import main

from helpers import cohorts, grids
from helpers.cohorts.real_brains import STUDY_MASKS

SHAPE = (40, 48, 40)  # voxels of 4 mm: a crop of the course's grid
PEOPLE = ("sub-04", "sub-58")
FUNCTION = """
from monai.networks.nets import DenseNet121

def network():
    return DenseNet121(spatial_dims=3, in_channels=1, out_channels=2)
"""


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return DenseNet121(spatial_dims=3, in_channels=1, out_channels=2).eval()


@pytest.fixture(scope="module")
def explained(tmp_path_factory, network):
    """What the command writes about two of the real scans that ship."""
    place = tmp_path_factory.mktemp("own")
    (place / "net.py").write_text(FUNCTION)
    (place / "net.toml").write_text(
        f'classes = ["F", "M"]\nshape = {list(SHAPE)}\nspacing_mm = 4\nintensity = "zscore"\n'
    )
    torch.save({"state_dict": network.state_dict()}, place / "net.pt")
    for name in PEOPLE:
        for folder in (name, f"derivatives/masks/{name}"):
            shutil.copytree(cohorts.real_study() / folder, place / "study" / folder)
    code = main(
        "explain",
        place / "study",
        place / "out",
        f"--model={place}/net.py:network",
        f"--weights={place}/net.pt",
        "--method=gradient",
        "--target=M",
        f"--masks={STUDY_MASKS}",
        "--atlas=aal",
    )
    assert code == 0
    return place


@pytest.mark.parametrize("name", PEOPLE)
def test_the_map_is_captums_on_what_the_network_reads(explained, network, name):
    real = cohorts.real()
    position = real.participants["participant_id"].tolist().index(name)
    # The shipped brain is kept in 8 bit, so as well as that.
    brain = torch.as_tensor(CenterSpatialCrop(SHAPE)(real.volumes[position]))
    found, grid = grids.read(
        explained
        / f"out/{name}/anat/{name}_space-MNI152NLin2009aSym_res-4x40x48x40_desc-gradient_map.nii.gz"
    )
    assert grid == grids.mni(4.0, SHAPE)

    def agreement(volume):
        seen = torch.as_tensor(volume)[None].clone().requires_grad_()
        oracle = Saliency(network).attribute(seen, target=1, abs=False)[0, 0].numpy()
        return np.corrcoef(found.ravel(), oracle.ravel())[0, 1]

    assert agreement(NormalizeIntensity()(brain.clone())) > 0.98
    assert agreement(brain) < 0.9  # what it was not trained on


@pytest.mark.parametrize("name", PEOPLE)
def test_the_map_lies_over_the_scan(explained, name):
    scan = nib.load(explained / f"study/{name}/anat/{name}_T1w.nii.gz")
    own = nib.load(explained / f"out/{name}/anat/{name}_desc-gradient_map.nii.gz")
    assert own.shape == scan.shape
    np.testing.assert_allclose(own.affine, scan.affine, atol=1e-5)
    values = own.get_fdata()
    assert values.any()
    assert np.isfinite(values).all()


def test_regions_have_the_names_of_the_atlas_and_its_sides(explained):
    table = pd.read_csv(explained / "out/group/desc-gradient_regions.tsv", sep="\t")
    found = table[table["region"] == "Hippocampus"]
    assert found["side"].tolist() == ["left", "right"] * len(PEOPLE)
    assert table["region"].nunique() > 60
