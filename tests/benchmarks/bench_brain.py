"""How long do all twelve maps of one brain take? Goal: ten seconds.

One simulated patient of 48x56x48 voxels, the trained course network, every method as it comes. No
peer has all of them: these are plain seconds.

    python tests/benchmarks/bench_brain.py
"""

import statistics
import time

import pandas as pd

from helpers import attribution, cohorts, models

REPEATS = 3


def measure() -> list[dict]:
    """Return the median seconds of each method, and of all together in the last row."""
    model = models.pretrained("lesion")
    patient = cohorts.simulate("lesion", subjects=2)[1:]
    seconds = {name: [] for name in attribution.METHODS}
    for _ in range(REPEATS):
        for name, method in attribution.METHODS.items():
            started = time.perf_counter()
            method(model, patient.volumes, patient.labels)
            seconds[name].append(time.perf_counter() - started)
    seconds["all twelve"] = [sum(one) for one in zip(*seconds.values(), strict=True)]
    return [
        {"method": name, "seconds": statistics.median(times), "repeats": REPEATS}
        for name, times in seconds.items()
    ]


if __name__ == "__main__":
    print(pd.DataFrame(measure()).round(3).to_string(index=False))
