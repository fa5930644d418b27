"""Oracle: scikit-learn for the areas; sets written out by hand for the rest."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from helpers import evaluation

SHAPE = (2, 1, 6, 7, 8)


@pytest.fixture
def truth():
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[0, 0, 1:3, 2:4, 3:6] = True
    mask[1, 0, 4:6, 4:7, 0:2] = True
    return mask


def test_equals_scikit_learn_on_random_maps(truth):
    maps = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    table = evaluation.localization(maps, truth)
    for i in range(2):
        strength, true = maps[i].abs().flatten().numpy(), truth[i].flatten().numpy()
        assert table.loc[i, "voxel_auc"] == pytest.approx(roc_auc_score(true, strength))
        assert table.loc[i, "average_precision"] == pytest.approx(
            average_precision_score(true, strength)
        )
        top = set(np.argsort(strength)[-true.sum() :])
        both = len(top & set(np.flatnonzero(true)))
        assert table.loc[i, "relevance_rank"] == pytest.approx(both / true.sum())
        assert table.loc[i, "relevance_mass"] == pytest.approx(
            strength[true].sum() / strength.sum(), rel=1e-4
        )
        assert table.loc[i, "pointing_game"] == float(true[strength.argmax()])


def test_perfect_and_inverted_maps(truth):
    perfect = evaluation.localization(-truth.float(), truth)  # the sign does not matter
    columns = ["pointing_game", "voxel_auc", "average_precision", "relevance_mass"]
    assert (perfect[[*columns, "relevance_rank"]] == 1).all(axis=None)
    inverted = evaluation.localization((~truth).float(), truth)
    assert (inverted[["pointing_game", "voxel_auc", "relevance_mass"]] == 0).all(axis=None)


def test_a_flat_map_is_a_guess(truth):
    """However the voxels are ordered, no information scores as no information."""
    flat = evaluation.localization(torch.ones(SHAPE), truth)
    assert (flat["voxel_auc"] == 0.5).all()
    for column in ("pointing_game", "average_precision", "relevance_rank", "relevance_mass"):
        np.testing.assert_allclose(flat[column], flat["prevalence"], rtol=1e-5)


def test_only_voxels_within_count(truth):
    maps = torch.zeros(SHAPE)
    maps[..., :4] = 1.0
    within = torch.zeros(SHAPE, dtype=torch.bool)
    within[..., :5] = True
    table = evaluation.localization(maps, truth, within=within)
    assert table["prevalence"][0] == pytest.approx(8 / (6 * 7 * 5))


@pytest.mark.usefixtures("unchecked")
def test_bad_input(truth):
    maps = torch.rand(SHAPE)
    with pytest.raises(ValueError, match="need one shape"):
        evaluation.localization(maps[..., :-1], truth)
    empty = truth.clone()
    empty[1] = False
    with pytest.raises(ValueError, match="the truth of subject 1 covers 0"):
        evaluation.localization(maps, empty)
    with pytest.raises(ValueError, match="NaN"):
        evaluation.localization(maps * float("nan"), truth)
    with pytest.warns(UserWarning, match=r"maps of subjects \[0\] are zero everywhere"):
        table = evaluation.localization(maps * torch.tensor([0.0, 1.0]).view(2, 1, 1, 1, 1), truth)
    assert table.loc[0, "voxel_auc"] == 0.5
    assert table.loc[0, "pointing_game"] == 0
