"""``python -m esort``: the command `esort`."""

import sys

from esort.command import main

if __name__ == "__main__":
    sys.exit(main())
