import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from spikeinterface.core import NumpyRecording, NumpySorting, generate_ground_truth_recording

from esort.footprints import Footprints, estimate_footprints
from esort.report import plot_accuracy, plot_curve, plot_probe, plot_reliability, plot_traces
from esort.style import COLORS, picture
from esort.tracking import Tracker

RATE = 32000.0


@pytest.fixture(scope="module")
def simulated():
    return generate_ground_truth_recording(
        durations=[1.0], num_channels=16, num_units=6, seed=0, sampling_frequency=RATE
    )


def count_color(path, name):
    """Count the pixels of a picture that have one of the colours of the palette."""
    pixels = imread(path)[..., :3]
    return int((np.abs(pixels - to_rgb(COLORS[name])).max(axis=-1) < 0.02).sum())


def test_a_picture_is_whole_or_absent(tmp_path):
    with pytest.raises(ValueError, match="halfway"), picture(tmp_path / "a.png", width_in=1, height_in=1):
        raise ValueError("halfway")
    assert list(tmp_path.iterdir()) == []
    with picture(tmp_path / "a.png", width_in=2, height_in=1) as figure:
        figure.subplots()
    assert imread(tmp_path / "a.png").shape[:2] == (150, 300)


def test_traces_show_hits_misses_and_false_spikes_in_their_colours(tmp_path, simulated):
    recording, truth = simulated
    units = {unit_id: truth.get_unit_spike_train(unit_id) for unit_id in truth.unit_ids}
    perfect = plot_traces(
        recording, truth, tmp_path / "perfect.png", start_s=0.2, duration_s=0.5, ground_truth=truth
    )
    inside = sum(int(((train >= 6400) & (train < 22400)).sum()) for train in units.values())
    assert perfect == {"hit": inside}

    shifted = {unit_id: np.sort(train + 40) for unit_id, train in units.items()}
    wrong = NumpySorting.from_unit_dict([shifted], RATE)
    counts = plot_traces(
        recording, wrong, tmp_path / "wrong.png", start_s=0.2, duration_s=0.5, ground_truth=truth
    )
    assert counts["miss"] + counts.get("hit", 0) == inside
    assert counts["false"] > 0.8 * inside
    # The legend has some of each colour in any case.
    count = {
        (name, color): count_color(tmp_path / f"{name}.png", color)
        for name in ("perfect", "wrong")
        for color in ("green", "vermilion", "blue")
    }
    assert count["perfect", "green"] > 5 * count["wrong", "green"]
    assert count["wrong", "vermilion"] > 5 * count["perfect", "vermilion"]
    assert count["wrong", "blue"] > 5 * count["perfect", "blue"]


def test_traces_without_truth_and_with_chosen_channels(tmp_path, simulated):
    recording, truth = simulated
    counts = plot_traces(recording, truth, tmp_path / "a.png", start_s=0, duration_s=0.3)
    assert counts["found"] > 0
    few = plot_traces(
        recording, truth, tmp_path / "b.png", start_s=0, duration_s=0.3, channel_ids=recording.channel_ids[:3]
    )
    assert few.get("found", 0) < counts["found"]


def test_traces_of_an_empty_sorting(tmp_path, simulated):
    recording, _ = simulated
    empty = NumpySorting.from_unit_dict([{}], RATE)
    assert plot_traces(recording, empty, tmp_path / "a.png", start_s=0) == {}
    assert (tmp_path / "a.png").exists()


def test_a_stretch_outside_the_recording_is_refused(tmp_path, simulated):
    recording, truth = simulated
    with pytest.raises(ValueError, match=r"expected a stretch within 0 to 1 s, got 0.99 to 1.03 s"):
        plot_traces(recording, truth, tmp_path / "a.png", start_s=0.99)


def score(unit_id, accuracy):
    return {
        "unit_id": unit_id,
        "accuracy": accuracy,
        "precision": accuracy,
        "recall": accuracy,
        "num_spikes": 100,
    }


@pytest.mark.parametrize("num_units", [0, 1, 30])
@pytest.mark.parametrize("with_ratio", [False, True])
def test_accuracy_of_any_number_of_units(tmp_path, num_units, with_ratio):
    units = [score(f"#{number}", number / 30) for number in range(num_units)]
    scores = {"pooled_accuracy": None, "mean_accuracy": 0.5, "units": units}
    ratio = (
        {unit["unit_id"]: 1.0 + 5 * number for number, unit in enumerate(units[1:])} if with_ratio else None
    )
    plot_accuracy(scores, tmp_path / "a.png", signal_to_noise=ratio)
    assert imread(tmp_path / "a.png").shape[1] == 9 * 150


def test_learning_curves_from_the_metrics_of_a_run(tmp_path):
    with Tracker(tmp_path) as tracker:
        for step in range(200):
            tracker.metrics({"train/loss": 1.0 / (step + 1), "train/accuracy": 0.5}, step)
        tracker.metrics({"val/loss": float("nan")}, 0)
        tracker.metrics({"val/loss": 0.5}, 10)
    plot_curve(tmp_path / "metrics.csv", tmp_path / "two.png")
    plot_curve(tmp_path / "metrics.csv", tmp_path / "one.png", names=["train/loss", "val/loss"])
    assert imread(tmp_path / "two.png").shape[1] == 2 * imread(tmp_path / "one.png").shape[1]
    assert count_color(tmp_path / "one.png", "blue") > 10
    assert count_color(tmp_path / "one.png", "vermilion") > 10


def test_curves_that_are_not_there_are_refused(tmp_path):
    with Tracker(tmp_path) as tracker:
        tracker.metrics({"test/accuracy": 0.5}, 0)
    with pytest.raises(ValueError, match=r"expected metrics over steps, got \['test/accuracy'\]"):
        plot_curve(tmp_path / "metrics.csv", tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"expected metrics \['loss'\], got \['test/accuracy'\]"):
        plot_curve(tmp_path / "metrics.csv", tmp_path / "a.png", names=["loss"])


def test_footprints_find_where_units_are():
    rng = np.random.default_rng(0)
    traces_uv = rng.normal(0, 5, size=(32000, 4)).astype(np.float32)
    spikes = np.arange(500, 31000, 300)
    waveform = -np.exp(-((np.arange(-20, 21) / 5.0) ** 2))
    for spike in spikes:
        traces_uv[spike - 20 : spike + 21] += waveform[:, None] * np.array([0, 40, 100, 40])
    recording = NumpyRecording([traces_uv], RATE)
    recording.set_dummy_probe_from_locations(np.array([[0, 0], [0, 20], [0, 40], [0, 60]], dtype=float))
    sorting = NumpySorting.from_unit_dict([{"a": spikes, "silent": np.array([], dtype=np.int64)}], RATE)
    found = estimate_footprints(recording, sorting, start_sample=0, stop_sample=32000)
    assert found.unit_ids == ("a",)
    assert found.channel_index.tolist() == [2]
    np.testing.assert_allclose(found.positions_um, [[0, 40]], atol=1)
    np.testing.assert_allclose(found.amplitudes_uv[0, 1:], [40, 100, 40], atol=4)
    np.testing.assert_allclose(found.noise_uv, 5, rtol=0.2)
    assert found.signal_to_noise["a"] == pytest.approx(20, rel=0.2)
    part = estimate_footprints(recording, sorting, start_sample=-100, stop_sample=99_999, max_spikes=5)
    assert part.channel_index.tolist() == [2]


@pytest.mark.parametrize("num_rows", [2, 200])
def test_a_probe_short_or_long(tmp_path, num_rows):
    contacts = np.array([[x, 20.0 * row] for row in range(num_rows) for x in (0, 32)])
    templates = np.zeros((2, 5, len(contacts)), dtype=np.float32)
    templates[0, 2, 0] = -80
    templates[1, 2, -1] = -40
    footprints = Footprints(
        unit_ids=("a", 2),
        templates_uv=templates,
        noise_uv=np.full(len(contacts), 5.0),
        contact_positions_um=contacts,
    )
    plot_probe(footprints, tmp_path / "a.png")
    assert (
        np.ptp(imread(tmp_path / "a.png")[..., :3], axis=-1) > 0.3
    ).any()  # units have a colour, contacts none
    plot_probe(footprints, tmp_path / "b.png", values={"a": 0.9})
    assert imread(tmp_path / "b.png").shape[1] > 600


def test_reliability_is_drawn_whatever_the_spikes_are(tmp_path):
    rng = np.random.default_rng(0)
    probability = rng.random(500)
    plot_reliability(probability, rng.random(500) < probability, tmp_path / "many.png")
    plot_reliability(np.array([0.9]), np.array([True]), tmp_path / "one.png")
    for name in ("many.png", "one.png"):
        assert count_color(tmp_path / name, "blue") > 20


def test_reliability_without_spikes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected at least 1 spike to draw reliability, got 0"):
        plot_reliability(np.zeros(0), np.zeros(0, dtype=bool), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
