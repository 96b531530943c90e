"""Whitening from quiet samples alone."""

import logging

import numpy as np
import pytest
from pursuit_data import POSITIONS_UM

from esort.pursuit.whitening import local_whitening, noise_of

RATE_HZ = 16_000.0
NUM_CHANNELS = len(POSITIONS_UM)


@pytest.fixture(scope="module")
def noise():
    """Noise that neighbours share, other levels on each channel: (C, T)."""
    rng = np.random.default_rng(0)
    distances = np.abs(POSITIONS_UM[:, 1:] - POSITIONS_UM[:, 1])
    level = np.linspace(5, 15, NUM_CHANNELS)
    factor = np.linalg.cholesky(np.exp(-distances / 30)) * level[:, None]
    return (factor @ rng.standard_normal((NUM_CHANNELS, 60_000))).astype(np.float32)


def with_spikes(noise, every=400):
    """Large spikes on three neighbouring channels."""
    traces = noise.copy()
    course = -np.exp(-0.5 * (np.arange(-12, 13) / 3) ** 2)
    spike = np.outer([150, 300, 200], course)
    for start in range(100, noise.shape[1] - 100, every):
        traces[2:5, start : start + 25] += spike
    return traces


def whiten(traces):
    return local_whitening(traces, noise_of(traces), POSITIONS_UM, rate_hz=RATE_HZ)


def test_noise_level():
    rng = np.random.default_rng(0)
    levels = np.array([1.0, 7.0, 30.0])
    traces = levels[:, None] * rng.standard_normal((3, 150_000)) + 5
    found = noise_of(traces.astype(np.float32))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, levels, rtol=0.02)


def test_correlated_noise_becomes_white(noise):
    before = np.corrcoef(noise)
    assert before[0, 1] > 0.4
    whitening = whiten(noise)
    assert whitening.dtype == np.float32
    after = np.cov(whitening @ noise)
    np.testing.assert_allclose(after, np.eye(NUM_CHANNELS), atol=0.05)


def test_each_channel_stays_itself(noise):
    """The symmetric root: a whitened channel is mostly what it was."""
    whitening = whiten(noise)
    whitened = whitening @ noise
    for channel in range(NUM_CHANNELS):
        correlations = [np.corrcoef(whitened[channel], line)[0, 1] for line in noise]
        assert np.argmax(correlations) == channel


def test_spikes_do_not_bias(noise):
    calm, spiking = whiten(noise), whiten(with_spikes(noise))
    assert np.abs(with_spikes(noise)).max() > 20 * noise_of(noise).min()
    np.testing.assert_allclose(np.cov(spiking @ noise), np.eye(NUM_CHANNELS), atol=0.08)
    np.testing.assert_allclose(spiking, calm, atol=0.05 * np.abs(calm).max())


def test_only_neighbours_are_mixed(noise):
    far = POSITIONS_UM * [1, 10]
    whitening = local_whitening(noise, noise_of(noise), far, rate_hz=RATE_HZ)
    np.testing.assert_array_equal(whitening, np.diag(np.diagonal(whitening)))
    np.testing.assert_allclose(np.diagonal(whitening), 1 / noise.std(axis=1), rtol=0.05)


def test_the_order_of_channels_does_not_matter(noise):
    order = np.random.default_rng(1).permutation(NUM_CHANNELS)
    levels = noise_of(noise)
    shuffled = local_whitening(noise[order], levels[order], POSITIONS_UM[order], rate_hz=RATE_HZ)
    np.testing.assert_allclose(shuffled, whiten(noise)[np.ix_(order, order)], atol=1e-5)


def test_a_dead_channel_stays_silent(noise, caplog):
    traces = noise.copy()
    traces[3] = 0
    levels = noise_of(traces)
    assert "channels without any noise (dead): 3" in caplog.text
    assert levels[3] == pytest.approx(np.median(np.delete(levels, 3)))
    whitening = whiten(traces)
    assert np.isfinite(whitening).all()
    alive = np.delete(np.arange(NUM_CHANNELS), 3)
    after = np.cov((whitening @ traces)[alive])
    np.testing.assert_allclose(after, np.eye(NUM_CHANNELS - 1), atol=0.05)
    assert np.abs(whitening @ traces)[3].max() < 1e-3


def test_a_channel_that_is_never_quiet(noise):
    """One that bursts all the time is scaled, and does not disturb its neighbours."""
    traces = noise.copy()
    traces[5] += 400 * np.sin(np.arange(noise.shape[1]) * 2 * np.pi / 30) ** 21
    whitening = whiten(traces)
    assert np.isfinite(whitening).all()
    calm = np.delete(np.arange(NUM_CHANNELS), 5)
    np.testing.assert_allclose(np.var(whitening @ traces, axis=1)[calm], 1, atol=0.5)


def test_constant_traces(caplog):
    caplog.set_level(logging.WARNING)
    with pytest.raises(ValueError, match="no channel has any noise: all traces are constant"):
        noise_of(np.ones((4, 1000), dtype=np.float32))
