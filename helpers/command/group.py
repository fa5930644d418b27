"""Average a method's maps, name their regions, and test them.

Without --label: do the maps differ from zero? With it: do two groups differ? The tests relabel
people (permutations), so that any false voxel at all is as rare as --level says.

    brain-cnns group my_study results --method grad_cam --atlas aal
    brain-cnns group my_study results --method lrp --label sex --covariates age volume_ratio
"""

import argparse

from helpers.command import arguments


def add(verbs) -> None:
    """Add the verb to the command."""
    parser = arguments.add_verb(verbs, "group", __doc__, run)
    arguments.add_study(parser, levels=False, masks=False)
    parser.add_argument(
        "--method",
        required=True,
        choices=(*arguments.METHODS, "simulated"),
        metavar="METHOD",
        help="of explain, or simulated, for what simulate has made",
    )
    parser.add_argument("--label", help="column of participants.tsv with two groups to compare")
    parser.add_argument("--classes", nargs=2, help="the two values that count")
    parser.add_argument(
        "--covariates", nargs="+", default=[], help="columns, or volume_ratio, the head size"
    )
    arguments.add_atlas(parser)
    parser.add_argument("--smooth-mm", type=float, default=8.0, help="FWHM of the Gaussian")
    parser.add_argument("--permutations", type=int, default=1000)
    parser.add_argument("--level", type=float, default=0.05, help="chance of any false voxel")
    parser.add_argument("--seed", type=int, default=0)


def run(options: argparse.Namespace) -> int:
    """Do what the verb says; return the exit code."""
    from helpers.study import grouping

    if options.classes is not None and options.label is None:
        raise ValueError("--classes are values of --label; give both")
    study = arguments.study_from(options)
    atlas = arguments.atlas_from(
        options, lambda: grouping.maps_of_people(study, options.method)[-1]
    )
    peaks = grouping.group(
        study,
        method=options.method,
        label=options.label,
        classes=options.classes,
        covariates=options.covariates,
        atlas=atlas,
        smooth_mm=options.smooth_mm,
        permutations=options.permutations,
        level=options.level,
        seed=options.seed,
    )
    print(peaks.round(3).to_string(index=False) if len(peaks) else "nothing is beyond chance")
    return 0
