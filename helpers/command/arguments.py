"""Arguments that several verbs share, and what they become.

Heavy libraries are imported by what runs: help must come at once.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

# The names of `attribution.METHODS`, which would import torch.
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
# And those of `models.INTENSITIES`.
INTENSITIES = ("median", "unit", "zscore", "zscore_brain")
_LEVELS = """\
On a cluster, each job does its share of the participants, then one does the group level:

    {command} BIDS_DIR OUT_DIR participant --participant-label 01 02 ...
    {command} BIDS_DIR OUT_DIR group ...
"""


def add_verb(verbs, name: str, text: str, run: Callable) -> argparse.ArgumentParser:
    """Add a verb; the first line of its text also stands in the list of verbs."""
    parser = verbs.add_parser(
        name,
        help=text.splitlines()[0],
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_study(parser: argparse.ArgumentParser, *, levels: bool, masks: bool = True) -> None:
    """Add a folder of scans and one of results; with levels what divides the work."""
    parser.add_argument("bids_dir", type=Path, help="a BIDS folder, or one with NIfTI files in it")
    parser.add_argument("out_dir", type=Path, help="where results go")
    parser.set_defaults(participant_label=[], masks=None)
    if levels:
        parser.epilog = _LEVELS.format(command=parser.prog)
        parser.add_argument(
            "level",
            nargs="?",
            choices=("participant", "group"),
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
    if masks:
        parser.add_argument(
            "--masks",
            metavar="PATTERN",
            help="brain masks or parcellations in BIDS_DIR, with {participant_id} in the path; "
            "default: those that OUT_DIR was preprocessed with; else the template's mask cuts the "
            "brains out, which is rougher",
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


def add_n_procs(parser: argparse.ArgumentParser) -> None:
    """Add how many scans are worked on at a time."""
    parser.add_argument(
        "--n-procs",
        type=int,
        help="scans at the same time, each with about 1 GB of memory; default: one a core",
    )


def add_preprocessed(parser: argparse.ArgumentParser) -> None:
    """Add where brains that are prepared already lie."""
    parser.add_argument(
        "--preprocessed",
        type=Path,
        metavar="DIR",
        help="OUT_DIR of an earlier run, for another network or another target; default: OUT_DIR",
    )


def add_model(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add what names a network."""
    parser.add_argument(
        "--model",
        required=required,
        help="a pretrained task, a safetensors file beside its card, file.py:function, or the "
        "folder of a MONAI bundle or of networks that were trained here",
    )
    parser.add_argument("--weights", type=Path, help="of file.py:function: a state dict (.pt)")
    parser.add_argument("--card", type=Path, help="what the network reads; default: beside weights")


def add_atlas(parser: argparse.ArgumentParser) -> None:
    """Add regions in MNI space, and their names."""
    parser.add_argument(
        "--atlas",
        help="labels in MNI space (NIfTI), or, with the extra 'atlases', aal, desikan_killiany, "
        "destrieux or neuromorphometrics, or, downloaded on its first use, harvard_oxford, "
        "harvard_oxford_sub or schaefer; default: tissues",
    )
    parser.add_argument("--atlas-names", type=Path, help="CSV or TSV: columns index and name")


def study_from(options: argparse.Namespace):
    """Return the folder of scans, with its folder of results."""
    from helpers.study.folders import Study

    return Study(
        options.bids_dir,
        options.out_dir,
        masks=options.masks,
        segmentations=getattr(options, "segmentations", None),
        participants=options.participant_label,
        preprocessed=getattr(options, "preprocessed", None),
    )


def model_from(options: argparse.Namespace):
    """Return the network that is asked about, or None."""
    from helpers import models

    if options.model is None:
        return None
    return models.load(options.model, weights=options.weights, card=options.card)


def atlas_from(options: argparse.Namespace, grid: Callable):
    """Return the regions that were asked for, on what ``grid()`` returns, or None."""
    from helpers import anatomy

    if options.atlas is None:
        if options.atlas_names is not None:
            raise ValueError("--atlas-names are of the regions of --atlas; give both")
        return None
    _check_space(Path(options.atlas).name)
    return anatomy.atlas(grid(), options.atlas, names=options.atlas_names)


def _check_space(name: str) -> None:
    """Refuse a file that by its BIDS name lies on one person's own scan, or in another space."""
    entities = dict(part.split("-", 1) for part in name.split(".")[0].split("_") if "-" in part)
    space = entities.get("space", "" if "sub" in entities else "MNI152")
    if not space.startswith("MNI"):
        where = f"in the space {space!r}" if space else f"on the scan of sub-{entities['sub']}"
        raise ValueError(
            f"by its name {name} lies {where}, but an atlas of all scans lies in MNI space; a "
            f"person's own segmentation is named by --segmentations"
        )


def levels_from(options: argparse.Namespace) -> dict[str, bool]:
    """Return what is to be done: each scan, and the tables about all."""
    if options.level is None:
        return {"scans": True, "tables": not options.participant_label}
    return {"scans": options.level == "participant", "tables": options.level == "group"}


def say_done(table, what: str, place: Path) -> int:
    """Say how many scans are done, and which are broken; return the exit code."""
    broken = table[table["problem"].notna()]
    print(f"{len(table) - len(broken)} of {len(table)} scans are {what} in {place}")
    for row in broken.to_dict("records"):
        print(f"broken: {row['scan']}: {row['problem']}", file=sys.stderr)
    return 1 if len(broken) else 0


def say_broken(scores) -> int:
    """Say which scans were left out because they are broken; return the exit code."""
    broken = [one for one in scores.attrs["problems"] if one["kind"] == "broken scan"]
    for one in broken:
        print(f"broken: {one['file']}: {one['detail']}", file=sys.stderr)
    return 1 if broken else 0


def say_waiting(scans, study) -> int:
    """Say what a run would do."""
    for scan in scans:
        print(scan.file)
    print(f"{len(scans)} of {len(study.scans)} scans are to be done, into {study.output}")
    return 0
