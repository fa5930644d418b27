"""Oracles: SciPy's Gaussian, NumPy's sums, planted lesions; a random network must not find them."""

import copy
import importlib
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import Modules
from torch import nn

from helpers import cohorts, evaluation, models
from helpers.attribution import meaningful_perturbation
from helpers.errors import InterruptedWarning

# The package exports the function under the module's own name.
module = importlib.import_module("helpers.attribution.perturbation")
SHAPE = (14, 18, 21)
SHORT = {"iterations": 6, "ramp": 3, "jitters": (1, 2), "progress": False}
CHEAP = {"goal": 0.0, "area_weight": 0.0}  # any change that helps is welcome


@pytest.fixture
def volumes():
    return torch.rand(3, 1, *SHAPE, generator=torch.Generator().manual_seed(1))


class Bright(nn.Module):
    """Class 1 is as likely as the brightest cube of 5 voxels is bright, wherever it lies."""

    def __init__(self, sharpness=6.0):
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(sharpness))

    def forward(self, volumes):
        seen = F.avg_pool3d(volumes, 5, stride=1).amax((1, 2, 3, 4)) - 0.5
        return torch.stack([-seen, seen], 1) * self.sharpness


def bright_box():
    volume = torch.zeros(1, 1, *SHAPE)
    volume[:, :, 4:10, 6:12, 8:16] = 1
    return volume


def test_mask_arithmetic_equals_numpy(volumes):
    mask = torch.rand(1, 1, 4, 5, 6)
    parts = [np.mean(np.abs(np.diff(mask[0, 0].numpy(), axis=axis)) ** 7) for axis in range(3)]
    assert float(module.roughness(mask)) == pytest.approx(sum(parts), rel=1e-5)
    volume, blurred = volumes[:1], volumes[1:2]
    assert torch.equal(module.perturbed(volume, blurred, torch.zeros_like(mask)), blurred)
    whole = module.perturbed(volume, blurred, torch.ones_like(mask))
    torch.testing.assert_close(whole, volume)
    half = module.perturbed(volume, blurred, torch.full_like(mask, 0.25))
    torch.testing.assert_close(half, 0.25 * volume + 0.75 * blurred)


def test_the_history_adds_up():
    rows = []
    meaningful_perturbation(
        Bright(), bright_box(), 1, **SHORT, area_weight=0.2, roughness_weight=0.5, goal=0.0,
        record=rows.append,
    )  # fmt: skip
    assert [row["step"] for row in rows] == list(range(6))
    assert rows[0]["area"] == rows[0]["roughness"] == 0
    for row in rows:
        expected = row["probability"] + 0.2 * row["area"] + 0.5 * row["roughness"]
        assert row["loss"] == pytest.approx(expected, rel=1e-5)
    assert rows[-1]["probability"] < rows[0]["probability"]


def test_finds_the_only_region_that_matters():
    truth = bright_box() > 0
    rows = []
    maps = meaningful_perturbation(
        Bright(), bright_box(), 1, blur_voxels=6.0, progress=False, record=rows.append
    )
    assert 0 <= float(maps.min()) < 0.02
    assert 0.5 < float(maps.max()) <= 1
    score = evaluation.localization(maps, truth, within=bright_box() >= 0)
    assert score["voxel_auc"].item() > 0.9
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]


def test_finds_planted_lesions_with_the_trained_network_only():
    """Also tells that the random network's map is no lucky guess at where lesions lie."""
    cohort = cohorts.simulate("lesion", subjects=12, seed=5)
    patients = cohort[cohort.labels > 0][[0, 1]]
    options = {"iterations": 25, "ramp": 8, "jitters": (1, 4), "progress": False}
    auc = {}
    for name, model in {
        "trained": models.pretrained("lesion"),
        "random": models.build("course", 5, seed=3),
    }.items():
        maps = meaningful_perturbation(
            model, patients.volumes, patients.labels, goal=0.0, **options
        )
        brain = patients.volumes > 0
        scores = evaluation.localization(maps, patients.truth.mask & brain, within=brain)
        auc[name] = scores["voxel_auc"]
    assert auc["trained"].min() > 0.8
    assert auc["random"].mean() < 0.7


def test_a_subject_does_not_depend_on_its_neighbours(volumes):
    model = Modules()
    together = meaningful_perturbation(model, volumes, 1, **SHORT, **CHEAP)
    assert together.flatten(1).amax(1).min() > 0
    alone = meaningful_perturbation(model, volumes[1:2], 1, **SHORT, **CHEAP)
    assert torch.equal(alone, together[1:2])


def test_copies_at_a_time_do_not_matter(volumes):
    rows = [[], []]
    for batch_size, history in zip((1, 4), rows, strict=True):
        meaningful_perturbation(
            Modules(), volumes[:1], 1, iterations=3, ramp=1, jitters=(4, 4), **CHEAP,
            batch_size=batch_size, record=history.append,
        )  # fmt: skip
    losses = [[row["loss"] for row in history] for history in rows]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_same_seed_same_bytes(volumes):
    maps = [
        meaningful_perturbation(Modules(), volumes[:1], 1, **SHORT, **CHEAP, seed=seed)
        for seed in (0, 0, 1)
    ]
    assert torch.equal(maps[0], maps[1])
    assert not torch.equal(maps[0], maps[2])


def test_stops_early_where_the_loss_falls_no_further():
    """The learning rate becomes 0 in step 4, so that steps 5, 6 and 7 bring nothing."""
    rows = []
    options = {"ramp": 4, "decay": (0.0, 4), "record": rows.append, "progress": False}
    meaningful_perturbation(Bright(), bright_box(), 1, patience=3, **options)
    assert [row["step"] for row in rows] == list(range(8))
    rows.clear()
    meaningful_perturbation(Bright(), bright_box(), 1, patience=None, **options)
    assert len(rows) == 90


def test_nothing_to_destroy_is_a_warned_zero_map():
    volume = bright_box()
    with pytest.warns(UserWarning, match="not above 0.05, or blurring all of the volume"):
        unlikely = meaningful_perturbation(Bright(), volume, 0, **SHORT)
    with pytest.warns(UserWarning, match="nothing to destroy"):
        untouched = meaningful_perturbation(Bright(sharpness=0.0), volume, 1, **SHORT)
    assert unlikely.abs().max() == untouched.abs().max() == 0


def stop_in(step, rows):
    """Return a record that stops the second subject as Ctrl-C would."""

    def record(row):
        rows.append(row)
        if row["subject"] == 1 and row["step"] == step:
            raise KeyboardInterrupt

    return record


@pytest.mark.parametrize("step", [1, 5])
def test_stopped_at_a_prompt_keeps_the_best_so_far(step, monkeypatch):
    monkeypatch.setattr(sys, "ps1", "In [1]: ", raising=False)
    volumes = torch.cat([bright_box()] * 4)
    options = {"ramp": 3, "iterations": 8, "area_weight": 0.1, "progress": False}
    whole = meaningful_perturbation(Bright(), volumes[:1], 1, **options)
    with pytest.warns(
        InterruptedWarning, match="subject 1 is the best so far, .* 2 subjects after it"
    ):
        maps = meaningful_perturbation(Bright(), volumes, 1, **options, record=stop_in(step, []))
    torch.testing.assert_close(maps[:1], whole)
    assert 0 < maps[1].max() <= 1
    assert maps[1].isfinite().all()
    assert maps[2:].isnan().all()


def test_a_program_that_is_stopped_stops(monkeypatch):
    monkeypatch.delattr(sys, "ps1", raising=False)
    rows = []
    with pytest.raises(KeyboardInterrupt):
        meaningful_perturbation(
            Bright(), torch.cat([bright_box()] * 3), 1, progress=False, record=stop_in(2, rows)
        )
    assert rows[-1]["subject"] == 1


def test_model_is_left_as_found_also_after_an_error(volumes):
    model = Modules().train()
    before, original = copy.deepcopy(model.state_dict()), volumes.clone()
    meaningful_perturbation(model, volumes[:1], 1, **SHORT, **CHEAP)

    def broken(row):
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        meaningful_perturbation(model, volumes[:1], 1, **SHORT, **CHEAP, record=broken)
    assert torch.equal(volumes, original)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(layer.training for layer in model.modules())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"goal": 1.0}, "goal must be a probability"),
        ({"blur_voxels": 0.0}, "blur_voxels and learning_rate must be above 0"),
        ({"ramp": 90}, "ramp must be from 1 to below the 90 iterations"),
        ({"jitters": (0, 4)}, "jitters, patience and batch_size must be 1 or more"),
        ({"patience": 0}, "jitters, patience and batch_size must be 1 or more"),
        ({"batch_size": 0}, "batch_size must be 1 or more"),
    ],
)
def test_bad_input(options, message, volumes):
    with pytest.raises(ValueError, match=message):
        meaningful_perturbation(Modules(), volumes, 1, **options)
    with pytest.raises(ValueError, match="hold NaN"):
        meaningful_perturbation(Modules(), volumes * float("nan"), 1)
