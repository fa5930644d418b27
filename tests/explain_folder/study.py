"""A small network and small scans for the command that explains a folder."""

import hashlib
import runpy
from pathlib import Path

from helpers import grids, models

SCRIPT = Path(__file__).parents[2] / "data_scripts" / "explain.py"
MAIN = runpy.run_path(str(SCRIPT))["main"]
GRID = grids.mni(8.0)
CLASSES = ["healthy", "lesion"]
CARD = {"network": "course", "classes": CLASSES, "shape": list(GRID.shape), "spacing_mm": 8.0}


def network():
    """Return an untrained network for voxels of 8 mm: what it says does not matter here."""
    model = models.build("course", 2, GRID.shape, seed=3).eval()
    model.card = CARD
    return model


def explain(folder, output, *more, model="tiny.safetensors", method="gradient"):
    """Run the command with the network that lies beside the folder; return its exit code."""
    weights = Path(folder).parent / model
    return MAIN([str(weights), str(folder), f"--method={method}", f"--output={output}", *more])


def contents(folder):
    """The files by name: texts as they are, others by their hash, so a difference can be read."""
    return {path.name: _content(path) for path in sorted(folder.iterdir()) if path.is_file()}


def _content(path):
    if path.suffix in (".json", ".csv"):
        return path.read_text()
    return hashlib.sha256(path.read_bytes()).hexdigest()
