r"""Explain what a network sees in every scan of a folder.

Writes for each scan a map as NIfTI that lies over the scan in any viewer, the same map in MNI
space, a picture (PNG) and a record; for all scans scans.csv, regions.csv and summary.json.
Run it again after an interruption: finished scans are skipped. Broken scans are left out and
listed.

Exit code: 0 if every scan is explained; 1 if some are broken; 2 if the run cannot be done as
asked (a wrong argument, a network that the method refuses, a full disk); 130 after Ctrl+C.

    python data_scripts/explain.py lesion my_study --method lrp
    python data_scripts/explain.py weights/mine.safetensors my_study --method grad_cam \
        --layer block3 --target patient --output results/grad_cam \
        --atlas labels.nii.gz --atlas-names labels.csv

Over two processes, the scans divided between them:

    fabric run --accelerator=cpu --devices=2 --strategy=ddp \
        data_scripts/explain.py lesion my_study --method occlusion
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from helpers import anatomy, attribution, models
from helpers.errors import OtherProcessError
from helpers.explain_folder import explain_folder, model_grid
from helpers.processes import launched_fabric


def main(arguments: Sequence[str] | None = None) -> int:
    """Explain a folder; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a pretrained task, or a safetensors file beside its card")
    parser.add_argument("folder", type=Path, help="NIfTI files, or a BIDS folder")
    parser.add_argument("--method", required=True, choices=sorted(attribution.METHODS))
    parser.add_argument("--output", type=Path, help="default FOLDER/derivatives/MODEL-METHOD")
    parser.add_argument("--target", default="predicted", help="a class name, or 'predicted'")
    parser.add_argument("--layer", help="for methods that look at a layer, such as grad_cam")
    parser.add_argument("--masks", help="brain masks in FOLDER, with {participant_id} in the path")
    parser.add_argument("--atlas", type=Path, help="labels in MNI space; default: tissues")
    parser.add_argument("--atlas-names", type=Path, help="CSV or TSV: columns index and name")
    parser.add_argument("--cache", type=Path, help="default: preprocessed, beside the output")
    options = parser.parse_args(arguments)
    fabric = launched_fabric()
    name = f"{Path(options.model).stem}-{options.method}"
    output = options.output or options.folder / "derivatives" / name
    try:
        model = load_model(options.model)
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
    except (ValueError, OSError, OtherProcessError) as error:
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


def load_model(name: str) -> nn.Module:
    """Load a pretrained task, or weights of one's own with their card."""
    if not name.endswith(".safetensors"):
        return models.pretrained(name)
    weights = Path(name)
    for file in (weights, weights.with_suffix(".json")):
        if not file.exists():
            raise ValueError(f"no {file}; weights lie beside a card of the same name with .json")
    try:
        return models.pretrained(weights.stem, folder=weights.parent)
    except KeyError as error:
        raise ValueError(f"the card of {weights} does not say {error}") from error
    except (TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{weights.with_suffix('.json')} is no card: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
