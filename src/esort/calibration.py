"""What a trained network does to spikes that are known because we put them there.

A unit's mean waveform is added to windows of the recording's own background. Whatever the outputs say then
beyond what they said before is an answer to that spike: the unit's own output gives its recall at each
threshold, another unit's output a false spike that the first one will cause. Three things follow:

* *conflicts*: how much to lower the score of unit b around an accepted spike of unit a, namely by the highest
  answer of b to a that was seen (the probabilities' counterpart of the overlap of two templates);
* *thresholds*: for each unit, the one with the highest expected accuracy tp / (tp + fp + fn);
* *unsortable units*: those of whose spikes fewer would be true than `MIN_PRECISION`.

`esort.pursuit.calibration` does the same for scores.

Only the labelled waveforms and the training part of the recording are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from esort.answers import THRESHOLDS, Answers, Smoothing, network_answers
from esort.detector import UnitTables
from esort.labels import LabelledSpikes
from esort.network import SpikeNetwork
from esort.postprocess import ConflictTable, detect_spikes
from esort.postprocess.detect import smoothing_half_width
from esort.windows import Window, cut_windows, mean_waveforms

__all__ = ["MIN_ACCURACY", "MIN_PRECISION", "Calibration", "calibrate", "calibration_room"]

MIN_PRECISION = 0.5
"""A unit with a lower expected precision is left out: SpikeInterface would count it as unmatched anyway."""

MIN_ACCURACY = 0.5
"""So is a unit of a lower expected accuracy, true / (true + false + missed), where those missed are known."""

_UNIT_FIELDS = ("thresholds", "rate_hz", "recall", "false_hz", "precision")
# An output below this says that the unit is not there.
_SILENT = 0.2
_LAG_MS = 0.6
_NUM_BACKGROUNDS = 96
_STRETCH_S = 4.0
_SPREAD = 0.08
# A contact matters to a unit from this share of its largest amplitude on; noise alone stays below so many
# times its level.
_MATTERS = 0.3
_LOUD = 5.0
# Pulls thresholds that make no difference towards one half.
_PULL = 0.2


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """Thresholds, conflicts and what is to be expected of each unit.

    Parameters
    ----------
    thresholds : float array, shape (U,)
        On the smoothed probability.
    rate_hz : float array, shape (U,)
        Estimated firing rate.
    recall, false_hz, precision : float arrays, shape (U,)
        Expected at the threshold: part of the spikes that is found, false spikes per second, part of the
        found spikes that is true.
    tables : UnitTables
        Conflicts between units, and which part of the spikes of a probability is true.
    min_accuracy : float
        Units of a lower expected accuracy are left out.
    """

    thresholds: np.ndarray
    rate_hz: np.ndarray
    recall: np.ndarray
    false_hz: np.ndarray
    precision: np.ndarray
    tables: UnitTables
    min_accuracy: float = 0.0

    @property
    def accuracy(self) -> np.ndarray:
        """Expected true / (true + false + missed) at the threshold, (U,)."""
        either = self.precision + self.recall - self.precision * self.recall
        return self.precision * self.recall / np.maximum(either, 1e-9)

    @property
    def sortable(self) -> np.ndarray:
        """Units worth keeping, bool array of shape (U,)."""
        sortable: np.ndarray = (self.precision >= MIN_PRECISION) & (self.accuracy >= self.min_accuracy)
        return sortable

    def of_units(self, chosen: np.ndarray) -> Calibration:
        """The calibration of some of the units, (U,) booleans."""
        new_index = np.cumsum(chosen) - 1
        pairs = self.tables.pairs
        kept = chosen[pairs].all(axis=1)
        tables = replace(self.tables, pairs=new_index[pairs[kept]], kernels=self.tables.kernels[kept])
        columns = {name: getattr(self, name)[chosen] for name in _UNIT_FIELDS}
        return replace(self, tables=tables, **columns)

    def to_dict(self, unit_ids: Sequence[Any]) -> dict[str, Any]:
        """What to expect of each unit, for a file that people read."""
        columns = [getattr(self, name).tolist() for name in (*_UNIT_FIELDS, "accuracy")]
        singular = ("threshold", *_UNIT_FIELDS[1:], "accuracy")
        return {
            "num_conflicts": len(self.tables.pairs),
            "reliability": self.tables.reliability.tolist(),
            "units": [
                {"unit_id": unit_id, **dict(zip(singular, values, strict=True))}
                for unit_id, *values in zip(unit_ids, *columns, strict=True)
            ],
        }


def calibration_room(window: Window, sampling_frequency: float, smoothing_ms: float) -> Window:
    """The stretch that must be there around a labelled spike: the window, the lags and the smoothing."""
    half_width = smoothing_half_width(sampling_frequency, smoothing_ms)
    return window.widened(_lag_samples(sampling_frequency) + half_width - 1)


def _lag_samples(sampling_frequency: float) -> int:
    """How far before and after a spike answers to it are looked for."""
    return round(_LAG_MS * sampling_frequency / 1000)


def calibrate(
    network: SpikeNetwork,
    traces: np.ndarray,
    labels: LabelledSpikes,
    *,
    smoothing_ms: float,
    refractory_ms: float,
    rng: np.random.Generator,
) -> Calibration:
    """Measure a network's answers to spikes put into the background, and draw the conclusions.

    Parameters
    ----------
    network : SpikeNetwork
    traces : float32 array, shape (N, C)
        In units of the noise level; covers the labelled time, and nothing beyond it is read.
    labels : LabelledSpikes
        With room around them for the window, the lags and the smoothing.
    smoothing_ms, refractory_ms : float
        As the post-processing will have them.
    rng : numpy.random.Generator
        Draws the backgrounds.

    Returns
    -------
    Calibration

    Raises
    ------
    ValueError
        If no labelled spike of a unit has that room.
    """
    network = network.folded()
    rate = labels.sampling_frequency
    half_width = smoothing_half_width(rate, smoothing_ms)
    window = Window.of(network)
    wide = calibration_room(window, rate, smoothing_ms)
    inside = labels.with_room(wide.before_samples, wide.after_samples)
    if inside.num_units < labels.num_units:
        raise ValueError(
            f"expected {wide.before_samples} samples before and {wide.after_samples} after a labelled spike "
            f"of every unit, got them for {inside.num_units} of {labels.num_units} units"
        )
    waveforms = mean_waveforms(traces, inside, wide)  # (U, T, C)
    places = rng.integers(
        labels.start_sample + wide.before_samples, labels.stop_sample - wide.after_samples, _NUM_BACKGROUNDS
    )
    backgrounds = cut_windows(traces, places, wide)  # (n, T, C)
    amplitudes = rng.normal(1.0, _SPREAD, (_NUM_BACKGROUNDS, 1, 1)).astype(np.float32)
    smoothing = Smoothing(half_width)

    before = smoothing(network_answers(network, backgrounds))  # (n, 2 L + 1, U)
    silent = before.max(axis=1) < _SILENT  # (n, U)
    answers = Answers(labels.num_units, _lag_samples(rate))
    for unit_index, waveform in enumerate(waveforms):
        after = smoothing(network_answers(network, backgrounds + amplitudes * waveform))  # (n, 2 L + 1, U)
        answers.add(unit_index, after, silent)

    stop = min(labels.stop_sample, labels.start_sample + round(_STRETCH_S * rate))
    stretch = np.array(traces[labels.start_sample : stop])  # (N, C)
    settings = {"sampling_frequency": rate, "smoothing_ms": smoothing_ms, "refractory_ms": refractory_ms}
    conflicts = ConflictTable.from_pairs(labels.num_units, *answers.table())
    everywhere = np.ones((len(stretch) - network.window_samples + 1, labels.num_units), dtype=bool)
    found_hz = _detections_hz(network, stretch, everywhere, conflicts, settings)  # (U, K)
    # Noise is as often upside down as not and then holds no spike: what is found in it is false.
    quiet = _quiet(stretch, waveforms, window)
    noise_hz = _detections_hz(network, -stretch, quiet, conflicts, settings)  # (U, K)
    return _conclusions(answers, found_hz, noise_hz)


def _conclusions(answers: Answers, found_hz: np.ndarray, noise_hz: np.ndarray) -> Calibration:
    """Choose thresholds from what was found per second in the recording and in the noise, (U, K) each."""
    middle = int(np.abs(THRESHOLDS - 0.5).argmin())
    recall = np.maximum(answers.recall, 0.05)
    rate_hz = found_hz[:, middle] / recall[:, middle]
    for _ in range(3):  # false spikes inflate the rates, rates the false spikes: a few rounds settle it
        false_hz = np.einsum("u,uvk->vk", rate_hz, answers.false_share) + noise_hz  # (U, K)
        rate_hz = np.maximum(found_hz[:, middle] - false_hz[:, middle], 0) / recall[:, middle]
    true_hz = rate_hz[:, None] * answers.recall
    floor = 1e-9  # of a unit that never fires
    accuracy = true_hz / (rate_hz[:, None] + false_hz + floor)
    best = (accuracy - _PULL * (THRESHOLDS - 0.5) ** 2).argmax(axis=1)
    rows = np.arange(answers.num_units)
    precision = (true_hz[rows, best] + floor) / (true_hz[rows, best] + false_hz[rows, best] + floor)
    kept = precision >= MIN_PRECISION
    reliability = _reliability(true_hz[kept].sum(axis=0), false_hz[kept].sum(axis=0))
    pairs, kernels = answers.table()
    return Calibration(
        thresholds=THRESHOLDS[best],
        rate_hz=rate_hz,
        recall=answers.recall[rows, best],
        false_hz=false_hz[rows, best],
        precision=precision,
        tables=UnitTables(pairs=pairs, kernels=kernels, reliability=reliability),
    )


def _reliability(true_hz: np.ndarray, false_hz: np.ndarray) -> np.ndarray:
    """Which part of the spikes between one threshold and the next is true; a higher one never means less.

    Parameters
    ----------
    true_hz, false_hz : float arrays, shape (K,)
        Spikes per second above each threshold.

    Returns
    -------
    float32 array, shape (2, K)
    """
    true_between, false_between = (-np.diff(hz, append=0.0) for hz in (true_hz, false_hz))
    share = (true_between + 1e-9) / (true_between + false_between + 1e-9)
    centres = THRESHOLDS + np.diff(THRESHOLDS, append=1.0) / 2
    return np.stack([centres, np.maximum.accumulate(share)]).clip(0, 1).astype(np.float32)


def _quiet(stretch: np.ndarray, waveforms: np.ndarray, window: Window) -> np.ndarray:
    """Tell where there is nothing but noise on the contacts that matter to a unit.

    Parameters
    ----------
    stretch : float32 array, shape (N, C)
    waveforms : float32 array, shape (U, T, C)
    window : Window

    Returns
    -------
    bool array, shape (N - W + 1, U)
    """
    loudness = torch.from_numpy(np.abs(stretch).T.copy())[None]  # (1, C, N)
    loudest = functional.max_pool1d(loudness, window.samples, stride=1)[0].numpy()  # (C, N - W + 1)
    amplitudes = np.abs(waveforms).max(axis=1)  # (U, C)
    quiet = np.empty((loudest.shape[1], len(waveforms)), dtype=bool)
    for unit_index, amplitude in enumerate(amplitudes):
        matter = amplitude >= _MATTERS * amplitude.max()
        quiet[:, unit_index] = loudest[matter].max(axis=0) < _LOUD
    return quiet


def _detections_hz(
    network: SpikeNetwork,
    stretch: np.ndarray,
    counted: np.ndarray,
    conflicts: ConflictTable | None,
    settings: dict[str, Any],
) -> np.ndarray:
    """Spikes found per second at each threshold in a stretch of traces.

    Parameters
    ----------
    stretch : float32 array, shape (N, C)
    counted : bool array, shape (N - W + 1, U)
        Only this time counts.

    Returns
    -------
    float array, shape (U, K)
    """
    step = 1000
    reach = network.window_samples - 1
    parts = [
        network_answers(network, stretch[None, begin : begin + step + reach])[0]
        for begin in range(0, len(stretch) - reach, step)
    ]
    probabilities = torch.cat(parts).numpy()  # (N - W + 1, U)
    spikes = detect_spikes(probabilities, thresholds=float(THRESHOLDS[0]), conflicts=conflicts, **settings)
    inside = counted[spikes.sample_index, spikes.unit_index]
    found = np.zeros((network.num_units, THRESHOLDS.size))
    for column, threshold in enumerate(THRESHOLDS):
        loud = inside & (spikes.probability >= threshold)
        found[:, column] = np.bincount(spikes.unit_index[loud], minlength=network.num_units)
    seconds = counted.sum(axis=0) / settings["sampling_frequency"]  # (U,)
    return found / np.maximum(seconds, 0.1)[:, None]
