"""Make pictures of what the network responds to, beside those of an untrained copy.

The untrained copy shows what any network of this form would paint.

    brain-cnns maximize my_study results --model results/models/sex
    brain-cnns maximize my_study results --model lesion --layer block4 --channels 3 7
"""

import argparse

from helpers.command import arguments


def add(verbs) -> None:
    """Add the verb to the command."""
    parser = arguments.add_verb(verbs, "maximize", __doc__, run)
    arguments.add_study(parser, levels=False, masks=False)
    arguments.add_model(parser)
    parser.add_argument("--target", help="one class; default: every class")
    parser.add_argument("--layer", help="instead of classes, channels of this layer")
    parser.add_argument("--channels", type=int, nargs="+", default=[])
    parser.add_argument(
        "--spaces",
        nargs="+",
        choices=("painted", "warped"),
        default=["painted", "warped"],
        help="what may change: intensities, or only the form; default: a picture of each",
    )
    parser.add_argument("--steps", type=int, help="default: 80 painted, 60 warped")
    parser.add_argument("--seed", type=int, default=0)


def run(options: argparse.Namespace) -> int:
    """Do what the verb says; return the exit code."""
    from helpers.study import maximizing

    study = arguments.study_from(options)
    table = maximizing.maximize(
        study,
        arguments.model_from(options),
        target=options.target,
        layer=options.layer,
        channels=options.channels,
        spaces=options.spaces,
        steps=options.steps,
        seed=options.seed,
    )
    print(table.round(3).to_string(index=False))
    print(f"the pictures are in {study.output / 'group'}")
    return 0
