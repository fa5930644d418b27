"""``python -m helpers.command``, for torchrun, which starts modules."""

import sys

from helpers.command import main

if __name__ == "__main__":
    sys.exit(main())
