"""Calibration, on a network whose answers are known: a matched filter for each unit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from esort.calibration import MIN_ACCURACY, MIN_PRECISION, calibrate
from esort.labels import LabelledSpikes
from esort.network import SpikeNetwork

RATE_HZ = 16_000.0
WINDOW, PEAK, CHANNELS = 30, 12, 6
SETTINGS = {"smoothing_ms": 0.3, "refractory_ms": 1.0}


class MatchedFilters(SpikeNetwork):
    """The logit of a unit is how much of its own waveform is there, above one half."""

    def __init__(self, waveforms, gain=20.0):
        num_units, window, channels = waveforms.shape
        super().__init__(
            num_channels=channels, num_units=num_units, window_samples=window, peak_offset_samples=PEAK
        )
        energy = np.square(waveforms).sum(axis=(1, 2), keepdims=True)
        self.register_buffer("filters", torch.from_numpy((waveforms / energy).transpose(0, 2, 1).copy()))
        self.gain = gain

    def forward(self, traces):
        projections = functional.conv1d(traces.transpose(1, 2), self.filters)  # (B, U, T - W + 1)
        return self.gain * (projections.transpose(1, 2) - 0.5)  # (B, T - W + 1, U)

    def folded(self):
        return self


def waveform(channel, amplitude, *, second=0.3, width=2.0):
    """A trough on one channel, and less of it on the next."""
    time = np.arange(WINDOW) - PEAK
    course = -np.exp(-(time**2) / (2 * width**2)) + 0.4 * np.exp(-((time - 6) ** 2) / 18)
    shape = np.zeros((WINDOW, CHANNELS), dtype=np.float32)
    shape[:, channel] = amplitude * course
    shape[:, channel + 1] = amplitude * second * course
    return shape


def recording(waveforms, rates_hz, seconds, seed):
    """Traces of unit noise with spikes of the units, and where they are."""
    rng = np.random.default_rng(seed)
    num_samples = round(seconds * RATE_HZ)
    traces = rng.standard_normal((num_samples, CHANNELS)).astype(np.float32)
    samples, units = [], []
    for unit, (shape, rate_hz) in enumerate(zip(waveforms, rates_hz, strict=True)):
        train = np.sort(
            rng.choice(np.arange(100, num_samples - 100, 40), round(rate_hz * seconds), replace=False)
        )
        for sample in train:
            traces[sample - PEAK : sample - PEAK + WINDOW] += shape
        samples.append(train)
        units.append(np.full(train.size, unit))
    order = np.argsort(np.concatenate(samples), kind="stable")
    return traces, np.concatenate(samples)[order], np.concatenate(units)[order]


def labels_of(samples, units, num_units, stop_sample, *, per_unit=20):
    """The first spikes of each unit."""
    chosen = np.zeros(samples.size, dtype=bool)
    for unit in range(num_units):
        chosen[np.flatnonzero(units == unit)[:per_unit]] = True
    return LabelledSpikes(
        sample_index=samples[chosen],
        unit_index=units[chosen],
        unit_ids=tuple(range(num_units)),
        sampling_frequency=RATE_HZ,
        start_sample=0,
        stop_sample=stop_sample,
        complete=False,
    )


def calibrated(waveforms, rates_hz, *, seed=0, gain=20.0):
    waveforms = np.stack(waveforms)
    traces, samples, units = recording(waveforms, rates_hz, 8.0, seed)
    labels = labels_of(samples, units, len(waveforms), len(traces))
    rng = np.random.default_rng(seed)
    return calibrate(MatchedFilters(waveforms, gain), traces, labels, rng=rng, **SETTINGS)


def test_units_that_nobody_mistakes_need_no_conflicts():
    found = calibrated([waveform(0, 12.0), waveform(3, 12.0)], [10.0, 20.0])
    assert len(found.tables.pairs) == 0
    assert found.tables.conflicts(2) is None
    np.testing.assert_allclose(found.rate_hz, [10.0, 20.0], rtol=0.35)
    assert (found.recall > 0.95).all()
    assert (found.precision > 0.95).all()
    assert found.sortable.all()
    assert ((found.thresholds >= 0.2) & (found.thresholds <= 0.9)).all()


def test_the_small_unit_that_answers_to_a_large_one_is_lowered():
    # The filter of the small unit gives 0.75 / 0.5 = 1.5 of its own amplitude to a spike of the large one.
    found = calibrated([waveform(0, 18.0), waveform(0, 9.0, second=0.9)], [10.0, 10.0])
    pairs = map(tuple, found.tables.pairs.tolist())
    directed = dict(zip(pairs, found.tables.kernels, strict=True))
    assert (0, 1) in directed
    assert directed[0, 1].max() > 0.5
    middle = directed[0, 1].size // 2
    assert directed[0, 1][middle] == pytest.approx(directed[0, 1].max(), abs=0.05)
    # Told so, the post-processing keeps the small unit's expected false spikes low.
    assert found.false_hz[1] < 1.0


def test_a_unit_in_the_noise_is_unsortable():
    found = calibrated([waveform(0, 12.0), waveform(3, 0.8)], [10.0, 10.0], gain=10.0)
    assert found.sortable.tolist() == [True, False]
    assert found.precision[1] < MIN_PRECISION
    assert found.false_hz[1] > found.false_hz[0]


def test_of_units_renumbers_pairs():
    shapes = [waveform(3, 12.0), waveform(0, 18.0), waveform(0, 9.0, second=0.9)]
    found = calibrated(shapes, [10.0, 10.0, 10.0])
    kept = found.of_units(np.array([False, True, True]))
    assert len(kept.thresholds) == 2
    assert [0, 1] in kept.tables.pairs.tolist()
    assert kept.tables.pairs.max() <= 1
    none = found.of_units(np.array([True, False, True]))
    assert [1, 2] not in none.tables.pairs.tolist()


def test_same_generator_same_calibration():
    shapes = [waveform(0, 18.0), waveform(0, 9.0, second=0.9)]
    one, other = calibrated(shapes, [10.0, 10.0]), calibrated(shapes, [10.0, 10.0])
    np.testing.assert_array_equal(one.thresholds, other.thresholds)
    np.testing.assert_array_equal(one.tables.kernels, other.tables.kernels)
    np.testing.assert_array_equal(one.false_hz, other.false_hz)


def test_nothing_beyond_the_labelled_time_is_read():
    waveforms = np.stack([waveform(0, 12.0), waveform(3, 12.0)])
    traces, samples, units = recording(waveforms, [10.0, 10.0], 8.0, 0)
    stop = len(traces) // 2
    early = samples < stop - 100
    labels = labels_of(samples[early], units[early], 2, stop)
    traces[stop:] = np.nan
    found = calibrate(MatchedFilters(waveforms), traces, labels, rng=np.random.default_rng(0), **SETTINGS)
    for values in (found.thresholds, found.rate_hz, found.recall, found.false_hz, found.precision):
        assert np.isfinite(values).all()


def test_to_dict_names_the_units():
    content = calibrated([waveform(0, 12.0), waveform(3, 12.0)], [10.0, 20.0]).to_dict(["a", "b"])
    assert [unit["unit_id"] for unit in content["units"]] == ["a", "b"]
    expected = {"unit_id", "threshold", "rate_hz", "recall", "false_hz", "precision", "accuracy"}
    assert set(content["units"][0]) == expected
    unit = content["units"][0]
    missed, false = 1 / unit["recall"] - 1, 1 / unit["precision"] - 1
    assert unit["accuracy"] == pytest.approx(1 / (1 + missed + false))


def test_units_of_a_low_accuracy_are_left_out_where_asked_for():
    found = calibrated([waveform(0, 12.0), waveform(3, 12.0)], [10.0, 20.0])
    rare = replace(found, recall=np.array([1.0, 0.4]))
    assert rare.sortable.all()
    assert replace(rare, min_accuracy=MIN_ACCURACY).sortable.tolist() == [True, False]


def test_reliability_grows_with_the_probability():
    found = calibrated([waveform(0, 12.0), waveform(3, 0.8)], [10.0, 10.0], gain=10.0)
    probability, share = found.tables.reliability
    assert (np.diff(probability) > 0).all()
    assert (np.diff(share) >= 0).all()
    # Of the units that are kept: the one in the noise does not speak for the others.
    assert 0.9 < share[-1] <= 1.0


def test_labels_without_room_are_refused():
    waveforms = np.stack([waveform(0, 12.0), waveform(3, 12.0)])
    traces, _, _ = recording(waveforms, [10.0, 10.0], 2.0, 0)
    labels = labels_of(np.array([20, 500]), np.array([0, 1]), 2, len(traces))
    with pytest.raises(ValueError, match=r"expected \d+ samples before and \d+ after .* for 1 of 2 units"):
        calibrate(MatchedFilters(waveforms), traces, labels, rng=np.random.default_rng(0), **SETTINGS)
