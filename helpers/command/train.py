"""Train a network on a column of participants.tsv, by cross-validation.

Everybody is judged by a network that has not seen her, beside simple models of head size and voxels
on the same folds. What else goes with the label is asked: head size, and every --confounds column.
BIDS_DIR has a participants.tsv; beside NIfTI files, a participant_id is a file's name without its
ending. There may be more scans than memory holds: they then lie on the disk, twice (TMPDIR says
where). Confounds are asked of two classes, or of a number.

    brain-cnns train my_study results --label sex --folds 5 --confounds age site
    brain-cnns train my_study results --label age --regression
    brain-cnns explain my_study results --model results/models/sex --method grad_cam

Over two processes, which share each training:

    torchrun --nproc-per-node=2 -m helpers.command train my_study results --label sex
"""

import argparse

import joblib

from helpers.command import arguments

# The names of `models.NETWORKS`, which would import torch.
NETWORKS = (
    "course",
    "course_with_places",
    "kan2020",
    "liu2021",
    "eitel2022",
    "resnet10",
    "densenet121",
)


def add(verbs) -> None:
    """Add the verb to the command."""
    parser = arguments.add_verb(verbs, "train", __doc__, run)
    arguments.add_study(parser, levels=False)
    arguments.add_preprocessed(parser)
    parser.add_argument("--label", required=True, help="the column to learn")
    parser.add_argument("--classes", nargs="+", help="values that count, in their order")
    parser.add_argument(
        "--bins", nargs="+", type=float, help="edges that cut a number into classes"
    )
    parser.add_argument("--regression", action="store_true", help="learn the column as a number")
    parser.add_argument("--confounds", nargs="+", default=[], help="columns that may explain it")
    parser.add_argument(
        "--network", default="course", help=f"{', '.join(NETWORKS)}, or file.py:function"
    )
    parser.add_argument("--spacing-mm", type=float, default=4.0, help="voxel size: 1, 2, 4 or 8")
    parser.add_argument(
        "--space",
        default="mni",
        choices=("mni", "rigid"),
        help="rigid: heads keep their size, which the network then sees; default: mni",
    )
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--augment", action="store_true", help="move heads a little at every look")
    parser.add_argument(
        "--learning-curve", action="store_true", help="train also on parts: would more people help?"
    )
    arguments.add_n_procs(parser)


def run(options: argparse.Namespace) -> int:
    """Do what the verb says; return the exit code."""
    from helpers.processes import rank
    from helpers.study.training import train

    study = arguments.study_from(options)
    scores = train(
        study,
        options.label,
        classes=options.classes,
        bins=options.bins,
        regression=options.regression,
        confounds=options.confounds,
        network=options.network,
        spacing_mm=options.spacing_mm,
        space=options.space,
        folds=options.folds,
        epochs=options.epochs,
        batch_size=options.batch_size,
        augment=options.augment,
        learning_curve=options.learning_curve,
        n_procs=joblib.cpu_count() if options.n_procs is None else options.n_procs,
        seed=options.seed,
    )
    if rank() != 0:  # one of the processes reports
        return 0
    print(scores.round(3).to_string(index=False))
    print(f"the networks are in {study.output / 'models' / options.label}")
    return arguments.say_broken(scores)
