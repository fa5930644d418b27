"""How long does one volume take to pass the network, and would a compiled copy be worth it?

The trained course network on volumes of 48x56x48. A compiled copy cannot be differentiated or
looked into, so only occlusion and the scoring of masks could use one: a second way to do one thing.

    python tests/benchmarks/bench_forward.py
"""

import copy
import statistics
import time
import warnings
from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor

from helpers import cohorts, models

VOLUMES, REPEATS = 4, 15


@torch.no_grad()
def measure() -> list[dict]:
    """Return the median seconds a volume of each way, measured in turn."""
    model = models.pretrained("lesion").eval()
    volumes = cohorts.simulate("lesion", subjects=VOLUMES).volumes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit will go, some day
        traced = torch.jit.trace(copy.deepcopy(model), volumes[:1])
        compiled = torch.jit.optimize_for_inference(torch.jit.freeze(traced))
    plain = copy.deepcopy(model)
    with models.frozen(model) as network, torch.no_grad():
        ways = {
            "one alone": _one_by_one(plain, volumes),
            "one alone, compiled (torch.jit)": _one_by_one(compiled, volumes),
            f"batch of {VOLUMES}": lambda: plain(volumes),
            f"batch of {VOLUMES}, in models.frozen": lambda: network(volumes),
        }
        seconds = {name: [] for name in ways}
        expected = plain(volumes)
        for name, way in ways.items():
            for _ in range(3):  # the compiled copy is optimised while it runs
                error = float((way() - expected).abs().max() / expected.abs().max())
            assert error < 1e-5, f"{name} differs by {error:.1e}"
        for _ in range(REPEATS):
            for name, way in ways.items():
                started = time.perf_counter()
                way()
                seconds[name].append((time.perf_counter() - started) / VOLUMES)
    return [
        {"way": name, "seconds": statistics.median(times), "repeats": REPEATS}
        for name, times in seconds.items()
    ]


def _one_by_one(network: Callable[[Tensor], Tensor], volumes: Tensor) -> Callable[[], Tensor]:
    return lambda: torch.cat([network(volume) for volume in volumes.split(1)])


if __name__ == "__main__":
    print(pd.DataFrame(measure()).round(4).to_string(index=False))
