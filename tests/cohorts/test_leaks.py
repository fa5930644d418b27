"""The audit passes our cohorts, and it catches the leaks that it is there for."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers import cohorts, fields


@pytest.fixture(scope="module")
def lesions():
    return cohorts.simulate("lesion", subjects=200)


@pytest.mark.parametrize("task", ["lesion", "shortcut"])
def test_simple_statistics_predict_no_label(task, lesions):
    cohort = lesions if task == "lesion" else cohorts.simulate(task, subjects=200)
    audit = cohorts.audit_leaks(cohort)
    assert len(audit) == 7
    assert audit["safe"].all(), f"\n{audit}"


def test_audit_finds_a_second_interpolation(lesions):
    """The accident of the field notes: patients are warped once more than controls."""
    half_a_voxel = torch.zeros(len(lesions), 3, *lesions.grid.shape)
    half_a_voxel[lesions.labels > 0] = 0.5
    leaky = replace(lesions, volumes=fields.warp(lesions.volumes, half_a_voxel))
    leaky = replace(leaky, labels=(leaky.labels > 0).long(), classes=("control", "patient"))
    audit = cohorts.audit_leaks(leaky).set_index("statistic")
    assert audit.loc["all together", "auc"] > 0.95
    assert audit.loc[["border", "smoothness", "noise level"], "auc"].min() > 0.7


def test_audit_finds_brain_size_and_brightness(lesions):
    generator = np.random.default_rng(0)
    sick = (lesions.labels % 2).numpy()
    brighter = torch.from_numpy(1 + 0.1 * sick + 0.01 * generator.normal(size=200)).float()
    leaky = replace(
        lesions,
        volumes=lesions.volumes * brighter[:, None, None, None, None],
        labels=lesions.labels % 2,
        classes=("control", "patient"),
    )
    audit = cohorts.audit_leaks(leaky).set_index("statistic")
    assert audit.loc["mean intensity", "auc"] > 0.9
    assert not audit.loc["all together", "safe"]


def test_audit_needs_enough_subjects():
    with pytest.raises(ValueError, match="smallest class has 2 subjects; 5 folds"):
        cohorts.audit_leaks(cohorts.simulate("lesion", subjects=10))
