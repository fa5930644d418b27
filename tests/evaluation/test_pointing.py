"""Oracles: scikit-learn and Quantus; sets written out by hand for the rest."""

import numpy as np
import pytest
import quantus
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import nn

from helpers import evaluation

SHAPE = (2, 1, 6, 7, 8)
ALL = torch.ones(1, 1, 6, 7, 8, dtype=torch.bool)


@pytest.fixture
def truth():
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[0, 0, 1:3, 2:4, 3:6] = True
    mask[1, 0, 4:6, 4:7, 0:2] = True
    return mask


def test_equals_scikit_learn_on_random_maps(truth):
    maps = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    table = evaluation.localization(maps, truth, within=ALL)
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


@pytest.mark.parametrize(
    ("column", "metric"),
    [
        ("pointing_game", quantus.PointingGame),
        ("voxel_auc", quantus.AUC),
        ("relevance_mass", quantus.RelevanceMassAccuracy),
        ("relevance_mass", quantus.AttributionLocalisation),
        ("relevance_rank", quantus.RelevanceRankAccuracy),
    ],
)
def test_equals_quantus(truth, column, metric):
    maps = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    maps[1] += 2 * truth[1]  # one subject whose map knows something
    expected = metric(normalise=False, abs=False, disable_warnings=True)(
        model=nn.Identity(),
        x_batch=maps.numpy(),
        y_batch=np.zeros(2, int),
        a_batch=maps.abs().numpy(),
        s_batch=truth.numpy().astype(int),
        channel_first=True,
        device="cpu",
    )
    table = evaluation.localization(maps, truth, within=ALL)
    assert table[column].nunique() == 2
    np.testing.assert_allclose(table[column], np.asarray(expected, dtype=float), rtol=1e-5)


def test_relevance_rank_is_dice_at_matched_area(truth):
    """No column of its own: with as many voxels in both, it is the same number."""
    maps = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)) + truth
    area = evaluation.strongest(maps, float(truth[0].float().mean()))
    assert area.sum() == truth.sum()
    np.testing.assert_allclose(
        evaluation.localization(maps, truth, within=ALL)["relevance_rank"],
        evaluation.dice(area, truth),
    )


def test_perfect_and_inverted_maps(truth):
    perfect = evaluation.localization(-truth.float(), truth, within=ALL)  # the sign does not matter
    columns = ["pointing_game", "voxel_auc", "average_precision", "relevance_mass"]
    assert (perfect[[*columns, "relevance_rank"]] == 1).all(axis=None)
    inverted = evaluation.localization((~truth).float(), truth, within=ALL)
    assert (inverted[["pointing_game", "voxel_auc", "relevance_mass"]] == 0).all(axis=None)


def test_a_flat_map_is_a_guess(truth):
    """However the voxels are ordered, no information scores as no information."""
    flat = evaluation.localization(torch.ones(SHAPE), truth, within=ALL)
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
    # One mask serves all subjects.
    assert evaluation.localization(maps, truth, within=within[:1]).equals(table)


def test_air_never_counts_unasked(truth):
    """A map that knows nothing but where the brain is guesses; its part in the air is told."""
    brain = torch.zeros(SHAPE, dtype=torch.bool)
    brain[..., :6, :] = True
    planted, outline = truth & brain, brain.float()
    with pytest.raises(TypeError, match="within"):
        evaluation.localization(outline, planted)
    assert (evaluation.localization(outline, planted, within=ALL)["voxel_auc"] > 0.55).all()
    assert (evaluation.localization(outline, planted, within=brain)["voxel_auc"] == 0.5).all()
    loud = outline + 18.0 * ~brain  # 6 slices of 1 and one of 18
    table = evaluation.localization(loud, planted, within=brain)
    assert table["share_outside"].tolist() == pytest.approx([0.75, 0.75])
    assert (table["voxel_auc"] == 0.5).all()


@pytest.mark.usefixtures("unchecked")
def test_bad_input(truth):
    maps = torch.rand(SHAPE)
    with pytest.raises(ValueError, match="maps and truth need one shape"):
        evaluation.localization(maps[..., :-1], truth, within=ALL)
    with pytest.raises(ValueError, match="within must have the maps' shape"):
        evaluation.localization(maps, truth, within=truth[..., :-1])
    with pytest.raises(ValueError, match=r"the masks \[0\] of within are empty"):
        evaluation.localization(maps, truth, within=truth[:1] & False)
    empty = truth.clone()
    empty[1] = False
    with pytest.raises(ValueError, match="the truth of subject 1 covers 0"):
        evaluation.localization(maps, empty, within=ALL)
    with pytest.raises(ValueError, match="NaN"):
        evaluation.localization(maps * float("nan"), truth, within=ALL)
    with pytest.warns(UserWarning, match=r"maps of subjects \[0\] are zero everywhere"):
        table = evaluation.localization(
            maps * torch.tensor([0.0, 1.0]).view(2, 1, 1, 1, 1), truth, within=ALL
        )
    assert table.loc[0, "voxel_auc"] == 0.5
    assert table.loc[0, "pointing_game"] == 0
