"""Oracle: SciPy's rank correlation, voxel by voxel; limit cases."""

import pytest
import torch
from scipy.stats import spearmanr

from helpers import evaluation

SHAPE = (2, 1, 6, 7, 8)
ALL = torch.ones(1, 1, 6, 7, 8, dtype=torch.bool)


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(SHAPE, generator=generator) for _ in range(2))
    return {"a": a, "ab": 2 * a + b, "b": b}


def test_equals_scipy(maps):
    within = torch.zeros(SHAPE, dtype=torch.bool)
    within[0, :, 1:5], within[1, :, :, 2:] = True, True
    table = evaluation.agreement(maps, within=within)
    assert table[["first", "second"]].drop_duplicates().values.tolist() == [
        ["a", "ab"],
        ["a", "b"],
        ["ab", "b"],
    ]
    for row in table.itertuples():
        one, other = (
            maps[name][row.subject][within[row.subject]].abs().numpy()
            for name in (row.first, row.second)
        )
        assert row.spearman == pytest.approx(spearmanr(one, other).statistic)
    spearman = table.groupby(["first", "second"])["spearman"].mean()
    assert spearman["a", "ab"] > 0.3 > abs(spearman["a", "b"])


def test_the_same_map_agrees_whatever_its_sign_and_scale(maps):
    table = evaluation.agreement({"map": maps["a"], "other": -3 * maps["a"]}, within=ALL)
    assert table["spearman"].tolist() == pytest.approx([1, 1])
    assert table["dice"].tolist() == [1, 1]


def test_unrelated_maps_have_the_dice_of_chance():
    generator = torch.Generator().manual_seed(0)
    maps = {name: torch.randn(2, 1, 24, 28, 32, generator=generator) for name in "ab"}
    table = evaluation.agreement(maps, within=maps["a"] < 9, fraction=0.2)
    assert table["dice"].mean() == pytest.approx(0.2, abs=0.02)
    assert abs(table["spearman"].mean()) < 0.02


def test_a_zero_map_agrees_with_nothing(maps):
    with pytest.warns(UserWarning, match=r"subjects \[0, 1\] are zero everywhere"):
        table = evaluation.agreement({"a": maps["a"], "zero": 0 * maps["a"]}, within=ALL)
    assert table["spearman"].tolist() == [0, 0]
    nothing = {"none": 0 * maps["a"], "zero": 0 * maps["a"]}
    with pytest.warns(UserWarning, match="zero everywhere"):
        table = evaluation.agreement(nothing, within=ALL, fraction=0.5)
    assert table["spearman"].tolist() == [0, 0]
    assert table["dice"].max() < 0.7


@pytest.mark.usefixtures("unchecked")
def test_bad_input(maps):
    with pytest.raises(ValueError, match="maps of two methods or more"):
        evaluation.agreement({"a": maps["a"]}, within=ALL)
    with pytest.raises(ValueError, match="all methods need one shape"):
        evaluation.agreement({"a": maps["a"], "b": maps["b"][..., :-1]}, within=ALL)
    with pytest.raises(ValueError, match="hold NaN"):
        evaluation.agreement({"a": maps["a"], "b": maps["b"] * float("nan")}, within=ALL)
    with pytest.raises(ValueError, match="within must have the maps' shape"):
        evaluation.agreement(maps, within=maps["a"][..., :-1] > 0)
