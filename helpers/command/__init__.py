"""The command ``brain-cnns``: what the course teaches, on everybody's own scans.

Built as a BIDS App is: ``brain-cnns VERB BIDS_DIR OUT_DIR [participant|group]``. Every verb goes on
where an interrupted run has stopped, and all write into the same OUT_DIR.
"""

import argparse
from collections.abc import Sequence

from helpers.command import (
    card,
    explain,
    group,
    jobs,
    maximize,
    preprocess,
    report,
    simulate,
    train,
    trust,
)

_VERBS = (preprocess, train, explain, trust, simulate, maximize, group, report, card)
_DESCRIPTION = """\
Find out what a network has learned from brain scans: from a folder to a report.

    brain-cnns preprocess my_study results --masks "derivatives/masks/{participant_id}_mask.nii.gz"
    brain-cnns explain my_study results --model sex --method grad_cam
    brain-cnns report my_study results

BIDS_DIR holds sub-* folders, or NIfTI files. Nothing is written there. OUT_DIR gets everything, as
BIDS derivatives; give all verbs the same. Run a command again after an interruption: what is
finished is skipped.

Exit code: 0 if all is done; 1 if some scans are broken (they are listed, and left out); 2 if the
run cannot be done as asked (a wrong argument, a full disk); 130 after Ctrl+C.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        "brain-cnns",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in _VERBS:
        verb.add(verbs)
    options = parser.parse_args(arguments)
    program = f"brain-cnns {options.verb}"
    from helpers.errors import OtherProcessError

    try:
        return jobs.submit(main, options) if jobs.asked(options) else options.run(options)
    except (ValueError, OSError, ImportError, OtherProcessError) as error:
        parser.exit(2, f"{program}: {error}\n" if _speaks() else None)
    except KeyboardInterrupt:
        parser.exit(130, "stopped; the same command goes on from here\n")


def _speaks() -> bool:
    """Say whether this process speaks for all that share the work."""
    from helpers.processes import rank

    return rank() == 0
