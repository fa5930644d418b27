"""Run all benchmarks, print their tables and keep the numbers for the book's performance page.

Run nothing else meanwhile. Each benchmark proves first that both sides compute the same.

    python tests/benchmarks/run.py                      all of them, half an hour
    python tests/benchmarks/run.py gradients occlusion  only these; the other tables stay
"""

import argparse
import importlib
import os
import platform
from pathlib import Path

import pandas as pd
import torch

from helpers import results

FOLDER = Path(__file__).parent


def main() -> None:
    """Measure, print, write."""
    known = sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=known, help=f"some of: {', '.join(known)}")
    names = parser.parse_args().names
    kept = {"tables": {}, "threads": {}} if names == known else results.read("benchmarks")
    tables, threads = kept["tables"], kept["threads"]
    for name in names:
        rows = importlib.import_module(f"bench_{name}").measure()
        print(f"\n{name}\n{pd.DataFrame(rows).round(3).to_string(index=False)}", flush=True)
        tables[name], threads[name] = rows, torch.get_num_threads()
    results.write(
        "benchmarks",
        {
            "what": "A ratio is ours over the peer's; repeats above 1 are medians.",
            "command": "python tests/benchmarks/run.py",
            "machine": f"{_processor()}, {os.cpu_count()} cores (shared), no GPU",
            "threads": threads,
            "tables": tables,
        },
    )


def _processor() -> str:
    """Return the processor's name; Linux hides it from `platform`."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))


if __name__ == "__main__":
    main()
