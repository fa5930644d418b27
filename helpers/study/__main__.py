"""``python -m helpers.study`` is ``brain-cnns``, for launchers that start modules."""

import sys

from helpers.study.command import main

if __name__ == "__main__":
    sys.exit(main())
