"""How much memory does a training on 2,000 people at 2 mm take? Goal: less than 4 GB.

    python data_scripts/measure_memory.py

A few simulated people stand in for many: each comes again and again, with noise of its own. The
cohort is split, as a fold of a cross-validation is, a very small network is trained for an epoch,
and the simple models are fitted beside it. The memory of a larger network would come on top,
however many people there are. Counted is what
the system cannot take back (the heap, and files that lie in memory), looked up every few
milliseconds. The disk needs room for the cohort twice; nothing stays there.
"""

import argparse
import threading
import time
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from helpers import cohorts, grids, models, results, runtime, tensors
from helpers.cohorts import Cohort
from helpers.grids import Grid

SEED, TASK, NOISE = 0, "shortcut", 0.02
BATCH = 16


def main() -> None:
    """Simulate, train, write the peak."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--people", type=int, default=2000)
    parser.add_argument("--different", type=int, default=100, help="people that are simulated")
    parser.add_argument("--spacing-mm", type=float, default=2.0)
    parser.add_argument("--in-memory", action="store_true", help="hold everything, to compare")
    parser.add_argument(
        "--folder", type=Path, default=results.FOLDER, help="where memory.json will be"
    )
    options = parser.parse_args()
    if options.in_memory:
        tensors.MOST_IN_MEMORY_BYTES = float("inf")
    with Peak() as peak:
        begun = time.perf_counter()
        cohort = crowd(options.people, options.different, grids.mni(options.spacing_mm))
        loaded = time.perf_counter()
        history = train(cohort)
        ended = time.perf_counter()
    row = {
        "people": options.people,
        "different_people": options.different,
        "spacing_mm": options.spacing_mm,
        "in_memory": options.in_memory,
        "data_gb": round(4 * cohort.volumes.numel() / 1e9, 2),
        "peak_gb": round(peak.gb, 2),
        "simulated_s": round(loaded - begun),
        "split_and_trained_s": round(ended - loaded),
        "validation_accuracy": round(float(history["validation_accuracy"].iloc[-1]), 3),
    }
    print(row)
    if not options.in_memory:
        results.write(
            "memory",
            {
                "what": "Peak memory that cannot be taken back, of a fold with a small network.",
                "command": "python data_scripts/measure_memory.py",
                "seed": SEED,
                "machine": runtime.processor(),
                **row,
            },
            folder=options.folder,
        )


def crowd(people: int, different: int, grid: Grid) -> Cohort:
    """Return so many simulated people, each of a few again and again, with noise of its own."""
    few = cohorts.simulate(TASK, subjects=different, seed=SEED, grid=grid, progress=True)
    volumes = tensors.zeros((people, 1, *grid.shape))
    for i in runtime.progress(range(people), label="noise"):
        noise = torch.randn(grid.shape, generator=runtime.generator(SEED, i))
        one = few.volumes[i % different, 0]
        volumes[i, 0] = one + NOISE * noise * (one != 0)
    table = pd.DataFrame({"participant_id": [f"sim-{i:05d}" for i in range(people)]})
    labels = few.labels[torch.arange(people) % different]
    return Cohort(volumes, labels, few.classes, table, grid)


def train(cohort: Cohort) -> pd.DataFrame:
    """Fit a very small network, for an epoch, and simple models; return the network's history."""
    known, new = cohort.split([0.8, 0.2], seed=SEED)
    voxels = torch.tensor(cohort.grid.shape).div(4, rounding_mode="floor").prod()
    torch.manual_seed(SEED)
    model = nn.Sequential(
        nn.AvgPool3d(4), nn.Flatten(), nn.BatchNorm1d(int(voxels)), nn.Linear(int(voxels), 2)
    )
    history = models.train(model, known, validation=new, epochs=1, batch_size=BATCH, seed=SEED)
    models.baselines(known, new, seed=SEED)
    return history


class Peak:
    """Watches this process's memory while a block runs; ``gb`` is the largest value."""

    def __enter__(self):
        self.gb, self._ended = 0.0, threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._watcher.join()

    def _watch(self):
        while not self._ended.wait(0.005):
            lines = Path("/proc/self/status").read_text().splitlines()
            kb = dict(line.split(":") for line in lines)
            own = sum(int(kb[name].split()[0]) for name in ("RssAnon", "RssShmem"))
            self.gb = max(self.gb, 1024 * own / 1e9)


if __name__ == "__main__":
    main()
