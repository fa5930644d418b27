"""Deform each brain until the network sees a typical person of the other class.

Writes for each scan the simulated brain, a map of how much tissue grew or shrank (over the scan and
in MNI space), a picture and a record. A changed mind alone proves no anatomy: try it on planted
people first.

    brain-cnns simulate my_study results --model results/models/sex
    brain-cnns simulate my_study results --model net.py:network --weights net.pt --target patient
"""

import argparse
from pathlib import Path

from helpers.command import arguments


def add(verbs) -> None:
    """Add the verb to the command."""
    parser = arguments.add_verb(verbs, "simulate", __doc__, run)
    arguments.add_study(parser, levels=True)
    arguments.add_preprocessed(parser)
    arguments.add_model(parser)
    parser.add_argument("--target", help="class to move everybody to; default: the other one")
    parser.add_argument(
        "--typical",
        type=Path,
        nargs=2,
        metavar=("BIDS_DIR", "OUT_DIR"),
        help="people who say what is typical, and where their results are or go; default: those of "
        "BIDS_DIR",
    )
    parser.add_argument(
        "--judges",
        nargs="+",
        default=[],
        metavar="MODEL",
        help="networks that took no part, trained for the same: do they change their mind as well?",
    )
    parser.add_argument("--steps", type=int, default=80, help="of the optimization, a brain")
    parser.add_argument("--blur-mm", type=float, default=10.0, help="how smooth deformations are")
    arguments.add_atlas(parser)


def run(options: argparse.Namespace) -> int:
    """Do what the verb says; return the exit code."""
    from helpers import models
    from helpers.study import Study, explaining, simulating

    study, model = arguments.study_from(options), arguments.model_from(options)
    how = {
        "target": options.target,
        "steps": options.steps,
        "blur_mm": options.blur_mm,
        "judges": [models.load(judge) for judge in options.judges],
    }
    if options.dry_run:
        maps = simulating.maps_of(study, model, **how)
        return arguments.say_waiting(explaining.unexplained(maps), study)
    atlas = arguments.atlas_from(options, lambda: explaining.model_grid(model))
    typical = options.typical and Study(*options.typical, masks=options.masks)
    table = simulating.simulate(
        study, model, typical=typical, atlas=atlas, **how, **arguments.levels_from(options)
    )
    return arguments.say_done(table, "simulated", study.output)
