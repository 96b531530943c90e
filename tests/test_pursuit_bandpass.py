"""The filter of the pursuit: its response, and that a chunk of it is the whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esort.pursuit.bandpass import Bandpass, reduction

RATES_HZ = (15_000.0, 20_000.0, 24_414.0625, 30_000.0, 32_000.0)


def response(taps, rate_hz, frequency_hz):
    times = np.arange(len(taps)) / rate_hz
    return np.abs(np.exp(-2j * np.pi * np.outer(np.atleast_1d(frequency_hz), times)) @ taps)


@pytest.mark.parametrize(("rate_hz", "step"), list(zip(RATES_HZ, (1, 2, 2, 3, 3), strict=True)))
def test_the_reduced_rate_is_near_11_khz(rate_hz, step):
    assert reduction(rate_hz) == step
    assert 9_000 <= rate_hz / step <= 16_000


def test_a_low_rate_is_kept():
    assert reduction(5000.0) == 1
    assert reduction(96_000.0) == 9


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_the_filter_delays_nothing_and_lets_no_offset_through(rate_hz):
    taps = Bandpass.design(rate_hz, freq_min_hz=300, freq_max_hz=6000).taps
    assert taps.dtype == np.float32
    assert len(taps) % 2 == 1
    np.testing.assert_allclose(taps, taps[::-1], atol=1e-7)
    assert abs(taps.sum()) < 1e-6


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("freq_min_hz", [150.0, 300.0, 500.0])
def test_the_corners(rate_hz, freq_min_hz):
    taps = Bandpass.design(rate_hz, freq_min_hz=freq_min_hz, freq_max_hz=6000).taps
    assert response(taps, rate_hz, freq_min_hz) == pytest.approx(np.sqrt(0.5), abs=0.01)
    assert response(taps, rate_hz, 4 * freq_min_hz) == pytest.approx(1, abs=0.02)
    assert (response(taps, rate_hz, np.linspace(0, freq_min_hz / 5, 20)) < 0.05).all()
    # The amplitude of a windowed sinc is one half at its corner.
    highest = min(6000, 0.45 * rate_hz / reduction(rate_hz))
    assert response(taps, rate_hz, highest) == pytest.approx(0.5, abs=0.05)
    above = np.linspace(highest + 1500, rate_hz / 2, 50)
    assert rate_hz / 2 <= above[0] or (response(taps, rate_hz, above) < 0.02).all()


def test_a_large_spike_leaves_no_ringing():
    """What follows a trough is one lobe of the other sign that fades."""
    taps = Bandpass.design(32_000.0, freq_min_hz=300, freq_max_hz=6000).taps
    spike = np.exp(-0.5 * (np.arange(-40, 41) / 6) ** 2)
    filtered = np.convolve(np.pad(spike, 200), taps, mode="same")
    lobe = filtered[len(filtered) // 2 + 40 :]
    assert filtered.max() > 0.7
    assert lobe.max() < 0.001
    assert (np.diff(lobe[np.argmin(lobe) :])[:-60] > -1e-6).all()


@pytest.mark.parametrize("dtype", ["int16", "uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_both_parts_are_one_convolution(rate_hz, dtype):
    bandpass = Bandpass.design(rate_hz, freq_min_hz=300, freq_max_hz=6000)
    step, num_taps = reduction(rate_hz), bandpass.num_taps
    assert len(bandpass.taps) == num_taps
    traces = (1000 + 100 * np.random.default_rng(0).standard_normal((1501, 3))).astype(dtype)
    gains = np.array([1.0, 0.5, 0.0])
    found = bandpass.apply(traces, gains)
    wanted = [np.convolve(line, bandpass.taps, mode="valid")[::step] for line in traces.T.astype(float)]
    assert found.dtype == np.float32
    assert found.shape == (3, (1501 - num_taps) // step + 1)
    np.testing.assert_allclose(found, np.stack(wanted) * gains[:, None], atol=2e-3)


def test_an_offset_of_the_traces_does_not_come_through():
    bandpass = Bandpass.design(30_000.0, freq_min_hz=300, freq_max_hz=6000)
    assert abs(bandpass.apply(np.full((2000, 9), 32_000, dtype=np.int16))).max() < 0.05


@settings(max_examples=40, deadline=None)
@given(
    step=st.integers(1, 4),
    offset=st.integers(0, 300),
    rows=st.integers(0, 400),
    extra=st.integers(0, 3),
    num_channels=st.sampled_from([2, 8, 41]),
)
def test_a_stretch_of_the_filtered_is_that_of_the_whole(step, offset, rows, extra, num_channels):
    """To the bit, wherever it begins and however many samples are left over."""
    bandpass = Bandpass.design(20_000.0, freq_min_hz=500, freq_max_hz=5000, step=step)
    shape = (step * 701 + bandpass.num_taps, num_channels)
    traces = np.random.default_rng(step).standard_normal(shape).astype(np.float32)
    part = traces[step * offset : step * (offset + rows) + bandpass.num_taps + extra % step]
    whole = bandpass.apply(traces)[:, offset : offset + rows + 1]
    np.testing.assert_array_equal(bandpass.apply(part), whole)


def test_traces_that_may_not_be_written():
    """As a file that is mapped gives them."""
    bandpass = Bandpass.design(20_000.0, freq_min_hz=500, freq_max_hz=5000)
    traces = np.random.default_rng(0).integers(-100, 100, (700, 40)).astype(np.int16)
    wanted = bandpass.apply(traces)
    traces.flags.writeable = False
    np.testing.assert_array_equal(bandpass.apply(traces), wanted)
