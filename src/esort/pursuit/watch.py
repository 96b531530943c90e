"""What the competition leaves over, while sorting goes on: unknown events, and how well known spikes fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numba
import numpy as np

from esort.detector import no_spikes
from esort.postprocess import Spikes
from esort.pursuit.overlaps import AMPLITUDE_LIMITS
from esort.pursuit.peaks import LEAST_HEIGHT, PeakFinder, Peaks, no_peaks
from esort.pursuit.scorer import PursuitScorer, scorer_of
from esort.pursuit.unexplained import Accepted, Unexplained

if TYPE_CHECKING:
    from esort.pursuit.network import PursuitNetwork

__all__ = ["Fits", "Strange", "Watch", "watch_all"]

# Of events so close in time and space the largest counts. One without a trough is no event where the rows
# that were looked at hold one with a trough: its energy is that one's.
_APART_MS, _APART_UM = 0.5, 100.0
# What fits or does not has this size, in noise levels.
_LARGE = 10.0
_BLOCK_ROWS = 8000


_compile: Any = numba.njit(nogil=True, cache=True)


class Strange(NamedTuple):
    """Events that no unit explains, by sample, then channel: all (S,)."""

    sample_index: np.ndarray
    channel: np.ndarray
    """int64, in the network's order."""
    height: np.ndarray
    """float32: trough in noise levels, downwards positive."""
    size: np.ndarray
    """float32: norm of what is left, noise taken off, in noise levels."""
    position_um: np.ndarray
    """float32 (S, 2)"""


class Fits(NamedTuple):
    """Large events and how much of each is explained."""

    sample_index: np.ndarray
    """int64 (S,)"""
    explained: np.ndarray
    """float32 (S,): 0 to 1."""


class Watch:
    """Follows the competition; what it finds does not depend on how the recording is cut.

    Parameters
    ----------
    network : PursuitScorer
    sampling_frequency : float
        Of the recording, in Hz.
    least_size : float
        Of an unknown event, in noise levels.
    sign : int
        -1: of the traces upside down.
    """

    def __init__(
        self, network: PursuitScorer, *, sampling_frequency: float, least_size: float, sign: int = 1
    ) -> None:
        rate_hz = sampling_frequency / network.stride
        self.finder = PeakFinder(network, rate_hz)
        self._unexplained = Unexplained(network, self.finder)
        self._stride = network.stride
        self._energies = np.maximum(network.energies, 1e-9)
        self._positions = network.positions.astype(np.float64)
        self._least_size, self._sign = least_size, sign
        self._apart_rows = round(_APART_MS * rate_hz / 1000)
        self._reach_rows = max(self._apart_rows, network.filters.shape[1])
        self.margin_samples = self._unexplained.margin_samples + self._stride * (self._reach_rows + 1)
        """Spikes further from an event do not matter to it."""
        self.reset()

    def reset(self) -> None:
        """Forget the past: what comes next may be anywhere."""
        self._peaks = no_peaks(self.finder.around.shape[1], self.finder.num_rows)
        self._accepted = Accepted(*(np.zeros(0, dtype=np.int64),) * 2, np.zeros(0, dtype=np.float32))
        self._strange = _no_strange()
        self._row = self._told = np.iinfo(np.int64).min // 4

    def look(self, whitened: np.ndarray, start_sample: int) -> Peaks:
        """Find what is worth a second look in a piece, (C, n + L - 1); from any thread."""
        return self.finder.find(whitened, start_sample // self._stride, sign=self._sign)

    def push(self, peaks: Peaks, spikes: Spikes, certain_sample: int) -> tuple[Strange, Fits]:
        """Take the next peaks and spikes, and return what has become certain.

        Parameters
        ----------
        peaks : Peaks
            Of the next piece.
        spikes : Spikes
            That were accepted meanwhile, with scores for probabilities.
        certain_sample : int
            All spikes before it have been told; not before the last call's.
        """
        if len(peaks.row):
            self._peaks = Peaks(*(np.concatenate(pair) for pair in zip(self._peaks, peaks, strict=True)))
        if len(spikes):
            self._take(spikes)
        margin = self._unexplained.margin_samples
        decided = certain_sample // self._stride - margin // self._stride - 1
        number = int(np.searchsorted(self._peaks.row, decided))
        if number == 0 and len(self._strange.size) == 0:
            self._told = decided - self._reach_rows - 1
            return _no_strange(), Fits(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))
        now, self._peaks = self._peaks.chosen(slice(number)), self._peaks.chosen(slice(number, None))
        judged = self._unexplained.judge(now, self._accepted, self._least_size)
        kept = self._accepted.sample_index >= self._stride * decided - 2 * margin
        self._accepted = Accepted(*(column[kept] for column in self._accepted))
        large = judged.before >= _LARGE**2
        fits = Fits(
            self._stride * now.row[large],
            np.clip(1 - judged.left[large] / judged.before[large], 0, 1).astype(np.float32),
        )
        new = judged.is_strange
        found = Strange(
            self._stride * now.row[new],
            now.channel[new],
            judged.height[new],
            np.sqrt(judged.left[new]),
            judged.position_um[new],
        )
        return self._tell(found, decided), fits

    def finish(self, spikes: Spikes) -> tuple[Strange, Fits]:
        """Take the last spikes and return the rest: nothing follows."""
        return self.push(self._peaks.chosen(slice(0)), spikes, np.iinfo(np.int64).max // 4)

    def _take(self, spikes: Spikes) -> None:
        """Add spikes to those that are known, by sample."""
        energy = self._energies[spikes.unit_index]
        amplitude = np.clip(spikes.probability / energy + 0.5, *AMPLITUDE_LIMITS).astype(np.float32)
        amplitude *= self._sign
        columns = [
            np.concatenate(pair)
            for pair in zip(self._accepted, (spikes.sample_index, spikes.unit_index, amplitude), strict=True)
        ]
        order = np.lexsort((columns[1], columns[0]))
        self._accepted = Accepted(*(column[order] for column in columns))

    def _tell(self, found: Strange, decided: int) -> Strange:
        """Of all events that are near each other leave the largest, as soon as all are known."""
        events = Strange(*(np.concatenate(pair) for pair in zip(self._strange, found, strict=True)))
        row = events.sample_index // self._stride
        limits = self._apart_rows, self._reach_rows
        largest = _largest(
            row, events.channel, events.size, events.height >= LEAST_HEIGHT, self._positions, limits
        )
        until = decided - self._reach_rows - 1
        now = (row >= self._told) & (row < until)
        kept = row >= until - self._reach_rows
        self._strange = Strange(*(column[kept] for column in events))
        self._told = until
        return Strange(*(column[now & largest] for column in events))


def watch_all(
    network: PursuitScorer | PursuitNetwork,
    whitened: np.ndarray,
    spikes: Spikes,
    *,
    sampling_frequency: float,
    least_size: float,
    sign: int = 1,
) -> tuple[Strange, np.ndarray]:
    """Unknown events of traces that are all there, and how much of each large event is explained.

    Parameters
    ----------
    network : PursuitScorer or PursuitNetwork
    whitened : float32 array, shape (C, T)
    spikes : Spikes
        That explain the traces, with scores for probabilities, in any order.
    sampling_frequency, least_size, sign
        See `Watch`.

    Returns
    -------
    strange : Strange
    explained : float32 array
    """
    scorer = scorer_of(network)
    watch = Watch(scorer, sampling_frequency=sampling_frequency, least_size=least_size, sign=sign)
    before, length = scorer.filter_before, scorer.filters.shape[1]
    num_rows, stride = whitened.shape[1], scorer.stride
    order = np.argsort(spikes.sample_index, kind="stable")
    spikes = Spikes(
        *(column[order] for column in (spikes.sample_index, spikes.unit_index, spikes.probability))
    )
    found, explained = [], []
    for start in range(0, num_rows, _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, num_rows)
        low, high = start - before, stop + length - before - 1
        part = np.asarray(whitened[:, max(0, low) : min(num_rows, high)])
        part = np.pad(part, ((0, 0), (max(0, -low), max(0, high - num_rows))))
        first, last = np.searchsorted(spikes.sample_index, [start * stride, stop * stride])
        inside = slice(first if start else 0, last)
        own = Spikes(spikes.sample_index[inside], spikes.unit_index[inside], spikes.probability[inside])
        strange, fits = watch.push(watch.look(part, start * stride), own, stop * stride)
        found.append(strange)
        explained.append(fits.explained)
    strange, fits = watch.finish(no_spikes())
    found.append(strange)
    explained.append(fits.explained)
    return Strange(*(np.concatenate(column) for column in zip(*found, strict=True))), np.concatenate(
        explained
    )


@_compile
def _largest(row, channel, size, has_trough, positions, limits):  # type: ignore
    """Whether no event near an event is larger, of equal ones the first, or has a trough that it lacks."""
    apart, reach = limits
    result = np.ones(row.size, dtype=np.bool_)
    first = 0
    for number in range(row.size):
        while row[first] < row[number] - reach:
            first += 1
        for other in range(first, row.size):
            if row[other] > row[number] + reach:
                break
            x, y = positions[channel[other]] - positions[channel[number]]
            smaller = size[other] < size[number] or (size[other] == size[number] and other >= number)
            if abs(row[other] - row[number]) > apart:
                smaller = True
            if has_trough[other] and not has_trough[number]:
                smaller = False
            if not smaller and x * x + y * y <= _APART_UM**2:
                result[number] = False
                break
    return result


def _no_strange() -> Strange:
    empty, none = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
    return Strange(empty, empty, none, none, np.zeros((0, 2), dtype=np.float32))
