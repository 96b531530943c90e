"""Large peaks that the spikes found do not explain: what is left of each, and whether it is like any unit.

Shapes: C channels, K channels around a peak, F filters, L rows of a filter, U units, M channels of a
footprint, T rows of a footprint, P places between two rows, S peaks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

from esort.pursuit.peaks import PeakFinder, Peaks
from esort.pursuit.scorer import PursuitScorer
from esort.pursuit.shifting import shifted

__all__ = ["Accepted", "Judged", "Unexplained"]

# The trough may move so far, in rows, when spikes are taken away.
_TROUGH_ROWS = 2
# Of what spikes explain around a peak, so much may be left of them: no footprint is exact.
_SHARE_LEFT = 0.2
# What is left is a spike of a unit if it has so much of its energy in the unit's shape, shifted by so many
# rows, and this size of it: the competition has left it out for a reason.
_SAME_SHAPE, _SHAPE_ROWS = 0.7, 3
_SAME_SIZE = (0.35, 2.0)
# A unit may be compared where so much of its energy is on the channels around the peak.
_SEEN = 0.5

# How much of a peak is explained is measured at one row in so many.
_MEASURED_ROWS = 8

_compile: Any = numba.njit(nogil=True, cache=True, error_model="numpy")
# The order of the terms is the compiler's, and always the same.
_compile_sum: Any = numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})


class Accepted(NamedTuple):
    """Spikes that the competition accepted, by sample."""

    sample_index: np.ndarray
    """int64 (S,)"""
    unit_index: np.ndarray
    """int64 (S,)"""
    amplitude: np.ndarray
    """float32 (S,), of the unit's footprint."""


class Judged(NamedTuple):
    """What became of peaks, all (S,) but the positions."""

    height: np.ndarray
    """float32: trough of what is left, in noise levels, downwards positive."""
    before: np.ndarray
    """float32: energy of the traces around, noise taken off, in units of the noise's variance; 0 where it
    was not measured."""
    left: np.ndarray
    """float32: the same of what is left."""
    is_strange: np.ndarray
    """bool: what is left is large and neither the usual rest of a spike nor like a unit."""
    position_um: np.ndarray
    """float32 (S, 2): centre of its energy."""


class Unexplained:
    """Takes spikes away from peaks.

    Parameters
    ----------
    network : PursuitScorer
    finder : PeakFinder
    """

    def __init__(self, network: PursuitScorer, finder: PeakFinder) -> None:
        stride, length = network.stride, network.filters.shape[1]
        self._stride = stride
        place = np.full((network.num_channels, network.num_channels), -1, dtype=np.int8)  # (C, C)
        for channel, around in enumerate(finder.around):
            for number, other in enumerate(around):
                if other >= 0:
                    place[channel, other] = number
        phases = np.arange(stride) / stride
        footprints = np.stack([shifted(network.footprints, float(phase)) for phase in phases], axis=1)
        members = np.full((network.num_units, network.num_channels), -1, dtype=np.int16)
        own = np.arange(network.footprints.shape[1], dtype=np.int16)
        np.put_along_axis(members, network.footprint_channels, np.tile(own, (len(members), 1)), axis=1)
        # Of a long probe most spikes are far from a peak: (C, U), whether it can hold any of the unit's.
        near = np.any((members.T[finder.around] >= 0) & (finder.around >= 0)[:, :, None], axis=1)
        first = network.footprint_before - network.filter_before
        # Rows from a spike to the first and behind the last peak that it reaches.
        self._reach = network.footprint_before + length, network.footprints.shape[2] + length
        self.margin_samples = stride * max(self._reach)
        """Spikes further from a peak do not matter to it."""
        shared: np.ndarray = np.any(place[:, network.head_channels] >= 0, axis=2)  # (C, U)
        self._constant = (
            np.ascontiguousarray(footprints, dtype=np.float32),  # (U, P, M, T)
            members,
            near,
            finder.around,
            (first, network.filter_before),
            place,
            (finder.around >= 0).sum(axis=1),
            np.ascontiguousarray(network.filters),
            network.heads,
            network.head_channels,
            network.energies,
            _lists(shared),
            network.positions[np.maximum(finder.around, 0)].astype(np.float32),  # (C, K, 2)
        )

    def judge(self, peaks: Peaks, accepted: Accepted, least_size: float) -> Judged:
        """Say what is left of peaks.

        Parameters
        ----------
        peaks : Peaks
        accepted : Accepted
            All spikes within `margin_samples` of the peaks; more do no harm.
        least_size : float
            Of what is strange, in noise levels: the norm of a footprint of that size.
        """
        number = len(peaks.row)
        result = Judged(
            np.zeros(number, dtype=np.float32),
            np.zeros(number, dtype=np.float32),
            np.zeros(number, dtype=np.float32),
            np.zeros(number, dtype=bool),
            np.zeros((number, 2), dtype=np.float32),
        )
        row, phase = np.divmod(accepted.sample_index, self._stride)
        before, after = self._reach
        first = np.searchsorted(row, peaks.row - after, side="left")
        last = np.searchsorted(row, peaks.row + before, side="right")
        spikes = row, phase, accepted.unit_index, accepted.amplitude.astype(np.float32)
        _judge(peaks, first, last, spikes, self._constant, np.float32(least_size), result)
        return result


def _lists(chosen: np.ndarray) -> np.ndarray:
    """Positions of what is true in each row, -1 behind them: bool (C, U) to int64 (C, n)."""
    width = max(1, int(chosen.sum(axis=1).max(initial=0)))
    lists = np.full((len(chosen), width), -1, dtype=np.int64)
    for row, line in enumerate(chosen):
        (found,) = np.nonzero(line)
        lists[row, : len(found)] = found
    return lists


@_compile_sum
def _product(one, other):  # type: ignore
    total = np.float32(0)
    for number in range(one.size):
        total += one[number] * other[number]
    return total


@_compile_sum
def _subtract(line, first, last, waveform, shift, amplitude):  # type: ignore
    """Take a waveform away from rows [first, last); row `i` of them is row `i + shift` of the waveform."""
    first, last = max(first, -shift), min(last, waveform.size - shift)
    if first >= last:
        return
    target, source = line[first:last], waveform[first + shift : last + shift]
    for number in range(target.size):
        target[number] -= amplitude * source[number]


@_compile
def _judge(peaks, first, last, spikes, constant, least_size, result):  # type: ignore
    (
        footprints,
        members,
        is_near,
        around,
        leads,
        place,
        counts,
        filters,
        heads,
        head_channels,
        energies,
        units,
        positions,
    ) = constant
    lead, middle = leads
    row, phase, unit_index, amplitude = spikes
    length, num_filters = filters.shape[1], filters.shape[0]
    left = np.empty((peaks.traces.shape[1], length), dtype=np.float32)
    top, bottom = max(0, middle - _TROUGH_ROWS), min(length, middle + _TROUGH_ROWS + 1)
    for number in range(peaks.row.size):
        channel = peaks.channel[number]
        count = counts[channel]
        traces = peaks.traces[number]
        low, high = first[number], last[number]
        measured = peaks.row[number] % _MEASURED_ROWS == 0
        left[:count] = traces[:count]
        for spike in range(low, high):
            if not is_near[channel, unit_index[spike]]:
                continue
            for near in range(count):
                member = members[unit_index[spike], around[channel, near]]
                if member >= 0:
                    waveform = footprints[unit_index[spike], phase[spike], member]
                    _subtract(
                        left[near],
                        0,
                        length,
                        waveform,
                        lead + peaks.row[number] - row[spike],
                        amplitude[spike],
                    )
        lowest = np.float32(0)
        for offset in range(top, bottom):
            lowest = min(lowest, left[0, offset])
        result.height[number] = -lowest
        # A neuron that looks like a unit's need not leave a trough, but it leaves energy.
        energy = x = y = np.float32(0)
        for near in range(count):
            of_channel = np.float32(0)
            for filter_ in range(num_filters):
                rest = _product(filters[filter_], left[near])
                of_channel += rest * rest
            energy += of_channel
            x += of_channel * positions[channel, near, 0]
            y += of_channel * positions[channel, near, 1]
        noise = np.float32(count * num_filters)
        size = max(energy - noise, np.float32(0))
        result.left[number] = size
        if size < least_size * least_size and not measured:
            continue
        before = explained = np.float32(0)
        for near in range(count):
            for filter_ in range(num_filters):
                whole = _product(filters[filter_], traces[near])
                taken = whole - _product(filters[filter_], left[near])
                before += whole * whole
                explained += taken * taken
        if measured:
            result.before[number] = max(before - noise, np.float32(0))
        if size < least_size * least_size or size < _SHARE_LEFT * explained:
            continue
        result.position_um[number, 0] = x / max(energy, np.float32(1e-9))
        result.position_um[number, 1] = y / max(energy, np.float32(1e-9))
        result.is_strange[number] = not _is_known(
            left, channel, size, place, filters, heads, head_channels, energies, units
        )


@_compile
def _is_known(left, channel, size, place, filters, heads, head_channels, energies, units):  # type: ignore
    """Whether most of what is left has the shape of a unit, and about its size."""
    num_filters, length = filters.shape
    features = np.empty((left.shape[0], num_filters), dtype=np.float32)
    for shift in range(-_SHAPE_ROWS, _SHAPE_ROWS + 1):
        first, last = max(0, -shift), min(length, length - shift)
        for near in range(left.shape[0]):
            for filter_ in range(num_filters):
                seen_by = filters[filter_, first:last]
                features[near, filter_] = _product(seen_by, left[near, first + shift : last + shift])
        for unit in units[channel]:
            if unit < 0:
                break
            product = seen = np.float32(0)
            for number in range(heads.shape[1]):
                near = place[channel, head_channels[unit, number]]
                if near < 0:
                    continue
                for filter_ in range(num_filters):
                    weight = heads[unit, number, filter_]
                    product += weight * features[near, filter_]
                    seen += weight * weight
            if seen < _SEEN * energies[unit] or seen <= 0 or product <= 0:
                continue
            part = product / seen
            if _SAME_SIZE[0] <= part <= _SAME_SIZE[1] and part * product >= _SAME_SHAPE * size:
                return True
    return False
