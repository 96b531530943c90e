"""An exported network: the same numbers as PyTorch, the same spikes as the package, no PyTorch needed."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probeinterface import Probe
from spikeinterface.core import NumpyRecording

from esort import export, onnx_dense
from esort.checkpoint import Card, load_checkpoint, save_checkpoint
from esort.detector import UnitTables
from esort.network import SpikeNetwork, build_network
from esort.onnx_graph import SpikeGraph
from esort.postprocess import ConflictTable, accept_mask, detect_spikes
from esort.sorter import Sorter

ROOT = Path(__file__).parents[1]
RATE = 16000.0
NUM_CHANNELS, NUM_UNITS, WINDOW, PEAK = 4, 3, 30, 12
GAIN_UV = 0.5
PARAMETERS = {
    "num_channels": NUM_CHANNELS,
    "num_units": NUM_UNITS,
    "window_samples": WINDOW,
    "peak_offset_samples": PEAK,
    "temporal_features": [3, 5],
    "hidden_features": 8,
}
POSITIONS_UM = np.array([[0.0, 20.0 * channel] for channel in range(NUM_CHANNELS)])

# Units that lower each other, as calibration finds them; half of what looks like 0.5 is true.
TABLES = UnitTables(
    pairs=np.array([[0, 2], [2, 0], [2, 1]]),
    kernels=np.outer([0.6, 0.3, 0.2], np.hanning(11)).astype(np.float32),
    reliability=np.array([[0.0, 0.5, 1.0], [0.0, 0.25, 1.0]], dtype=np.float32),
)


def make_card(**changes):
    values = {
        "network": "dense",
        "network_parameters": PARAMETERS,
        "sampling_frequency": RATE,
        "contact_positions_um": POSITIONS_UM,
        "channel_ids": [f"AP{channel}" for channel in range(NUM_CHANNELS)],
        "unit_ids": ["a", "b", 7],
        "window_ms": 1000 * WINDOW / RATE,
        "window_samples": WINDOW,
        "peak_offset_samples": PEAK,
        "preprocessing": {
            "freq_min_hz": 300.0,
            "freq_max_hz": 6000.0,
            "common_reference": "median",
            "filter_order": 5,
        },
        "noise_level_uv": [8.0, 10.0, 12.0, 9.0],
        "thresholds": [0.4, 0.5, 0.6],
        "postprocess": {"smoothing_ms": 0.3, "refractory_ms": 1.0, "competition": True},
    }
    return Card(**values | changes)


def stored_traces(num_samples, seed=0):
    """Noise with bumps of many amplitudes: int16 (N, C)."""
    rng = np.random.default_rng(seed)
    traces = rng.normal(0, 20, (num_samples, NUM_CHANNELS))
    bump = -np.hanning(20)[:, None]
    for start in rng.integers(0, num_samples - 20, num_samples // 120):
        traces[start : start + 20] += bump * rng.uniform(0, 400, NUM_CHANNELS)
    return np.round(traces).astype(np.int16)


def make_recording(traces):
    recording = NumpyRecording([traces], sampling_frequency=RATE)
    recording.set_channel_gains(GAIN_UV)
    recording.set_channel_offsets(0.0)
    probe = Probe(ndim=2, si_units="um")
    probe.set_contacts(positions=POSITIONS_UM, shapes="circle", shape_params={"radius": 5})
    probe.set_device_channel_indices(np.arange(NUM_CHANNELS))
    recording.set_probe(probe)
    return recording


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A network whose outputs are worth detecting in, without training: random, then spread over (0, 1)."""
    torch.manual_seed(3)
    network = build_network("dense", PARAMETERS)
    card = make_card()
    # Running statistics of real traces, so that folding has something to fold.
    sorter = Sorter(network, card)
    traces = torch.from_numpy(sorter.prepare(make_recording(stored_traces(8000))).traces(0, 8000)[None])
    network.train()
    with torch.no_grad():
        for _ in range(50):
            network(traces)
        network.eval()
        logits = network(traces)[0]  # (N, U)
        network.head.weight *= (3 / logits.std(dim=0))[:, None]
        network.head.bias[:] = (network.head.bias - logits.mean(dim=0)) * 3 / logits.std(dim=0) - 2
    path = tmp_path_factory.mktemp("export") / "units.safetensors"
    save_checkpoint(path, network.state_dict() | TABLES.to_weights(), card)
    return path


@pytest.fixture(scope="module")
def model(checkpoint):
    """The same as ONNX, written by the command line."""
    output = checkpoint.with_name("units.onnx")
    assert export.main([f"checkpoint={checkpoint}", f"output={output}"]) == 0
    return output


@pytest.fixture(scope="module")
def session(model):
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def sorter(checkpoint):
    return Sorter.load(checkpoint)


def assert_nearly_same(sample_index, unit_index, spikes):
    """Probabilities that differ by 1e-6 give the same spikes, but for few at a flat top: one sample off.

    A sigmoid in float32 saturates at 1: there the last bit decides which sample is the highest.
    """
    np.testing.assert_array_equal(unit_index, spikes.unit_index)
    moved = np.abs(sample_index - spikes.sample_index)
    assert moved.max(initial=0) <= 1
    assert np.count_nonzero(moved) <= len(moved) / 100


@pytest.mark.parametrize("num_samples", [WINDOW, WINDOW + 1, WINDOW + 15, WINDOW + 16, 1000, 12345])
def test_probabilities_and_spikes_are_those_of_pytorch(session, sorter, num_samples):
    card = sorter.card
    recording = make_recording(stored_traces(num_samples + 200, 1))
    traces = sorter.prepare(recording).traces(100, num_samples + 100)
    with torch.inference_mode():
        expected = sorter.network(torch.from_numpy(traces[None]))[0].sigmoid().numpy()
    traces_uv = (traces * np.asarray(card.noise_level_uv)).astype(np.float32)
    probabilities, accepted, heights = session.run(None, {"traces_uv": traces_uv[None]})
    assert probabilities.shape == expected.shape == (num_samples - WINDOW + 1, NUM_UNITS)
    assert (probabilities.dtype, accepted.dtype, heights.dtype) == (np.float32, np.bool_, np.float32)
    np.testing.assert_allclose(probabilities, expected, rtol=0, atol=1e-5)

    options = {
        "sampling_frequency": RATE,
        "thresholds": list(card.thresholds),
        "smoothing_ms": 0.3,
        "refractory_ms": 1.0,
        "conflicts": TABLES.conflicts(NUM_UNITS),
    }
    sample, unit = np.nonzero(accepted)
    spikes = detect_spikes(probabilities, **options)
    np.testing.assert_array_equal(sample, spikes.sample_index)
    np.testing.assert_array_equal(unit, spikes.unit_index)
    np.testing.assert_array_equal(heights[accepted], spikes.probability)
    assert not heights[~accepted].any()
    assert_nearly_same(sample, unit, detect_spikes(expected, **options))
    if num_samples > 10000:
        assert np.bincount(unit, minlength=NUM_UNITS).min() > 5


def test_what_does_not_fit_is_refused(session):
    for shape in ((1, WINDOW - 1, NUM_CHANNELS), (1, 100, NUM_CHANNELS + 1), (2, 100, NUM_CHANNELS)):
        with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument):
            session.run(None, {"traces_uv": np.zeros(shape, dtype=np.float32)})


class Passed(SpikeNetwork):
    """Logits in, logits out: what comes after the network, alone."""

    def forward(self, traces):
        return traces[:, 1:]

    def folded(self):
        return self


HALF_WIDTH, EXCLUSION, ROUNDS = 2, 10, 4
# Each unit lowers the other, and the second itself.
PAIRS, KERNELS = (
    np.array([[0, 1], [1, 0], [1, 1]]),
    np.outer([0.5, 0.9, 0.1], np.hanning(7)).astype(np.float32),
)


@pytest.fixture(scope="module", params=["alone", pytest.param("competing", marks=pytest.mark.slow)])
def rounds_alone(request):
    """Post-processing of 2 units without a network: session, and the same by the package."""
    network = Passed(num_channels=2, num_units=2, window_samples=2, peak_offset_samples=0)
    thresholds = (0.3, 0.5)
    table = like_torch = None
    if request.param == "competing":
        table = ConflictTable.from_pairs(2, PAIRS, KERNELS)
        like_torch = ConflictTable.from_pairs(2, torch.from_numpy(PAIRS), torch.from_numpy(KERNELS))
    graph = SpikeGraph(
        network,
        noise_level_uv=(1.0, 1.0),
        thresholds=thresholds,
        half_width_samples=HALF_WIDTH,
        exclusion_samples=EXCLUSION,
        max_rounds=ROUNDS,
        conflicts=like_torch,
    )
    content = onnx_dense.traced(graph.eval()).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def check(wanted):
        """Compare on probabilities (N, 2); return the number of accepted and of undecided nodes."""
        logits = np.log(wanted) - np.log1p(-wanted)
        logits = np.concatenate([np.zeros((1, 2)), logits]).astype(np.float32)
        probabilities, accepted, heights = session.run(None, {"traces_uv": logits[None]})
        rounds = {"exclusion_samples": EXCLUSION, "max_rounds": ROUNDS, "conflicts": table}
        expected, _, undecided = accept_mask(
            probabilities, np.array(thresholds, dtype=np.float32), half_width_samples=HALF_WIDTH, **rounds
        )
        spikes = detect_spikes(
            probabilities,
            sampling_frequency=1000.0,
            thresholds=list(thresholds),
            smoothing_ms=2 * HALF_WIDTH - 1,
            refractory_ms=EXCLUSION,
            max_rounds=ROUNDS,
            conflicts=table,
        )
        np.testing.assert_array_equal(accepted, expected)
        np.testing.assert_array_equal(
            np.nonzero(accepted), np.stack([spikes.sample_index, spikes.unit_index])
        )
        np.testing.assert_array_equal(heights[accepted], spikes.probability)
        return accepted.sum(), undecided.sum()

    return check


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 200),
    st.integers(0, 2**31),
    # Few levels make plateaus and ties.
    st.sampled_from([2, 5, 1000]),
)
def test_rounds_are_those_of_the_package(rounds_alone, num_samples, seed, levels):
    steps = np.random.default_rng(seed).integers(1, levels + 1, (num_samples, 2))
    rounds_alone(steps / (levels + 1))


def test_rounds_end_where_those_of_the_package_end(rounds_alone):
    # Ever lower peaks, each within the exclusion of the one before: every round decides two of them.
    probabilities = np.full((400, 2), 0.01)
    peaks = np.arange(5, 400, 6)
    probabilities[peaks, 0] = np.linspace(0.99, 0.8, len(peaks))
    num_accepted, num_undecided = rounds_alone(probabilities)
    assert num_accepted == ROUNDS
    assert num_undecided > 0


def test_the_file_describes_itself_and_nothing_else(model, session, sorter, checkpoint):
    metadata = session.get_modelmeta().custom_metadata_map
    assert Card.from_dict(json.loads(metadata["esort"])) == load_checkpoint(checkpoint)[0]
    reading = json.loads(metadata["esort_export"])
    assert reading["max_rounds"] == 16
    assert reading["margin_samples"] == sorter.detector().margin_samples
    np.testing.assert_array_equal(reading["reliability"], TABLES.reliability)
    assert reading["min_samples"] == WINDOW
    assert [entry.shape for entry in session.get_inputs()] == [[1, "num_samples", NUM_CHANNELS]]
    shapes = {entry.name: entry.shape for entry in session.get_outputs()}
    assert shapes == {name: ["num_windows", NUM_UNITS] for name in ("probabilities", "accepted", "heights")}
    content = model.read_bytes()
    for trace in (b".py", str(ROOT).encode(), str(checkpoint.parent).encode()):
        assert trace not in content
    onnx.checker.check_model(onnx.load(model), full_check=True)


# SciPy looks torch up in sys.modules, so that a None there would break SciPy.
ONLY_WHAT_THE_EXAMPLE_NAMES = """
import runpy, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "esort", "spikeinterface", "probeinterface", "onnx", "onnxscript"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


def test_the_example_sorts_without_torch(model, sorter, tmp_path):
    traces = stored_traces(round(2.7 * RATE), 2)
    traces.tofile(tmp_path / "traces.raw")
    example = str(ROOT / "examples" / "sort_probabilities_with_onnx.py")
    program = f"{ONLY_WHAT_THE_EXAMPLE_NAMES}\nrunpy.run_path({example!r}, run_name='__main__')"
    arguments = [str(model), str(tmp_path / "traces.raw"), str(GAIN_UV), str(tmp_path / "spikes.npz")]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    expected = sorter.sort(make_recording(traces), num_workers=1).spikes
    found = np.load(tmp_path / "spikes.npz")
    assert len(expected) > 100
    assert done.stdout.endswith(f": {len(expected)} spikes of 3 units\n")
    unit_index = [["a", "b", "7"].index(unit_id) for unit_id in found["unit_id"]]
    assert_nearly_same(found["sample_index"], unit_index, expected)
    one_step = 2.0**-12  # probabilities are rounded to that
    np.testing.assert_allclose(found["probability"], expected.probability, rtol=0, atol=one_step)


@pytest.mark.slow  # traces the model once more
def test_a_failed_check_leaves_the_old_file(checkpoint, tmp_path, monkeypatch, capsys):
    output = tmp_path / "units.onnx"
    output.write_bytes(b"old")
    monkeypatch.setattr(onnx_dense, "TOLERANCE", -1.0)
    assert export.main([f"checkpoint={checkpoint}", f"output={output}"]) == 1
    assert "cannot be exported: probabilities must be within -1.0 of PyTorch's" in capsys.readouterr().err
    assert output.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "checkpoint is missing"),
        (["checkpoint=a.safetensors"], "output is missing"),
        (["checkpoint=a.safetensors", "output=b.onnx", "opset=17"], "unknown argument 'opset=17'"),
        (["a.safetensors", "b.onnx"], "unknown argument 'a.safetensors'"),
        (["checkpoint=", "output=b.onnx"], "unknown argument 'checkpoint='"),
        (["checkpoint=a", "checkpoint=b", "output=b.onnx"], "checkpoint must be given once"),
        (["checkpoint=a", "output=b.onnx", "rounds=0"], "rounds must be from 1 to 1000, got 0"),
        (["checkpoint=a", "output=b.onnx", "rounds=few"], "rounds must be from 1 to 1000, got few"),
        (["checkpoint=absent.safetensors", "output=b.onnx"], "absent.safetensors, which does not exist"),
        (["checkpoint=absent.safetensors", "output=b.pt"], "output must end in .onnx, got b.pt"),
        (["checkpoint=absent.safetensors", "output=folder.onnx"], "got the folder folder.onnx"),
    ],
)
def test_mistakes_get_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.onnx").mkdir()
    assert export.main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("esort.export: ")
    assert error.count("\n") == 1


def test_exclusive_pairs_are_refused():
    pairs = ConflictTable.from_pairs(2, torch.tensor([[0, 1]]), exclusive_samples=3)
    network = Passed(num_channels=2, num_units=2, window_samples=2, peak_offset_samples=0)
    rounds = {"half_width_samples": 1, "exclusion_samples": 1, "max_rounds": 1}
    with pytest.raises(ValueError, match="must be kernels without exclusive pairs"):
        SpikeGraph(network, noise_level_uv=(1, 1), thresholds=(0.5, 0.5), conflicts=pairs, **rounds)


def test_a_missing_package_is_named_with_the_remedy(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert export.main([f"checkpoint={checkpoint}", f"output={tmp_path / 'units.onnx'}"]) == 1
    assert "needs onnxscript; install by: pip install 'esort[export]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unit_ids": (), "thresholds": ()}, "got a backbone: fine-tune it first"),
        ({"thresholds": (0.5, 0.0, 0.5)}, r"thresholds must be \(0, 1\], got 0.0 for unit 1"),
        ({"noise_level_uv": ()}, "noise_level_uv must have one value for each of 4 channels, got 0"),
    ],
)
def test_checkpoints_that_cannot_be_exported(checkpoint, tmp_path, changes, message):
    card, weights = load_checkpoint(checkpoint)
    save_checkpoint(tmp_path / "odd.safetensors", weights, replace(card, **changes))
    with pytest.raises(ValueError, match=message):
        export.export_onnx(tmp_path / "odd.safetensors", tmp_path / "odd.onnx")
    assert not (tmp_path / "odd.onnx").exists()


def test_rounds_are_the_pursuits(checkpoint, tmp_path):
    with pytest.raises(ValueError, match="rounds are the pursuit's, got rounds=3 for dense"):
        export.export_onnx(checkpoint, tmp_path / "dense.onnx", rounds=3)


def test_importing_the_command_line_is_light():
    program = "import sys, esort.export; sys.exit(bool({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", program], check=True)
