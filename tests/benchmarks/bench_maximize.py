"""What does the loop of activation maximization cost? Goal: at most 1.10 of the bare passes.

Both sides take STEPS steps for a batch of simulated brains of 48x56x48 voxels on the trained course
network. The peer only runs forward and backward; the loop also takes Adam's step, checks for NaN,
keeps the history and, in the second row, penalises and blurs. First, a plain loop with torch's Adam
has to reach the same volumes.

    python tests/benchmarks/bench_maximize.py
"""

import statistics
import time

import pandas as pd
import torch

from helpers import cohorts, models
from helpers.activation_maximization import images, logit, maximize, regularizers

IMAGES, STEPS, REPEATS = 2, 5, 9
LEARNING_RATE = 0.05


def measure() -> list[dict]:
    """Return medians of the loop and of bare passes, measured in turn."""
    model = models.pretrained("lesion").requires_grad_(False)
    volumes = cohorts.simulate("lesion", subjects=IMAGES).volumes
    targets = torch.arange(IMAGES) + 1

    def score(batch):
        return model(batch).gather(1, targets[:, None]).sum()

    def bare():
        for _ in range(STEPS):
            torch.autograd.grad(score(leaf), leaf)

    def plain_ascent():
        ascending = volumes.clone().requires_grad_()
        adam = torch.optim.Adam([ascending], lr=LEARNING_RATE)
        for _ in range(STEPS):
            (ascending.grad,) = torch.autograd.grad(-score(ascending), ascending)
            adam.step()
        return ascending.detach()

    def ours(parts=()):
        return maximize(
            model,
            logit(targets.tolist()),
            image=images.Voxels(volumes),
            regularizers=parts,
            steps=STEPS,
            learning_rate=LEARNING_RATE,
        ).volume

    leaf = volumes.clone().requires_grad_()
    error = float((ours() - plain_ascent()).abs().max())
    assert error < 1e-4, f"the loop ends {error:.1e} away from a plain one"
    penalised = [regularizers.total_variation(30.0), regularizers.blur_gradient(1.0)]
    sides = {
        "maximize": ours,
        "maximize, total variation and blur": lambda: ours(penalised),
        "forward and backward": bare,
    }
    seconds = {name: [] for name in sides}
    for _ in range(REPEATS):
        for name, side in sides.items():
            started = time.perf_counter()
            side()
            seconds[name].append((time.perf_counter() - started) / STEPS / IMAGES)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    peer = medians.pop("forward and backward")
    return [
        {
            "method": name,
            "peer": "forward and backward",
            "ours_s": median,
            "peer_s": peer,
            "ratio": median / peer,
            "repeats": REPEATS,
            "difference": error,
        }
        for name, median in medians.items()
    ]


if __name__ == "__main__":
    print(pd.DataFrame(measure()).round(3).to_string(index=False))
