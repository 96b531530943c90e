"""Options of the benchmarks."""

from __future__ import annotations

import sys


def read_options(arguments, defaults):
    """Options given as NAME=VALUE, over the defaults; ends the process where a name is unknown."""
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    if len(given) < len(arguments) or not set(given) <= set(defaults):
        sys.exit(f"expected NAME=VALUE of {', '.join(defaults)}, got {' '.join(arguments)}")
    return defaults | given
