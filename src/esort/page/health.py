"""Unknown events and the health of each minute as the page draws them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from esort.fitness import FITS
from esort.page.numbers import rounded
from esort.results import SORTING, UNKNOWN
from esort.unknown import UnknownEvents

__all__ = ["describe_health"]

_EVENTS_SHOWN, _MINUTES_SHOWN = 20_000, 30


def describe_health(folder: Path, run: dict[str, Any], sampling_frequency: float) -> dict[str, Any] | None:
    """Unknown events over time and depth, and what is wrong in which minute; None: an older run.

    Parameters
    ----------
    folder : Path
        That sorting left.
    run : dict
        Content of ``run.json``.
    sampling_frequency : float
    """
    path, health = folder / SORTING / UNKNOWN, run.get("health")
    if not path.is_file() or not health:
        return None
    events = UnknownEvents.load(path)
    shown = np.unique(np.linspace(0, max(len(events) - 1, 0), min(len(events), _EVENTS_SHOWN)).astype(int))
    wrong = [minute["line"] for minute in health["minutes"] if minute["verdict"] != FITS]
    false = health["unknown"]["expected_false_per_minute"]
    note = f"{len(events):,} events" + ("" if false is None else f", {false:g} false ones a minute expected")
    return {
        "note": note,
        "verdict": health["verdict"],
        "time_s": rounded(events.sample_index[shown] / sampling_frequency, 3),
        "depth_um": rounded(events.position_um[shown, 1], 1),
        "size": rounded(events.size[shown], 1),
        "lines": wrong[:_MINUTES_SHOWN],
        "more": max(0, len(wrong) - _MINUTES_SHOWN),
    }
