"""Plant an effect into your own scans, and ask whether the maps find it.

Half of the people, by a coin, get a lesion, a tag beside the head, or a region that shrinks; labels
of yours are not used. A network is trained on that by cross-validation (or yours is used), and the
maps of people whom it has not seen are scored against the truth, beside maps that never saw the
network. Where it is not shown that the network sees the effect, there is no verdict.
OUT_DIR/trust-EFFECT.html is the page for a reviewer.

    brain-cnns trust my_study results --effect tag
    brain-cnns trust my_study results --effect shrink --atlas aal --region Hippocampus --percent 20
"""

import argparse

from helpers.command import arguments


def add(verbs) -> None:
    """Add the verb to the command."""
    parser = arguments.add_verb(verbs, "trust", __doc__, run)
    arguments.add_study(parser, levels=False)
    arguments.add_preprocessed(parser)
    parser.add_argument("--effect", default="lesion", choices=("lesion", "shrink", "tag"))
    parser.add_argument("--region", help="of shrink: a region of --atlas")
    parser.add_argument("--percent", type=float, default=10.0, help="of shrink: volume lost")
    parser.add_argument("--radius-mm", type=float, default=15.0, help="of lesion")
    parser.add_argument("--intensity", type=float, default=1.7, help="of lesion; the brain has 1")
    arguments.add_atlas(parser)
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=arguments.METHODS,
        metavar="METHOD",
        help="default: five of them",
    )
    arguments.add_model(parser, required=False)
    parser.add_argument("--layer", help="for methods that look at a layer")
    parser.add_argument("--network", help="what is trained: course, ..., or file.py:function")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, help="default: as many as make about 240 steps")
    parser.add_argument(
        "--draws",
        type=int,
        help="learn from everybody so often with the effect, drawn anew each time, and as often "
        "without; 0: once, half with it, as in a study of patients; default: about 400 pairs",
    )
    parser.add_argument("--spacing-mm", type=float, default=4.0, help="voxel size: 1, 2, 4 or 8")
    parser.add_argument("--seed", type=int, default=0)


def run(options: argparse.Namespace) -> int:
    """Do what the verb says; return the exit code."""
    from helpers import anatomy, grids
    from helpers.models.folds import from_other_weights
    from helpers.study import model_grid, planting, trust, trusting

    study, model = arguments.study_from(options), arguments.model_from(options)
    if options.effect == "lesion":
        effect = planting.lesion(radius_mm=options.radius_mm, intensity=options.intensity)
    elif options.effect == "tag":
        effect = planting.tag()
    else:
        if options.region is None or options.atlas is None:
            raise ValueError("--effect shrink needs --region and --atlas")
        grid = grids.mni(options.spacing_mm) if model is None else model_grid(model)
        atlas = anatomy.atlas(grid, options.atlas, names=options.atlas_names)
        effect = planting.shrink(options.region, atlas=atlas, percent=options.percent)
    scores = trust(
        study,
        effect=effect,
        methods=options.methods or trusting.METHODS,
        model=model,
        network=options.network and from_other_weights(options.network),
        folds=options.folds,
        seed=options.seed,
        spacing_mm=options.spacing_mm,
        layer=options.layer,
        draws=options.draws,
        **({} if options.epochs is None else {"epochs": options.epochs}),
    )
    for row in scores[scores["kind"] == "method"].to_dict("records"):
        print(f"{row['map']}: {row['verdict']}: {row['because']}")
    print(f"the page is {study.output / f'trust-{effect.label}.html'}")
    return 0
