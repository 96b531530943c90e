"""An exported pursuit: the very spikes of the package's solver, those of the sorter, no PyTorch needed."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_export import ONLY_WHAT_THE_EXAMPLE_NAMES

from esort import export, onnx_pursuit
from esort.checkpoint import load_checkpoint, save_checkpoint
from esort.onnx_pursuit import PursuitExport
from esort.postprocess import ConflictTable
from esort.postprocess.conflicts import MOST_SCORE
from esort.postprocess.stepwise import StepSizes, StepwiseSolver
from esort.pursuit.onnx_competition import OUTSIDE
from esort.pursuit.onnx_parts import model_of
from esort.pursuit.onnx_solver import SCORES, SPIKES, competition_constants, competition_nodes
from esort.sorter import Sorter

ROOT = Path(__file__).parents[1]


def session_of(content):
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


NUM_UNITS, LAG, PHASES, STRIDE = 4, 6, 4, 3
ENERGY, EXCLUSION, ROUNDS = 40.0, 4, 5
SIZES = StepSizes(step=16, ahead=10, behind=3, epoch=96, warm_up=32)


def conflicts():
    """Neighbours overlap, some more than themselves, and some lower what others do not."""
    pairs = np.array(
        [(a, b) for a in range(NUM_UNITS) for b in range(NUM_UNITS) if 0 <= b - a <= 1 or a == 3]
    )
    rng = np.random.default_rng(0)
    lags = np.arange(-LAG, LAG + 1)
    offsets = (np.arange(PHASES) + 0.5) / PHASES - 0.5
    size = np.where(pairs[:, 0] == pairs[:, 1], ENERGY, rng.normal(0, ENERGY / 2, len(pairs)))
    shape = np.exp(-(((lags - offsets[:, None]) / 2) ** 2)) * np.cos((lags - offsets[:, None]) / 1.5)
    return ConflictTable.from_pairs(NUM_UNITS, pairs, (size[:, None, None] * shape).astype(np.float32))


@pytest.fixture(scope="module", params=["competing", "alone", "forgetful"])
def competition(request):
    """Competition without a network: float32 scores (N, U) to spikes, by the model and by the package."""
    table = None if request.param == "alone" else conflicts()
    # Without a warm-up many spikes of an epoch are too close to what the one before has told.
    sizes = replace(SIZES, epoch=32, warm_up=0) if request.param == "forgetful" else SIZES
    chosen = {
        "thresholds": [9.0, 8.0, 10.0, 6.0],
        "energies": [ENERGY, ENERGY / 3, 2 * ENERGY, 1e-3],
        "sizes": sizes,
        "exclusion_samples": EXCLUSION,
        "max_rounds": ROUNDS,
        "amplitude_limits": (0.7, 1.4),
        "stride": STRIDE,
    }
    constants, num_rows = competition_constants(table, NUM_UNITS, **chosen)
    nodes, functions = competition_nodes()
    scale = constants.pop("scale")
    model = model_of(
        nodes,
        functions,
        name="competition",
        inputs={SCORES: (np.int32, ("epochs", num_rows, NUM_UNITS))},
        outputs={SPIKES: (np.int64, (5, "spikes"))},
        constants=constants,
    )
    session = session_of(model.SerializeToString())

    def solve(scores):
        count = len(scores)
        fixed = np.rint(np.clip(scores * scale, -MOST_SCORE, MOST_SCORE)).astype(np.int32)
        padded = np.full((num_rows + count, NUM_UNITS), OUTSIDE, dtype=np.int32)
        padded[sizes.warm_up : sizes.warm_up + count] = fixed
        epochs = [padded[start : start + num_rows] for start in range(0, count, sizes.epoch)]
        epoch, sample, unit, score, _ = session.run(None, {SCORES: np.stack(epochs)})[0]
        found = np.stack([epoch * sizes.epoch * STRIDE + sample, unit, score.astype(np.float32)])
        solver = StepwiseSolver(table, **chosen)
        parts = (solver.push(scores), solver.finish())
        sample, unit, score = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("sample_index", "unit_index", "probability")
        )
        expected = np.stack([sample, unit, score * scale])
        return tuple(values[:, np.lexsort(values[::-1])] for values in (found, expected))

    return solve


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 400),
    st.integers(0, 2**31),
    # Few levels make ties and plateaus, high ones epochs where no round is the last.
    st.sampled_from([(3, 12.0), (8, 40.0), (10**6, 25.0), (10**6, 3000.0)]),
)
def test_spikes_are_those_of_the_solver(competition, num_rows, seed, levels):
    number, highest = levels
    rng = np.random.default_rng(seed)
    steps = rng.integers(0, number + 1, (num_rows, NUM_UNITS))
    scores = (highest * (2 * steps / number - 1)).astype(np.float32)
    found, expected = competition(scores)
    np.testing.assert_array_equal(found, expected)


@pytest.fixture(scope="module")
def model(trained_pursuit, tmp_path_factory):
    """Written by the command line."""
    output = tmp_path_factory.mktemp("export") / "pursuit.onnx"
    assert export.main([f"checkpoint={trained_pursuit.checkpoint}", f"output={output}"]) == 0
    return output


@pytest.fixture(scope="module")
def sorter(trained_pursuit):
    return Sorter.load(trained_pursuit.checkpoint)


def read_chunks(session, traces_uv, sorter, epochs):
    """Spikes of chunks of so many epochs, as a reader cuts them."""
    reading = json.loads(session.get_modelmeta().custom_metadata_map["esort_export"])
    length, stop = epochs * reading["epoch_samples"], len(traces_uv)
    before = sorter.card.peak_offset_samples
    after = sorter.card.window_samples - before - 1
    found = []
    for start in range(0, stop, length):
        end = min(stop, start + length)
        first = max(0, start - reading["before_samples"])
        last = min(stop, end + reading["after_samples"])
        low, high = max(0, first - before), min(stop, last + after)
        beyond = ((low - first + before, last + after - high), (0, 0))
        part = np.pad(traces_uv[low:high], beyond, mode="edge").astype(np.float32)
        found.append(session.run(None, {"traces_uv": part[None], "stretch": np.array([first, start, end])}))
    return [np.concatenate(column) for column in zip(*found, strict=True)]


def test_the_example_sorts_without_torch(model, sorter, trained_pursuit, tmp_path):
    recording = trained_pursuit.subject().recording
    order = sorter.channel_order(recording)
    recording = recording.select_channels(recording.channel_ids[order])
    traces, [gain_uv] = recording.get_traces(), set(recording.get_channel_gains())
    assert traces.dtype == np.int16
    traces.tofile(tmp_path / "traces.raw")
    example = str(ROOT / "examples" / "sort_with_onnx.py")
    program = f"{ONLY_WHAT_THE_EXAMPLE_NAMES}\nrunpy.run_path({example!r}, run_name='__main__')"
    arguments = [str(model), str(tmp_path / "traces.raw"), str(gain_uv), str(tmp_path / "spikes.npz")]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    expected = sorter.sort(recording, num_workers=1).spikes
    assert len(expected) > 100
    found = np.load(tmp_path / "spikes.npz")
    names = [str(unit_id) for unit_id in sorter.card.unit_ids]
    unit_index = np.array([names.index(str(unit_id)) for unit_id in found["unit_id"]])
    # At most one in a thousand may be another, for sums in another order; here not one is.
    np.testing.assert_array_equal(found["sample_index"], expected.sample_index)
    np.testing.assert_array_equal(unit_index, expected.unit_index)
    np.testing.assert_allclose(found["probability"], expected.probability, rtol=0, atol=1e-4)


def test_chunks_equal_the_whole(model, sorter, trained_pursuit):
    recording = trained_pursuit.subject().recording
    traces_uv = recording.frame_slice(0, 150_001).get_traces(return_in_uV=True)
    session = session_of(model)
    whole = read_chunks(session, traces_uv, sorter, 100)
    assert len(whole[0]) > 50
    for epochs in (1, 2):
        for part, all_at_once in zip(read_chunks(session, traces_uv, sorter, epochs), whole, strict=True):
            np.testing.assert_array_equal(part, all_at_once)
    assert (np.diff(whole[0] * 1000 + whole[1]) > 0).all()  # by sample, then unit


@pytest.mark.parametrize("num_samples", [1, 7, 1000])
def test_short_and_silent_traces(model, sorter, num_samples):
    silence = np.zeros((num_samples, sorter.card.num_channels))
    sample, unit, heights = read_chunks(session_of(model), silence, sorter, 1)
    assert len(sample) == len(unit) == len(heights) == 0
    assert (sample.dtype, unit.dtype, heights.dtype) == (np.int64, np.int64, np.float32)


def test_the_file_describes_itself_and_nothing_else(model, sorter, trained_pursuit):
    session = session_of(model)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["esort"]) == json.loads(json.dumps(sorter.card.to_dict()))
    reading = json.loads(metadata["esort_export"])
    assert reading["max_rounds"] == 12
    assert reading["follows"] is False
    assert reading["chunk_samples"] % reading["epoch_samples"] == 0
    shapes = {entry.name: entry.shape for entry in session.get_inputs()}
    assert shapes == {"traces_uv": [1, "num_samples", 4], "stretch": [3]}
    assert [entry.name for entry in session.get_outputs()] == ["sample_index", "unit_index", "heights"]
    content = model.read_bytes()
    for trace in (b".py", str(ROOT).encode(), str(trained_pursuit.folder).encode()):
        assert trace not in content
    onnx.checker.check_model(onnx.load(model), full_check=True)


def saved_with(checkpoint, path, **changes):
    card, weights = load_checkpoint(checkpoint)
    save_checkpoint(path, weights, replace(card, **changes))
    return path


def test_a_checkpoint_that_follows_is_exported_at_rest(trained_pursuit, sorter, tmp_path, caplog):
    parameters = sorter.card.network_parameters | {"follows": True}
    path = saved_with(
        trained_pursuit.checkpoint, tmp_path / "follows.safetensors", network_parameters=parameters
    )
    result = export.export_onnx(path, tmp_path / "follows.onnx")
    assert "follows.safetensors follows the motion of the tissue, the exported model does not" in caplog.text
    assert result.different <= 1e-3
    metadata = session_of(result.path).get_modelmeta().custom_metadata_map
    reading = json.loads(metadata["esort_export"])
    assert (reading["follows"], reading["checkpoint_follows"]) == (False, True)


def test_units_alone_and_rounds_are_as_asked_for(trained_pursuit, tmp_path):
    alone = {"refractory_ms": 1.0, "smoothing_ms": 0.4, "competition": False}
    path = saved_with(trained_pursuit.checkpoint, tmp_path / "alone.safetensors", postprocess=alone)
    export.export_onnx(path, tmp_path / "alone.onnx")  # is checked there
    arguments = [f"checkpoint={path}", f"output={tmp_path / 'one.onnx'}", "rounds=1"]
    assert export.main(arguments) == 0
    metadata = session_of(tmp_path / "one.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(metadata["esort_export"])["max_rounds"] == 1


@pytest.mark.parametrize(
    ("limit", "message"),
    [("_TOLERANCE", "scores must be within -1"), ("_MOST_DIFFERENT", None)],
)
def test_a_model_that_differs_is_not_written(sorter, monkeypatch, limit, message):
    export_of = PursuitExport(sorter)
    content = export_of.model().SerializeToString()
    monkeypatch.setattr(onnx_pursuit, limit, -1)
    if message is None:
        assert export_of.check(content)[1] == 0  # one spike is never too many
    else:
        with pytest.raises(ValueError, match=message):
            export_of.check(content)


def test_a_model_of_other_units_is_found_out(sorter):
    export_of = PursuitExport(sorter)
    model = export_of.model()
    for value in model.graph.initializer:
        if value.name == "kernels":
            value.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(value) // 2, "kernels"))
    with pytest.raises(ValueError, match="spikes differ from the sorter's on the very same scores"):
        export_of.check(model.SerializeToString())
