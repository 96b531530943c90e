"""The folder that a run leaves: never overwritten by accident, and whole at every moment."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "AGREEMENT",
    "CHUNKS",
    "DEFECTS",
    "DOUBTFUL",
    "MANIFEST",
    "MODEL",
    "MOTION",
    "RUN",
    "SCORES",
    "SORTING",
    "SUSPECTS",
    "UNKNOWN",
    "check_output",
    "set_aside",
]

SORTING, MODEL, RUN, SCORES = "sorting", "model.safetensors", "run.json", "scores.json"
MANIFEST = "manifest.json"  # written last: a folder without it is not whole
MOTION = "motion"  # of the tissue, in the sorting's folder
DOUBTFUL = "doubtful.npy"  # whether a spike is probably no known unit's, in the sorting's folder
UNKNOWN = "unknown_events.npz"  # that no unit explains, in the sorting's folder
CHUNKS = "chunks"  # of a sorting that is not finished
SUSPECTS = "suspicious_labels.json"  # that look like one neuron under two names, or two under one
DEFECTS = "defects.json"  # of the recording, with every stretch that was blanked
AGREEMENT = "agreement.json"  # of each pair of units, with a teacher


def check_output(folder: Path, *, overwrite: bool, how: str = "overwrite=true to replace it") -> None:
    """Refuse a folder that holds results already.

    Parameters
    ----------
    folder : Path
    overwrite : bool
        Whether they may be replaced.
    how : str
        What the user can do other than choosing another folder.

    Raises
    ------
    FileExistsError
        If there is a sorting, a model or the record of a run, unless `overwrite`.
    NotADirectoryError
        If a file lies there.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"expected a folder for the results, got the file {folder}")
    for name in (SORTING, MODEL, RUN):
        if (folder / name).exists() and not overwrite:
            raise FileExistsError(f"{folder / name} exists: choose another folder, or give {how}")


@contextmanager
def set_aside(path: Path) -> Iterator[None]:
    """Move a folder out of the way while the block makes a new one; bring it back if the block fails.

    A process that is killed in between leaves the old folder as ``.<name>.old``; the next call finds it.
    """
    old = path.with_name(f".{path.name}.old")
    if old.exists():
        if path.exists():
            shutil.rmtree(old)
        else:
            os.rename(old, path)
    if path.exists():
        os.rename(path, old)
    try:
        yield
    except BaseException:
        if old.exists():
            shutil.rmtree(path, ignore_errors=True)
            os.rename(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)
