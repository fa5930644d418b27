"""How long does the network's own truth take? Goal: 20 twins a second; two minutes for 24 people.

24 patients of the simulated atrophy, four structures and thus 16 twins each, three networks. No
peer renders twins: these are plain speeds.

    python tests/benchmarks/bench_reliance.py
"""

import statistics
import time

import pandas as pd

from helpers import cohorts, evaluation, models

TASK, PEOPLE, NETWORKS, REPEATS = "atrophy", 24, (0, 1, 2), 5


def measure() -> list[dict]:
    """Return twins a second, and the seconds of `reliance`."""
    cohort = cohorts.simulate(TASK, 2 * PEOPLE, 61)
    patients = cohort[cohort.labels == 1]
    networks = {seed: models.pretrained(TASK, seed=seed) for seed in NETWORKS}
    cohorts.twins(patients, 0)
    times = []
    for subject in range(REPEATS):
        started = time.perf_counter()
        twins = cohorts.twins(patients, subject)
        times.append((time.perf_counter() - started) / len(twins))
    started = time.perf_counter()
    table = evaluation.reliance(networks, patients)
    seconds = time.perf_counter() - started
    assert len(table) == PEOPLE * len(NETWORKS) * len(twins.parts)
    return [
        {"what": "one twin", "seconds": statistics.median(times), "repeats": REPEATS},
        {
            "what": f"reliance, {PEOPLE} people, {len(NETWORKS)} networks",
            "seconds": seconds,
            "repeats": 1,
        },
    ]


if __name__ == "__main__":
    print(pd.DataFrame(measure()).round(3).to_string(index=False))
