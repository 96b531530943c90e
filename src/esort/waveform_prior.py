"""What waveforms look like, learned where all spikes are known, so that few labels give clean waveforms.

The mean of k labelled windows is a waveform and noise of 1/k of the variance, on every sample of every
channel: with one or two labels there is more of the noise in it than of the waveform. A backbone knows what
to expect: the second moment of waveforms over time at each distance from the peak's channel, relative to the
energy there. Each channel's mean is replaced by what is to be expected given both (Wiener 1949); with many
labels that is the mean itself. Distances and times in ms make it the same for all probes and rates.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from esort.labels import LabelledSpikes
from esort.windows import Window, cut_windows, mean_waveforms

__all__ = ["WaveformPrior"]

# Names of what a checkpoint keeps of it.
_TIMES, _MOMENTS, _UNKNOWN = (f"waveform_prior.{name}" for name in ("times_ms", "moments", "unknown_share"))
# Upper ends of the distances from the peak's channel that are told apart; the first is that channel itself.
_DISTANCES_UM = (1.0, 22.0, 32.0, 45.0, 65.0, 90.0, 130.0, np.inf)
# So many channels say as much of the shapes at their distance as those of all distances together do.
_POOLED_CHANNELS = 20
# Directions of the waveforms at the peak, by which the peak is found in noise: at most so many, and none that
# has next to no share in them.
_DIRECTIONS, _LEAST_SHARE = 6, 1e-4
# To which times are compared: checkpoints keep them as float32.
_DECIMALS_MS = 4
# A new unit's shape is as much a surprise as this many known units are none.
_SURPRISE = 0.5
# White noise that is added to the background's, as a share of it: a filter leaves none at some frequencies.
_WHITE = 0.01
# Windows of the background, for the covariance of its noise.
_BACKGROUND_WINDOWS = 2000


@dataclass(frozen=True, kw_only=True, eq=False)
class WaveformPrior:
    """Second moments of waveforms, relative to the energy on the peak's channel.

    Parameters
    ----------
    times_ms : float64 array, shape (T,)
        From the peak, ascending.
    moments : float64 array, shape (D, T, T)
        For each range of distances from the peak's channel.
    unknown_share : float
        Of the energy, that may have any shape that passes the filter.

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """

    times_ms: np.ndarray
    moments: np.ndarray
    unknown_share: float = 0.0

    def __post_init__(self) -> None:
        times = self.times_ms
        expected = (len(_DISTANCES_UM), times.size, times.size)
        ascending = times.ndim == 1 and times.size > 1 and (np.diff(times) > 0).all()
        if not ascending or self.moments.shape != expected:
            raise ValueError(
                f"a prior over waveforms must have ascending times, (T,), and moments, "
                f"({expected[0]}, T, T), got {times.shape} and {self.moments.shape}"
            )
        if not 0 <= self.unknown_share <= 1:
            raise ValueError(f"unknown_share must be in [0, 1], got {self.unknown_share}")

    @classmethod
    def of(
        cls, waveforms: np.ndarray, contact_positions_um: np.ndarray, times_ms: np.ndarray
    ) -> WaveformPrior:
        """Learn it from known waveforms.

        Parameters
        ----------
        waveforms : float array, shape (U, T, C)
            None of them zero.
        contact_positions_um : float array, shape (C, 2)
        times_ms : float array, shape (T,)
            Of the samples, from the peak.
        """
        energy = np.square(waveforms, dtype=np.float64).sum(axis=1)  # (U, C)
        relative = waveforms / np.sqrt(energy.max(axis=1))[:, None, None]  # (U, T, C)
        rings = _rings(contact_positions_um, energy.argmax(axis=1))  # (U, C)
        of_rings = [np.moveaxis(relative, 1, 2)[rings == ring] for ring in range(len(_DISTANCES_UM))]
        pooled = _second_moment(np.concatenate(of_rings))
        pooled /= np.trace(pooled)
        moments: list[np.ndarray] = []
        for channels in of_rings:
            if len(channels):
                own = _second_moment(channels)
                mixed = len(channels) * own + _POOLED_CHANNELS * np.trace(own) * pooled
                moments.append(mixed / (len(channels) + _POOLED_CHANNELS))
            else:  # this probe has no contacts at this distance: as those just nearer
                moments.append(moments[-1])
        return cls(
            times_ms=np.asarray(times_ms, dtype=np.float64),
            moments=np.stack(moments),
            unknown_share=_SURPRISE / (_SURPRISE + len(waveforms)),
        )

    def estimate(
        self,
        traces: np.ndarray,
        labels: LabelledSpikes,
        window: Window,
        *,
        contact_positions_um: np.ndarray,
    ) -> np.ndarray:
        """Return the waveforms to be expected from labelled spikes, as `esort.windows.mean_waveforms` does.

        Parameters
        ----------
        traces : float32 array, shape (N, C)
            In units of the noise level; row 0 is the recording's sample 0.
        labels : LabelledSpikes
            All windows must lie inside the traces.
        window : Window
        contact_positions_um : float array, shape (C, 2)

        Returns
        -------
        float32 array, shape (U, T, C)

        Raises
        ------
        ValueError
            If a unit has no labelled spike.
        """
        means = mean_waveforms(traces, labels, window, masked=False)
        first, stop = labels.start_sample + window.before_samples, labels.stop_sample - window.after_samples
        # A seed of its own: how many places are drawn shall change nothing else.
        places = np.random.default_rng(0).integers(first, stop + 1, _BACKGROUND_WINDOWS)
        background = cut_windows(traces, places, window)  # (P, T, C)
        noise = _second_moment(np.moveaxis(background, 1, 2).reshape(-1, window.samples))
        return self.expected(
            means,
            labels.counts(),
            noise,
            contact_positions_um=contact_positions_um,
            times_ms=window.times_ms(labels.sampling_frequency),
        )

    def expected(
        self,
        means: np.ndarray,
        counts: np.ndarray,
        noise: np.ndarray,
        *,
        contact_positions_um: np.ndarray,
        times_ms: np.ndarray,
    ) -> np.ndarray:
        """Return the waveforms to be expected, given means of labelled windows.

        Parameters
        ----------
        means : float array, shape (U, T, C)
        counts : int array, shape (U,)
            Windows of each mean.
        noise : float array, shape (T, T)
            Covariance of a channel's background over time.
        contact_positions_um : float array, shape (C, 2)
        times_ms : float array, shape (T,)
            Of the samples, from the peak.

        Returns
        -------
        float32 array, shape (U, T, C)
        """
        moments = self._at(times_ms, noise)
        noise = noise + _WHITE * np.trace(noise) / len(noise) * np.eye(len(noise))
        values, vectors = np.linalg.eigh(moments[0])
        directions = vectors[:, -_DIRECTIONS:][:, values[-_DIRECTIONS:] > _LEAST_SHARE * values[-1]]  # (T, K)
        of_noise = np.trace(directions.T @ noise @ directions)
        seen = np.square(means.swapaxes(1, 2) @ directions).sum(axis=2)  # (U, C)
        peak = seen.argmax(axis=1)
        # What is seen at the peak is waveform and noise; of the waveform there is no less than of the noise.
        energy = np.maximum(seen[np.arange(len(means)), peak] - of_noise / counts, of_noise / counts)
        energy /= np.trace(directions.T @ moments[0] @ directions)
        rings = _rings(contact_positions_um, peak)  # (U, C)
        expected = np.empty(means.shape, dtype=np.float32)
        for unit, count in enumerate(counts):
            for ring in np.unique(rings[unit]):
                prior, at = energy[unit] * moments[ring], rings[unit] == ring
                wiener = np.linalg.solve(prior + noise / count, prior).T  # (T, T)
                expected[unit][:, at] = wiener @ means[unit][:, at]
        return expected

    def _at(self, times_ms: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Moments at other times: linear between those known, zero beyond; with shapes that nobody knows.

        Those have passed the filter, as the noise has.
        """
        ours, theirs = self.times_ms.round(_DECIMALS_MS), np.round(times_ms, _DECIMALS_MS)
        onto = np.stack([np.interp(theirs, ours, step, 0, 0) for step in np.eye(ours.size)], axis=1)
        known = onto @ self.moments @ onto.T  # (D, T', T')
        inside = onto.sum(axis=1)  # (T',), 1 or 0
        unknown = noise * np.outer(inside, inside)
        unknown *= self.unknown_share / max(np.trace(unknown), np.finfo(float).tiny)
        return (1 - self.unknown_share) * known + np.trace(known, axis1=1, axis2=2)[:, None, None] * unknown

    def to_weights(self) -> dict[str, np.ndarray]:
        """As a checkpoint keeps it, float32."""
        return {
            _TIMES: self.times_ms.astype(np.float32),
            _MOMENTS: self.moments.astype(np.float32),
            _UNKNOWN: np.array([self.unknown_share], dtype=np.float32),
        }

    @classmethod
    def pop_from(cls, weights: MutableMapping[str, Any]) -> WaveformPrior | None:
        """Take it out of the weights of a checkpoint; None if there is none among them.

        Raises
        ------
        ValueError
            If its shapes do not fit, or a part is missing.
        """
        names = [name for name in (_TIMES, _MOMENTS, _UNKNOWN) if name in weights]
        if not names:
            return None
        if len(names) < 3:
            raise ValueError(f"a prior over waveforms must have times, moments and a share, got {names}")
        times_ms, moments, share = (np.asarray(weights.pop(name), dtype=np.float64) for name in names)
        if share.shape != (1,):
            raise ValueError(f"unknown_share must be one number, got the shape {share.shape}")
        return cls(times_ms=times_ms, moments=moments, unknown_share=float(share[0]))


def _second_moment(rows: np.ndarray) -> np.ndarray:
    """Mean of the outer products of rows, (P, T) to (T, T)."""
    rows = np.asarray(rows, dtype=np.float64)
    return np.asarray(rows.T @ rows / len(rows))


def _rings(contact_positions_um: np.ndarray, peak: np.ndarray) -> np.ndarray:
    """Range of distances that each channel is in from a unit's peak, (U, C)."""
    positions = np.asarray(contact_positions_um, dtype=float)
    distances = np.linalg.norm(positions[peak][:, None] - positions[None], axis=2)
    return np.searchsorted(_DISTANCES_UM, distances)
