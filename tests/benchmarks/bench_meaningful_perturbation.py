"""How much faster is Meaningful Perturbation? Goal: 15 times the published recipe, no worse loss.

The peer is the recipe of Kan et al. (2020): 300 steps of 10 forward and backward passes through
their network at 58x70x58, run with our own code and options. Its learning rate falls to a tenth
every 30 steps, so after 100 steps no mask value can move by more than 0.01: here it runs 100 steps,
and its seconds are those times three. Both masks are then scored by the same loss on the same 20
shifts, which neither has seen. The network was trained on simulated sex for a few minutes; the
subjects are those of a held-out cohort that it is surest of. It takes more than an hour.

    python tests/benchmarks/bench_meaningful_perturbation.py
"""

import time

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import cohorts, fields, models, runtime
from helpers.attribution.perturbation import (
    JITTER_VOXELS,
    MASK_SPACING_VOXELS,
    meaningful_perturbation,
    perturbed,
    roughness,
)
from helpers.grids import Grid

SHAPE, SPACING_MM = (58, 70, 58), 3.25
KAN2020 = {"jitters": (10, 10), "decay": (0.1, 30), "ramp": 60, "patience": None}
PEER_STEPS, PUBLISHED_STEPS = 100, 300
SUBJECTS = 8
GOAL, AREA_WEIGHT, ROUGHNESS_WEIGHT, BLUR_VOXELS = 0.05, 3.0, 1.0, 4.0


def measure(shape: tuple[int, int, int] = SHAPE, subjects: int = SUBJECTS) -> list[dict]:
    """Return seconds and final loss of ours and of the published recipe, a row for each subject."""
    model, cohort = _trained(shape)
    rows = []
    for subject in _surest(model, cohort)[:subjects]:
        volume, target = cohort.volumes[subject][None], int(cohort.labels[subject])
        facts = {}
        for name, options in {
            "ours": {},
            "peer": {"iterations": PEER_STEPS, **KAN2020},
        }.items():
            steps, started = [], time.perf_counter()
            maps = meaningful_perturbation(
                model,
                volume,
                target,
                goal=GOAL,
                area_weight=AREA_WEIGHT,
                roughness_weight=ROUGHNESS_WEIGHT,
                blur_voxels=BLUR_VOXELS,
                record=steps.append,
                progress=False,
                **options,
            )
            facts[f"{name}_s"] = time.perf_counter() - started
            facts[f"{name}_steps"] = len(steps)
            facts[f"{name}_loss"] = _loss(model, volume, target, maps)
        facts["peer_s"] *= PUBLISHED_STEPS / PEER_STEPS
        rows.append(
            {
                "method": "meaningful_perturbation",
                "peer": f"3000 passes, extrapolated from {10 * PEER_STEPS}",
                "ratio": facts["ours_s"] / facts["peer_s"],
                "times_faster": facts["peer_s"] / facts["ours_s"],
                "repeats": 1,
                "subject": subject,
                **facts,
            }
        )
    return rows


def _trained(shape) -> tuple[nn.Module, cohorts.Cohort]:
    """Return kan2020, trained on simulated sex, and subjects that it has not seen."""
    affine = torch.diag(torch.tensor([SPACING_MM * SHAPE[0] / shape[0]] * 3 + [1.0])).numpy()
    affine[:3, 3] = -affine[0, 0] * (torch.tensor(shape).numpy() - 1) / 2 + [0, -18, 12]
    grid = Grid(shape, affine)
    model = models.build("kan2020", 2, shape)
    models.train(
        model,
        cohorts.simulate("sex", subjects=96, grid=grid),
        epochs=6,
        batch_size=8,
        learning_rate=1e-3,
        progress=False,
    )
    return model, cohorts.simulate("sex", subjects=16, seed=1, grid=grid)


@torch.no_grad()
def _surest(model: nn.Module, cohort: cohorts.Cohort) -> list[int]:
    """Return the subjects, the surest first, whose class a blur of the whole volume weakens."""
    right = []
    for subject, label in enumerate(cohort.labels.tolist()):
        volume = cohort.volumes[subject][None]
        both = torch.cat([volume, fields.gaussian_blur(volume, BLUR_VOXELS)])
        before, after = model(both).softmax(1)[:, label].tolist()
        if before > 0.5 and after < before:
            right.append((before, subject))
    return [subject for _, subject in sorted(right, reverse=True)]


@torch.no_grad()
def _loss(model: nn.Module, volume: Tensor, target: int, maps: Tensor) -> float:
    """Return the full loss of a map on shifts that no run has seen."""
    mask = _coarse(1 - maps)
    shifts = torch.randint(
        -JITTER_VOXELS, JITTER_VOXELS + 1, (20, 3), generator=runtime.generator(1, 0)
    )
    seen = perturbed(volume, fields.gaussian_blur(volume, BLUR_VOXELS), mask)
    excess = [
        F.relu(model(seen.roll(shift, (2, 3, 4))).softmax(1)[0, target] - GOAL)
        for shift in shifts.tolist()
    ]
    price = AREA_WEIGHT * (1 - mask).mean() + ROUGHNESS_WEIGHT * roughness(mask)
    return float(torch.stack(excess).mean() + price)


def _coarse(keep: Tensor) -> Tensor:
    """Return the mask that was interpolated to these voxels: the inverse along each axis."""
    mask = keep
    for axis in (2, 3, 4):
        fine = keep.shape[axis]
        coarse = -(-fine // MASK_SPACING_VOXELS)
        matrix = F.interpolate(torch.eye(coarse)[None], fine, mode="linear")[0]  # coarse fine
        mask = (mask.movedim(axis, -1) @ torch.linalg.pinv(matrix)).movedim(-1, axis)
    again = F.interpolate(mask, keep.shape[2:], mode="trilinear")
    assert torch.allclose(again, keep, atol=1e-4), "this map was not interpolated from a mask"
    return mask


if __name__ == "__main__":
    print(pd.DataFrame(measure()).to_string(index=False, float_format="%.3g"))
