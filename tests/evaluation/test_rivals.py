"""Oracles: SciPy's Welch test, scikit-learn's weights, Haufe's formula with all covariances."""

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from sklearn.svm import SVC, LinearSVC

from helpers import evaluation

SHAPE = (16, 20, 24)


def people(subjects=14, seed=0, shape=SHAPE):
    """Return noisy heads with air around them."""
    volumes = 1 + 0.2 * torch.randn(
        subjects, 1, *shape, generator=torch.Generator().manual_seed(seed)
    )
    brain = torch.zeros(shape, dtype=torch.bool)
    brain[3:13, 4:17, 5:20] = True
    return volumes * brain, brain


@pytest.fixture(scope="module")
def planted():
    """Three classes of unequal size; class 2 is darker in one block. Its rivals, asked for it."""
    volumes, brain = people(15)
    labels = torch.tensor([0, 1, 2, 0, 2] * 3)
    volumes[labels == 2, :, 4:7, 6:9, 8:12] -= 0.5
    return volumes, labels, brain, evaluation.label_aware_rivals(volumes, labels, 2)


def the_map(rivals, name, volumes):
    return rivals[name](volumes[:1])[0, 0]


@pytest.fixture(scope="module")
def maps():
    volumes, healthy = people(3, 1)[0], people(12, 2)[0]
    rivals = evaluation.blind_rivals(healthy)
    return volumes, healthy, {name: rival(volumes) for name, rival in rivals.items()}


class TestBlind:
    def test_air_is_zero(self, maps):
        volumes, _, by_name = maps
        assert len(by_name) == 4
        for values in by_name.values():
            assert values.shape == volumes.shape
            assert (values[volumes == 0] == 0).all()
            assert (values[volumes != 0] != 0).float().mean() > 0.99

    def test_edges_equal_numpy(self, maps):
        volumes, _, by_name = maps
        slopes = np.gradient(volumes.double().numpy(), axis=(2, 3, 4))
        expected = np.sqrt(sum(slope**2 for slope in slopes)) * (volumes != 0).numpy()
        np.testing.assert_allclose(by_name["edges of the scan"], expected, atol=1e-5)

    def test_distance_equals_smoothed_z_score(self, maps):
        volumes, healthy, by_name = maps
        healthy = healthy.double().numpy()
        deviation = np.maximum(healthy.std(0, ddof=1), 0.05)
        z = np.abs(volumes.double().numpy() - healthy.mean(0)) / deviation
        expected = ndimage.uniform_filter(z, (1, 1, 3, 3, 3), mode="constant")
        found = by_name["distance from healthy mean"]
        np.testing.assert_allclose(found, expected * (volumes != 0).numpy(), atol=1e-4)

    def test_random_numbers_are_the_same_again_and_know_nothing(self, maps):
        volumes, healthy, by_name = maps
        noise = by_name["random numbers"]
        assert torch.equal(noise, evaluation.blind_rivals(healthy)["random numbers"](volumes))
        brain = volumes != 0
        assert abs(np.corrcoef(noise[brain], volumes[brain])[0, 1]) < 0.06  # 4 standard errors


class TestLabelAware:
    def test_difference_of_means_equals_numpy(self, planted):
        volumes, labels, _, rivals = planted
        values, of_class = volumes[:, 0].double().numpy(), (labels == 2).numpy()
        expected = values[of_class].mean(0) - values[~of_class].mean(0)
        found = the_map(rivals, "difference of means", volumes)
        np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_t_equals_scipy(self, planted):
        volumes, labels, brain, rivals = planted
        values = volumes[:, 0].double().numpy()
        expected = stats.ttest_ind(
            values[labels == 2][:, brain], values[labels != 2][:, brain], equal_var=False
        )
        found = the_map(rivals, "t-map", volumes)[brain]
        np.testing.assert_allclose(found, expected.statistic, rtol=1e-5, atol=1e-6)

    def test_weights_equal_scikit_learn(self, planted):
        volumes, labels, _, rivals = planted
        flat = volumes.flatten(1).double().numpy()
        expected = SVC(kernel="linear").fit(flat, labels == 2).coef_.reshape(SHAPE)
        found = the_map(rivals, "SVM weights", volumes)
        np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_weights_point_as_those_of_another_solver(self, planted):
        volumes, labels, _, rivals = planted
        flat = volumes.flatten(1).double().numpy()
        # Liblinear punishes the intercept too: for centred data that is nearly nothing.
        other = LinearSVC(loss="hinge", max_iter=100_000, random_state=0)
        other.fit(flat - flat.mean(0), labels == 2)
        found = the_map(rivals, "SVM weights", volumes).flatten()
        assert np.corrcoef(found, other.coef_[0])[0, 1] > 0.99

    def test_pattern_equals_closed_form_with_the_whole_covariance(self):
        volumes = torch.randn(12, 1, 3, 4, 5, generator=torch.Generator().manual_seed(3))
        labels = torch.arange(12) % 2
        rivals = evaluation.label_aware_rivals(volumes, labels, 1)
        flat = volumes.flatten(1).double().numpy()
        weights = SVC(kernel="linear").fit(flat, labels).coef_[0]
        covariance = np.cov(flat, rowvar=False)
        expected = covariance @ weights / (weights @ covariance @ weights)
        found = the_map(rivals, "SVM pattern (Haufe)", volumes).flatten()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)

    def test_a_suppressor_has_a_weight_and_no_pattern(self):
        """Haufe's first example: the first voxel is signal + noise, the second the noise alone."""
        labels = torch.arange(400) % 2
        generator = torch.Generator().manual_seed(0)
        signal = 2.0 * labels - 1 + 0.3 * torch.randn(400, generator=generator)
        noise = 2 * torch.randn(400, generator=generator)
        volumes = torch.stack([signal + noise, noise], 1).view(400, 1, 2, 1, 1)
        rivals = evaluation.label_aware_rivals(volumes, labels, 1)
        weights = the_map(rivals, "SVM weights", volumes).flatten()
        pattern = the_map(rivals, "SVM pattern (Haufe)", volumes).flatten()
        assert weights[1] / weights[0] == pytest.approx(-1, abs=0.1)
        # Four standard errors of the chance covariance of noise and signal: 4 * 2 / sqrt(400).
        assert abs(float(pattern[1] / pattern[0])) < 0.4

    def test_one_signed_map_for_everybody_and_nothing_in_the_air(self, planted):
        volumes, _, brain, rivals = planted
        others = people(4, 9)[0]
        for rival in rivals.values():
            maps = rival(others)
            assert maps.shape == others.shape
            assert maps.dtype == others.dtype
            assert torch.equal(maps, rival(volumes)[:4])
            assert (maps[:, :, ~brain] == 0).all()
            assert maps[0, 0, 4:7, 6:9, 8:12].mean() < 0  # the asked class is darker there

    def test_the_other_class_has_the_map_of_opposite_sign(self):
        volumes, labels = people(12)[0], torch.arange(12) % 2
        zero = evaluation.label_aware_rivals(volumes, labels, 0)
        one = evaluation.label_aware_rivals(volumes, labels, 1)
        for name, rival in one.items():
            torch.testing.assert_close(rival(volumes), -zero[name](volumes), atol=1e-4, rtol=1e-3)

    def test_random_labels_give_no_structure(self):
        """t of noise is spread as Student's t, and no map finds a block where nothing is."""
        volumes, brain = people(40, 5)
        labels = torch.randperm(40, generator=torch.Generator().manual_seed(6)) % 2
        rivals = evaluation.label_aware_rivals(volumes, labels, 1)
        t = the_map(rivals, "t-map", volumes)[brain]
        assert (t.abs() > stats.t.ppf(0.975, 38)).float().mean() == pytest.approx(0.05, abs=0.02)
        truth = torch.zeros_like(volumes[:1], dtype=torch.bool)
        truth[:, :, 4:9, 6:12, 8:14] = True  # 180 voxels: a standard error of 0.022
        for rival in rivals.values():
            table = evaluation.localization(rival(volumes[:1]), truth, within=brain[None, None])
            assert table["voxel_auc"][0] == pytest.approx(0.5, abs=0.09)


def test_all_point_to_what_the_classes_differ_in_and_to_nothing_where_they_do_not():
    alike, brain = people(40, 3)
    ill = torch.arange(40) % 2 == 1
    place = torch.zeros(1, 1, *SHAPE, dtype=torch.bool)
    place[..., 5:9, 8:12, 10:14] = True
    differing = torch.where(place & ill.view(-1, 1, 1, 1, 1), alike - 0.8, alike)

    def aucs(volumes):
        return [
            evaluation.localization(rival(volumes[:1]), place, within=brain[None, None])[
                "voxel_auc"
            ][0]
            for rival in evaluation.label_aware_rivals(volumes, ill.long(), 1).values()
        ]

    assert min(aucs(differing)) > 0.9
    assert max(abs(auc - 0.5) for auc in aucs(alike)) < 0.15  # four standard errors of 64 voxels


class TestBadInput:
    @pytest.mark.parametrize(
        ("labels", "target"), [([1] * 6, 1), ([0, 1] * 3, 2), ([0, 0, 0, 0, 0, 1], 1)]
    )
    def test_too_few_people_on_one_side(self, labels, target):
        with pytest.raises(ValueError, match=rf"at least 2 people of class {target} and 2 of the"):
            evaluation.label_aware_rivals(people(6)[0], torch.tensor(labels), target)

    @pytest.mark.usefixtures("unchecked")
    def test_labels_of_other_people(self):
        with pytest.raises(ValueError, match=r"one label a person \(6\), got \(5,\)"):
            evaluation.label_aware_rivals(people(6)[0], torch.arange(5) % 2, 1)

    def test_nan(self):
        volumes = people(6)[0]
        volumes[2, 0, 5, 6, 7] = torch.nan
        with pytest.raises(ValueError, match=r"of the training people hold NaN .* person 2"):
            evaluation.label_aware_rivals(volumes, torch.arange(6) % 2, 1)
        with pytest.raises(ValueError, match=r"of the healthy people hold NaN .* person 2"):
            evaluation.blind_rivals(volumes)
        rivals = evaluation.blind_rivals(people(6)[0])
        for rival in rivals.values():
            with pytest.raises(ValueError, match=r"to be explained hold NaN .* person 2"):
                rival(volumes)

    def test_one_healthy_person(self):
        with pytest.raises(ValueError, match="at least 2 healthy people, got 1"):
            evaluation.blind_rivals(people(1)[0])

    def test_another_grid(self):
        volumes, other = people(6)[0], torch.rand(2, 1, 16, 24, 20)
        label_aware = evaluation.label_aware_rivals(volumes, torch.arange(6) % 2, 1)
        for rival in (*evaluation.blind_rivals(volumes).values(), *label_aware.values()):
            with pytest.raises(ValueError, match=r"\(16, 20, 24\) voxels, .* \(16, 24, 20\)"):
                rival(other)

    def test_nobody_differs(self):
        alike = people(1)[0].repeat(6, 1, 1, 1, 1)
        with pytest.raises(ValueError, match="no voxel differs between the training people"):
            evaluation.label_aware_rivals(alike, torch.arange(6) % 2, 1)

    def test_a_voxel_that_varies_between_the_classes_only(self):
        volumes, labels = people(6)[0], torch.arange(6) % 2
        volumes[:, 0, 5, 6, 7] = labels.float()
        with pytest.raises(ValueError, match=r"infinite t in 1 voxels"):
            evaluation.label_aware_rivals(volumes, labels, 1)
