"""Results of long computations, committed with the command, seeds and versions that made them.

Chapters quote them; the programs in ``data_scripts`` write them.
"""

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from helpers import runtime

FOLDER = Path(__file__).parent


def read(name: str) -> dict[str, Any]:
    """Return a committed result.

    Raises
    ------
    ValueError
        If there is no result of this name; the message lists those that exist.

    Examples
    --------
    >>> from helpers import results
    >>> results.read("real_brains")["command"]
    'python data_scripts/score_real_brains.py'
    """
    path = FOLDER / f"{name}.json"
    if not path.exists():
        known = sorted(other.stem for other in FOLDER.glob("*.json"))
        raise ValueError(f"no result {name!r}; there are {known}")
    return json.loads(path.read_text())


def write(name: str, result: dict[str, Any], *, folder: Path = FOLDER) -> Path:
    """Write a result, all or nothing, and add the versions of what computed it."""
    versions = {
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "nilearn", "SimpleITK")},
    }
    path = folder / f"{name}.json"
    with runtime.replacing(path) as unfinished:
        unfinished.write_text(json.dumps({**result, "versions": versions}, indent=2) + "\n")
    return path
