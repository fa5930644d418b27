"""Put what there is in OUT_DIR onto one page that stands alone, OUT_DIR/report.html.

Warnings stand on top. Nothing is computed anew.

    brain-cnns report my_study results
"""

import argparse

from helpers.command import arguments


def add(verbs) -> None:
    """Add the verb to the command."""
    parser = arguments.add_verb(verbs, "report", __doc__, run)
    arguments.add_study(parser, levels=False, masks=False)


def run(options: argparse.Namespace) -> int:
    """Do what the verb says; return the exit code."""
    from helpers.study.reporting import report

    print(f"the report is {report(arguments.study_from(options))}")
    return 0
