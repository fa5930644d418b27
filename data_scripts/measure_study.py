"""How long does a study take on this machine, from the folder to the report? Whole commands.

    python data_scripts/measure_study.py ds002748 ixi

The first folder has the scans that are preprocessed, explained and reported, the second those that
a network is trained on, by their sex; both are BIDS. Run nothing else meanwhile: the load before is
noted.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from helpers import results, runtime

COMMAND = f"{sys.executable} -m helpers.command"
IN_TWO = f"{sys.executable} -m torch.distributed.run --nproc-per-node=2 -m helpers.command"
EXPLAINED = "--model sex --method grad_cam gradient"
TRAINED = "--label sex --folds 5"


def main() -> None:
    """Time each command once, in new folders."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path, help="BIDS folder to preprocess, explain and report")
    parser.add_argument("training", type=Path, help="BIDS folder to train on")
    parser.add_argument("--folder", type=Path, default=results.FOLDER, help="where study.json goes")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as place:
        asked = (
            ("preprocess", COMMAND, arguments.study, ""),
            ("explain", IN_TWO, arguments.study, EXPLAINED),
            ("report", COMMAND, arguments.study, ""),
            ("preprocess", COMMAND, arguments.training, ""),
            ("train", COMMAND, arguments.training, TRAINED),
        )
        rows = []
        for verb, program, folder, options in asked:
            words = f"{verb} {folder} {place}/{folder.name} {options}"
            rows.append(
                {
                    "command": f"brain-cnns {verb} {folder.name} OUT {options}".strip(),
                    "processes": 2 if program == IN_TWO else 1,
                    "scans": len(list(folder.glob("sub-*/anat/*_T1w.nii.gz"))),
                    "seconds": round(seconds(f"{program} {words}"), 1),
                }
            )
            print(rows[-1], flush=True)
    results.write(
        "study",
        {
            "what": "Wall time of whole commands, from a folder of scans to the report.",
            "command": "python data_scripts/measure_study.py ds002748 ixi",
            "processor": runtime.processor(),
            "cores": os.cpu_count(),
            "load_before": round(load, 2),
            "runs": rows,
        },
        folder=arguments.folder,
    )


def seconds(words: str) -> float:
    """Return how long a command takes."""
    start = time.monotonic()
    subprocess.run(shlex.split(words), check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


if __name__ == "__main__":
    main()
