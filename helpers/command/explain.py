r"""Ask what a network sees in every scan.

Writes for each scan a map that lies over the scan in any viewer, the same map in MNI space, a
picture and a record; for all scans tables in OUT_DIR/group.

A network whose card says space = "native" reads brains that are not registered: each is cut out by
its mask (or its segmentation, or is 0 outside already), brought to the card's spacing along its own
axes, and cropped or padded about its middle. No atlas then, but --segmentations.

Methods: {methods}.

    brain-cnns explain my_study results --model lesion --method lrp grad_cam
    brain-cnns explain my_study results --method grad_cam --layer features.norm5 --target patient \
        --model net.py:network --weights net.pt --card net.toml --atlas aal

Over two processes, the scans divided between them:

    torchrun --nproc-per-node=2 -m helpers.command explain my_study results ...
"""

import argparse

from helpers.command import arguments


def add(verbs) -> None:
    """Add the verb to the command."""
    parser = arguments.add_verb(
        verbs, "explain", __doc__.format(methods=", ".join(arguments.METHODS)), run
    )
    arguments.add_study(parser, levels=True)
    arguments.add_preprocessed(parser)
    arguments.add_model(parser)
    parser.add_argument(
        "--method",
        nargs="+",
        required=True,
        choices=arguments.METHODS,
        metavar="METHOD",
        help="one or more",
    )
    parser.add_argument("--target", default="predicted", help="a class name, or 'predicted'")
    parser.add_argument("--layer", help="for methods that look at a layer, such as grad_cam")
    parser.add_argument(
        "--smooth-mm",
        type=float,
        default=0.0,
        help="FWHM of a Gaussian for pictures, the strongest place and the table of regions; the "
        "maps stay as they came",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.0,
        help="leave out of pictures and regions what is weaker than this share of the strongest",
    )
    arguments.add_atlas(parser)
    parser.add_argument(
        "--segmentations",
        metavar="PATTERN",
        help="each person's own regions (FreeSurfer, DLMUSE, ...), as NIfTI in BIDS_DIR, with "
        "{participant_id} in the path",
    )
    parser.add_argument(
        "--segmentation-names",
        help="their names: CSV or TSV with index and name, or desikan_killiany for aparc+aseg",
    )


def run(options: argparse.Namespace) -> int:
    """Do what the verb says; return the exit code."""
    from helpers.processes import launched_fabric
    from helpers.study import explaining

    if (options.segmentations is None) != (options.segmentation_names is None):
        raise ValueError("--segmentations and --segmentation-names belong together; give both")
    fabric = launched_fabric()
    study, model = arguments.study_from(options), arguments.model_from(options)
    how = {
        "target": None if options.target == "predicted" else options.target,
        "layer": options.layer,
        "smooth_mm": options.smooth_mm,
        "threshold": options.threshold,
    }
    if options.dry_run:
        for method in options.method:
            maps = explaining.maps_of(study, model, method=method, **how)
            arguments.say_waiting(explaining.unexplained(maps), study)
        return 0
    atlas = arguments.atlas_from(options, lambda: explaining.maps_grid(model))
    codes = []
    for method in options.method:
        table = explaining.explain(
            study,
            model,
            method=method,
            **how,
            atlas=atlas,
            segmentation_names=options.segmentation_names,
            **arguments.levels_from(options),
            fabric=fabric,
        )
        if fabric.is_global_zero:  # one of the processes reports
            codes.append(arguments.say_done(table, f"explained by {method}", study.output))
    return max(codes, default=0)
