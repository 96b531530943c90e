"""The filter of the pursuit: its response, and that a chunk of it is the whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esort.pursuit.bandpass import bandpass_taps, decimate, reduction

RATES_HZ = (15_000.0, 20_000.0, 24_414.0625, 30_000.0, 32_000.0)


def response(taps, rate_hz, frequency_hz):
    times = np.arange(len(taps)) / rate_hz
    return np.abs(np.exp(-2j * np.pi * np.outer(np.atleast_1d(frequency_hz), times)) @ taps)


@pytest.mark.parametrize(("rate_hz", "step"), list(zip(RATES_HZ, (1, 1, 2, 2, 2), strict=True)))
def test_the_reduced_rate_is_near_16_khz(rate_hz, step):
    assert reduction(rate_hz) == step
    assert 12_000 <= rate_hz / step <= 20_000


def test_a_low_rate_is_kept():
    assert reduction(5000.0) == 1
    assert reduction(96_000.0) == 6


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_the_filter_delays_nothing_and_lets_no_offset_through(rate_hz):
    taps = bandpass_taps(rate_hz, freq_min_hz=300, freq_max_hz=6000)
    assert taps.dtype == np.float32
    assert len(taps) % 2 == 1
    np.testing.assert_allclose(taps, taps[::-1], atol=1e-7)
    assert abs(taps.sum()) < 1e-6


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("freq_min_hz", [150.0, 300.0, 500.0])
def test_the_corners(rate_hz, freq_min_hz):
    taps = bandpass_taps(rate_hz, freq_min_hz=freq_min_hz, freq_max_hz=6000)
    assert response(taps, rate_hz, freq_min_hz) == pytest.approx(np.sqrt(0.5), abs=0.01)
    assert response(taps, rate_hz, 4 * freq_min_hz) == pytest.approx(1, abs=0.01)
    assert (response(taps, rate_hz, np.linspace(0, freq_min_hz / 5, 20)) < 0.05).all()
    # The amplitude of a windowed sinc is one half at its corner.
    highest = min(6000, 0.45 * rate_hz / reduction(rate_hz))
    assert response(taps, rate_hz, highest) == pytest.approx(0.5, abs=0.05)
    above = np.linspace(highest + 1500, rate_hz / 2, 50)
    assert rate_hz / 2 <= above[0] or (response(taps, rate_hz, above) < 0.02).all()


def test_a_large_spike_leaves_no_ringing():
    """What follows a trough is one lobe of the other sign that fades."""
    taps = bandpass_taps(32_000.0, freq_min_hz=300, freq_max_hz=6000)
    spike = np.exp(-0.5 * (np.arange(-40, 41) / 6) ** 2)
    filtered = np.convolve(np.pad(spike, 200), taps, mode="same")
    lobe = filtered[len(filtered) // 2 + 40 :]
    assert filtered.max() > 0.7
    assert lobe.max() < 0.001
    assert (np.diff(lobe[np.argmin(lobe) :])[:-60] > -1e-6).all()


@pytest.mark.parametrize("dtype", ["int16", "float32"])
@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_decimation_is_convolution(rate_hz, dtype):
    taps = bandpass_taps(rate_hz, freq_min_hz=300, freq_max_hz=6000)
    step = reduction(rate_hz)
    traces = (100 * np.random.default_rng(0).standard_normal((1501, 3))).astype(dtype)
    found = decimate(traces, taps, step)
    wanted = np.stack([np.convolve(line, taps, mode="valid")[::step] for line in traces.T.astype(float)])
    assert found.dtype == np.float32
    assert found.shape == (3, (1501 - len(taps)) // step + 1)
    np.testing.assert_allclose(found, wanted, atol=1e-3)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(0, 300), st.integers(0, 400), st.integers(0, 3))
def test_a_stretch_of_the_filtered_is_that_of_the_whole(step, offset, rows, extra):
    """To the bit, wherever it begins and however many samples are left over."""
    taps = bandpass_taps(20_000.0, freq_min_hz=500, freq_max_hz=5000)
    traces = np.random.default_rng(step).standard_normal((4 * 701 + len(taps), 2)).astype(np.float32)
    whole = decimate(traces, taps, step)
    part = traces[step * offset : step * (offset + rows) + len(taps) + extra % step]
    np.testing.assert_array_equal(decimate(part, taps, step), whole[:, offset : offset + rows + 1])


@pytest.mark.parametrize("num_samples", range(1500, 1512))
@pytest.mark.parametrize("step", [3, 6])
def test_samples_that_are_left_over(num_samples, step):
    """They are read by no row, and written into none."""
    taps = bandpass_taps(96_000.0 / 6 * step, freq_min_hz=500, freq_max_hz=5000)
    traces = np.random.default_rng(0).standard_normal((num_samples, 2)).astype(np.float32)
    wanted = np.stack([np.convolve(line, taps, mode="valid")[::step] for line in traces.T])
    np.testing.assert_allclose(decimate(traces, taps, step), wanted, atol=1e-4)


def test_non_contiguous_traces():
    taps = bandpass_taps(20_000.0, freq_min_hz=500, freq_max_hz=5000)
    traces = np.random.default_rng(0).standard_normal((4, 700)).astype(np.float32).T
    np.testing.assert_array_equal(decimate(traces, taps, 2), decimate(traces.copy(), taps, 2))
