"""Watches over sorting: unknown events, and what each minute's health is told from.

The pieces of a recording are looked at where they are computed, from any thread; what needs the spikes is
done in the order of time. Nothing depends on how the recording is cut.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

import numba
import numpy as np

from esort.baseline import DEFAULT_SIZE
from esort.detector import Detector
from esort.inference import block_samples
from esort.minutes import FIT_STEPS, Minutes, minute_of
from esort.pursuit.detector import ScoreDetector
from esort.pursuit.peaks import Peaks
from esort.pursuit.watch import Fits, Strange, Watch
from esort.stretches import within
from esort.unknown import UnknownEvents

if TYPE_CHECKING:
    from esort.sorter import Sorter

__all__ = ["Observer", "Sight"]

# Every so many-th row tells a channel's noise.
_ROW_STEP = 8
# Half of Gaussian noise is smaller than this, in noise levels; flat is what hardly ever exceeds the other.
_HALF, _QUIET, _MOSTLY_QUIET = 0.6745, 0.1, 0.9
# A channel is noisy with so many times its noise.
_NOISY = 3.0
_LEAST_WITHIN = 2 * NormalDist().cdf(_HALF / _NOISY) - 1

_compile: Any = numba.njit(nogil=True, cache=True)


class Sight(NamedTuple):
    """What was seen of a piece."""

    start_sample: int
    stop_sample: int
    peaks: Peaks | None
    num_looked: int
    num_within: np.ndarray
    """int64 (2, C): rows that are smaller than `_HALF`, and than `_QUIET`."""


class Observer:
    """Collects what is unknown and what is to be counted.

    Parameters
    ----------
    sorter : Sorter
    detector : Detector or ScoreDetector
        That decides on the spikes.
    channel_order : int64 array, shape (C,)
        Positions of the network's channels in the recording.
    sampling_frequency : float
        In Hz.
    start_sample, stop_sample : int
        What happens in [start_sample, stop_sample) counts.
    origin_sample : int
        Sample of the recording that is the first of what is watched.
    """

    def __init__(
        self,
        sorter: Sorter,
        detector: Detector | ScoreDetector,
        channel_order: np.ndarray,
        *,
        sampling_frequency: float,
        start_sample: int = 0,
        stop_sample: int = np.iinfo(np.int64).max,
        origin_sample: int = 0,
    ) -> None:
        self._detector, self._scorer = detector, sorter.scorer
        self._order, self._rate = channel_order, sampling_frequency
        self._range, self._origin = (start_sample, stop_sample), origin_sample
        self._num_units, self._num_channels = sorter.card.num_units, len(channel_order)
        self._cell_samples = block_samples(sorter.scorer, sampling_frequency)
        self._watch: Watch | None = None
        scale = np.ones(self._num_channels)
        if sorter.is_pursuit:
            baseline = sorter.tables.baseline
            self._watch = Watch(
                sorter.scorer,
                sampling_frequency=sampling_frequency,
                least_size=DEFAULT_SIZE if baseline is None else baseline.least_size,
            )
            scale = 1 / sorter.scorer.noise_uv
            self._rest = sorter.scorer.resting_rows
        self._scale = scale.astype(np.float32)
        self._silent = np.zeros(self._num_channels, dtype=bool)
        self._silent[sorter.missing_channels] = True
        self._begin_cell(-1)
        self._strange: list[Strange] = []
        self._counted: list[Minutes] = []
        self._fits: list[Fits] = []

    @property
    def margin_samples(self) -> int:
        """Samples around an event that must be sorted, beyond what the detector needs."""
        return 0 if self._watch is None else 2 * self._watch.margin_samples

    def outputs(
        self, traces: np.ndarray, gains: np.ndarray | None, start_sample: int, stop_sample: int
    ) -> tuple[np.ndarray, Sight]:
        """Outputs of a piece of a network that follows nothing, and what was seen of it; from any thread.

        Parameters
        ----------
        traces, gains
            See `esort.inference.window_of`.
        start_sample, stop_sample : int
            Of the outputs.
        """
        filtered = self._scorer.filtered(traces, gains)
        whitened = self._rest @ filtered
        return self._scorer.scores(whitened).T, self.look(filtered, whitened, start_sample, stop_sample)

    def look(
        self, filtered: np.ndarray, whitened: np.ndarray | None, start_sample: int, stop_sample: int
    ) -> Sight:
        """Look at a piece; from any thread.

        Parameters
        ----------
        filtered : float32 array, shape (C, T)
            Of a pursuit network behind its band-pass, of others (W - 1 + n, C) in noise levels.
        whitened : float32 array, shape (C, T), or None
        start_sample, stop_sample : int
            Of the outputs.
        """
        if self._watch is None or whitened is None:
            lines, stride, lead = filtered.T, 1, self._scorer.peak_offset_samples
            peaks = None
        else:
            lines, stride, lead = filtered, self._scorer.stride, self._scorer.filter_before
            peaks = self._watch.look(whitened, start_sample)
        first = start_sample // stride
        number = -(-(stop_sample - start_sample) // stride)
        skipped = -first % _ROW_STEP
        columns = np.arange(lead + skipped, lead + number, _ROW_STEP)
        return Sight(start_sample, stop_sample, peaks, len(columns), _small(lines, columns, self._scale))

    def push(self, sight: Sight) -> None:
        """Take the next piece, once the detector has been given its outputs."""
        cell = sight.start_sample // self._cell_samples
        if cell != self._cell:
            self._end_cell()
            self._begin_cell(cell)
        self._seen += sight.num_within
        self._looked += sight.num_looked
        if self._watch is not None and sight.peaks is not None:
            assert isinstance(self._detector, ScoreDetector)
            certain = sight.stop_sample - self._detector.latency_samples
            self._keep(*self._watch.push(sight.peaks, self._detector.accepted, certain))

    def finish(self) -> None:
        """Take what the detector told at the end: nothing follows."""
        self._end_cell()
        self._begin_cell(-1)
        if self._watch is not None:
            assert isinstance(self._detector, ScoreDetector)
            self._keep(*self._watch.finish(self._detector.accepted))

    def take(self, blanked: np.ndarray) -> tuple[UnknownEvents, Minutes]:
        """Return what was found and counted since the last call, without the artefacts (K, 2)."""
        strange, counted = self._strange, self._counted
        self._strange, self._counted = [], []
        events = UnknownEvents.joined(
            UnknownEvents(
                sample_index=part.sample_index + self._origin,
                channel_index=self._order[part.channel],
                position_um=part.position_um,
                amplitude=-part.height,
                size=part.size,
            )
            for part in strange
        )
        sample = events.sample_index - self._origin
        inside = (sample >= self._range[0]) & (sample < self._range[1])
        nothing = Minutes.zeros(np.zeros(0), self._num_units, self._num_channels)
        if self._fits:
            counted.append(self._count_fits())
        total = Minutes.joined([nothing, *counted])
        assert total is not None
        return events.chosen(inside & ~within(sample, blanked)), total

    def _begin_cell(self, cell: int) -> None:
        self._cell = cell
        self._seen = np.zeros((2, self._num_channels), dtype=np.int64)
        self._looked = 0

    def _end_cell(self) -> None:
        """Count a cell whose first sample is in range; each is whole in one stretch of a recording."""
        start = self._cell * self._cell_samples
        if self._looked == 0 or not self._range[0] <= start < self._range[1]:
            return
        minute = minute_of(np.array([start + self._origin]), self._rate)
        counted = Minutes.zeros(minute, self._num_units, self._num_channels)
        counted.num_cells[0] = 1
        counted.num_looked[0] = self._looked
        counted.num_within[0, self._order] = self._seen[0]
        flat = self._seen[1] > _MOSTLY_QUIET * self._looked
        counted.num_flat[0, self._order] = flat & ~self._silent
        counted.num_noisy[0, self._order] = (self._seen[0] < _LEAST_WITHIN * self._looked) & ~self._silent
        self._counted.append(counted)

    def _keep(self, strange: Strange, fits: Fits) -> None:
        if len(strange.size):
            self._strange.append(strange)
        if len(fits.explained):
            self._fits.append(fits)

    def _count_fits(self) -> Minutes:
        fits, self._fits = self._fits, []
        sample, explained = (np.concatenate([np.zeros(0), *column]) for column in zip(*fits, strict=True))
        inside = (sample >= self._range[0]) & (sample < self._range[1])
        minute, row = np.unique(minute_of(sample[inside] + self._origin, self._rate), return_inverse=True)
        counted = Minutes.zeros(minute, self._num_units, self._num_channels)
        np.add.at(counted.num_fits, row, 1)
        np.add.at(counted.sum_fits, row, np.rint(FIT_STEPS * explained[inside]).astype(np.int64))
        return counted


@_compile
def _small(lines, columns, scale):  # type: ignore
    """Rows of each channel that are smaller than two levels, int64 (2, C)."""
    counts = np.zeros((2, lines.shape[0]), dtype=np.int64)
    for channel in range(lines.shape[0]):
        half = quiet = 0
        for column in columns:
            value = abs(lines[channel, column]) * scale[channel]
            half += value < _HALF
            quiet += value < _QUIET
        counts[0, channel], counts[1, channel] = half, quiet
    return counts
