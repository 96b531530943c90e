"""The sorter: the same spikes whatever is asked for and however it is cut, at the right sample."""

import logging
import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spikeinterface.core import NumpyRecording

from esort import inference
from esort.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from esort.inference import output_blocks
from esort.postprocess import join_chunks
from esort.recordings import RecordingPath
from esort.sorter import Sorter


@pytest.fixture(scope="module")
def sorter(trained):
    return Sorter.load(trained.checkpoint)


@pytest.fixture(scope="module")
def subject(trained):
    return trained.subject()


@pytest.fixture(scope="module")
def whole(sorter, subject):
    return sorter.sort(subject.recording, num_workers=1)


def arrays(spikes):
    return spikes.sample_index, spikes.unit_index, spikes.probability


def assert_same(spikes, expected):
    for found, wanted in zip(arrays(spikes), arrays(expected), strict=True):
        np.testing.assert_array_equal(found, wanted)


def part_of(spikes, start, stop):
    inside = (spikes.sample_index >= start) & (spikes.sample_index < stop)
    return type(spikes)(*(values[inside] for values in arrays(spikes)))


def in_memory(recording, traces=None, channels=slice(None), positions_um=None, rate=None):
    """A recording like another, with other traces."""
    traces = recording.get_traces() if traces is None else traces
    rate = recording.sampling_frequency if rate is None else rate
    made = NumpyRecording([traces], rate, channel_ids=recording.channel_ids[channels])
    made.set_channel_gains(recording.get_channel_gains()[channels])
    made.set_channel_offsets(recording.get_channel_offsets()[channels])
    if positions_um is None:
        positions_um = recording.get_channel_locations()[channels]
    made.set_dummy_probe_from_locations(positions_um)
    return made


def test_spikes_are_int64_and_in_order(whole, sorter):
    assert whole.spikes.sample_index.dtype == whole.spikes.unit_index.dtype == np.int64
    assert (np.diff(whole.spikes.sample_index) >= 0).all()
    assert len(whole.spikes) > 100
    assert whole.unit_ids == sorter.card.unit_ids
    assert set(whole.seconds) == {"read_filter", "network", "postprocess", "total"}
    assert whole.real_time_factor == pytest.approx(10 / whole.seconds["total"])


@pytest.mark.parametrize("num_workers", [2, 3, None])
def test_same_spikes_for_any_number_of_workers(sorter, subject, whole, num_workers):
    assert_same(sorter.sort(subject.recording, num_workers=num_workers).spikes, whole.spikes)


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(st.lists(st.integers(0, 320_000), min_size=2, max_size=2, unique=True).map(sorted))
def test_a_stretch_has_the_spikes_of_the_whole(sorter, subject, whole, stretch):
    start, stop = stretch
    spikes = sorter.sort(subject.recording, start_sample=start, stop_sample=stop).spikes
    assert_same(spikes, part_of(whole.spikes, start, stop))


def test_a_stretch_that_begins_at_a_spike(sorter, subject, whole):
    sample = int(whole.spikes.sample_index[40])
    for start, stop in ((sample, sample + 1), (sample - 1, sample), (sample + 1, sample + 5)):
        spikes = sorter.sort(subject.recording, start_sample=start, stop_sample=stop).spikes
        assert_same(spikes, part_of(whole.spikes, start, stop))


def test_blocks_join_to_what_one_pass_finds(sorter, subject, whole):
    """Joining loses and doubles nothing: the oracle sees all probabilities at once."""
    probabilities = sorter.outputs(sorter.prepare(subject.recording), 0, subject.num_samples)
    assert probabilities.shape == (subject.num_samples, len(sorter.card.unit_ids))
    detector = sorter.detector()
    at_once = join_chunks([detector.push(probabilities, 0), detector.finish()])
    assert_same(whole.spikes, at_once)


def test_blocks_of_another_length_change_next_to_nothing(sorter, subject, whole, monkeypatch):
    """Not to the bit, the filter's margin is finite; but no spike comes or goes at the joints."""
    monkeypatch.setattr(inference, "BLOCK_S", 0.31)
    other = sorter.sort(subject.recording).spikes
    np.testing.assert_array_equal(other.sample_index, whole.spikes.sample_index)
    np.testing.assert_array_equal(other.unit_index, whole.spikes.unit_index)
    np.testing.assert_allclose(other.probability, whole.spikes.probability, atol=1e-3)


def nearest(found, wanted):
    """Distance of each wanted sample to the nearest one found, with its sign."""
    position = np.clip(np.searchsorted(found, wanted), 1, len(found) - 1)
    left, right = found[position - 1] - wanted, found[position] - wanted
    return np.where(np.abs(left) <= np.abs(right), left, right)


def test_spikes_lie_at_the_right_sample(trained, subject, whole):
    """No constant offset after training; `test_inference` has it to the sample, with a known network."""
    matches = {u["unit_id"]: u["matched_unit_id"] for u in trained.scores["units"] if u["accuracy"] > 0.8}
    assert len(matches) >= 3
    sorting = whole.sorting()
    all_offsets = []
    for true_id, found_id in matches.items():
        wanted = subject.ground_truth.get_unit_spike_train(true_id)
        offsets = nearest(sorting.get_unit_spike_train(found_id), wanted)
        offsets = offsets[np.abs(offsets) < 12]
        assert abs(np.median(offsets)) <= 2  # twenty labels do not say it better
        all_offsets.append(offsets)
    assert abs(np.median(np.concatenate(all_offsets))) <= 1


def loud_spikes(trained, subject, whole, count=5):
    """Samples of found spikes of the best unit, alone in their window."""
    best = max(trained.scores["units"], key=lambda unit: unit["accuracy"])
    unit_index = whole.unit_ids.index(best["matched_unit_id"])
    samples = whole.spikes.sample_index
    alone = np.diff(samples, prepend=-1000) > 400
    alone &= np.diff(samples, append=10**7) > 400
    chosen = samples[alone & (whole.spikes.unit_index == unit_index) & (whole.spikes.probability > 0.9)]
    assert len(chosen) >= count
    return [int(sample) for sample in chosen[:count]], unit_index


@pytest.mark.parametrize("distance", [30, 60])
def test_spikes_in_the_first_and_the_last_window_are_found(trained, sorter, subject, whole, distance):
    samples, unit_index = loud_spikes(trained, subject, whole)
    # Where the end of the recording cuts the spike off, what is left of it does not say its peak as exactly.
    tolerance = 1 if distance >= sorter.network.window_samples else 2
    found = 0
    for sample in samples:
        for start, stop in ((sample - distance, sample + 16000), (sample - 16000, sample + distance)):
            start = max(0, start)
            cut = subject.recording.frame_slice(start_frame=start, end_frame=min(stop, subject.num_samples))
            spikes = sorter.sort(cut).spikes
            offsets = spikes.sample_index[spikes.unit_index == unit_index] + start - sample
            found += bool((np.abs(offsets) <= tolerance).any())
    assert found >= 2 * len(samples) - 1


def test_channels_in_another_order_give_the_same_spikes(sorter, subject, whole):
    order = np.random.default_rng(0).permutation(subject.recording.get_num_channels())
    assert not np.array_equal(order, np.sort(order))
    shuffled = subject.recording.select_channels(subject.recording.channel_ids[order])
    assert_same(sorter.sort(shuffled).spikes, whole.spikes)


def test_recordings_that_do_not_fit(sorter, subject):
    recording = subject.recording
    traces = recording.get_traces()
    with pytest.raises(ValueError, match="the checkpoint is for 4 channels, the recording has 3 channels"):
        sorter.sort(in_memory(recording, traces[:, :3], channels=slice(3)))
    with pytest.raises(ValueError, match="the checkpoint is for 32000 Hz, the recording has 30000 Hz"):
        sorter.sort(in_memory(recording, rate=30000.0))
    moved = recording.get_channel_locations() + np.array([0, 40])
    with pytest.raises(ValueError, match=r"the checkpoint has a contact at .* the recording's nearest is"):
        sorter.sort(in_memory(recording, positions_um=moved))
    short = in_memory(recording, traces[:10, :3], channels=slice(3))
    with pytest.raises(ValueError, match="4 channels, the recording has 3"):
        sorter.sort(short)
    with pytest.raises(ValueError, match=r"expected a stretch inside the recording's \[0, 320000\)"):
        sorter.sort(recording, start_sample=5, stop_sample=320_001)


@pytest.mark.parametrize("num_samples", [1, 33, 59])
def test_shorter_than_a_window(sorter, subject, caplog, num_samples):
    recording = in_memory(subject.recording, subject.recording.get_traces(end_frame=num_samples))
    with caplog.at_level(logging.WARNING):
        result = sorter.sort(recording)
    assert len(result.spikes) == 0
    assert result.sorting().unit_ids.tolist() == list(sorter.card.unit_ids)
    assert f"{num_samples} samples, network and filter need 60: nothing to sort" in caplog.text


def test_empty_stretch(sorter, subject, caplog):
    with caplog.at_level(logging.WARNING):
        result = sorter.sort(subject.recording, start_sample=320_000)
    assert len(result.spikes) == 0
    assert result.real_time_factor == 0
    assert "nothing to sort" in caplog.text


def test_nan_is_located(sorter, subject):
    traces = subject.recording.get_traces().astype(np.float32)
    traces[123_456, 2] = np.nan
    name = subject.recording.channel_ids[2]
    with pytest.raises(ValueError, match=f"traces must be finite, got nan at sample 123456, channel {name}"):
        sorter.sort(in_memory(subject.recording, traces))


def test_thresholds_take_the_place_of_the_cards(sorter, subject, whole):
    counts = [len(sorter.sort(subject.recording, thresholds=t).spikes) for t in (0.2, 0.5, 0.95)]
    assert counts[0] >= counts[1] > counts[2]
    assert_same(sorter.sort(subject.recording, thresholds=sorter.card.thresholds).spikes, whole.spikes)


class Counting:
    """A prepared recording that counts the blocks that were read."""

    def __init__(self, prepared):
        self.prepared = prepared
        self.count = 0
        self.lock = threading.Lock()

    def __getattr__(self, name):
        return getattr(self.prepared, name)

    def stored(self, start_sample, stop_sample):
        with self.lock:
            self.count += 1
        return self.prepared.stored(start_sample, stop_sample)


def test_few_blocks_are_under_way_at_once(sorter, subject):
    counting = Counting(sorter.prepare(subject.recording))
    blocks = output_blocks(sorter.network, counting, 0, subject.num_samples, num_workers=2)
    for taken, _ in enumerate(blocks, 1):
        assert counting.count <= taken + 2
    assert counting.count == taken == 20


def test_progress_sees_every_block_once(sorter, subject):
    seen = []

    def progress(blocks):
        assert len(blocks) == 20
        for block in blocks:
            seen.append(block)
            yield block

    sorter.sort(subject.recording, progress=progress)
    assert seen == list(range(0, 320_000, 16_000))


def test_backbones_and_broken_checkpoints_are_refused(trained, sorter, tmp_path):
    backbone = next((trained.cache / "backbones").glob("*.safetensors"))
    with pytest.raises(CheckpointError, match="expected a checkpoint with units, got a backbone"):
        Sorter.load(backbone)
    card, weights = load_checkpoint(backbone, framework="torch")
    with pytest.raises(ValueError, match="got a backbone: fine-tune it first"):
        Sorter(sorter.network, card)
    card, weights = load_checkpoint(trained.checkpoint, framework="torch")
    weights["head.bias"] = weights["head.bias"][:-1].clone()
    path = tmp_path / "broken.safetensors"
    save_checkpoint(path, weights, card)
    with pytest.raises(CheckpointError, match="head.bias"):
        Sorter.load(path)
    with pytest.raises(FileNotFoundError):
        Sorter.load(tmp_path / "nothing.safetensors")


def test_network_and_card_must_belong_together(trained, sorter):
    card, _ = load_checkpoint(trained.checkpoint, framework="torch")
    fewer = replace(card, unit_ids=card.unit_ids[:-1], thresholds=card.thresholds[:-1])
    with pytest.raises(ValueError, match="network and card differ in channels, units, window"):
        Sorter(sorter.network, fewer)


def test_opened_again_it_is_the_same_recording(trained, sorter, whole):
    recording = RecordingPath(path=trained.run["recording"]).open()
    assert_same(sorter.sort(recording).spikes, whole.spikes)
