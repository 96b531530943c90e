"""Examples against naive loops over the labels, and against what was put into the traces."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_data import make_toy

from esort.examples import ExampleSpec, SpikeExamples
from esort.labels import LabelledSpikes
from esort.windows import Window, cut_windows

PLAIN = ExampleSpec(real_fraction=0.5, rendered_spikes=0.0, pool_size=300)


def make(toy, labels, spec=PLAIN, seed=0, **changes):
    return SpikeExamples(
        toy.traces, labels, window=toy.window, spec=spec, rng=np.random.default_rng(seed), **changes
    )


def make_labels(samples, units, *, num_units, stop, rate=20_000.0, complete=True, start=0):
    return LabelledSpikes(
        sample_index=np.asarray(samples, dtype=np.int64),
        unit_index=np.asarray(units, dtype=np.int64),
        unit_ids=tuple(range(num_units)),
        sampling_frequency=rate,
        start_sample=start,
        stop_sample=stop,
        complete=complete,
    )


def times_as_traces(num_samples, num_channels=1):
    """Traces whose value is their own sample: a window says where it was cut."""
    return np.repeat(np.arange(num_samples, dtype=np.float32)[:, None], num_channels, axis=1)


def centres_of(batch, window):
    return batch.traces[:, window.before_samples, 0].round().astype(int)


def naive(centres, labels, examples):
    """Targets and known, by looking at each label for each window."""
    targets = np.zeros((len(centres), labels.num_units))
    known = np.ones_like(targets)
    first, stop = examples.roomy_interval
    for row, centre in enumerate(centres):
        if centre - examples.guard_samples < first or centre + examples.guard_samples >= stop:
            known[row] = 0
        for unit in range(labels.num_units):
            away = np.abs(labels.sample_index[labels.unit_index == unit] - centre)
            if (away <= examples.jitter_samples).any():
                targets[row, unit] = known[row, unit] = 1
            elif (away <= examples.guard_samples).any():
                known[row, unit] = 0
    return targets, known


def test_same_generator_same_batch():
    toy = make_toy()
    labels = toy.labels(per_unit=5)
    spec = ExampleSpec(pool_size=300)
    examples = make(toy, labels, spec)
    first = examples.batch(np.random.default_rng(5), 30)
    again = make(toy, labels, spec).batch(np.random.default_rng(5), 30)
    other = examples.batch(np.random.default_rng(6), 30)
    for a, b, c in zip(first, again, other, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_array_equal(a, b)
        assert a.shape == c.shape
    assert not np.array_equal(first.traces, other.traces)
    assert first.traces.shape == (30, toy.window.samples, 8)
    assert first.targets.shape == first.known.shape == (30, 3)


@pytest.mark.parametrize("rate", [20_000.0, 30_000.0, 32_000.0])
def test_times_are_given_in_ms(rate):
    toy = make_toy(rate=rate, seconds=1.0)
    examples = make(toy, toy.labels())
    assert examples.jitter_samples == round(0.16e-3 * rate)
    assert examples.guard_samples == round(0.25e-3 * rate)
    assert examples.shift_samples == toy.window.samples // 3
    assert examples.waveforms.shape[1] == toy.window.samples + 2 * examples.shift_samples
    assert PLAIN.room(toy.window, rate) == toy.window.widened(examples.shift_samples + examples.guard_samples)


@pytest.mark.parametrize("complete", [True, False])
def test_the_peak_of_a_positive_lies_within_the_jitter(complete):
    toy = make_toy(noise=0.01)
    per_unit = None if complete else 8
    labels = toy.labels(per_unit=per_unit, complete=complete)
    examples = make(toy, labels, ExampleSpec(real_fraction=1.0, pool_size=50))
    batch = examples.batch(np.random.default_rng(0), 300)
    assert batch.targets.any(axis=1).all()
    offsets = []
    for traces, targets in zip(batch.traces, batch.targets, strict=True):
        for unit in np.flatnonzero(targets):
            channel = np.abs(toy.waveforms[unit]).max(axis=0).argmax()
            expected = toy.waveforms[unit][:, channel]
            peak = expected.argmin()
            near = traces[peak - 6 : peak + 7, channel]
            if targets.sum() == 1 and near.min() == pytest.approx(expected.min(), rel=0.02):
                offsets.append(near.argmin() - 6)
    assert len(offsets) > 200
    jitter = examples.jitter_samples
    assert (min(offsets), max(offsets)) == (-jitter, jitter)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 40), num_units=st.integers(1, 4))
def test_complete_labels_against_a_loop(seed, count, num_units):
    rng = np.random.default_rng(seed)
    window = Window(before_samples=5, samples=12)
    stop = 400
    samples = np.sort(rng.integers(30, 330, count))
    labels = make_labels(samples, rng.integers(0, num_units, count), num_units=num_units, stop=stop)
    traces = times_as_traces(stop)
    waveforms = np.zeros((num_units, window.samples + 2 * 5, 1), dtype=np.float32)
    examples = SpikeExamples(
        traces, labels, window=window, spec=PLAIN, rng=np.random.default_rng(seed), waveforms=waveforms
    )
    batch = examples.batch(np.random.default_rng(seed + 1), 60)
    centres = centres_of(batch, window)
    targets, known = naive(centres, labels, examples)
    np.testing.assert_array_equal(batch.targets, targets)
    np.testing.assert_array_equal(batch.known, known)
    assert batch.targets[:30].any(axis=1).all()  # the real ones
    assert (batch.known >= batch.targets).all()


def test_annotated_time_is_known_but_between_near_and_far():
    toy = make_toy(seconds=4.0)
    labels = toy.labels(complete=True)
    batch = make(toy, labels).batch(np.random.default_rng(0), 200)
    assert batch.known.mean() > 0.95
    assert (batch.known[batch.targets == 1] == 1).all()


def test_a_spike_next_to_the_rim_is_not_called_silence():
    """A label without room around it is left out; a window that shows its spike must not deny it."""
    window = Window(before_samples=5, samples=12)
    traces = times_as_traces(300)
    waveforms = np.zeros((2, window.samples + 10, 1), dtype=np.float32)
    probe = make_labels([100], [0], num_units=2, stop=300)
    first, stop = SpikeExamples(
        traces, probe, window=window, spec=PLAIN, rng=np.random.default_rng(0), waveforms=waveforms
    ).roomy_interval
    labels = make_labels([first - 1, first, stop - 1, stop], [0, 1, 1, 0], num_units=2, stop=300)
    examples = SpikeExamples(
        traces, labels, window=window, spec=PLAIN, rng=np.random.default_rng(0), waveforms=waveforms
    )
    assert examples.labels.num_spikes == 2  # of unit 1
    batch = examples.batch(np.random.default_rng(0), 40)
    real = slice(0, 20)
    assert (batch.targets[real, 1] == 1).all()
    assert (batch.known[real, 0] == 0).all()


@pytest.mark.parametrize("where", ["first", "last"])
def test_a_unit_whose_only_label_just_has_room_is_kept(where):
    toy = make_toy(num_units=1, seconds=1.0)
    room = PLAIN.room(toy.window, toy.rate)
    stop = len(toy.traces)
    sample = room.before_samples if where == "first" else stop - room.after_samples
    labels = make_labels([sample], [0], num_units=1, stop=stop, complete=False)
    assert labels.with_room(room.before_samples, room.after_samples).num_spikes == 1
    batch = make(toy, labels).batch(np.random.default_rng(0), 20)
    assert np.isfinite(batch.traces).all()
    assert (batch.targets[:10, 0] == 1).all()


def test_nothing_is_claimed_where_an_unlabelled_spike_lies():
    toy = make_toy(seconds=4.0)
    labels = toy.labels(per_unit=6)
    examples = make(toy, labels, ExampleSpec(pool_size=3000))
    label_set = set(zip(labels.sample_index, labels.unit_index, strict=True))
    unlabelled = [
        (sample, unit)
        for sample, unit in zip(toy.sample_index, toy.unit_index, strict=True)
        if (sample, unit) not in label_set
    ]
    assert len(unlabelled) > 30
    checked = 0
    for sample, unit in unlabelled:
        near = np.abs(examples.pool - sample) <= examples.guard_samples
        assert not examples.pool_known[near, unit].any()
        checked += near.sum()
        beside = np.abs(labels.sample_index - sample) <= examples.guard_samples
        assert not examples.labels_known[beside, unit].any()
    assert checked > 10
    # yet most of the background is known to be silent, or nothing could be learned
    all_spikes = np.sort(toy.sample_index)
    right = np.searchsorted(all_spikes, examples.pool)
    gaps = np.minimum(
        np.abs(examples.pool - all_spikes[np.minimum(right, all_spikes.size - 1)]),
        np.abs(examples.pool - all_spikes[np.maximum(right - 1, 0)]),
    )
    silent = gaps > toy.window.samples
    assert silent.sum() > 100
    assert examples.pool_known[silent].mean() > 0.9


def test_a_batch_denies_no_unlabelled_spike():
    toy = make_toy(seconds=4.0, noise=0.5)
    labels = toy.labels(per_unit=6)
    spec = ExampleSpec(real_fraction=0.5, rendered_spikes=0.0, pool_size=2000)
    examples = make(toy, labels, spec)
    places = np.sort(toy.sample_index)[20:60]
    # windows right at spikes, most of them unlabelled
    places = places[(places > 200) & (places < len(toy.traces) - 200)]
    examples.pool, examples.pool_known = places, examples._cannot_hold(places)
    batch = examples.batch(np.random.default_rng(0), 100)
    for traces, targets, known in zip(batch.traces[50:], batch.targets[50:], batch.known[50:], strict=True):
        matches = np.flatnonzero((toy.traces[:, 0][None] == traces[toy.window.before_samples, 0])[0])
        (centre,) = matches
        near = np.abs(toy.sample_index - centre) <= examples.guard_samples
        for unit in toy.unit_index[near]:
            assert targets[unit] == 1 or known[unit] == 0


def test_rendered_spikes_are_waveforms_at_known_times():
    toy = make_toy(num_units=2, seconds=1.0)
    spec = ExampleSpec(real_fraction=0.0, rendered_spikes=1.0, amplitude_spread=0.0, pool_size=50)
    silent = np.zeros_like(toy.traces)
    wide = toy.window.widened(toy.window.samples // 3)
    rng = np.random.default_rng(1)
    waveforms = rng.normal(size=(2, wide.samples, toy.traces.shape[1])).astype(np.float32)
    examples = SpikeExamples(
        silent,
        toy.labels(complete=True),
        window=toy.window,
        spec=spec,
        rng=np.random.default_rng(0),
        waveforms=waveforms,
    )
    # no labelled spike lies near the pool: all that is in a window was put there
    places = examples.pool
    far = np.abs(places[:, None] - toy.sample_index[None]).min(axis=1) > examples.guard_samples
    examples.pool = places[far]
    batch = examples.batch(np.random.default_rng(2), 200)
    shift_samples, samples = examples.shift_samples, toy.window.samples
    empty = single = near = 0
    for traces, targets, known in zip(*batch, strict=True):
        if not traces.any():
            empty += 1
            assert not targets.any()
            assert known.all()
            continue
        for unit in range(2):
            for shift in range(-shift_samples, shift_samples + 1):
                start = shift_samples - shift
                if np.array_equal(traces, waveforms[unit, start : start + samples]):
                    single += 1
                    near += abs(shift) <= examples.jitter_samples
                    assert targets[unit] == (abs(shift) <= examples.jitter_samples)
                    between = examples.jitter_samples < abs(shift) <= examples.guard_samples
                    assert known[unit] == (not between)
                    assert targets[1 - unit] == 0
                    assert known[1 - unit] == 1
    assert empty == pytest.approx(200 * np.exp(-1), abs=25)  # Poisson
    assert single == pytest.approx(200 * np.exp(-1), abs=25)
    assert near > single / 2


def test_a_rendered_spike_is_never_upside_down():
    toy = make_toy(num_units=1, num_channels=1, seconds=1.0)
    spec = ExampleSpec(real_fraction=0.0, rendered_spikes=1.0, amplitude_spread=1.0, pool_size=50)
    wide = toy.window.widened(toy.window.samples // 3)
    examples = SpikeExamples(
        np.zeros_like(toy.traces),
        toy.labels(complete=True),
        window=toy.window,
        spec=spec,
        rng=np.random.default_rng(0),
        waveforms=-np.ones((1, wide.samples, 1), dtype=np.float32),
    )
    traces = examples.batch(np.random.default_rng(0), 300).traces
    assert traces.max() <= 0
    assert traces[traces < 0].max() <= -spec.match_ratio


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("start", [0, 4000])
def test_nothing_beyond_the_labelled_time_is_read(complete, start):
    toy = make_toy(seconds=3.0)
    stop = 40_000
    per_unit = None if complete else 4
    labels = toy.labels(per_unit=per_unit, start=start, stop=stop, complete=complete)
    clean = make(toy, labels, ExampleSpec(pool_size=3000))
    toy.traces[stop:] = np.nan
    toy.traces[:start] = np.nan
    poisoned = make(toy, labels, ExampleSpec(pool_size=3000))
    assert np.isfinite(poisoned.waveforms).all()
    for seed in range(5):
        batch = poisoned.batch(np.random.default_rng(seed), 200)
        for values, expected in zip(batch, clean.batch(np.random.default_rng(seed), 200), strict=True):
            assert np.isfinite(values).all()
            np.testing.assert_array_equal(values, expected)
    # the pool reaches the limits of what it may use
    first, last = poisoned.roomy_interval
    assert first <= poisoned.pool.min() < first + 200
    assert last - 200 < poisoned.pool.max() < last


def test_parts_of_a_batch():
    toy = make_toy(seconds=2.0)
    labels = toy.labels(complete=True)
    for fraction, size in ((0.0, 10), (1.0, 10), (0.25, 10), (0.5, 7)):
        spec = ExampleSpec(real_fraction=fraction, rendered_spikes=0.0, pool_size=100)
        batch = make(toy, labels, spec).batch(np.random.default_rng(0), size)
        assert len(batch.traces) == size
        assert batch.targets[: round(fraction * size)].any(axis=1).all()


def test_one_label_one_unit_one_channel():
    toy = make_toy(num_units=1, num_channels=1, seconds=1.0)
    examples = make(toy, toy.labels(per_unit=1), ExampleSpec(pool_size=100))
    batch = examples.batch(np.random.default_rng(0), 16)
    assert np.isfinite(batch.traces).all()
    assert (batch.targets[:8] == 1).all()


def test_a_waveform_of_zeros_matches_nothing():
    toy = make_toy(num_units=1, seconds=1.0)
    toy.traces[:] = 0
    examples = make(toy, toy.labels(per_unit=1), ExampleSpec(pool_size=100))
    assert examples.pool_known.all()


def test_waveforms_of_others_may_be_used_for_validation():
    toy = make_toy(num_units=2, seconds=2.0)
    train = make(toy, toy.labels())
    one = make_labels([500], [0], num_units=2, stop=len(toy.traces), complete=False)
    validation = make(toy, one, ExampleSpec(pool_size=100), waveforms=train.waveforms)
    assert validation.batch(np.random.default_rng(0), 200).targets[100:].any(axis=0).all()
    with pytest.raises(ValueError, match="a labelled spike of each unit, got none of: 1"):
        make(toy, one)


def test_background_places_come_from_the_pool():
    toy = make_toy(seconds=1.0)
    examples = make(toy, toy.labels())
    places = examples.background_places(np.random.default_rng(0), 1000)
    assert set(places) <= set(examples.pool)
    assert cut_windows(toy.traces, places, toy.window).shape[0] == 1000


def test_too_little_labelled_time():
    toy = make_toy(seconds=1.0, num_units=1)
    room = PLAIN.room(toy.window, toy.rate)
    for length, fits in ((room.samples, True), (room.samples - 1, False)):
        labels = make_labels([room.before_samples], [0], num_units=1, stop=length)
        if fits:
            assert make(toy, labels).batch(np.random.default_rng(0), 4).traces.shape[0] == 4
        else:
            with pytest.raises(ValueError, match=rf"at least {room.samples} samples, got \[0, {length}\)"):
                make(toy, labels)


def test_no_label_with_room():
    toy = make_toy(seconds=1.0, num_units=1)
    labels = make_labels([3], [0], num_units=1, stop=len(toy.traces))
    with pytest.raises(ValueError, match="where a window fits around them, got none"):
        make(toy, labels)


@pytest.mark.parametrize(
    ("name", "value", "limits"),
    [
        ("jitter_ms", -0.1, r"\[0, 1\]"),
        ("guard_ms", 0.1, r"\[0.16, 2\]"),
        ("real_fraction", 1.1, r"\[0, 1\]"),
        ("rendered_spikes", 6, r"\[0, 5\]"),
        ("amplitude_spread", float("nan"), r"\[0, 1\]"),
        ("match_ratio", "much", r"\[0, 1\]"),
        ("match_ratio", True, r"\[0, 1\]"),
        ("pool_size", 0, r"\[1, 10000000\]"),
    ],
)
def test_limits(name, value, limits):
    with pytest.raises(ValueError, match=f"{name} must be a number in {limits}, got"):
        ExampleSpec(**{name: value})


def test_pool_size_is_whole():
    with pytest.raises(ValueError, match="pool_size must be a whole number, got 1.5"):
        ExampleSpec(pool_size=1.5)
