"""Prepared traces: scaling, channel order, chunks, memory maps, and what is not finite."""

import numpy as np
import pytest
from spikeinterface.core import NumpyRecording

from esort.prepared import prepare
from esort.preprocessing import Preprocessing

RATE = 20_000.0
PLAIN = Preprocessing(common_reference="none")


def make(traces, gain=0.5):
    recording = NumpyRecording(traces, RATE)
    recording.set_dummy_probe_from_locations(
        np.column_stack([np.zeros(traces.shape[1]), 20.0 * np.arange(traces.shape[1])])
    )
    recording.set_channel_gains(gain)
    recording.set_channel_offsets(0.0)
    return recording


def noise(num_samples=50_000, num_channels=4, seed=0, dtype="int16"):
    rng = np.random.default_rng(seed)
    levels = 20.0 * (1 + np.arange(num_channels))
    return (levels * rng.standard_normal((num_samples, num_channels))).astype(dtype)


def test_traces_are_filtered_and_in_units_of_the_noise_level():
    recording = make(noise())
    prepared = prepare(recording, PLAIN)
    traces = prepared.traces(10_000, 40_000)
    assert traces.dtype == np.float32
    assert traces.shape == (30_000, 4)
    np.testing.assert_allclose(np.median(np.abs(traces), axis=0) / 0.6745, 1, atol=0.05)
    filtered = PLAIN.apply(recording).get_traces(start_frame=10_000, end_frame=40_000)
    np.testing.assert_allclose(traces * prepared.noise_level_uv, filtered, rtol=1e-5, atol=1e-4)
    assert np.all(np.diff(prepared.noise_level_uv) > 0)
    assert (prepared.sampling_frequency, prepared.num_samples, prepared.num_channels) == (RATE, 50_000, 4)
    assert prepared.preprocessing.common_reference == "none"


def test_the_same_whatever_the_gain():
    first, second = (prepare(make(noise(), gain), PLAIN).traces(0, 5000) for gain in (0.2, 3.0))
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-4)


def test_known_noise_levels_are_used():
    levels = np.array([1.0, 2.0, 4.0, 8.0])
    prepared = prepare(make(noise()), PLAIN, noise_level_uv=levels)
    one = prepare(make(noise()), PLAIN, noise_level_uv=np.ones(4))
    np.testing.assert_allclose(prepared.traces(0, 100) * levels, one.traces(0, 100), rtol=1e-6)
    with pytest.raises(ValueError, match=r"noise level for each of 4 channels, got shape \(3,\)"):
        prepare(make(noise()), PLAIN, noise_level_uv=levels[:3])


def test_noise_is_measured_where_it_may_be_looked_at():
    quiet = noise()
    loud = quiet.copy()
    loud[30_000:] *= 5
    levels = [prepare(make(t), PLAIN, noise_stop_sample=25_000).noise_level_uv for t in (quiet, loud)]
    np.testing.assert_array_equal(*levels)
    assert (prepare(make(loud), PLAIN).noise_level_uv > 1.2 * levels[0]).all()


@pytest.mark.parametrize("chunk_samples", [997, 4096, 20_001])
def test_chunks_do_not_show(chunk_samples):
    prepared = prepare(make(noise()), PLAIN)
    whole = prepared.traces(0, 50_000)
    starts = range(0, 50_000, chunk_samples)
    joined = np.concatenate([prepared.traces(s, min(s + chunk_samples, 50_000)) for s in starts])
    np.testing.assert_allclose(joined, whole, atol=1e-4)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_memory_map_holds_the_traces(tmp_path, num_workers):
    prepared = prepare(make(noise()), PLAIN)
    path = tmp_path / "new" / "a.npy"
    mapped = prepared.memory_map(path, stop_sample=45_000, num_workers=num_workers)
    assert isinstance(mapped, np.memmap)
    assert not mapped.flags.writeable
    assert (mapped.dtype, mapped.shape) == (np.float32, (45_000, 4))
    # bit for bit, block by block of a second
    for start, stop in ((0, 20_000), (20_000, 40_000), (40_000, 45_000)):
        np.testing.assert_array_equal(mapped[start:stop], prepared.traces(start, stop))
    np.testing.assert_allclose(mapped, prepared.traces(0, 45_000), atol=1e-4)
    assert [file.name for file in path.parent.iterdir()] == ["a.npy"]


def test_channels_come_in_the_networks_order():
    recording = make(noise())
    order = np.array([2, 0, 3, 1])
    plain, ordered = prepare(recording, PLAIN), prepare(recording, PLAIN, channel_order=order)
    np.testing.assert_allclose(ordered.traces(0, 9000), plain.traces(0, 9000)[:, order], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ordered.noise_level_uv, plain.noise_level_uv[order])
    assert list(ordered.raw.channel_ids) == list(recording.channel_ids[order])
    same = prepare(recording, PLAIN, channel_order=np.arange(4))
    assert same.raw is recording
    part = prepare(recording, PLAIN, channel_order=order[:2])
    assert part.num_channels == 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_located(tmp_path, value):
    traces = noise(dtype="float32")
    levels = prepare(make(traces), PLAIN).noise_level_uv
    traces[30_123, 2] = value
    recording = make(traces)
    prepared = prepare(recording, PLAIN, noise_level_uv=levels)
    message = f"got {value} at sample 30123, channel {recording.channel_ids[2]}"
    with pytest.raises(ValueError, match=message):
        prepared.traces(30_000, 31_000)
    with pytest.raises(ValueError, match=message):
        prepared.memory_map(tmp_path / "a.npy", stop_sample=50_000)
    assert list(tmp_path.iterdir()) == []
    # The filter would spread it over the neighbourhood: refused there too, and silent nowhere.
    margin = PLAIN.margin_samples(RATE)
    for start, stop in ((30_124, 30_200), (29_000, 30_123), (30_123 + margin, 31_000)):
        with pytest.raises(ValueError, match=message):
            prepared.traces(start, stop)
    for start, stop in ((0, 30_123 - margin), (30_124 + margin, 50_000)):
        assert np.isfinite(prepared.traces(start, stop)).all()


def test_the_name_of_the_channel_follows_the_order():
    traces = noise(dtype="float32")
    traces[100, 2] = np.nan
    recording = make(traces)
    prepared = prepare(recording, PLAIN, noise_level_uv=np.ones(4), channel_order=np.array([3, 2, 1, 0]))
    with pytest.raises(ValueError, match=f"sample 100, channel {recording.channel_ids[2]}"):
        prepared.traces(0, 200)


def test_one_channel():
    prepared = prepare(make(noise(num_channels=1)), Preprocessing())
    assert prepared.traces(0, 1000).shape == (1000, 1)
    assert prepared.preprocessing.common_reference == "none"


def test_limits():
    with pytest.raises(ValueError, match="needs a recording of at least 34 samples, got 20"):
        prepare(make(noise(20)), PLAIN)
    with pytest.raises(ValueError, match="freq_max_hz must be below half the sampling rate"):
        prepare(make(noise()), Preprocessing(freq_max_hz=12_000))
