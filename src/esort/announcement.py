"""The last lines on the terminal: what came out and where it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from esort.exports import EXPORTS
from esort.motion import LEAST_MOTION_UM
from esort.outcome import Outcome
from esort.page import REPORT
from esort.results import MODEL, SCORES, SORTING

__all__ = ["announce"]


def announce(outcome: Outcome, agreement: dict[str, Any] | None = None) -> None:
    """Print what came out and where it lies."""
    run, folder = outcome.run, outcome.folder
    if outcome.scores is not None:
        print(
            f"pooled accuracy {outcome.scores.pooled_accuracy:.3f}, "
            f"mean accuracy {outcome.scores.mean_accuracy:.3f}"
        )
    if agreement is not None and agreement["mean_best"] is not None:
        print(
            f"agreement with the teacher on the rest: {agreement['mean_best']:.3f} in the mean over its "
            f"{len(agreement['units'])} units, {agreement['pooled']:.3f} of all spikes"
        )
    where = "a Ray cluster" if run["executor"] == "ray" else f"{run['cores']} cores"
    print(
        f"{run['num_spikes']} spikes of {run['num_units']} units, "
        f"{run['real_time_factor']:.1f} times real time on {where}"
    )
    if (run["motion_um"] or 0) >= LEAST_MOTION_UM:
        print(f"the tissue moved by {run['motion_um']} um")
    if run.get("num_rivals"):
        print(f"neurons that nobody labelled compete: {run['num_rivals']}; python -m esort.rivals names them")
    places = {"sorting": folder / SORTING, "scores": folder / SCORES, "model": folder / MODEL}
    places |= {name: folder / EXPORTS[name] for name in run.get("exports", ())}
    places["report"] = folder / REPORT
    places["picture"] = outcome.pictures[0] if outcome.pictures else Path()
    for name, path in places.items():
        if path.is_file() or name == "sorting" or (name in EXPORTS and path.exists()):
            print(f"{name + ':':<9} {path}")
