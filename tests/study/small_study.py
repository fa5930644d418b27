"""A small network and small scans for the command that explains a folder."""

import hashlib
from pathlib import Path

from helpers import command, grids, models

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
    return main("explain", folder, output, *more, f"--model={weights}", f"--method={method}")


def main(*arguments):
    """Run the command."""
    return command.main([*map(str, arguments)])


def contents(folder):
    """The files by name: texts as they are, others by their hash, so a difference can be read.

    All but what says where the scans are.
    """
    return {
        path.relative_to(folder).as_posix(): _content(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock" and path.name != "dataset_description.json"
    }


def _content(path):
    if path.suffix in (".json", ".tsv"):
        return path.read_text()
    return hashlib.sha256(path.read_bytes()).hexdigest()
