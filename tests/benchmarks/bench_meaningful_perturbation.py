"""How much faster is Meaningful Perturbation? Goal: 15 times the published recipe, no worse loss.

The peer is the recipe of Kan et al. (2020): 300 steps of 10 forward and backward passes through
their network at 58x70x58, run with our own code and options. All its steps cost the same: 10 are
timed, and its seconds are those times 30. Its mask is that of 100 steps, for its learning rate
falls to a tenth every 30 steps, so that after them no value can move by more than 0.01. Both masks
are scored by the same loss on the same 20 shifts, which neither has seen. The network was trained
on simulated sex for a few minutes; the subjects are those of a held-out cohort that it is surest
of. The network and the peer's masks take an hour and are kept in ``runs/benchmarks``: run this
file first, beside whatever you like, then `run.py` alone.

    python tests/benchmarks/bench_meaningful_perturbation.py
"""

import time
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import cohorts, fields, models, results, runtime
from helpers.attribution.perturbation import (
    JITTER_VOXELS,
    MASK_SPACING_VOXELS,
    meaningful_perturbation,
    perturbed,
    roughness,
)
from helpers.grids import Grid

SHAPE, SPACING_MM = (58, 70, 58), 3.25
KAN2020 = {"jitters": (10, 10), "decay": (0.1, 30), "patience": None}
TIMED_STEPS, MASK_STEPS, PUBLISHED_STEPS = 10, 100, 300
SUBJECTS = 8
KEPT = Path("runs/benchmarks")
GOAL, AREA_WEIGHT, ROUGHNESS_WEIGHT, BLUR_VOXELS = 0.05, 3.0, 1.0, 4.0


def measure() -> list[dict]:
    """Return seconds and final loss of ours and of the published recipe, a row for each subject."""
    model = models.build("kan2020", 2, SHAPE)
    model.load_state_dict(results.part(KEPT / "kan2020.safetensors", _trained))
    cohort = cohorts.simulate("sex", subjects=16, seed=1, grid=_grid())
    rows = []
    for subject in _surest(model.eval(), cohort)[:SUBJECTS]:
        seen = model, cohort.volumes[subject][None], int(cohort.labels[subject])
        peer = results.part(KEPT / f"mask-{subject}.safetensors", _published, *seen, MASK_STEPS)
        steps, started = [], time.perf_counter()
        ours = _mask(*seen, record=steps.append)
        ours_s, started = time.perf_counter() - started, time.perf_counter()
        _published(*seen, TIMED_STEPS)
        peer_s = (time.perf_counter() - started) * PUBLISHED_STEPS / TIMED_STEPS
        rows.append(
            {
                "method": "meaningful_perturbation",
                "peer": f"{10 * PUBLISHED_STEPS} passes, extrapolated from {10 * TIMED_STEPS}",
                "ratio": ours_s / peer_s,
                "times_faster": peer_s / ours_s,
                "repeats": 1,
                "subject": subject,
                "ours_s": ours_s,
                "ours_steps": len(steps),
                "ours_loss": _loss(*seen, ours),
                "peer_s": peer_s,
                "peer_loss": _loss(*seen, peer["maps"]),
            }
        )
    return rows


def _mask(model: nn.Module, volume: Tensor, target: int, **options) -> Tensor:
    return meaningful_perturbation(
        model,
        volume,
        target,
        goal=GOAL,
        area_weight=AREA_WEIGHT,
        roughness_weight=ROUGHNESS_WEIGHT,
        blur_voxels=BLUR_VOXELS,
        progress=False,
        **options,
    )


def _published(model: nn.Module, volume: Tensor, target: int, steps: int) -> dict[str, Tensor]:
    """Return the map after so many steps of the published recipe."""
    ramp = min(60, steps - 1)
    return {"maps": _mask(model, volume, target, iterations=steps, ramp=ramp, **KAN2020)}


def _grid() -> Grid:
    affine = torch.diag(torch.tensor([SPACING_MM] * 3 + [1.0])).numpy()
    affine[:3, 3] = -SPACING_MM * (torch.tensor(SHAPE).numpy() - 1) / 2 + [0, -18, 12]
    return Grid(SHAPE, affine)


def _trained() -> dict[str, Tensor]:
    """Return the weights of kan2020, trained on simulated sex."""
    model = models.build("kan2020", 2, SHAPE)
    models.train(
        model,
        cohorts.simulate("sex", subjects=96, grid=_grid()),
        epochs=6,
        batch_size=8,
        learning_rate=1e-3,
        progress=False,
    )
    return model.state_dict()


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
