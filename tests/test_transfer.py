"""Starting from a backbone of the same probe and rate, of others, and of the plainer design."""

import logging

import numpy as np
import pytest
import torch
from test_checkpoint import make_card

from esort.checkpoint import load_checkpoint, save_checkpoint
from esort.network import NetworkSpec, build_network
from esort.transfer import start_from_backbone
from esort.waveform_prior import WaveformPrior

RATE = 32_000.0
POSITIONS = np.array([[0.0, 0.0], [16.0, 0.0], [0.0, 20.0]])
SMALL = {"temporal_features": [3, 4], "hidden_features": 5}
DENSE = NetworkSpec(name="dense", parameters=SMALL)
RECURRENT = NetworkSpec(name="convrecurrent", window_ms=3.75, peak_ms=1.6875, parameters=SMALL)


def built(spec, *, rate=RATE, num_channels=3, num_units=2):
    parameters = spec.hyper_parameters(
        sampling_frequency=rate, num_channels=num_channels, num_units=num_units
    )
    return build_network(spec.name, parameters), parameters


@pytest.fixture
def backbone(tmp_path):
    """Filters that look like spikes: nothing in them is faster than 6 kHz."""
    torch.manual_seed(0)
    network, parameters = built(DENSE)
    times_ms = (np.arange(60) - 24) / RATE * 1000
    smooth = [np.exp(-((times_ms - shift) ** 2) / 0.02) for shift in (-0.1, 0.0, 0.3)]
    with torch.no_grad():
        network.filters.weight.copy_(torch.tensor(np.array(smooth)))
    card = make_card(
        network="dense",
        network_parameters=parameters | {"num_units": 1},
        contact_positions_um=POSITIONS.tolist(),
        unit_ids=(),
        thresholds=(),
        labels=None,
        peak_offset_samples=24,
    )
    path = tmp_path / "backbone.safetensors"
    save_checkpoint(path, network.backbone(), card)
    return path


def started(spec, path, *, rate=RATE, positions=POSITIONS):
    torch.manual_seed(1)
    network, parameters = built(spec, rate=rate, num_channels=len(positions))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    start_from_backbone(
        network,
        path,
        name=spec.name,
        hyper_parameters=parameters,
        sampling_frequency=rate,
        contact_positions_um=np.asarray(positions, dtype=float),
    )
    return network, before


def taken(network, before):
    return {
        name.split(".")[0]
        for name, value in network.state_dict().items()
        if value.shape != before[name].shape or not torch.equal(value, before[name])
    }


def test_the_same_probe_takes_all(backbone, caplog):
    caplog.set_level(logging.INFO)
    network, before = started(DENSE, backbone)
    assert taken(network, before) >= {"filters", "features", "mixing"}
    assert "from the backbone without" not in caplog.text


@pytest.mark.parametrize("positions", [POSITIONS[::-1], POSITIONS * 2, POSITIONS[:2]])
def test_what_mixes_channels_is_for_its_probe_only(backbone, positions, caplog):
    caplog.set_level(logging.INFO)
    network, before = started(DENSE, backbone, positions=positions)
    assert {"filters", "features"} <= taken(network, before)
    assert "mixing" not in taken(network, before)
    assert "from the backbone without mixing.weight" in caplog.text


@pytest.mark.parametrize("rate", [15_000.0, 20_000.0, 30_000.0, 50_000.0])
@pytest.mark.parametrize("spec", [DENSE, RECURRENT], ids=lambda spec: spec.name)
def test_a_waveform_gets_the_same_answer_at_another_rate(backbone, rate, spec):
    def answers(network, rate):
        times_ms = (np.arange(300) - 150) / rate * 1000
        wave = -np.exp(-(times_ms**2) / 0.03) + 0.3 * np.exp(-((times_ms - 0.4) ** 2) / 0.1)
        with torch.no_grad():
            features = network.eval().temporal(torch.tensor(wave, dtype=torch.float32)[None, :, None])
        return features[0].amax(0).numpy()

    reference = answers(started(DENSE, backbone)[0], RATE)
    assert reference.max() > 0.1
    found = answers(started(spec, backbone, rate=rate)[0], rate)
    np.testing.assert_allclose(found, reference, atol=0.05 * reference.max())


def test_a_recurrent_network_starts_as_the_dense_one(backbone):
    dense, _ = started(DENSE, backbone)
    recurrent, before = started(RECURRENT, backbone)
    assert {"filters", "features", "mixing"} <= taken(recurrent, before)
    recurrent.head.load_state_dict(dense.head.state_dict())
    traces = torch.randn(1, 200, 3)
    margin = recurrent.margin_samples
    with torch.no_grad():
        inner = dense.eval()(traces[:, margin : 200 - margin])
        torch.testing.assert_close(recurrent.eval()(traces), inner)


def test_what_a_backbone_knows_of_waveforms_comes_along(backbone, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    card, weights = load_checkpoint(backbone)
    prior = WaveformPrior(times_ms=np.arange(3.0), moments=np.ones((8, 3, 3)))
    keywords = {
        "name": "dense",
        "hyper_parameters": built(DENSE)[1],
        "sampling_frequency": RATE,
        "contact_positions_um": POSITIONS,
    }
    assert start_from_backbone(built(DENSE)[0], backbone, **keywords) is None
    path = tmp_path / "knows.safetensors"
    save_checkpoint(path, weights | prior.to_weights(), card)
    found = start_from_backbone(built(DENSE)[0], path, **keywords)
    np.testing.assert_array_equal(found.moments, prior.moments)
    assert "from the backbone without" not in caplog.text
    save_checkpoint(path, weights | {"waveform_prior.moments": np.ones((8, 3, 3))}, card)
    with pytest.raises(ValueError, match=r"knows\.safetensors: a prior over waveforms must have times,"):
        start_from_backbone(built(DENSE)[0], path, **keywords)


@pytest.mark.parametrize(
    ("spec", "rate", "message"),
    [
        (NetworkSpec(name="pursuit"), RATE, "a backbone of network dense, expected one of network pursuit"),
        (
            DENSE,
            100_000.0,
            "a backbone for 32000 Hz, expected one within a factor of 3 of the recording's 100000 Hz",
        ),
        (
            NetworkSpec(name="dense", window_ms=2.0, parameters=SMALL),
            RATE,
            "a backbone with window_samples=60, expected one with window_samples=64",
        ),
        (
            NetworkSpec(name="dense", window_ms=2.5, parameters=SMALL),
            20_000.0,
            "a backbone with window_samples=60, expected one with window_samples=50",
        ),
        (
            NetworkSpec(name="convrecurrent", window_ms=3.0, peak_ms=1.5, parameters=SMALL),
            RATE,
            "a backbone with window_samples=60, expected one with window_samples=48",
        ),
    ],
)
def test_what_does_not_fit_is_refused(backbone, spec, rate, message):
    with pytest.raises(ValueError, match=message):
        started(spec, backbone, rate=rate)
