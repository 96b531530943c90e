"""The filter: units, chunks, references, limits; noise levels."""

import warnings

import numpy as np
import pytest
import yaml
from entries import ROOT
from spikeinterface.core import NumpyRecording

from esort.preprocessing import BAND_HZ, Preprocessing, noise_levels_uv

RATE = 20_000.0


def make(traces, gain=0.5, offset=0.0):
    recording = NumpyRecording(traces, RATE)
    recording.set_dummy_probe_from_locations(
        np.column_stack([np.zeros(traces.shape[1]), 20.0 * np.arange(traces.shape[1])])
    )
    if gain is not None:
        recording.set_channel_gains(gain)
        recording.set_channel_offsets(offset)
    return recording


def sine(hz, num_channels=2, seconds=1.0):
    times = np.arange(round(seconds * RATE)) / RATE
    return np.repeat(np.sin(2 * np.pi * hz * times)[:, None], num_channels, axis=1)


def test_band_is_kept_in_uv_and_the_rest_removed():
    recording = make((1000 * sine(1000) + 3000 * sine(5) + 700).astype("int16"))
    filtered = Preprocessing().apply(recording)
    traces = filtered.get_traces()
    assert traces.dtype == np.float32
    np.testing.assert_allclose(traces[2000:-2000], 500 * sine(1000)[2000:-2000], atol=5)
    # asking for µV again changes nothing
    np.testing.assert_array_equal(filtered.get_traces(return_in_uV=True), traces)


def test_signed_and_unsigned_storage_give_the_same():
    signal = (1000 * sine(1000)).astype("int16")
    signed = Preprocessing().apply(make(signal)).get_traces()
    unsigned = (signal.astype("int32") + 32768).astype("uint16")
    for gain_offset in ({}, {"offset": -16384.0}):
        filtered = Preprocessing().apply(make(unsigned, **gain_offset))
        np.testing.assert_allclose(filtered.get_traces(), signed, atol=1e-2)
    shifted = (signal.astype("int32") + 2048).astype("uint16")
    np.testing.assert_allclose(Preprocessing().apply(make(shifted)).get_traces(), signed, atol=1e-2)


def test_without_gain_the_unit_is_kept_with_a_warning(caplog):
    filtered = Preprocessing().apply(make((1000 * sine(1000)).astype("int16"), gain=None))
    assert filtered.get_traces()[2000:-2000].max() == pytest.approx(1000, rel=0.01)
    assert "does not say its gain" in caplog.text
    assert noise_levels_uv(filtered).shape == (2,)


def test_a_rough_filter_scales_warns_and_refuses_as_the_other(caplog):
    traces = np.random.default_rng(0).normal(0, 40, (20_000, 3))
    storages = [
        make((traces + 300).astype("int16"), offset=-150.0),
        make((traces + 300 + 32_768).astype("uint16"), offset=-150.0),
    ]
    for recording in storages:
        rough, exact = (one(recording) for one in (Preprocessing().roughly, Preprocessing().apply))
        assert rough.get_traces().dtype == np.float32
        noise, expected = (np.std(one.get_traces()[2000:-2000], axis=0) for one in (rough, exact))
        np.testing.assert_allclose(noise, expected, rtol=0.25)
        assert np.abs(np.median(rough.get_traces(), axis=0)).max() < 1
    assert "does not say its gain" not in caplog.text
    Preprocessing().roughly(make(traces.astype("int16"), gain=None))
    assert "does not say its gain" in caplog.text
    for bad in (make(traces[:5].astype("int16")), NumpyRecording(traces.astype("int16"), 10_000.0)):
        with pytest.raises(ValueError) as exact:
            Preprocessing().apply(bad)
        with pytest.raises(ValueError) as rough:
            Preprocessing().roughly(bad)
        assert str(rough.value) == str(exact.value)


@pytest.mark.parametrize("chunk_samples", [700, 3001, 20_000])
def test_chunked_equals_whole_to_the_stated_tolerance(chunk_samples):
    rng = np.random.default_rng(0)
    brownian = np.cumsum(rng.normal(size=(20_000, 4)) * 30, axis=0)
    recording = make((brownian + rng.normal(size=(20_000, 4)) * 20).astype("int16"), gain=1.0)
    filtered = Preprocessing().apply(recording)
    whole = filtered.get_traces()
    starts = range(0, 20_000, chunk_samples)
    chunked = np.concatenate(
        [filtered.get_traces(start_frame=s, end_frame=min(s + chunk_samples, 20_000)) for s in starts]
    )
    assert np.abs(chunked - whole).max() < 1e-5 * recording.get_traces().std()
    assert Preprocessing().margin_samples(RATE) == 400


def test_median_reference_removes_what_all_channels_share():
    rng = np.random.default_rng(0)
    own = rng.normal(size=(4000, 16)) * 100
    recording = make((own + 5000 * sine(700, 16, 0.2)).astype("float32"), gain=1.0)
    shared = Preprocessing(common_reference="none").apply(recording).get_traces()
    referenced = Preprocessing().apply(recording).get_traces()
    assert np.abs(np.median(referenced, axis=1)).max() < 1e-3
    assert referenced.std() < 150 < 1000 < shared.std()


def test_auto_is_resolved_by_the_number_of_channels():
    few, many = make(np.zeros((10, 15), "int16")), make(np.zeros((10, 16), "int16"))
    assert Preprocessing().resolve(few) == Preprocessing(common_reference="none")
    assert Preprocessing().resolve(many) == Preprocessing(common_reference="median")
    assert Preprocessing(common_reference="median").resolve(few).common_reference == "median"


def test_apply_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Preprocessing().apply(make(np.zeros((2000, 16), "int16"))).get_traces()


@pytest.mark.parametrize("order", [1, 3, 5, 10])
def test_shortest_recording_that_the_filter_takes(order):
    preprocessing = Preprocessing(filter_order=order)
    shortest = preprocessing.min_samples
    assert preprocessing.apply(make(np.zeros((shortest, 2), "int16"))).get_traces().shape == (shortest, 2)
    with pytest.raises(ValueError, match=f"at least {shortest} samples, got {shortest - 1}"):
        preprocessing.apply(make(np.zeros((shortest - 1, 2), "int16")))


def test_dict_and_back():
    preprocessing = Preprocessing(freq_min_hz=250.0, common_reference="median", filter_order=3)
    assert Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing
    with pytest.raises(ValueError, match="preprocessing has no colour"):
        Preprocessing.from_dict({"colour": 1})


def test_band_above_half_the_rate():
    with pytest.raises(
        ValueError, match=r"below half the sampling rate \(10000 Hz for a recording at 20000 Hz\), got 12000"
    ):
        Preprocessing(freq_max_hz=12_000).apply(make(np.zeros((99, 2), "int16")))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"freq_min_hz": 50}, "at least 100 Hz, got 50"),
        ({"freq_min_hz": "low"}, "must be a number of Hz, got 'low'"),
        ({"freq_max_hz": 200.0}, "above freq_min_hz=300.0, got 200.0"),
        ({"common_reference": "mean"}, "one of auto, median, none, got 'mean'"),
        ({"filter_order": 0}, r"in \[1, 10\], got 0"),
    ],
)
def test_limits(values, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**values)


def test_noise_levels_in_uv():
    rng = np.random.default_rng(0)
    sigma = np.array([10.0, 20.0, 40.0])
    recording = make(np.round(rng.normal(size=(40_000, 3)) * sigma / 0.5).astype("int16"))
    np.testing.assert_allclose(noise_levels_uv(recording), sigma, rtol=0.03)


def test_noise_levels_look_at_the_interval_only():
    rng = np.random.default_rng(0)
    traces = rng.normal(size=(40_000, 2)) * 10
    traces[20_000:] *= 100
    recording = make(traces.astype("float32"), gain=1.0)
    noise_levels_uv(recording)  # a level of the whole recording must not be remembered
    np.testing.assert_allclose(noise_levels_uv(recording, stop_sample=20_000), 10, rtol=0.05)
    np.testing.assert_allclose(noise_levels_uv(recording, start_sample=20_000), 1000, rtol=0.05)
    np.testing.assert_array_equal(
        noise_levels_uv(recording, stop_sample=20_000, seed=0),
        noise_levels_uv(recording, stop_sample=20_000, seed=0),
    )
    assert noise_levels_uv(recording, stop_sample=100).shape == (2,)


def test_dead_channels_are_named_and_cannot_divide_by_zero(caplog):
    traces = np.random.default_rng(0).normal(size=(4000, 3)) * 10
    traces[:, 1] = 5
    levels = noise_levels_uv(make(traces.astype("float32"), gain=1.0))
    assert caplog.text.strip().endswith("channels without any noise (dead): 1")
    assert levels[1] == pytest.approx(np.mean(levels[[0, 2]]))
    with pytest.raises(ValueError, match=r"no channel has any noise in samples \[0, 100\)"):
        noise_levels_uv(make(np.zeros((100, 2), "float32")))


@pytest.mark.parametrize("interval", [(0, 0), (5, 3), (0, 101), (-1, 5)])
def test_noise_needs_an_interval_inside(interval):
    with pytest.raises(ValueError, match=r"inside the recording's \[0, 100\), got"):
        noise_levels_uv(
            make(np.zeros((100, 2), "float32")), start_sample=interval[0], stop_sample=interval[1]
        )


def test_the_usual_band_is_the_configuration_s():
    corners = yaml.safe_load((ROOT / "conf" / "preprocessing" / "pursuit.yaml").read_text())
    assert (corners["freq_min_hz"], corners["freq_max_hz"]) == BAND_HZ
