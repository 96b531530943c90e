"""What is expected of waveforms, against the truth, closed forms and a loop."""

import pickle
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_data import make_toy

from esort.waveform_prior import WaveformPrior
from esort.windows import mean_waveforms


def positions_of(toy, pitch_um=20.0):
    """Contacts of the toy's probe, a column."""
    return np.stack([np.zeros(toy.traces.shape[1]), pitch_um * np.arange(toy.traces.shape[1])], axis=1)


def prior_of(toy):
    times_ms = toy.window.times_ms(toy.rate)
    return WaveformPrior.of(toy.waveforms, positions_of(toy), times_ms)


def error(found, toy):
    return np.square(found - toy.waveforms).sum() / np.square(toy.waveforms).sum()


@pytest.mark.parametrize("per_unit", [1, 2, 5])
def test_it_is_nearer_to_the_truth_than_the_mean(per_unit):
    prior = prior_of(make_toy(num_units=6, num_channels=12, seed=5))
    toy = make_toy(num_units=4, num_channels=12, seconds=5.0, firing_hz=3.0)
    labels = toy.labels(per_unit=per_unit)
    found = prior.estimate(toy.traces, labels, toy.window, contact_positions_um=positions_of(toy))
    assert found.shape == toy.waveforms.shape
    assert error(found, toy) < 0.5 * error(mean_waveforms(toy.traces, labels, toy.window), toy)


def test_with_many_labels_it_is_the_mean():
    toy = make_toy(num_units=2)
    rng = np.random.default_rng(0)
    means = toy.waveforms + rng.normal(size=toy.waveforms.shape)
    places = {"contact_positions_um": positions_of(toy), "times_ms": toy.window.times_ms(toy.rate)}
    samples = toy.window.samples
    free = WaveformPrior(times_ms=places["times_ms"], moments=np.stack([np.eye(samples)] * 8))
    found = free.expected(means, np.full(2, 10**9), np.eye(samples), **places)
    np.testing.assert_allclose(found, means, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 50), level=st.floats(0.1, 10.0), seed=st.integers(0, 99))
def test_white_noise_and_a_white_prior_shrink_each_sample_alike(count, level, seed):
    """Wiener's filter of one channel has a closed form: energy / (energy + noise)."""
    rng = np.random.default_rng(seed)
    samples, kept = 20, 6
    times_ms = np.arange(samples) / 20.0
    prior = WaveformPrior(times_ms=times_ms, moments=np.stack([np.eye(samples) / samples] * 8))
    mean = 30 * rng.normal(size=(1, samples, 1))
    noise = level * np.eye(samples)
    (found,) = prior.expected(
        mean, np.array([count]), noise, contact_positions_um=np.zeros((1, 2)), times_ms=times_ms
    )
    directions = np.linalg.eigh(prior.moments[0])[1][:, -kept:]
    seen, of_noise = np.square(mean[0, :, 0] @ directions).sum(), kept * level / count
    energy = max(seen - of_noise, of_noise) / kept  # of one sample
    np.testing.assert_allclose(found, mean[0] * energy / (energy + 1.01 * level / count), rtol=1e-4)


def test_a_filter_that_leaves_no_noise_at_some_frequencies():
    """Where there is neither noise nor waveform there is nothing to be expected, and no division by zero."""
    toy = make_toy(num_units=3)
    prior, samples = prior_of(toy), toy.window.samples
    smooth = np.linalg.qr(np.sin(np.pi * np.outer(np.arange(1, samples + 1), np.arange(1, 9)) / samples))[0]
    means = toy.waveforms + 1e-3 * np.random.default_rng(0).normal(size=toy.waveforms.shape)
    found = prior.expected(
        means,
        np.full(3, 5),
        smooth @ smooth.T,
        contact_positions_um=positions_of(toy),
        times_ms=toy.window.times_ms(toy.rate),
    )
    assert error(found, toy) < 0.05


def test_shapes_that_nobody_knew_are_not_lost():
    """Learned from one unit; another one of another shape comes out of many labels all the same."""
    toy = make_toy(num_units=3)
    one = WaveformPrior.of(toy.waveforms[:1], positions_of(toy), toy.window.times_ms(toy.rate))
    assert one.unknown_share == pytest.approx(1 / 3)
    places = {"contact_positions_um": positions_of(toy), "times_ms": toy.window.times_ms(toy.rate)}
    found = one.expected(toy.waveforms, np.full(3, 50), np.eye(toy.window.samples), **places)
    assert error(found, toy) < 0.01


def test_far_channels_are_trusted_less():
    prior = prior_of(make_toy(num_units=6, num_channels=12))
    toy = make_toy(num_units=1, num_channels=12)
    means = toy.waveforms + np.random.default_rng(0).normal(size=toy.waveforms.shape)
    found = prior.expected(
        means,
        np.array([1]),
        np.eye(toy.window.samples),
        contact_positions_um=positions_of(toy),
        times_ms=toy.window.times_ms(toy.rate),
    )
    energy = np.square(found[0]).sum(axis=0)
    distance = np.abs(np.arange(12) - energy.argmax())
    assert energy[distance >= 4].max() < 0.01 * energy.max()
    assert np.square(means[0]).sum(axis=0)[distance >= 4].min() > 0.01 * energy.max()


def test_another_rate_and_another_probe():
    """Learned at 32 kHz on a column of 20 um, used at 20 kHz on one of 25 um."""
    prior = prior_of(make_toy(num_units=6, num_channels=12, rate=32_000.0))
    toy = make_toy(num_units=4, num_channels=10, seconds=5.0, firing_hz=3.0)
    labels = toy.labels(per_unit=1)
    at = {"contact_positions_um": positions_of(toy, 25.0)}
    found = prior.estimate(toy.traces, labels, toy.window, **at)
    assert error(found, toy) < 0.5 * error(mean_waveforms(toy.traces, labels, toy.window), toy)
    wide = toy.window.widened(30)
    beyond = prior.estimate(toy.traces, labels, wide, **at)  # zero where it knows nothing
    assert not beyond[:, :20].any()
    assert not beyond[:, -20:].any()
    assert error(beyond[:, 30:-30], toy) < 0.5 * error(mean_waveforms(toy.traces, labels, toy.window), toy)


def test_a_tetrode_has_no_far_channels():
    toy = make_toy(num_units=3, num_channels=4)
    prior = WaveformPrior.of(toy.waveforms, positions_of(toy, 5.0), toy.window.times_ms(toy.rate))
    assert np.trace(prior.moments[0]) == pytest.approx(1)
    np.testing.assert_array_equal(prior.moments[-1], prior.moments[1])


def test_it_goes_through_a_checkpoint_and_to_another_process():
    toy = make_toy()
    prior = prior_of(toy)
    weights = prior.to_weights() | {"other": np.zeros(1)}
    again = WaveformPrior.pop_from(weights)
    assert list(weights) == ["other"]
    assert WaveformPrior.pop_from(weights) is None
    labels = toy.labels(per_unit=2)
    ours, theirs = (
        pickle.loads(pickle.dumps(partial(one.estimate, contact_positions_um=positions_of(toy))))  # noqa: S301
        for one in (prior, again)
    )
    expected = ours(toy.traces, labels, toy.window)
    np.testing.assert_allclose(theirs(toy.traces, labels, toy.window), expected, atol=1e-3)
    assert np.abs(theirs(toy.traces, labels, toy.window)[:, 0]).max() > 0  # the first sample is not lost


FITS = {"times_ms": np.arange(3.0), "moments": np.zeros((8, 3, 3)), "unknown_share": np.zeros(1)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"moments": np.zeros((8, 3, 4))}, r"moments, \(8, T, T\), got \(3,\) and \(8, 3, 4\)"),
        ({"moments": np.zeros((7, 3, 3))}, r"got \(3,\) and \(7, 3, 3\)"),
        ({"times_ms": np.zeros((3, 1))}, r"got \(3, 1\)"),
        ({"times_ms": np.zeros(0), "moments": np.zeros((8, 0, 0))}, r"got \(0,\) and \(8, 0, 0\)"),
        ({"times_ms": np.array([0.0, 2.0, 1.0])}, "ascending times"),
        ({"times_ms": None}, "must have times, moments and a share, got .*moments"),
        ({"unknown_share": np.zeros(2)}, r"unknown_share must be one number, got the shape \(2,\)"),
        ({"unknown_share": np.full(1, 1.5)}, r"unknown_share must be in \[0, 1\], got 1.5"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    weights = {
        f"waveform_prior.{name}": value for name, value in (FITS | changes).items() if value is not None
    }
    with pytest.raises(ValueError, match=message):
        WaveformPrior.pop_from(weights)
