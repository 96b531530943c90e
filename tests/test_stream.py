"""Streaming: the same integers as offline, for blocks of any length; what is missing or wrong is said."""

import logging
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esort.sorter import Sorter
from esort.stream import StreamingSorter

NUM_SAMPLES = 96_000


@pytest.fixture(scope="module")
def recording(trained_pursuit):
    return trained_pursuit.subject().recording.frame_slice(start_frame=0, end_frame=NUM_SAMPLES)


@pytest.fixture(scope="module")
def sorters(trained_pursuit, trained):
    return {"pursuit": Sorter.load(trained_pursuit.checkpoint), "dense": Sorter.load(trained.checkpoint)}


@pytest.fixture(scope="module")
def offline(sorters, recording):
    return {name: arrays(sorter.sort(recording).spikes) for name, sorter in sorters.items()}


@pytest.fixture(scope="module")
def traces(recording):
    return recording.get_traces()


def arrays(*pieces):
    columns = [
        np.concatenate([getattr(spikes, name) for spikes in pieces])
        for name in ("sample_index", "unit_index", "probability")
    ]
    order = np.lexsort((columns[1], columns[0]))
    return [column[order] for column in columns]


def assert_same(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def pieces_of(stream, traces, lengths):
    """Push blocks of these lengths, over and over; yield what came out, and what had been pushed."""
    start = 0
    while start < len(traces):
        for length in lengths:
            yield stream.push(traces[start : start + length]), min(start + length, len(traces))
            start += length


def streamed(stream, traces, lengths):
    pieces = [spikes for spikes, _ in pieces_of(stream, traces, lengths)]
    return arrays(*pieces, stream.finish())


@pytest.mark.parametrize("name", ["pursuit", "dense"])
@settings(max_examples=8, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(1, 40_000), min_size=1, max_size=5).filter(lambda x: sum(x) > 150))
def test_same_spikes_as_offline_for_blocks_of_any_length(sorters, recording, traces, offline, name, lengths):
    assert len(offline[name][0]) > 50
    assert_same(streamed(StreamingSorter.like(sorters[name], recording), traces, lengths), offline[name])


@pytest.mark.parametrize("name", ["pursuit", "dense"])
def test_ten_milliseconds_at_a_time(sorters, recording, traces, offline, name):
    stream = StreamingSorter.like(sorters[name], recording)
    assert_same(streamed(stream, traces, [320]), offline[name])
    assert_same(streamed(stream, traces, [320]), [offline[name][0] + NUM_SAMPLES, *offline[name][1:]])


@pytest.mark.parametrize("name", ["pursuit", "dense"])
def test_health_is_that_of_offline(sorters, recording, traces, name):
    stream, result = StreamingSorter.like(sorters[name], recording), sorters[name].sort(recording)
    streamed(stream, traces, [3_000, 11])
    assert stream.health.minutes == result.fitness(sorters[name].tables.baseline, range(4)).minutes
    assert len(stream.unknown) == len(result.unknown)
    assert stream.health.minutes[0].num_spikes == len(result.spikes)
    assert result.minutes.num_fits.any() == (name == "pursuit")


@pytest.mark.parametrize("name", ["pursuit", "dense"])
def test_no_spike_comes_later_than_the_stated_latency(sorters, recording, traces, offline, name):
    stream = StreamingSorter.like(sorters[name], recording)
    latency_samples = round(stream.latency.total_ms * stream.sampling_frequency / 1000)
    found = []
    for spikes, pushed in pieces_of(stream, traces[:48_000], [100]):
        found.append(spikes)
        due = int((offline[name][0] <= pushed - latency_samples - 1).sum())
        assert sum(map(len, found)) >= due


def test_the_latency_of_the_pursuit_is_short_and_said(sorters):
    latency = StreamingSorter(sorters["pursuit"]).latency
    assert latency.total_ms == pytest.approx(
        latency.filter_ms + latency.window_ms + latency.decision_ms + latency.blanking_ms, abs=1e-9
    )
    assert latency.total_ms < 25
    assert str(latency).startswith("a spike is certain at most ")
    assert "block 500.0" in str(StreamingSorter(sorters["dense"]).latency)


def test_samples_beyond_two_to_the_31(sorters, recording, traces, offline):
    stream = StreamingSorter.like(sorters["pursuit"], recording)
    far = 2**33 + 5
    pieces = [stream.push(traces[:50_000], far), stream.push(traces[50_000:]), stream.finish()]
    found = arrays(*pieces)
    assert found[0].dtype == np.int64
    assert_same(found, [offline["pursuit"][0] + far, *offline["pursuit"][1:]])


def test_a_gap_is_counted_and_both_sides_are_sorted_on_their_own(sorters, recording, traces, caplog):
    sorter = sorters["pursuit"]
    stream = StreamingSorter.like(sorter, recording)
    parts = [(0, 30_001), (33_333, NUM_SAMPLES)]
    expected = []
    for start, stop in parts:
        spikes = sorter.sort(recording.frame_slice(start_frame=start, end_frame=stop)).spikes
        expected.append([spikes.sample_index + start, spikes.unit_index, spikes.probability])
    with caplog.at_level(logging.WARNING):
        found = [stream.push(traces[start:stop], start) for start, stop in parts]
    assert "samples 30001 to 33333 are missing: sorting begins anew behind them" in caplog.text
    assert (stream.gaps, stream.missing_samples) == (1, 3_332)
    assert_same(
        arrays(*found, stream.finish()),
        [np.concatenate(columns) for columns in zip(*expected, strict=True)],
    )


def test_floats_in_microvolts_and_channels_in_another_order(sorters, recording, traces, offline):
    sorter = sorters["pursuit"]
    order = np.array([2, 0, 3, 1])
    shuffled = recording.select_channels(recording.channel_ids[order])
    found = streamed(StreamingSorter.like(sorter, shuffled), traces[:, order], [5_000])
    assert_same(found, offline["pursuit"])
    microvolts = traces * recording.get_channel_gains().astype(np.float32) + recording.get_channel_offsets()
    found = streamed(StreamingSorter(sorter), microvolts.astype(np.float32), [5_000])
    np.testing.assert_array_equal(found[0], offline["pursuit"][0])


def test_a_stream_shorter_than_a_window_has_no_spikes(sorters, recording, traces):
    stream = StreamingSorter.like(sorters["pursuit"], recording)
    assert len(stream.push(traces[:300])) == len(stream.finish()) == len(stream.finish()) == 0


def test_nothing_is_kept_of_the_past(sorters, recording, traces):
    stream = StreamingSorter.like(sorters["pursuit"], recording)
    for _ in pieces_of(stream, traces, [320]):
        assert stream._stretch.num_held < 4_000


def test_blocks_that_do_not_fit_are_refused_and_not_taken(sorters, recording, traces, offline):
    stream = StreamingSorter.like(sorters["pursuit"], recording)
    found = [stream.push(traces[:40_000])]
    with pytest.raises(ValueError, match=r"expected a block of shape \(samples, 4 channels\), got \(10, 3\)"):
        stream.push(traces[:10, :3])
    with pytest.raises(ValueError, match=r"expected a block of shape \(samples, 4 channels\), got \(40,\)"):
        stream.push(np.zeros(40))
    with pytest.raises(ValueError, match="expected a block of int16 as the blocks before, got float32"):
        stream.push(traces[40_000:].astype(np.float32))
    with pytest.raises(ValueError, match="expected a block of integers or real numbers, got complex64"):
        stream.push(traces[40_000:].astype(np.complex64))
    with pytest.raises(ValueError, match="expected a block from sample 40000 on, got one from 39999 on"):
        stream.push(traces[40_000:], 39_999)
    found += [stream.push(traces[40_000:40_000]), stream.push(traces[40_000:]), stream.finish()]
    assert_same(arrays(*found), offline["pursuit"])


def test_nan_is_located_in_the_stream(sorters):
    stream = StreamingSorter(sorters["pursuit"])
    block = np.zeros((50, 4), dtype=np.float32)
    stream.push(block, 1000)
    block[7, 2] = np.nan
    with pytest.raises(ValueError, match="traces must be finite, got nan at sample 1057, channel 2"):
        stream.push(block)


def test_contacts_of_another_probe(sorters, recording):
    moved = recording.get_channel_locations() + np.array([0, 40])
    with pytest.raises(ValueError, match="the checkpoint has a contact at"):
        StreamingSorter(sorters["pursuit"], contact_positions_um=moved)
    with pytest.raises(ValueError, match="the checkpoint is for 4 channels, the recording has 3"):
        StreamingSorter.like(sorters["pursuit"], recording.select_channels(recording.channel_ids[:3]))
    with pytest.raises(FileNotFoundError, match="expected a checkpoint file"):
        StreamingSorter(Path("nowhere.safetensors"))


def test_the_code_of_the_page_runs(trained_pursuit, tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[1] / "docs" / "streaming.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "model.safetensors").symlink_to(trained_pursuit.checkpoint)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "streaming.md", "exec"), {"block": np.zeros((50, 4))})  # noqa: S102 (our own page)
    assert "a spike is certain at most 20.7 ms after its peak" in capsys.readouterr().out
