"""How fast are subjects simulated? Goal: at least 15 volumes a second at 4 mm on two cores.

python tests/benchmarks/bench_simulate.py
"""

import statistics
import time

import pandas as pd

from helpers import cohorts


def measure() -> list[dict]:
    """Return volumes a second for every task."""
    cohorts.simulate("lesion", subjects=5)  # loads the template
    rows = []
    for task in ("lesion", "shortcut", "atrophy", "alcohol", "sex"):
        rates = []
        for seed in range(5):
            started = time.perf_counter()
            cohorts.simulate(task, subjects=30, seed=seed)
            rates.append(30 / (time.perf_counter() - started))
        rows.append(
            {
                "task": task,
                "volumes_per_s": statistics.median(rates),
                "slowest": min(rates),
                "fastest": max(rates),
                "repeats": len(rates),
            }
        )
    return rows


if __name__ == "__main__":
    print(pd.DataFrame(measure()).round(1).to_string(index=False))
