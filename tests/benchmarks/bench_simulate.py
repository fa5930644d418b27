"""How fast are subjects simulated? Goal: at least 15 volumes a second at 4 mm on two cores.

python tests/benchmarks/bench_simulate.py
"""

import platform
import statistics
import time

import torch

from helpers import cohorts


def main() -> None:
    cohorts.simulate("lesion", subjects=5)  # loads the template
    for task in ("lesion", "shortcut"):
        rates = []
        for seed in range(5):
            started = time.perf_counter()
            cohorts.simulate(task, subjects=30, seed=seed)
            rates.append(30 / (time.perf_counter() - started))
        print(
            f"{task}: {statistics.median(rates):.1f} volumes/s at 4 mm "
            f"(median of 5 runs of 30, {min(rates):.1f} to {max(rates):.1f}; "
            f"{torch.get_num_threads()} threads, {platform.processor() or platform.machine()})"
        )


if __name__ == "__main__":
    main()
