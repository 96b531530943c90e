"""Windows and mean waveforms against loops and known waveforms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_data import make_toy

from esort.labels import LabelledSpikes
from esort.windows import Window, cut_windows, mean_waveforms


@settings(max_examples=50, deadline=None)
@given(data=st.data(), samples=st.integers(1, 20))
def test_windows_against_a_loop(data, samples):
    window = Window(before_samples=data.draw(st.integers(0, samples - 1)), samples=samples)
    traces = np.arange(120, dtype=np.float32).reshape(60, 2)
    places = data.draw(st.lists(st.integers(window.before_samples, 60 - window.after_samples), max_size=5))
    found = cut_windows(traces, np.array(places, dtype=np.int64), window)
    assert found.shape == (len(places), samples, 2)
    assert found.dtype == np.float32
    for row, place in enumerate(places):
        for offset in range(samples):
            assert (found[row, offset] == traces[place - window.before_samples + offset]).all()


def test_a_window_is_a_copy_and_may_come_from_a_memory_map(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(20, dtype=np.float32).reshape(10, 2))
    traces = np.load(tmp_path / "a.npy", mmap_mode="r")
    windows = cut_windows(traces, np.array([5]), Window(before_samples=1, samples=3))
    windows += 1
    assert traces[4, 0] == 8


@pytest.mark.parametrize(("place", "span"), [(1, "-1 to 3"), (9, "7 to 11")])
def test_windows_beyond_the_traces_are_refused(place, span):
    window = Window(before_samples=2, samples=4)
    with pytest.raises(ValueError, match=f"inside the 10 samples of the traces, got {span}"):
        cut_windows(np.zeros((10, 1), dtype=np.float32), np.array([place]), window)
    for limit in (2, 8):  # the last ones that fit
        cut_windows(np.zeros((10, 1), dtype=np.float32), np.array([limit]), window)


def test_window():
    window = Window(before_samples=3, samples=10)
    assert window.after_samples == 7
    assert window.widened(2) == Window(before_samples=5, samples=14)
    for before in (-1, 10):
        with pytest.raises(ValueError, match=f"inside the window's 10 samples, got {before}"):
            Window(before_samples=before, samples=10)


@pytest.mark.parametrize(("per_unit", "tolerance"), [(1, 4.0), (4, 2.2), (10, 1.8), (None, 1.3)])
def test_known_waveforms_are_recovered_within_the_noise(per_unit, tolerance):
    toy = make_toy(num_units=3, seconds=6.0)
    labels = toy.labels(per_unit=per_unit)
    found = mean_waveforms(toy.traces, labels, toy.window)
    assert found.shape == toy.waveforms.shape
    for unit_index, count in enumerate(labels.counts()):
        # where it kept a channel, the estimate is off by no more than what noise leaves of a mean
        kept = np.abs(found[unit_index]).max(axis=0) > 0
        error = (found - toy.waveforms)[unit_index][:, kept]
        assert np.abs(error).max() < tolerance * 3 / np.sqrt(min(count, 10))
        strong = np.abs(toy.waveforms[unit_index]).max(axis=0) > 5
        assert kept[strong].all()
        assert np.abs(found[unit_index]).max(axis=1).argmax() == pytest.approx(
            toy.window.before_samples, abs=1
        )


def test_channels_without_signal_are_silent():
    toy = make_toy(num_units=1, num_channels=16, seconds=6.0)
    (found,) = mean_waveforms(toy.traces, toy.labels(), toy.window)
    absent = np.abs(toy.waveforms[0]).max(axis=0) < 0.01
    assert absent.sum() >= 6
    assert (np.abs(found[:, absent]).max(axis=0) == 0).mean() > 0.9


def test_other_units_spikes_do_not_bend_the_waveform():
    rng = np.random.default_rng(0)
    toy = make_toy(num_units=1, num_channels=4, seconds=4.0)
    labels = toy.labels()
    clean = mean_waveforms(toy.traces, labels, toy.window)
    # every third spike collides with a spike three times as large
    traces = toy.traces.copy()
    for sample in labels.sample_index[::3]:
        begin = sample - toy.window.before_samples + rng.integers(-8, 9)
        traces[begin : begin + toy.window.samples] += 3 * toy.waveforms[0]
    bent = mean_waveforms(traces, labels, toy.window)
    plain = np.mean(
        [traces[s - toy.window.before_samples :][: toy.window.samples] for s in labels.sample_index], 0
    )
    assert np.abs(bent - clean).max() < 0.5 * np.abs(plain - clean[0]).max()


def test_a_unit_that_drowns_keeps_its_best_channel():
    toy = make_toy(num_units=1, num_channels=4, seconds=1.0)
    noise = np.random.default_rng(1).standard_normal(toy.traces.shape).astype(np.float32)
    (found,) = mean_waveforms(noise, toy.labels(per_unit=1), toy.window)
    assert (np.abs(found).max(axis=0) > 0).sum() >= 1


def test_only_some_of_very_many_spikes_are_read():
    toy = make_toy(num_units=1, seconds=1.0)
    samples = np.arange(100, 15_000)
    labels = LabelledSpikes(
        sample_index=samples,
        unit_index=np.zeros_like(samples),
        unit_ids=("a",),
        sampling_frequency=toy.rate,
        start_sample=0,
        stop_sample=20_000,
        complete=False,
    )
    assert np.isfinite(mean_waveforms(toy.traces, labels, toy.window)).all()


def test_a_unit_without_labels_is_named():
    toy = make_toy(num_units=2, seconds=1.0)
    labels = toy.labels()
    only = labels.unit_index == 0
    one = LabelledSpikes(
        sample_index=labels.sample_index[only],
        unit_index=labels.unit_index[only],
        unit_ids=labels.unit_ids,
        sampling_frequency=toy.rate,
        start_sample=0,
        stop_sample=labels.stop_sample,
        complete=False,
    )
    with pytest.raises(ValueError, match="a labelled spike of each unit, got none of: u1"):
        mean_waveforms(toy.traces, one, toy.window)
