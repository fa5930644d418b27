"""How fast is the work on this device? A column of the table in chapter 15, "Scaling up".

    python data_scripts/measure_throughput.py

Run nothing else meanwhile: whether the machine was quiet is noted beside the numbers. Each device
(a GPU, or a processor with so many threads) has an entry of its own in ``throughput.json``; the
others stay. Scans are preprocessed by one process on one processor, whatever the device is.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch

from helpers import attribution, cohorts, grids, models, results, runtime, study, warping
from helpers.cohorts.real_brains import STUDY_MASKS
from helpers.study.explaining import explain
from helpers.study.preprocessing import preprocess
from helpers.study.reporting import report

SEED, REPEATS = 0, 3
# People and batch of a training, by the edge of a voxel in mm.
TRAININGS = {4.0: (32, 16), 2.0: (8, 4)}
QUIET_LOAD = 0.3  # mean number of other busy processes in the last minute


def main() -> None:
    """Measure everything, write the device's column."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, default=results.FOLDER, help="where throughput.json is, or will be"
    )
    folder, load = parser.parse_args().folder, os.getloadavg()[0]
    path = folder / "throughput.json"
    known = json.loads(path.read_text())["devices"] if path.exists() else {}
    measured = {}
    for measure in (study_of_twelve, training, maps, deformations, peak_memory):
        measured |= measure()
        print(measured, flush=True)
    column = {
        "measured": {name: float(f"{value:.4g}") for name, value in measured.items()},
        "quiet": load < QUIET_LOAD,
        "load_before": round(load, 2),
        "processor": runtime.processor(),
        "threads": torch.get_num_threads(),
        "precision": runtime.profile().precision if torch.cuda.is_available() else "32-true",
        "date": date.today().isoformat(),
        "versions": results.versions(),
    }
    results.write(
        "throughput",
        {
            "what": "Speeds and seconds by device. Repeated measures are medians.",
            "command": "python data_scripts/measure_throughput.py",
            "seed": SEED,
            "devices": {**known, device_name(): column},
        },
        folder=folder,
    )


def device_name() -> str:
    """Return the name of the GPU, or of the processor with its threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"{runtime.processor()}, {threads} thread{'s' if threads > 1 else ''}"


def study_of_twelve() -> dict[str, float]:
    """Preprocess, explain and report the scans that ship."""
    with tempfile.TemporaryDirectory() as place:
        mine = study.Study(cohorts.real_study(), Path(place) / "results", masks=STUDY_MASKS)
        model = models.pretrained("lesion")
        seconds = {
            "preprocess": _seconds(lambda: preprocess(mine, progress=False)),
            "explain": _seconds(lambda: explain(mine, model, method="gradient", progress=False)),
            "report": _seconds(lambda: report(mine)),
        }
        kept = sum(path.stat().st_size for path in mine.output.rglob("*") if path.is_file())
    people = len(mine.scans)
    return {
        "preprocess_s_per_scan": seconds["preprocess"] / people,
        "explain_s_per_scan": seconds["explain"] / people,
        "report_s_12_scans": seconds["report"],
        "kept_mb_per_scan": kept / people / 1e6,
    }


def training() -> dict[str, float]:
    """Train the course network for an epoch on each grid, after one that warms up."""
    found = {}
    for spacing_mm, (people, batch) in TRAININGS.items():
        cohort = cohorts.simulate("shortcut", people, SEED, grid=grids.mni(spacing_mm))
        model = models.build("course", 2, cohort.grid.shape, seed=SEED)
        history = models.train(model, cohort, epochs=2, batch_size=batch, progress=False)
        speed = people / float(history["seconds"].iloc[-1])
        found[f"training_volumes_per_s_{spacing_mm:g}mm"] = speed
    return found


def maps() -> dict[str, float]:
    """Explain a batch of simulated people at 4 mm."""
    model = models.pretrained("lesion").to(runtime.device())
    volumes = cohorts.simulate("lesion", subjects=16, seed=SEED).volumes.to(runtime.device())
    return {
        f"{name}_maps_per_s": len(volumes)
        / _median(lambda method=method: method(model, volumes, 1))
        for name, method in (("grad_cam", attribution.grad_cam), ("gradient", attribution.gradient))
    }


def deformations() -> dict[str, float]:
    """Remove the disease from one person: by a simulator, and by optimizing a field for her."""
    people = cohorts.simulate("mixed", subjects=16, seed=SEED)
    ill = people.volumes[people.labels == 1][:1].to(runtime.device())
    simulator = warping.pretrained("mixed").to(runtime.device())
    network = models.pretrained("mixed").to(runtime.device())

    with torch.no_grad():
        simulation_s = _median(lambda: simulator(ill, "remove"))
    optimization_s = _seconds(lambda: warping.optimize(network, ill, people, progress=False))
    return {
        "simulation_s_per_person": simulation_s,
        "optimization_s_per_person": optimization_s,
    }


def peak_memory() -> dict[str, float]:
    """Return what all of the above needed at most."""
    kb = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes
    found = {"peak_memory_gb": kb * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9}
    if torch.cuda.is_available():
        found["peak_gpu_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return found


def _seconds(work: Callable) -> float:
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _median(work: Callable) -> float:
    _seconds(work)  # warms up
    return statistics.median(_seconds(work) for _ in range(REPEATS))


if __name__ == "__main__":
    main()
