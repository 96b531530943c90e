"""Troughs of whitened traces that are worth a second look, once the spikes around them are known.

Found in the same pass as the scores, from any thread; each takes along the traces around it, so that nothing
else has to be kept until the competition has decided.
Shapes: C channels, K channels around one, L rows of a filter, S peaks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

from esort.pursuit.scorer import PursuitScorer

__all__ = ["LEAST_HEIGHT", "PeakFinder", "Peaks", "no_peaks"]

LEAST_HEIGHT = 4.0
"""Of a peak, in noise levels."""

# What is looked at of a peak: channels so close, so many at most.
_AROUND_UM, _MOST_AROUND = 100.0, 16
# No trough this close to one is deeper.
_ALONE_UM, _ALONE_MS = 50.0, 0.5
# Rows that are skipped together where nothing is large.
_ROWS_AT_ONCE = 64

# `nnan` lets a minimum be taken of several numbers at once; it is exact.
_compile: Any = numba.njit(nogil=True, cache=True, fastmath={"nnan", "nsz"}, error_model="numpy")


class Peaks(NamedTuple):
    """Peaks by row, then channel."""

    row: np.ndarray
    """int64 (S,), of the recording."""
    channel: np.ndarray
    """int64 (S,), in the network's order."""
    traces: np.ndarray
    """float32 (S, K, L): of the channels around, the own first, the rows that a filter sees; zero beyond."""

    def chosen(self, which: np.ndarray | slice) -> Peaks:
        """Some of them."""
        return Peaks(self.row[which], self.channel[which], self.traces[which])


class PeakFinder:
    """Finds peaks in whitened traces.

    Parameters
    ----------
    network : PursuitScorer
    rate_hz : float
        Rows in a second.
    """

    def __init__(self, network: PursuitScorer, rate_hz: float) -> None:
        self._positions = positions = network.positions.astype(np.float64)
        distance = np.linalg.norm(positions[:, None] - positions[None], axis=2)  # (C, C)
        present = np.zeros(network.num_channels, dtype=bool)
        present[network.present_channels()] = True
        distance[:, ~present] = np.inf
        number = min(_MOST_AROUND, network.num_channels)
        order = np.argsort(distance, axis=1, kind="stable")[:, :number]
        near = np.take_along_axis(distance, order, axis=1)
        self.around = np.where(near <= _AROUND_UM, order, -1).astype(np.int64)
        """Channels around each, the own first, -1 behind the last: (C, K)."""
        self.around[~present] = -1
        self._num_alone = ((near <= _ALONE_UM) & (self.around >= 0)).sum(axis=1)  # (C,)
        self._rows_alone = min(
            max(1, round(_ALONE_MS * rate_hz / 1000)),
            network.filter_before,
            network.filters.shape[1] - network.filter_before - 1,
        )
        self._before, self.num_rows = network.filter_before, network.filters.shape[1]

    def within(self, channel: int, distance_um: float) -> np.ndarray:
        """Channels so close to one, itself first: int64 (n,)."""
        around = self.around[channel][self.around[channel] >= 0]
        apart = np.linalg.norm(self._positions[around] - self._positions[channel], axis=1)
        return around[apart <= distance_um]

    def find(self, whitened: np.ndarray, first_row: int, *, sign: int = 1) -> Peaks:
        """Find the peaks in the rows of scores of a stretch; they do not depend on how it is cut.

        Parameters
        ----------
        whitened : float32 array, shape (C, n + L - 1)
            What the scores of n rows are made of.
        first_row : int
            Row of the recording of the first score.
        sign : int
            -1: of the traces upside down.
        """
        count = whitened.shape[1] - self.num_rows + 1
        if count <= 0:
            return no_peaks(self.around.shape[1], self.num_rows)
        whitened = np.ascontiguousarray(whitened, dtype=np.float32)
        traces = whitened if sign > 0 else -whitened
        limits = self._before, count, self._rows_alone
        row, channel = _peaks(traces, self.around, self._num_alone, LEAST_HEIGHT, *limits)
        order = np.lexsort((channel, row))
        row, channel = row[order], channel[order]
        cut = np.zeros((len(row), self.around.shape[1], self.num_rows), dtype=np.float32)
        _cut(traces, self.around, row, channel, cut)
        return Peaks(row + first_row, channel, cut)


def no_peaks(num_around: int, length: int) -> Peaks:
    """Nothing."""
    empty = np.zeros(0, dtype=np.int64)
    return Peaks(empty, empty, np.zeros((0, num_around, length), dtype=np.float32))


@_compile
def _peaks(traces, around, num_alone, least, before, num_rows, alone):  # type: ignore
    """Rows of scores, and channels, of the troughs; of equal ones the first."""
    rows, channels = [], []
    for channel in range(traces.shape[0]):
        if around[channel, 0] < 0:
            continue
        line = traces[channel]
        for start in range(before, before + num_rows, _ROWS_AT_ONCE):
            stop = min(start + _ROWS_AT_ONCE, before + num_rows)
            lowest = np.float32(0)
            for column in range(start, stop):
                lowest = min(lowest, line[column])
            if lowest > -least:
                continue
            for column in range(start, stop):
                value = line[column]
                if value > -least:
                    continue
                deepest = True
                for place in range(num_alone[channel]):
                    other = around[channel, place]
                    for at in range(column - alone, column + alone + 1):
                        beside = traces[other, at]
                        if beside < value or (
                            beside == value and (at < column or (at == column and other < channel))
                        ):
                            deepest = False
                            break
                    if not deepest:
                        break
                if deepest:
                    rows.append(column - before)
                    channels.append(channel)
    found = np.empty((2, len(rows)), dtype=np.int64)
    for number in range(len(rows)):
        found[0, number], found[1, number] = rows[number], channels[number]
    return found[0], found[1]


@_compile
def _cut(traces, around, row, channel, cut):  # type: ignore
    length = cut.shape[2]
    for number in range(row.size):
        for place in range(around.shape[1]):
            other = around[channel[number], place]
            if other < 0:
                break
            for offset in range(length):
                cut[number, place, offset] = traces[other, row[number] + offset]
