"""The competition's loops, and the tables that they look things up in.

Shapes: E epochs, R rows of an epoch and what is around it, U units, D neighbours of a unit at the most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from esort.postprocess import ConflictTable
from esort.postprocess.conflicts import MOST_SCORE, energy_scale
from esort.postprocess.fit import AMPLITUDE_STEPS, Fit, amplitude_steps
from esort.postprocess.stepwise import StepSizes
from esort.pursuit.onnx_competition import apart, begin, compete, look, take
from esort.pursuit.onnx_parts import call, loop

__all__ = ["SCORES", "SPIKES", "competition_constants", "competition_nodes"]

SCORES = "scores_last"
"""Value that the competition begins with: scores in fixed point, int32 (E, R, U), see `onnx_competition`."""
SPIKES = "spikes_told"
"""Value that it ends with: epoch, sample after the epoch's first one, unit, score and row, int64 (5, S)."""


def competition_nodes() -> tuple[list[onnx.NodeProto], list[Any]]:
    """From `SCORES` to `SPIKES`: nodes, and the functions that they call."""
    of_step, of_round = ("left", "closed", "spikes"), ("window", "shut", "nodes", "found")
    rounds = loop(
        "rounds",
        [call(compete, ["going_on", *(f"{name}_next" for name in of_round)])],
        iteration="round",
        carried=of_round,
        while_true=("undecided", "going_on"),
    )
    one_step = [
        call(look, ["undecided", *(f"{name}_start" for name in of_round)]),
        rounds,
        call(take, [f"{name}_next" for name in of_step], found="found_last", scores=SCORES),
    ]
    nodes = [
        call(begin, [f"{name}_start" for name in of_step], scores=SCORES),
        loop("num_steps", one_step, iteration="number", carried=of_step),
        call(apart, [SPIKES], spikes="spikes_last"),
    ]
    return nodes, [begin, look, compete, take, apart]


def competition_constants(
    table: ConflictTable | None,
    num_units: int,
    *,
    thresholds: Sequence[float] | np.ndarray,
    energies: Sequence[float] | np.ndarray,
    sizes: StepSizes,
    exclusion_samples: int,
    max_rounds: int,
    amplitude_limits: tuple[float, float],
    stride: int,
) -> tuple[dict[str, Any], int]:
    """Return what the nodes take by name, and R, the rows of an epoch; keywords as of `StepwiseSolver`."""
    tail = max(sizes.ahead, exclusion_samples, 0 if table is None else table.reach_samples)
    most = amplitude_steps(amplitude_limits)[1] / AMPLITUDE_STEPS
    scale = energy_scale(table, exclusion_samples, None, most)
    phases = 1 if table is None else table.phases
    fit = Fit.make(
        phases=phases,
        stride=stride,
        energies=np.asarray(energies, dtype=np.float32),
        amplitude_limits=amplitude_limits,
        scale=scale,
    )
    limits = np.clip(np.asarray(thresholds, dtype=np.float32), 1 / scale, MOST_SCORE / scale)
    first = sizes.behind + 1
    constants = _edges(table, num_units, exclusion_samples, scale) | {
        "limits": np.round(limits * scale).astype(np.int32),
        "scale": np.float32(scale),
        "energies": np.asarray(fit.energies, dtype=np.int64),
        "shifts": 2 ** np.asarray(fit.shifts, dtype=np.int64),
        "least": fit.least,
        "most": fit.most,
        "stride": stride,
        "phases": phases,
        "exclusion": exclusion_samples,
        "rounds": max_rounds,
        "step": sizes.step,
        "first": first,
        "held": sizes.step + tail,
        "looked_at": first + sizes.step + sizes.ahead,
        "num_steps": (sizes.warm_up + sizes.epoch) // sizes.step,
        "warm_up": sizes.warm_up,
        "epoch": sizes.epoch,
    }
    return constants, sizes.warm_up + sizes.epoch + tail


def _edges(table: ConflictTable | None, num_units: int, exclusion: int, scale: float) -> dict[str, Any]:
    """Who is whose rival, and who lowers whom; without a table each unit stands alone."""
    rivals = np.full((num_units, num_units), -1, dtype=np.int32)
    np.fill_diagonal(rivals, exclusion - 1)
    lowered = edges = np.full((num_units, 1), -1, dtype=np.int64)
    kernels, reach = np.zeros((1, 1), dtype=np.int32), 0
    if table is not None:
        assert table.kernels is not None
        assert not table.has_exclusive
        lowered, edges = np.asarray(table.neighbours), np.asarray(table.kernel_out)
        unit, place = np.nonzero(lowered >= 0)
        beside = unit, lowered[unit, place]
        rivals[beside] = np.maximum(rivals[beside], table.reach_samples)
        # The last kernels are zeros, of neighbours that only lower the others.
        lowered = np.where(edges < len(table.kernels), lowered, -1)
        kernels, reach = np.asarray(table.quantise(scale)), table.lag_samples
    return {
        "rivals": rivals.ravel(),
        "lowered": lowered.astype(np.int64),
        "edges": edges.astype(np.int64),
        "kernels": kernels,
        "reach": reach,
    }
