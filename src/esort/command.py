"""The command ``esort``: what ``train.py`` and ``sort.py`` do, and the tools beside them, once installed.

esort train probe=neuropixels labels=0.56       learn units, sort the rest, score it
esort sort checkpoint=FILE recording.path=PATH  sort a recording
esort doctor recording=path recording.path=PATH can it be sorted, and what to change
esort inspect FILE                              what a checkpoint says of itself
esort verify DIR                                whether a result is still what was made
esort export checkpoint=FILE output=FILE.onnx   network and post-processing as one ONNX model
esort rivals checkpoint=FILE output=FILE        a checkpoint that tells neurons without a label, too
esort workspace entity=NAME                     the dashboard of a W&B project
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from omegaconf import DictConfig

__all__ = ["conf_folder", "main", "sort", "train"]

_TOOLS = ("doctor", "inspect", "verify", "export", "rivals", "workspace")


def conf_folder() -> Path:
    """Return where the configuration lies: in the package where it is installed, else in the checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parents[1] / "conf"


def run_training(config: DictConfig) -> float:
    """Run one training, or one job of a sweep."""
    from esort.experiment import train
    from esort.runs import one_line_errors

    return one_line_errors(train)(config)


def run_sorting(config: DictConfig) -> float | None:
    """Run one sorting, or one job of a sweep."""
    from esort.runs import one_line_errors
    from esort.sort_run import sort

    return one_line_errors(sort)(config)


def train() -> None:
    """Run ``train.py`` with the arguments of this process."""
    hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="train")(run_training)()


def sort() -> None:
    """Run ``sort.py`` with the arguments of this process."""
    hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="sort")(run_sorting)()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    from esort import __version__

    name, *rest = (sys.argv[1:] if arguments is None else list(arguments)) or ["--help"]
    if name in ("-h", "--help", "--version"):
        print(f"esort {__version__}" if name == "--version" else __doc__)
        return 0
    if name in _TOOLS:
        code: int = importlib.import_module(f"esort.{name}").main(rest)
        return code
    if name not in ("train", "sort"):
        known = ", ".join(("train", "sort", *_TOOLS))
        print(f"error: expected one of {known}, got {name!r}: see esort --help", file=sys.stderr)
        return 1
    # Hydra reads the process's arguments, and starts this file again for some launchers.
    sys.argv = [f"esort {name}", *rest]
    train() if name == "train" else sort()
    return 0


if __name__ == "__main__":
    sys.exit(main())
