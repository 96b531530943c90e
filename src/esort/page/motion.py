"""Motion of the tissue as the page draws it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from esort.motion import FollowedMotion
from esort.results import MOTION, SORTING

__all__ = ["describe_motion"]

_CELLS_SHOWN = 2000


def describe_motion(folder: Path) -> dict[str, Any] | None:
    """How far the tissue moved, a line for each depth; None where nothing followed it.

    Parameters
    ----------
    folder : Path
        That sorting left.
    """
    path = folder / SORTING / MOTION
    if not path.is_dir():
        return None
    motion = FollowedMotion.load(path)
    shown = slice(None, None, -(-len(motion.times_s) // _CELLS_SHOWN))
    return {
        "time_s": motion.times_s[shown].round(3).tolist(),
        "depth_um": motion.depths_um.round(1).tolist(),
        "shift_um": motion.shift_um[shown].T.tolist(),
    }
