"""A small network and small scans for the command that explains a folder."""

import hashlib
from pathlib import Path

import torch

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


_READER = """
import torch

class Reader(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, volumes):
        read = self.scale * volumes[:, 0, {}, {}, {}]
        return torch.stack([-read, read], 1)
"""


def reader(place, voxel, shape, *, spacing_mm, space):
    """Write a network that reads one voxel, weights and card; return how commands call it.

    Its gradient is that one voxel, so it is known to the millimetre where a map has to lie.
    """
    (place / "net.py").write_text(_READER.format(*voxel))
    torch.save({"scale": torch.full((1,), 2.0)}, place / "net.pt")
    network, weights = f"{place}/net.py:Reader", f"--weights={place}/net.pt"
    reads = ["--shape", *shape, f"--spacing-mm={spacing_mm}", f"--space={space}"]
    named = ["--classes", "well", "sick"]
    assert main("card", network, place / "net.toml", weights, *reads, *named) == 0
    return f"--model={network}", weights, f"--card={place}/net.toml"
