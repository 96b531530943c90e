"""Pursuit over whitened traces in memory: events, and what is left once they are taken away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from esort.postprocess import ConflictTable, Spikes, conflict_margin_samples, join_chunks, solve_conflicts
from esort.pursuit.overlaps import AMPLITUDE_LIMITS, NUM_PHASES, phase_offsets
from esort.pursuit.scorer import PursuitScorer, scorer_of
from esort.pursuit.shifting import shifted
from esort.threads import map_in_threads

if TYPE_CHECKING:
    from esort.pursuit.network import PursuitNetwork

__all__ = ["MAX_ROUNDS", "Events", "excess", "exclusion_rows", "explain", "residual", "solve"]

MAX_ROUNDS = 12
"""Rounds of the competition."""

# Fractions of a row that the time of an event is told in.
_FINE = 64
_CHUNK_ROWS = 16000
# Of units of which nothing is left once the noise is taken off: they find nothing, but there they are.
_LEAST_ENERGY = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class Events:
    """Spikes as the pursuit found them.

    Parameters
    ----------
    time : float64 array, shape (S,)
        In rows, ascending.
    unit_index : int64 array, shape (S,)
    score : float32 array, shape (S,)
        When accepted, the others taken away.
    amplitude : float32 array, shape (S,)
        Of the unit's footprint, within the limits.
    """

    time: np.ndarray
    unit_index: np.ndarray
    score: np.ndarray
    amplitude: np.ndarray

    def chosen(self, kept: np.ndarray) -> Events:
        """Some of the events, (S,) booleans."""
        return Events(
            time=self.time[kept],
            unit_index=self.unit_index[kept],
            score=self.score[kept],
            amplitude=self.amplitude[kept],
        )

    def of_unit(self, unit_index: int) -> np.ndarray:
        """Positions of one unit's events."""
        return np.flatnonzero(self.unit_index == unit_index)


def excess(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """How far scores are above their thresholds: 0 at the threshold, 1/2 at twice as much, below 1."""
    return 1 - thresholds / np.maximum(scores, 1e-9)


def exclusion_rows(rate_hz: float, refractory_ms: float) -> int:
    """Least distance of two spikes of a unit, at least 1."""
    return max(1, round(refractory_ms * rate_hz / 1000))


def solve(
    scores: np.ndarray,
    table: ConflictTable | None,
    thresholds: np.ndarray,
    energies: np.ndarray,
    *,
    exclusion_rows: int,
    stride: int,
    **where: Any,
) -> Spikes:
    """Compete; see `esort.postprocess.solve_conflicts`."""
    return solve_conflicts(
        scores,
        table,
        thresholds=thresholds.tolist(),
        energies=np.maximum(energies, _LEAST_ENERGY).tolist(),
        amplitude_limits=AMPLITUDE_LIMITS,
        exclusion_samples=exclusion_rows,
        max_rounds=MAX_ROUNDS,
        stride=stride,
        engine="numba",
        **where,
    )


def explain(
    network: PursuitScorer | PursuitNetwork,
    table: ConflictTable,
    whitened: np.ndarray,
    thresholds: np.ndarray,
    *,
    exclusion_rows: int,
) -> Events:
    """Find the events that explain the traces.

    Parameters
    ----------
    network : PursuitScorer or PursuitNetwork
    table : ConflictTable
        Of this network.
    whitened : float32 array, shape (C, T)
    thresholds : float array, shape (U,)
        Least score.
    exclusion_rows : int
        Events of one unit are at least this far apart.

    Returns
    -------
    Events
    """
    network = scorer_of(network)
    num_rows = whitened.shape[1]
    margin = conflict_margin_samples(table, exclusion_samples=exclusion_rows, max_rounds=MAX_ROUNDS)
    before, length = network.filter_before, network.filters.shape[1]
    energies = network.energies

    def explain_chunk(start: int) -> Spikes:
        stop = min(start + _CHUNK_ROWS, num_rows)
        first, last = max(0, start - margin), min(num_rows, stop + margin)
        low, high = first - before, last + length - before - 1
        part = whitened[:, max(0, low) : min(num_rows, high)]
        part = np.pad(part, ((0, 0), (max(0, -low), max(0, high - num_rows))))
        return solve(
            network.scores(part).T,  # (n, U)
            table,
            thresholds,
            energies,
            exclusion_rows=exclusion_rows,
            stride=_FINE,
            first_sample=first * _FINE,
            core=(start - first, stop - first),
        )

    spikes = join_chunks(map_in_threads(explain_chunk, range(0, num_rows, _CHUNK_ROWS)))
    amplitude = np.clip(spikes.probability / energies[spikes.unit_index] + 0.5, *AMPLITUDE_LIMITS)
    return Events(
        time=spikes.sample_index / _FINE,
        unit_index=spikes.unit_index,
        score=spikes.probability,
        amplitude=amplitude.astype(np.float32),
    )


def residual(network: PursuitScorer | PursuitNetwork, whitened: np.ndarray, events: Events) -> np.ndarray:
    """What is left of the traces when all events are taken away, float32 (C, T)."""
    network = scorer_of(network)
    phases = np.stack(
        [shifted(network.footprints, float(offset)) for offset in phase_offsets()], axis=1
    )  # (U, P, M, L)
    row = np.rint(events.time).astype(np.int64)
    phase = np.floor((events.time - row + 0.5) * NUM_PHASES).astype(np.int64).clip(0, NUM_PHASES - 1)
    left = np.array(whitened)
    _subtract(
        left,
        row - network.footprint_before,
        events.unit_index,
        phase,
        events.amplitude,
        network.footprint_channels,
        phases,
    )
    return left


_compile: Any = numba.njit(nogil=True, cache=True)


@_compile
def _subtract(traces, start, unit_index, phase, amplitude, channels, footprints):  # type: ignore
    length = footprints.shape[3]
    for event in range(start.size):
        first = max(0, -start[event])
        last = min(length, traces.shape[1] - start[event])
        waveforms = footprints[unit_index[event], phase[event]]
        for member in range(waveforms.shape[0]):
            line = traces[channels[unit_index[event], member]]
            waveform = waveforms[member]
            for row in range(first, last):
                line[start[event] + row] -= amplitude[event] * waveform[row]
