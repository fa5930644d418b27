"""Run all benchmarks, print them beside the last ones, and keep them for the performance page.

Run nothing else meanwhile. Each benchmark proves first that both sides compute the same. The last
column is what the committed file said before.

    python tests/benchmarks/run.py                      all of them, half an hour
    python tests/benchmarks/run.py gradients occlusion  only these; the other tables stay
"""

import argparse
import importlib
import os
from pathlib import Path

import pandas as pd
import torch

from helpers import results, runtime

FOLDER = Path(__file__).parent
# What a table is about; the first of these that it has is compared with the last run.
MEASURES = ("times_faster", "ratio", "volumes_per_s", "scans_per_s", "seconds")


def main() -> None:
    """Measure, print, write."""
    known = sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=known, help=f"some of: {', '.join(known)}")
    names = parser.parse_args().names
    last = results.read("benchmarks")
    tables, threads = (
        {n: last[part][n] for n in known if n in last[part]} for part in ("tables", "threads")
    )
    for name in names:
        rows = importlib.import_module(f"bench_{name}").measure()
        table = beside(rows, last["tables"].get(name, []))
        print(f"\n{name}\n{table.round(3).to_string(index=False)}", flush=True)
        tables[name], threads[name] = rows, torch.get_num_threads()
        # After each: who stops the run keeps what was measured.
        results.write(
            "benchmarks",
            {
                "what": "A ratio is ours over the peer's; repeats above 1 are medians.",
                "command": "python tests/benchmarks/run.py",
                "machine": f"{runtime.processor()}, {os.cpu_count()} cores (shared), no GPU",
                "threads": threads,
                "tables": tables,
            },
        )


def beside(rows: list[dict], last: list[dict]) -> pd.DataFrame:
    """Return a table with one more column: the measure as it was, in the row of the same names."""
    table = pd.DataFrame(rows)
    measure = next(name for name in MEASURES if name in table)

    def names(row: dict) -> frozenset:
        return frozenset(
            (key, value) for key, value in row.items() if isinstance(value, str) or key == "subject"
        )

    before = {names(row): row.get(measure) for row in last}
    return table.assign(**{f"last {measure}": [before.get(names(row)) for row in rows]})


if __name__ == "__main__":
    main()
