"""Oracles: SciPy's t tests, nilearn's own cluster table, and the rate of false alarms."""

import itertools

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from nilearn.reporting import get_clusters_table
from scipy import stats

from helpers import anatomy, evaluation
from helpers.grids import Grid

SHAPE = (6, 7, 8)
GRID = Grid(SHAPE, np.array([[-3, 0, 0, 9], [0, 4, 0, -20], [0, 0, 5, 30], [0, 0, 0, 1.0]]))


def noise(subjects, seed, shape=SHAPE):
    return torch.randn(subjects, 1, *shape, generator=torch.Generator().manual_seed(seed))


def test_t_equals_scipy():
    maps, labels = noise(10, 0) + 0.2, torch.tensor([3, 5] * 4 + [3, 3])
    one = evaluation.group_test(maps, None, GRID, permutations=20)
    np.testing.assert_allclose(one.t, stats.ttest_1samp(maps, 0).statistic, rtol=1e-4)
    two = evaluation.group_test(maps, labels, GRID, permutations=20)
    expected = stats.ttest_ind(maps[labels == 5], maps[labels == 3]).statistic
    np.testing.assert_allclose(two.t, expected, rtol=1e-4, atol=1e-5)


def people(subjects, seed=0):
    """Covariates of people whose groups differ in age and site, but not wholly."""
    rng, labels = np.random.default_rng(seed), np.arange(subjects) % 2
    age = 40 + 10 * labels + rng.normal(0, 8, subjects)
    site = np.where(rng.random(subjects) < 0.3 + 0.4 * labels, "Bern", "Oslo")
    site[:3] = "Riga"
    return torch.from_numpy(labels), pd.DataFrame({"age": age, "site": site})


def least_squares(maps, columns):
    """The t of the last column of a design, in closed form."""
    design = np.column_stack(columns).astype(float)
    flat = maps.flatten(1).double().numpy()
    inverse = np.linalg.inv(design.T @ design)
    slopes = inverse @ design.T @ flat
    left = flat - design @ slopes
    variance = (left**2).sum(0) / (len(flat) - design.shape[1])
    return (slopes[-1] / np.sqrt(variance * inverse[-1, -1])).reshape(maps.shape[1:])


def test_t_with_covariates_equals_least_squares():
    labels, known = people(16)
    maps = noise(16, 2) + 0.1 * torch.tensor(known["age"])[:, None, None, None, None]
    maps = maps.float()
    sites = [(known["site"] == name).to_numpy() for name in ("Oslo", "Riga")]
    two = evaluation.group_test(maps, labels, GRID, covariates=known, permutations=20)
    expected = least_squares(maps, [np.ones(16), known["age"], *sites, labels.numpy()])
    np.testing.assert_allclose(two.t, expected, rtol=1e-3, atol=1e-4)
    one = evaluation.group_test(maps - 4, None, GRID, covariates=known, permutations=20)
    centred = [column - np.mean(column) for column in (known["age"], *sites)]
    expected = least_squares(maps - 4, [*centred, np.ones(16)])
    np.testing.assert_allclose(one.t, expected, rtol=1e-3, atol=1e-4)


def test_what_goes_with_age_is_not_the_groups_and_what_is_the_groups_stays():
    labels, known = people(40)
    maps = noise(40, 3)
    years = torch.tensor(known["age"] - 45).float()
    maps[:, 0, 2, 3, 4] += years  # the groups differ here because of their ages
    maps[:, 0, 4, 1, 1] += 3 * labels
    naive = evaluation.group_test(maps, labels, GRID, permutations=200)
    fair = evaluation.group_test(maps, labels, GRID, covariates=known, permutations=200)
    at = [tuple(GRID.millimetres(voxel)) for voxel in ([2, 3, 4], [4, 1, 1])]
    place = ["x_mm", "y_mm", "z_mm"]
    assert {tuple(row) for row in naive.peaks[place].to_numpy()} == set(at)
    assert [tuple(row) for row in fair.peaks[place].to_numpy()] == at[1:]


def test_noise_with_covariates_alarms_in_one_of_twenty_draws():
    """Without any effect; 60 draws of 5 % give 8 or fewer in 99 of 100 cases."""
    alarms = 0
    for seed in range(60):
        labels, known = people(14, seed)
        maps = noise(14, 100 + seed, (3, 3, 3))
        grid = Grid((3, 3, 3), GRID.affine)
        found = evaluation.group_test(maps, labels, grid, covariates=known, permutations=99)
        alarms += len(found.peaks) > 0
    assert alarms <= 8


def test_peaks_are_named_by_the_atlas():
    maps = noise(14, 5)
    maps[:, 0, 1, 2, 3] += 5
    maps[:, 0, 3, 5, 6] -= 6
    maps[:, 0, 5, 0, 0] += 4
    x = GRID.centers_mm()[0]  # from 9 mm on the right to 6 mm on the left
    labels = torch.where(x > 0, 1, 2)
    labels[:, 5] = 3
    labels[5, 0, 0] = 0
    atlas = anatomy.Atlas(GRID, labels, {1: "Insula_R", 2: "Insula_L", 3: "stem"})
    found = evaluation.group_test(maps, None, GRID, atlas=atlas, permutations=200).peaks
    named = found.set_index(["x_mm", "y_mm", "z_mm"])[["region", "side"]].T.to_dict("list")
    assert named == {
        tuple(GRID.millimetres([1, 2, 3])): ["Insula", "right"],
        tuple(GRID.millimetres([3, 5, 6])): ["stem", "midline"],
        tuple(GRID.millimetres([5, 0, 0])): ["", ""],
    }
    nothing = evaluation.group_test(noise(14, 5), None, GRID, atlas=atlas, permutations=200).peaks
    assert nothing.empty
    assert {"region", "side"} <= set(nothing.columns)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"age": 40.0}, r"\['age'\] are the same for everybody"),
        ({"site": "Bern"}, r"\['site'\] are the same for everybody"),
        ({"age": [np.nan, *range(15)]}, r"\['age'\] are missing for some people"),
        ({"site": [None, *"abcdefghijklmno"]}, r"\['site'\] are missing for some people"),
        ({"months": lambda table: 12 * table["age"]}, "some say the same"),
        ({"group": [f"group {k % 2}" for k in range(16)]}, "tell the two groups apart"),
        ({"site": list("abcdefghijklmnop")}, "some say the same"),
    ],
)
def test_covariates_that_are_refused(changed, message):
    labels, known = people(16)
    with pytest.raises(ValueError, match=message):
        evaluation.group_test(noise(16, 0), labels, GRID, covariates=known.assign(**changed))


def test_more_covariates_than_people_can_carry_are_refused():
    many = pd.DataFrame(np.random.default_rng(0).normal(size=(8, 6)), columns=list("abcdef"))
    with pytest.raises(ValueError, match="8 people are too few for 6 covariates"):
        evaluation.group_test(noise(8, 0), torch.arange(8) % 2, GRID, covariates=many)


def test_covariates_of_other_people_are_refused():
    labels, known = people(16)
    with pytest.raises(ValueError, match=r"one row of covariates a subject \(16\), got 15"):
        evaluation.group_test(noise(16, 0), labels, GRID, covariates=known[1:])
    other = anatomy.Atlas(Grid((6, 7, 9), GRID.affine), torch.ones(6, 7, 9).long(), {1: "all"})
    with pytest.raises(ValueError, match="atlas lies on another grid"):
        evaluation.group_test(noise(16, 0), labels, GRID, atlas=other)


def test_p_equals_all_sign_flips_by_hand():
    """Eight maps have 2^8 sign flips: the exact family-wise p of the strongest voxel."""
    maps = noise(8, 4)
    maps[:, 0, 2, 3, 4] += 1.2
    found = evaluation.group_test(maps, None, GRID, permutations=5000)
    signs = np.array(np.meshgrid(*[[-1, 1]] * 8)).reshape(8, -1)
    flat = maps.flatten(1).numpy()
    largest = [np.abs(stats.ttest_1samp(flat * s[:, None], 0).statistic).max() for s in signs.T]
    exact = np.mean(np.array(largest) >= float(found.t.abs().max()) - 1e-5)
    assert 0.02 < exact < 0.5
    # Three standard errors of 5000 random flips.
    error = 3 * np.sqrt(exact * (1 - exact) / 5000)
    assert 10 ** -float(found.log10_p.max()) == pytest.approx(exact, abs=error)


@pytest.mark.parametrize("grouped", [False, True])
def test_planted_effect_is_found_where_it_is(grouped):
    maps, labels = noise(16, 1), torch.arange(16) % 2
    sign = -(labels if grouped else torch.ones(16)).float()
    maps[:, 0, 1:3, 4, 5] += 6 * sign[:, None]
    maps[:, 0, 4, 1, 1] -= 4 * sign
    found = evaluation.group_test(maps, labels if grouped else None, GRID, permutations=200)
    positive, negative = found.peaks[found.peaks["t"] > 0], found.peaks[found.peaks["t"] < 0]
    assert negative["voxels"].tolist() == [2]
    assert negative["volume_ml"].tolist() == [pytest.approx(0.12)]
    assert positive[["x_mm", "y_mm", "z_mm"]].values.tolist() == [[-3, -16, 35]]
    assert found.peaks["p"].max() <= 0.05
    assert found.peaks["t"].abs().is_monotonic_decreasing


def test_peaks_equal_nilearns_cluster_table():
    maps = noise(16, 2)
    maps[:, 0, 1:3, 4:6, 5] += 4
    maps[:, 0, 5, 1, 1] -= 4
    found = evaluation.group_test(maps, None, GRID, permutations=200)
    significant = found.t.abs()[found.log10_p >= -np.log10(0.05)]
    image = nib.Nifti1Image(found.t[0].numpy(), GRID.affine)
    # nilearn's clusters touch by faces, ours also by edges: these ones are compact.
    expected = get_clusters_table(image, float(significant.min()) - 1e-4, two_sided=True)
    expected = expected[expected["Cluster Size (mm3)"] != ""]
    expected = expected.sort_values("Peak Stat", key=np.abs, ascending=False)
    np.testing.assert_allclose(
        found.peaks[["x_mm", "y_mm", "z_mm", "t"]],
        expected[["X", "Y", "Z", "Peak Stat"]].astype(float),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        found.peaks["volume_ml"] * 1000, expected["Cluster Size (mm3)"].astype(float)
    )


@pytest.mark.parametrize("grouped", [False, True])
def test_noise_alarms_in_one_of_twenty_draws(grouped):
    """Uncorrected, 60 voxels would alarm in 95 of 100 draws."""
    small = Grid((3, 4, 5), np.eye(4))
    labels = torch.arange(12) % 2 if grouped else None
    alarms = sum(
        len(
            evaluation.group_test(
                noise(12, seed, small.shape), labels, small, permutations=99, seed=seed
            ).peaks
        )
        > 0
        for seed in range(200)
    )
    # The middle 99.9 % of 200 draws at a rate of 0.05.
    low, high = stats.binom.interval(0.999, 200, 0.05)
    assert low <= alarms <= high


def test_only_shared_voxels_that_vary_are_tested():
    maps = noise(6, 3)
    maps[:, :, 0] = 2.0
    within = torch.ones(6, 1, *SHAPE, dtype=torch.bool)
    within[2, :, :, 0] = False
    found = evaluation.group_test(maps, None, GRID, within=within, permutations=20)
    assert (found.t[:, 0] == 0).all()
    assert (found.t[:, :, 0] == 0).all()
    assert (found.t[:, 1:, 1:] != 0).all()
    assert found.t.isfinite().all()
    assert found.log10_p.isfinite().all()


def test_saved_with_the_true_affine(tmp_path):
    maps = noise(8, 5)
    maps[:, 0, 1, 2, 3] += 9
    found = evaluation.group_test(maps, None, GRID, permutations=50)
    found.save(tmp_path / "new")
    for name, values in {"t": found.t, "log10_p": found.log10_p}.items():
        loaded = nib.load(tmp_path / "new" / f"{name}.nii.gz")
        np.testing.assert_array_equal(loaded.affine, GRID.affine)
        np.testing.assert_array_equal(loaded.get_fdata(dtype=np.float32), values[0])
    assert (tmp_path / "new" / "peaks.csv").read_text().startswith("x_mm,y_mm,z_mm,t,p,voxels")


def test_same_seed_same_result():
    maps = noise(8, 6)
    first, again, other = (
        evaluation.group_test(maps, None, GRID, permutations=50, seed=seed).log10_p
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def smallest_p_by_hand(labels):
    """Every relabelling of the strongest effect there can be: how many are as strong?"""
    if labels is None:
        values = np.full(5, 1.0)
        ways = [np.array(signs) @ values for signs in itertools.product([-1, 1], repeat=5)]
        return np.mean(np.abs(ways) >= 5)
    groups = itertools.combinations(range(len(labels)), int(sum(labels)))
    first = [np.isin(np.arange(len(labels)), chosen) for chosen in groups]
    gaps = [np.mean(labels[one]) - np.mean(labels[~one]) for one in first]
    return np.mean(np.abs(gaps) >= 1 - 1e-9)


@pytest.mark.parametrize(
    ("labels", "needed"),
    [
        (None, "at least 6 maps"),
        (np.array([0, 0, 0, 1, 1, 1]), "such as 4 maps in each group"),
        (np.array([0, 0, 0, 1, 1]), "such as 4 maps in each group"),
    ],
)
def test_a_level_out_of_reach_is_refused(labels, needed):
    """However strong the effect: with so few relabellings nothing could ever be significant."""
    lowest = smallest_p_by_hand(labels)
    subjects = 5 if labels is None else len(labels)
    given = None if labels is None else torch.from_numpy(labels)
    maps = noise(subjects, 0)
    maps[:, 0, 2, 3, 4] += 99.0 if given is None else 99.0 * given
    with pytest.raises(ValueError, match=f"p below {lowest:.3g}.*{needed}"):
        evaluation.group_test(maps, given, GRID, permutations=200)
    reached = evaluation.group_test(maps, given, GRID, permutations=5000, level=1.2 * lowest)
    assert len(reached.peaks) > 0


@pytest.mark.parametrize("labels", [None, torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])])
def test_with_as_many_maps_as_it_asks_for_an_effect_is_found(labels):
    maps = noise(6 if labels is None else 8, 0)
    maps[:, 0, 2, 3, 4] += 50 * (1 if labels is None else labels)
    assert len(evaluation.group_test(maps, labels, GRID, permutations=999).peaks) == 1


@pytest.mark.usefixtures("unchecked")
def test_bad_input():
    maps, test = noise(6, 0), evaluation.group_test
    with pytest.raises(ValueError, match=r"the maps have \(6, 7, 7\) voxels"):
        test(maps[..., :-1], None, GRID)
    with pytest.raises(ValueError, match="hold NaN"):
        test(maps * float("nan"), None, GRID)
    with pytest.raises(ValueError, match="at least 2 subjects, got 1"):
        test(maps[:1], None, GRID)
    with pytest.raises(ValueError, match=r"one label a subject \(6\)"):
        test(maps, torch.tensor([0, 1]), GRID)
    with pytest.raises(ValueError, match=r"got \{0: 5, 1: 1\} \(label: size\)"):
        test(maps, torch.tensor([0, 0, 0, 0, 0, 1]), GRID)
    with pytest.raises(ValueError, match="expected two groups"):
        test(maps, torch.tensor([0, 0, 1, 1, 2, 2]), GRID)
    with pytest.raises(ValueError, match="18 permutations cannot give a p below 0.05; take 20"):
        test(maps, None, GRID, permutations=18)
    with pytest.raises(ValueError, match="no voxel lies within all masks"):
        test(torch.ones(8, 1, *SHAPE), torch.arange(8) % 2, GRID)
    with pytest.raises(ValueError, match="of within are empty"):
        test(maps, None, GRID, within=maps[:1] > 99)
    with pytest.warns(UserWarning, match="no map has a negative value"):
        test(maps.abs(), None, GRID, permutations=20)
