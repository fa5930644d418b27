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

_OF_EFFECT = {
    "lesion": ("radius_mm", "intensity"),
    "shrink": ("region", "atlas", "percent"),
    "tag": (),
}
_SIZES = ("radius_mm", "intensity", "region", "percent")


def add(verbs) -> None:
    """Add the verb to the command."""
    parser = arguments.add_verb(verbs, "trust", __doc__, run)
    arguments.add_study(parser, levels=False)
    arguments.add_preprocessed(parser)
    parser.add_argument("--effect", default="lesion", choices=tuple(_OF_EFFECT))
    parser.add_argument("--region", help="of shrink: a region of --atlas")
    parser.add_argument("--percent", type=float, help="of shrink: volume lost; default: 10")
    parser.add_argument("--radius-mm", type=float, help="of lesion; default: 15")
    parser.add_argument("--intensity", type=float, help="of lesion; the brain has 1; default: 1.7")
    arguments.add_atlas(parser)
    parser.add_argument(
        "--method",
        nargs="+",
        choices=arguments.METHODS,
        metavar="METHOD",
        help="default: gradient, input_x_gradient, grad_cam, guided_grad_cam and lrp",
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
    parser.add_argument(
        "--spacing-mm",
        type=float,
        help="voxel size: 1, 2, 4 or 8; default: 4, or that of --model",
    )
    parser.add_argument("--seed", type=int, default=0)


def run(options: argparse.Namespace) -> int:
    """Do what the verb says; return the exit code."""
    from helpers import grids
    from helpers.models.folds import from_other_weights
    from helpers.study import model_grid, planting, trust, trusting

    study, model = arguments.study_from(options), arguments.model_from(options)
    if model is not None and options.spacing_mm is not None:
        raise ValueError("--model has voxels of its own; leave --spacing-mm out")
    spacing_mm = 4.0 if options.spacing_mm is None else options.spacing_mm
    atlas = arguments.atlas_from(
        options, lambda: grids.mni(spacing_mm) if model is None else model_grid(model)
    )
    size = {name: value for name in _SIZES if (value := getattr(options, name)) is not None}
    if atlas is not None:
        size["atlas"] = atlas
    unfit = sorted(set(size) - set(_OF_EFFECT[options.effect]))
    if unfit:
        raise ValueError(
            f"--{unfit[0].replace('_', '-')} is not of --effect {options.effect}; leave it out"
        )
    if options.effect == "shrink" and not {"region", "atlas"} <= set(size):
        raise ValueError("--effect shrink needs --region and --atlas")
    effect = getattr(planting, options.effect)(**size)
    scores = trust(
        study,
        effect=effect,
        methods=options.method or trusting.METHODS,
        model=model,
        network=options.network and from_other_weights(options.network),
        folds=options.folds,
        seed=options.seed,
        spacing_mm=spacing_mm,
        layer=options.layer,
        draws=options.draws,
        **({} if options.epochs is None else {"epochs": options.epochs}),
    )
    for row in scores[scores["kind"] == "method"].to_dict("records"):
        print(f"{row['map']}: {row['verdict']}: {row['because']}")
    print(f"the page is {study.output / f'trust-{effect.label}.html'}")
    return arguments.say_broken(scores)
