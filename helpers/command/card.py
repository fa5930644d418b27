r"""Write the card of a network by asking it: fill in the names of its classes then.

The network is shown a made-up image of the shape that it reads, and its answers are counted.

    brain-cnns card net.py:network net.toml --weights net.pt --shape 80 96 80 --spacing-mm 2
    brain-cnns card net.py:network net.toml --weights net.pt --shape 80 96 80 --spacing-mm 2 \
        --space native
"""

import argparse
from pathlib import Path

from helpers.command import arguments


def add(verbs) -> None:
    """Add the verb to the command."""
    parser = arguments.add_verb(verbs, "card", __doc__, run)
    parser.add_argument("model", help="file.py:function")
    parser.add_argument("out", type=Path, help="the card, .toml or .json")
    parser.add_argument("--weights", type=Path, help="a state dict (.pt)")
    parser.add_argument("--shape", type=int, nargs=3, required=True, help="voxels along x, y, z")
    parser.add_argument("--spacing-mm", type=float, required=True, help="edge of a voxel")
    parser.add_argument(
        "--space",
        default="mni",
        choices=("mni", "native"),
        help="native: scans as the scanner gave them, not registered to a template; default: mni",
    )


def run(options: argparse.Namespace) -> int:
    """Do what the verb says; return the exit code."""
    from helpers import models

    network = models.load_network(options.model, weights=options.weights)
    card = models.draft_card(
        network, tuple(options.shape), spacing_mm=options.spacing_mm, space=options.space
    )
    models.write_card(card, options.out)
    print(f"{options.out} names {card['classes']}: write what they are called")
    return 0
