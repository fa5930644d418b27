"""The command ``brain-cnns``: what the course teaches, on everybody's own scans.

Built as a BIDS App is: ``brain-cnns VERB BIDS_DIR OUT_DIR [participant|group]``. Every verb goes on
where an interrupted run has stopped, and all write into the same OUT_DIR.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import joblib

# Heavy libraries are imported by the verbs: help must come at once. So the methods stand here.
METHODS = (
    "expected_gradients",
    "grad_cam",
    "grad_cam_plus_plus",
    "gradient",
    "guided_backprop",
    "guided_grad_cam",
    "input_x_gradient",
    "integrated_gradients",
    "lrp",
    "meaningful_perturbation",
    "occlusion",
    "smoothgrad",
)

DESCRIPTION = """\
Find out what a network has learned from brain scans: from a folder to a report.

    brain-cnns preprocess my_study results --masks "derivatives/masks/{participant_id}_mask.nii.gz"
    brain-cnns explain my_study results --model sex --method grad_cam

BIDS_DIR holds sub-* folders, or NIfTI files. Nothing is written there. OUT_DIR gets everything, as
BIDS derivatives; give all verbs the same. Run a command again after an interruption: what is
finished is skipped.

Exit code: 0 if all is done; 1 if some scans are broken (they are listed, and left out); 2 if the
run cannot be done as asked (a wrong argument, a full disk); 130 after Ctrl+C.
"""
# What a job is told in its own words.
_OF_THE_CALL = ("verb", "run", "bids_dir", "out_dir", "level", "participant_label", "dry_run")
_OF_THE_CALL += ("jobs", "executor", "slurm")
LEVELS = """
On a cluster, each job does its share of the participants, then one does the group level:

    brain-cnns {verb} BIDS_DIR OUT_DIR participant --participant-label 01 02 ...
    brain-cnns {verb} BIDS_DIR OUT_DIR group ...
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        "brain-cnns",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for add in (
        _add_preprocess,
        _add_train,
        _add_explain,
        _add_trust,
        _add_simulate,
        _add_maximize,
        _add_group,
        _add_report,
        _add_card,
    ):
        add(verbs)
    options = parser.parse_args(arguments)
    program = f"brain-cnns {options.verb}"
    from helpers.errors import OtherProcessError

    try:
        on_cluster = getattr(options, "jobs", None) is not None and not options.dry_run
        return _submit(options) if on_cluster else options.run(options)
    except (ValueError, OSError, ImportError, OtherProcessError) as error:
        parser.exit(2, f"{program}: {error}\n" if _speaks() else None)
    except KeyboardInterrupt:
        parser.exit(130, "stopped; the same command goes on from here\n")


# Arguments that several verbs share


def _verb(verbs, name: str, text: str, run: Callable) -> argparse.ArgumentParser:
    """Add a verb; the first line of its text also stands in the list of verbs."""
    parser = verbs.add_parser(
        name,
        help=text.strip().splitlines()[0],
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _add_study(parser: argparse.ArgumentParser, levels: Sequence[str]) -> None:
    parser.add_argument("bids_dir", type=Path, help="a BIDS folder, or one with NIfTI files in it")
    parser.add_argument("out_dir", type=Path, help="where results go")
    parser.set_defaults(participant_label=[])
    if levels:
        parser.add_argument(
            "level",
            nargs="?",
            choices=levels,
            help="each scan only, or only what is about all of them; default: both",
        )
        parser.add_argument(
            "--participant-label",
            nargs="+",
            metavar="LABEL",
            help="only these people, with or without sub-; what is about all waits for a later run",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="say what there is to do, and do nothing"
        )
        _add_cluster(parser)
    parser.add_argument(
        "--masks",
        metavar="PATTERN",
        help="brain masks or parcellations in BIDS_DIR, with {participant_id} in the path; "
        "without them the template's mask cuts the brains out, which is rougher",
    )


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    cluster = parser.add_argument_group("on a cluster, with the extra 'cluster'")
    cluster.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="divide the participants among N jobs; one more does what is about all of them",
    )
    cluster.add_argument(
        "--executor",
        choices=("slurm", "local"),
        default="slurm",
        help="slurm (default) queues the jobs; local runs them here at the same time, and waits",
    )
    cluster.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="what each job needs, as sbatch calls it: partition=long, mem=4GB, cpus-per-task=2, "
        "time=60 (minutes); give it once for each option",
    )


def _submit(options: argparse.Namespace) -> int:
    """Divide the participants among jobs, each of which runs this command."""
    from helpers import command  # by this name also where it was started as __main__
    from helpers.study import cluster

    if options.level == "group":
        raise ValueError("what is about all of them is one job: leave --jobs out")
    if not all("=" in word for word in options.slurm):
        raise ValueError(f"--slurm takes OPTION=VALUE, got {' '.join(options.slurm)}")
    study = _study(options)
    if hasattr(options, "model"):
        _model(options)  # better refused now than by every job
    flags = []
    for name, value in vars(options).items():
        flag = f"--{name.replace('_', '-')}"
        if name in _OF_THE_CALL or value is None or value is False or value == []:
            continue
        if isinstance(value, list):
            flags += [flag, *map(str, value)]
        else:
            flags.append(flag if value is True else f"{flag}={value}")
    ended = cluster.submit(
        command.main,
        [options.verb, str(options.bids_dir.resolve()), str(options.out_dir.resolve()), *flags],
        [scan.participant_id for scan in study.scans],
        jobs=options.jobs,
        folder=study.output / ".logs",
        executor=options.executor,
        slurm=dict(word.split("=", 1) for word in options.slurm),
        group=options.level is None and not options.participant_label,
    )
    if options.executor == "local":
        return max(ended)
    print(f"queued as {', '.join(ended)}; they write into {study.output / '.logs'}")
    return 0


def _add_n_procs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--n-procs",
        type=int,
        help="scans at the same time, each with about 1 GB of memory; default: one a core",
    )


def _add_preprocessed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--preprocessed",
        type=Path,
        metavar="DIR",
        help="OUT_DIR of an earlier run, for another network or another target; default: OUT_DIR",
    )


def _add_model(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    parser.add_argument(
        "--model",
        required=required,
        help="a pretrained task, a safetensors file beside its card, file.py:function, or the "
        "folder of a MONAI bundle or of networks that were trained here",
    )
    parser.add_argument("--weights", type=Path, help="of file.py:function: a state dict (.pt)")
    parser.add_argument("--card", type=Path, help="what the network reads; default: beside weights")


def _add_atlas(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--atlas",
        help="labels in MNI space (NIfTI), or, with the extra 'atlases', aal, desikan_killiany, "
        "destrieux or neuromorphometrics, or, downloaded on its first use, harvard_oxford, "
        "harvard_oxford_sub or schaefer; default: tissues",
    )
    parser.add_argument("--atlas-names", type=Path, help="CSV or TSV: columns index and name")


def _study(options: argparse.Namespace):
    from helpers.study.folders import Study

    return Study(
        options.bids_dir,
        options.out_dir,
        masks=options.masks,
        segmentations=getattr(options, "segmentations", None),
        participants=options.participant_label,
        preprocessed=getattr(options, "preprocessed", None),
    )


def _model(options: argparse.Namespace):
    from helpers import models

    if options.model is None:
        return None
    return models.load(options.model, weights=options.weights, card=options.card)


def _levels(options: argparse.Namespace) -> dict[str, bool]:
    """Return what is to be done: each scan, and the tables about all."""
    if options.level is None:
        return {"scans": True, "tables": not options.participant_label}
    return {"scans": options.level == "participant", "tables": options.level == "group"}


def _report(table, what: str, place: Path) -> int:
    """Say how many scans are done, and which are broken; return the exit code."""
    broken = table[table["problem"].notna()]
    print(f"{len(table) - len(broken)} of {len(table)} scans are {what} in {place}")
    for row in broken.to_dict("records"):
        print(f"broken: {row['scan']}: {row['problem']}", file=sys.stderr)
    return 1 if len(broken) else 0


def _report_waiting(scans, study) -> int:
    """Say what a run would do."""
    for scan in scans:
        print(scan.file)
    print(f"{len(scans)} of {len(study.scans)} scans are to be done, into {study.output}")
    return 0


def _speaks() -> bool:
    """Say whether this process speaks for all that share the work."""
    from helpers.processes import rank

    return rank() == 0


# The verbs


def _add_preprocess(verbs) -> None:
    text = """Bring every scan into MNI space, and show how well each fits the template.

Slow brightness of the coil is removed, the head registered (affine, 12 parameters), the brain cut
out, its median set to 1. OUT_DIR/quality.html shows each scan with the template's outline.

    brain-cnns preprocess my_study results
    brain-cnns preprocess ixi results --masks "derivatives/dlmuse/{participant_id}_dseg.nii.gz"
"""
    parser = _verb(verbs, "preprocess", text + LEVELS.format(verb="preprocess"), _preprocess)
    _add_study(parser, ("participant", "group"))
    parser.add_argument("--spacing-mm", type=float, default=4.0, help="voxel size: 1, 2, 4 or 8")
    _add_n_procs(parser)


def _preprocess(options: argparse.Namespace) -> int:
    from helpers import grids
    from helpers.study import preprocessing

    study = _study(options)
    if options.dry_run:
        waiting = preprocessing.unprepared(study, grids.mni(options.spacing_mm))
        return _report_waiting(waiting, study)
    table = preprocessing.preprocess(
        study,
        spacing_mm=options.spacing_mm,
        n_procs=joblib.cpu_count() if options.n_procs is None else options.n_procs,
        **_levels(options),
    )
    return _report(table, "preprocessed", study.output)


def _add_train(verbs) -> None:
    text = """Train a network on a column of participants.tsv, by cross-validation.

Everybody is judged by a network that has not seen her, beside simple models of head size and voxels
on the same folds. What else goes with the label is asked: head size, and every --confounds column.
There may be more scans than memory holds: they then lie on the disk, twice (TMPDIR says where).

    brain-cnns train my_study results --label sex --folds 5 --confounds age site
    brain-cnns train my_study results --label age --regression
    brain-cnns explain my_study results --model results/models/sex --method grad_cam
"""
    parser = _verb(verbs, "train", text, _train)
    _add_study(parser, ())
    _add_preprocessed(parser)
    parser.add_argument("--label", required=True, help="the column to learn")
    parser.add_argument("--classes", nargs="+", help="values that count, in their order")
    parser.add_argument(
        "--bins", nargs="+", type=float, help="edges that cut a number into classes"
    )
    parser.add_argument("--regression", action="store_true", help="learn the column as a number")
    parser.add_argument("--confounds", nargs="+", default=[], help="columns that may explain it")
    parser.add_argument(
        "--network", default="course", help="course, resnet10, ..., or file.py:function"
    )
    parser.add_argument("--spacing-mm", type=float, default=4.0, help="voxel size: 1, 2, 4 or 8")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--augment", action="store_true", help="move heads a little at every look")
    parser.add_argument(
        "--learning-curve", action="store_true", help="train also on parts: would more people help?"
    )
    _add_n_procs(parser)


def _train(options: argparse.Namespace) -> int:
    from helpers.study.training import train

    study = _study(options)
    scores = train(
        study,
        options.label,
        classes=options.classes,
        bins=options.bins,
        regression=options.regression,
        confounds=options.confounds,
        network=options.network,
        spacing_mm=options.spacing_mm,
        folds=options.folds,
        epochs=options.epochs,
        batch_size=options.batch_size,
        augment=options.augment,
        learning_curve=options.learning_curve,
        n_procs=joblib.cpu_count() if options.n_procs is None else options.n_procs,
        seed=options.seed,
    )
    print(scores.round(3).to_string(index=False))
    print(f"the networks are in {study.output / 'models' / options.label}")
    return 0


def _add_explain(verbs) -> None:
    text = f"""Ask what a network sees in every scan.

Writes for each scan a map that lies over the scan in any viewer, the same map in MNI space, a
picture and a record; for all scans tables in OUT_DIR/group.

A network whose card says space = "native" reads brains that are not registered: each is cut out by
its mask (or its segmentation, or is 0 outside already), brought to the card's spacing along its own
axes, and cropped or padded about its middle. No atlas then, but --segmentations.

Methods: {", ".join(METHODS)}.

    brain-cnns explain my_study results --model lesion --method lrp grad_cam
    brain-cnns explain my_study results --method grad_cam --layer features.norm5 --target patient \\
        --model net.py:network --weights net.pt --card net.toml --atlas aal

Over two processes, the scans divided between them:

    torchrun --nproc-per-node=2 -m helpers.command explain my_study results ...
"""
    parser = _verb(verbs, "explain", text + LEVELS.format(verb="explain"), _explain)
    _add_study(parser, ("participant", "group"))
    _add_preprocessed(parser)
    _add_model(parser)
    parser.add_argument(
        "--method", nargs="+", required=True, choices=METHODS, metavar="METHOD", help="one or more"
    )
    parser.add_argument("--target", default="predicted", help="a class name, or 'predicted'")
    parser.add_argument("--layer", help="for methods that look at a layer, such as grad_cam")
    parser.add_argument(
        "--smooth-mm",
        type=float,
        default=0.0,
        help="FWHM of a Gaussian for pictures and the strongest place; the maps stay as they came",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.0,
        help="leave out of the pictures what is weaker than this share of the strongest",
    )
    _add_atlas(parser)
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


def _explain(options: argparse.Namespace) -> int:
    from helpers import anatomy
    from helpers.processes import launched_fabric
    from helpers.study import explaining

    if (options.segmentations is None) != (options.segmentation_names is None):
        raise ValueError("--segmentations and --segmentation-names belong together; give both")
    fabric = launched_fabric()
    study, model = _study(options), _model(options)
    how = {
        "target": None if options.target == "predicted" else options.target,
        "layer": options.layer,
        "smooth_mm": options.smooth_mm,
        "threshold": options.threshold,
    }
    if options.dry_run:
        for method in options.method:
            maps = explaining.maps_of(study, model, method=method, **how)
            _report_waiting(explaining.unexplained(maps), study)
        return 0
    atlas = options.atlas and anatomy.atlas(
        explaining.model_grid(model), options.atlas, names=options.atlas_names
    )
    codes = []
    for method in options.method:
        table = explaining.explain(
            study,
            model,
            method=method,
            **how,
            atlas=atlas,
            segmentation_names=options.segmentation_names,
            **_levels(options),
            fabric=fabric,
        )
        if fabric.is_global_zero:  # one of the processes reports
            codes.append(_report(table, f"explained by {method}", study.output))
    return max(codes, default=0)


def _add_trust(verbs) -> None:
    text = """Plant an effect into your own scans, and ask whether the maps find it.

Half of the people, by a coin, get a lesion, a tag beside the head, or a region that shrinks; labels
of yours are not used. A network is trained on that by cross-validation (or yours is used), and the
maps of people whom it has not seen are scored against the truth, beside maps that never saw the
network. Where the network is at chance there is no verdict. OUT_DIR/trust-EFFECT.html is the page
for a reviewer.

    brain-cnns trust my_study results --effect tag
    brain-cnns trust my_study results --effect shrink --atlas aal --region Hippocampus --percent 20
"""
    parser = _verb(verbs, "trust", text, _trust)
    _add_study(parser, ())
    _add_preprocessed(parser)
    parser.add_argument("--effect", default="lesion", choices=("lesion", "shrink", "tag"))
    parser.add_argument("--region", help="of shrink: a region of --atlas")
    parser.add_argument("--percent", type=float, default=10.0, help="of shrink: volume lost")
    parser.add_argument("--radius-mm", type=float, default=15.0, help="of lesion")
    parser.add_argument("--intensity", type=float, default=1.7, help="of lesion; the brain has 1")
    _add_atlas(parser)
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, metavar="METHOD", help="default: five of them"
    )
    _add_model(parser, required=False)
    parser.add_argument("--layer", help="for methods that look at a layer")
    parser.add_argument("--network", help="what is trained: course, ..., or file.py:function")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, help="default: as many as make about 240 steps")
    parser.add_argument(
        "--once",
        action="store_true",
        help="learn from everybody once, half with the effect, as in a study of patients; default: "
        "twice, with it and without, which differ in nothing else",
    )
    parser.add_argument("--spacing-mm", type=float, default=4.0, help="voxel size: 1, 2, 4 or 8")
    parser.add_argument("--seed", type=int, default=0)


def _trust(options: argparse.Namespace) -> int:
    from helpers import anatomy, grids
    from helpers.models.folds import from_other_weights
    from helpers.study import model_grid, planting, trust, trusting

    study, model = _study(options), _model(options)
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
        twins=not options.once,
        **({} if options.epochs is None else {"epochs": options.epochs}),
    )
    for row in scores[scores["kind"] == "method"].to_dict("records"):
        print(f"{row['map']}: {row['verdict']}: {row['because']}")
    print(f"the page is {study.output / f'trust-{effect.label}.html'}")
    return 0


def _add_simulate(verbs) -> None:
    text = """Deform each brain until the network sees a typical person of the other class.

Writes for each scan the simulated brain, a map of how much tissue grew or shrank (over the scan and
in MNI space), a picture and a record. A changed mind alone proves no anatomy: try it on planted
people first.

    brain-cnns simulate my_study results --model results/models/sex
    brain-cnns simulate my_study results --model net.py:network --weights net.pt --target patient
"""
    parser = _verb(verbs, "simulate", text + LEVELS.format(verb="simulate"), _simulate)
    _add_study(parser, ("participant", "group"))
    _add_preprocessed(parser)
    _add_model(parser)
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
    _add_atlas(parser)


def _simulate(options: argparse.Namespace) -> int:
    from helpers import anatomy, models
    from helpers.study import Study, explaining, simulating

    study, model = _study(options), _model(options)
    how = {
        "target": options.target,
        "steps": options.steps,
        "blur_mm": options.blur_mm,
        "judges": [models.load(judge) for judge in options.judges],
    }
    if options.dry_run:
        maps = simulating.maps_of(study, model, **how)
        return _report_waiting(explaining.unexplained(maps), study)
    atlas = options.atlas and anatomy.atlas(
        explaining.model_grid(model), options.atlas, names=options.atlas_names
    )
    typical = options.typical and Study(*options.typical, masks=options.masks)
    table = simulating.simulate(
        study, model, typical=typical, atlas=atlas, **how, **_levels(options)
    )
    return _report(table, "simulated", study.output)


def _add_maximize(verbs) -> None:
    text = """Make pictures of what the network responds to, beside those of an untrained copy.

    brain-cnns maximize my_study results --model results/models/sex
    brain-cnns maximize my_study results --model lesion --layer block4 --channels 3 7
"""
    parser = _verb(verbs, "maximize", text, _maximize)
    _add_study(parser, ())
    _add_model(parser)
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


def _maximize(options: argparse.Namespace) -> int:
    from helpers.study import maximizing

    study = _study(options)
    table = maximizing.maximize(
        study,
        _model(options),
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


def _add_group(verbs) -> None:
    text = """Average a method's maps, name their regions, and test them.

Without --label: do the maps differ from zero? With it: do two groups differ? The tests relabel
people (permutations), so that any false voxel at all is as rare as --level says.

    brain-cnns group my_study results --method grad_cam --atlas aal
    brain-cnns group my_study results --method lrp --label sex --covariates age volume_ratio
"""
    parser = _verb(verbs, "group", text, _group)
    _add_study(parser, ())
    parser.add_argument(
        "--method",
        required=True,
        choices=(*METHODS, "simulated"),
        metavar="METHOD",
        help="of explain, or simulated, for what simulate has made",
    )
    parser.add_argument("--label", help="column of participants.tsv with two groups to compare")
    parser.add_argument("--classes", nargs=2, help="the two values that count")
    parser.add_argument(
        "--covariates", nargs="+", default=[], help="columns, or volume_ratio, the head size"
    )
    _add_atlas(parser)
    parser.add_argument("--smooth-mm", type=float, default=8.0, help="FWHM of the Gaussian")
    parser.add_argument("--permutations", type=int, default=1000)
    parser.add_argument("--level", type=float, default=0.05, help="chance of any false voxel")
    parser.add_argument("--seed", type=int, default=0)


def _group(options: argparse.Namespace) -> int:
    from helpers import anatomy
    from helpers.study import grouping

    study = _study(options)
    atlas = None
    if options.atlas:
        _, _, grid = grouping.maps_of_people(study, options.method)
        atlas = anatomy.atlas(grid, options.atlas, names=options.atlas_names)
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


def _add_report(verbs) -> None:
    text = """Put what there is in OUT_DIR onto one page that stands alone, OUT_DIR/report.html.

    brain-cnns report my_study results
"""
    parser = _verb(verbs, "report", text, _make_report)
    _add_study(parser, ())


def _make_report(options: argparse.Namespace) -> int:
    from helpers.study.reporting import report

    print(f"the report is {report(_study(options))}")
    return 0


def _add_card(verbs) -> None:
    text = """Write the card of a network by asking it: fill in the names of its classes then.

    brain-cnns card net.py:network net.toml --weights net.pt --shape 80 96 80 --spacing-mm 2
    brain-cnns card net.py:network net.toml --weights net.pt --shape 80 96 80 --spacing-mm 2 \\
        --space native
"""
    parser = _verb(verbs, "card", text, _card)
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


def _card(options: argparse.Namespace) -> int:
    from helpers import models

    network = models.load_network(options.model, weights=options.weights)
    card = models.draft_card(
        network, tuple(options.shape), spacing_mm=options.spacing_mm, space=options.space
    )
    models.write_card(card, options.out)
    print(f"{options.out} names {card['classes']}: write what they are called")
    return 0


if __name__ == "__main__":
    sys.exit(main())
