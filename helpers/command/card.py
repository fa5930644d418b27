r"""Write the card of a network, which says what it reads, and ask the network whether it is so.

The network is shown a made-up image of the shape that it reads, and its answers are counted. Take
care with the intensities: with another rule than in training it answers all the same.

    brain-cnns card net.py:network net.toml --weights net.pt --shape 80 96 80 --spacing-mm 2 \
        --classes control patient --intensity zscore

Rules: median (background 0, the brain's median 1), zscore (over all voxels), zscore_brain (over the
brain, background 0), unit (from 0 to 1).
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
    parser.add_argument("--classes", nargs="+", help="what its answers are called, in their order")
    parser.add_argument(
        "--intensity", default="median", choices=arguments.INTENSITIES, help="default: median"
    )
    parser.add_argument(
        "--space",
        default="mni",
        choices=("mni", "rigid", "native"),
        help="rigid: heads keep their size; native: not registered at all; default: mni",
    )


def run(options: argparse.Namespace) -> int:
    """Do what the verb says; return the exit code."""
    from helpers import models

    network = models.load_network(options.model, weights=options.weights)
    card = models.draft_card(
        network,
        tuple(options.shape),
        spacing_mm=options.spacing_mm,
        classes=options.classes,
        intensity=options.intensity,
        space=options.space,
    )
    if options.out.exists() and models.read_card(options.out) != card:
        raise ValueError(
            f"{options.out} is there already and says something else; remove it, or name another"
        )
    models.write_card(card, options.out)
    what = "write what they are called" if options.classes is None else "in this order"
    print(f"{options.out} names {card['classes']}: {what}")
    return 0
