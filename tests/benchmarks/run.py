"""Run all benchmarks, print their tables and keep the numbers for the book's performance page.

Run nothing else meanwhile. Each benchmark proves first that both sides compute the same.

    python tests/benchmarks/run.py
"""

import importlib
import os
import platform
from pathlib import Path

import pandas as pd
import torch

from helpers import results


def main() -> None:
    """Measure, print, write."""
    tables = {}
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        rows = importlib.import_module(path.stem).measure()
        print(f"\n{path.stem}\n{pd.DataFrame(rows).round(3).to_string(index=False)}", flush=True)
        tables[path.stem.removeprefix("bench_")] = rows
    results.write(
        "benchmarks",
        {
            "what": "Medians of interleaved runs in one process; a ratio is ours over the peer's.",
            "command": "python tests/benchmarks/run.py",
            "machine": f"{_processor()}, {os.cpu_count()} cores (shared), no GPU",
            "threads": torch.get_num_threads(),
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
