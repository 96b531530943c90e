"""What is usual in the time that the labels came from, and how large an unknown event must be."""

from __future__ import annotations

import numpy as np

from esort.baseline import Baseline
from esort.postprocess import Spikes
from esort.pursuit.explain import explain
from esort.pursuit.network import PursuitNetwork
from esort.pursuit.overlaps import conflict_table
from esort.pursuit.watch import Strange, watch_all

__all__ = ["measure_baseline"]

# Unknown events that noise and imperfect fits may make in a minute, on the whole probe.
_FALSE_PER_MINUTE = 1.0
# Sizes in noise levels: from which on events are counted, and the limits of what is asked for.
_COUNTED, _LEAST, _MOST = 6.0, 8.0, 12.0
# What is upside down beside an unknown event belongs to it.
_BESIDE_MS, _BESIDE_UM = 2.0, 150.0
# A neuron that nobody has labelled is where events are as frequent, and more than a few. So much of the probe
# must be left to tell noise from.
_INHABITED_HZ, _FEW_EVENTS, _LEAST_SHARE = 0.2, 3, 0.1


def measure_baseline(
    network: PursuitNetwork,
    whitened: np.ndarray,
    thresholds: np.ndarray,
    *,
    exclusion_rows: int,
    sampling_frequency: float,
) -> Baseline:
    """Sort the traces that the units were learned from.

    Noise is as often upside down as not, whereas large spikes are troughs: events of the traces upside down
    tell how large the others must be, but for those that belong to a neuron that nobody has labelled. Their
    sizes fall off exponentially. What is left where spikes of known units collide is a trough more often than
    not, at any size: how many events are false is told by those found where no unlabelled neuron lives.

    Parameters
    ----------
    network : PursuitNetwork
        With the units that will be sorted.
    whitened : float32 array, shape (C, T)
    thresholds : float array, shape (U,)
    exclusion_rows : int
    sampling_frequency : float
        Of the recording, in Hz.
    """
    events = explain(network, conflict_table(network), whitened, thresholds, exclusion_rows=exclusion_rows)
    spikes = Spikes(np.rint(events.time * network.stride).astype(np.int64), events.unit_index, events.score)
    seconds = whitened.shape[1] * network.stride / sampling_frequency
    found, explained = watch_all(
        network, whitened, spikes, sampling_frequency=sampling_frequency, least_size=_COUNTED
    )
    upside_down, _ = watch_all(
        network, whitened, spikes, sampling_frequency=sampling_frequency, least_size=_COUNTED, sign=-1
    )
    positions = network.positions.numpy()
    quiet = _uninhabited(found, positions, seconds)
    crowded = quiet.mean() < _LEAST_SHARE
    if crowded:
        quiet = np.ones(len(positions), dtype=bool)
    share = float(quiet.mean())
    upside_down = Strange(*(column[quiet[upside_down.channel]] for column in upside_down))
    # At spikes it is no noise that is upside down, but what the fit has left of them.
    channels = network.scorer().peak_channels
    order = np.argsort(spikes.sample_index)
    at_spikes = spikes.sample_index[order], channels[spikes.unit_index[order]]
    apart = found.sample_index, found.channel
    upside_down = _apart_from(upside_down, *apart, positions, sampling_frequency)
    noise = _apart_from(upside_down, *at_spikes, positions, sampling_frequency)
    least, rate = _threshold(noise.size, seconds / 60 * share)
    # Where unlabelled neurons are everywhere, only what is upside down is none of theirs. The units were
    # learned from these very spikes: others fit a little less, as if one more had been seen.
    false = upside_down.size if crowded else found.size[quiet[found.channel]]
    rate = max(rate, float((false >= least).sum() + 1) / (seconds / 60 * share))
    unknown = int((found.size >= least).sum())
    return Baseline(
        rates_hz=np.bincount(events.unit_index, minlength=network.num_units) / seconds,
        least_size=least,
        false_per_minute=rate,
        unknown_share=unknown / max(unknown + len(spikes), 1),
        fit=float(explained.mean()) if len(explained) else float("nan"),
    )


def _uninhabited(events: Strange, positions: np.ndarray, seconds: float) -> np.ndarray:
    """Channels with no unlabelled neuron around, bool (C,): what the units make of one is no noise."""
    large = events.channel[events.size >= _LEAST]
    counts = np.bincount(large, minlength=len(positions))
    inhabited = counts > max(_FEW_EVENTS, _INHABITED_HZ * seconds)
    distance = np.linalg.norm(positions[:, None] - positions[inhabited][None], axis=2)
    quiet: np.ndarray = ~(distance <= _BESIDE_UM).any(axis=1)
    return quiet


def _apart_from(
    events: Strange,
    sample_index: np.ndarray,
    channel: np.ndarray,
    positions: np.ndarray,
    sampling_frequency: float,
) -> Strange:
    """Choose the events that are near none of these times, ascending, and channels."""
    reach = round(_BESIDE_MS * sampling_frequency / 1000)
    first = np.searchsorted(sample_index, events.sample_index - reach)
    last = np.searchsorted(sample_index, events.sample_index + reach, side="right")
    kept = np.ones(len(first), dtype=bool)
    for number in np.flatnonzero(last > first):
        near = positions[channel[first[number] : last[number]]] - positions[events.channel[number]]
        kept[number] = not (np.linalg.norm(near, axis=1) <= _BESIDE_UM).any()
    return Strange(*(column[kept] for column in events))


def _threshold(sizes: np.ndarray, minutes: float) -> tuple[float, float]:
    """Least size of an unknown event, and how many false ones a minute then has."""
    # As if one more had been seen: where there is none, the traces were short.
    number = len(sizes) + 1
    # The median, for a few are large whatever the noise: they are left by imperfect fits.
    scale = float(np.median(np.append(sizes - _COUNTED, 1.0))) / np.log(2)
    least = _COUNTED + scale * np.log(max(number / minutes / _FALSE_PER_MINUTE, 1.0))
    least = float(np.clip(least, _LEAST, _MOST))
    expected = number / minutes * np.exp(-(least - _COUNTED) / scale)
    return least, float(max(expected, (sizes >= least).sum() / minutes))
