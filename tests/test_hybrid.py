"""Hybrid recordings of the benchmark: noise like that which was measured, templates where they belong."""

import sys

import numpy as np
import pytest
from entries import REAL, ROOT
from probeinterface import generate_multi_columns_probe

sys.path.insert(0, str(ROOT / "benchmarks"))
import hybrid


@pytest.fixture
def probe():
    probe = generate_multi_columns_probe(
        num_columns=2, num_contact_per_column=8, xpitch=20, ypitch=20, contact_shapes="circle"
    )
    probe.set_device_channel_indices(np.arange(16))
    return probe


def test_noise_is_made_as_it_was_measured(probe):
    lags = 0.8 ** np.arange(hybrid.AR_ORDER + 1)
    wanted = (7.0, np.array([20.0, 28.0, 40.0, 60.0, 140.0]), np.array([0.5, 0.4, 0.3, 0.2, 0.1]), lags)
    noise = hybrid.noise_recording(probe, wanted, 4.0, 30_000.0, seed=0)
    traces = noise.get_traces(start_frame=3000)  # (N, C)
    np.testing.assert_allclose(traces.std(axis=0), 7.0, rtol=0.05)
    correlation = np.corrcoef(traces.T)
    assert correlation[0, 1] == pytest.approx(0.5, abs=0.05)
    assert correlation[0, 2] == pytest.approx(0.3, abs=0.05)
    assert np.corrcoef(traces[:-1, 0], traces[1:, 0])[0, 1] == pytest.approx(0.8, abs=0.02)
    middle = noise.get_traces(start_frame=50_000, end_frame=50_100)
    np.testing.assert_allclose(middle, traces[47_000:47_100], atol=1e-3)  # the same for any piece


def test_a_template_of_the_same_lattice_keeps_its_samples(probe):
    rng = np.random.default_rng(0)
    sites = probe.contact_positions[4:10] - probe.contact_positions[6]
    waveform = rng.standard_normal((20, 6)).astype("float32")
    seen = hybrid.place(waveform, sites, probe.contact_positions, rng)  # (T, C)
    found = np.flatnonzero(np.abs(seen).max(axis=0) > 0)
    kept = {tuple(column) for column in waveform.T}
    assert {tuple(seen[:, channel]) for channel in found} <= kept
    assert waveform[:, np.ptp(waveform, axis=0).argmax()].tolist() in seen.T.tolist()


def test_a_template_of_a_dense_lattice_is_interpolated(probe):
    xs, ys = np.meshgrid(np.arange(-24, 25, 6.0), np.arange(-24, 25, 6.0))
    sites = np.stack([xs.ravel(), ys.ravel()], axis=1)
    size = np.exp(-np.linalg.norm(sites, axis=1) / 15)
    waveform = np.outer([0.0, -1.0, 0.2], size)
    seen = hybrid.place(waveform, sites, probe.contact_positions, np.random.default_rng(1))
    assert 0.2 < np.abs(seen).max() <= 1.01
    assert (seen == 0).all(axis=0).any()  # contacts that are too far to have seen it


@pytest.mark.skipif(not REAL.is_dir(), reason="no real recordings here")
def test_noise_of_a_real_probe():
    from esort.recordings import RecordingPath

    recording = RecordingPath(path=str(REAL / "np_ultra_stub" / "p5_g0"), stream_id="imec0.ap").open()
    level_uv, distances_um, correlation, lags = hybrid.measure_noise(recording)
    assert 4 < level_uv < 10
    assert (np.diff(distances_um) > 0).all()
    assert (np.diff(correlation) < 0).all()
    assert lags[1] == pytest.approx(0.84, abs=0.02)
    assert len(hybrid.read_templates(REAL / "templates")) == 37


@pytest.mark.parametrize(
    "arguments", [["what=1"], ["templates"], [], ["templates=a", "noise=b", "conditions=c"]]
)
def test_wrong_options_are_told(arguments):
    with pytest.raises(SystemExit, match="expected"):
        hybrid.main(arguments)
