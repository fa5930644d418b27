"""Bring every scan into MNI space, and show how well each fits the template.

Slow brightness of the coil is removed, the head registered (affine, 12 parameters), the brain cut
out, its median set to 1. OUT_DIR/quality.html shows each scan with the template's outline.

    brain-cnns preprocess my_study results
    brain-cnns preprocess ixi results --masks "derivatives/dlmuse/{participant_id}_dseg.nii.gz"
"""

import argparse

import joblib

from helpers.command import arguments


def add(verbs) -> None:
    """Add the verb to the command."""
    parser = arguments.add_verb(verbs, "preprocess", __doc__, run)
    arguments.add_study(parser, levels=True)
    parser.add_argument("--spacing-mm", type=float, default=4.0, help="voxel size: 1, 2, 4 or 8")
    arguments.add_n_procs(parser)


def run(options: argparse.Namespace) -> int:
    """Do what the verb says; return the exit code."""
    from helpers import grids
    from helpers.study import preprocessing

    study = arguments.study_from(options)
    if options.dry_run:
        waiting = preprocessing.unprepared(study, grids.mni(options.spacing_mm))
        return arguments.say_waiting(waiting, study)
    table = preprocessing.preprocess(
        study,
        spacing_mm=options.spacing_mm,
        n_procs=joblib.cpu_count() if options.n_procs is None else options.n_procs,
        **arguments.levels_from(options),
    )
    return arguments.say_done(table, "preprocessed", study.output)
