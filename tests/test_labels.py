"""Label budgets: limits, draws that do not depend on each other, and what happens at the edges."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esort.labels import LabelBudget, LabelledSpikes, select_labels


def draw(samples, units, unit_ids, kind, amount, *, seed=0, start=0, stop=10_000):
    return select_labels(
        samples,
        units,
        unit_ids,
        budget=LabelBudget(kind=kind, amount=amount),
        sampling_frequency=1000.0,
        start_sample=start,
        stop_sample=stop,
        rng=np.random.default_rng(seed),
    )


def as_set(labels):
    names = [labels.unit_ids[unit] for unit in labels.unit_index]
    return set(zip(labels.sample_index.tolist(), names, strict=True))


@pytest.fixture
def spikes():
    rng = np.random.default_rng(3)
    samples = np.sort(rng.choice(10_000, 300, replace=False))
    return samples, rng.integers(4, size=300)


@pytest.mark.parametrize(
    ("kind", "amount", "limits"),
    [
        ("proportional", 0, "a number in (0, 1]"),
        ("proportional", 1.5, "a number in (0, 1]"),
        ("proportional", "abc", "a number in (0, 1]"),
        ("proportional", float("nan"), "a number in (0, 1]"),
        ("proportional", True, "a number in (0, 1]"),
        ("proportional", None, "a number in (0, 1]"),
        ("per_unit", 0, "a whole number of at least 1"),
        ("per_unit", 2.5, "a whole number of at least 1"),
        ("interval", -1, "a number of seconds above 0"),
        ("interval", 0, "a number of seconds above 0"),
        ("interval", float("inf"), "a number of seconds above 0"),
    ],
)
def test_amount_outside_its_limits_is_refused_with_limits_and_value(kind, amount, limits):
    with pytest.raises(ValueError) as error:
        LabelBudget(kind=kind, amount=amount)
    assert str(error.value) == f"labels for label_budget={kind} must be {limits}, got {amount!r}"


def test_unknown_kind_names_the_allowed_ones():
    with pytest.raises(ValueError, match="one of proportional, per_unit, interval, got 'some'"):
        LabelBudget(kind="some", amount=1)


def test_a_budget_says_what_its_numbers_are_and_stays_as_it_is():
    assert LabelBudget() == LabelBudget(kind="proportional", amount=1.0)
    with pytest.raises(TypeError):
        LabelBudget("per_unit", 3)
    with pytest.raises(FrozenInstanceError):
        LabelBudget(kind="per_unit", amount=3).amount = 4


def test_proportional_takes_the_part_of_every_unit(spikes):
    labels = draw(*spikes, "abcd", "proportional", 0.56)
    assert labels.counts().tolist() == [round(0.56 * n) for n in np.bincount(spikes[1])]
    assert not labels.complete
    assert as_set(labels) <= {(s, "abcd"[u]) for s, u in zip(*map(np.ndarray.tolist, spikes), strict=True)}


def test_per_unit_takes_as_many_of_every_unit_and_a_whole_float_is_fine(spikes, caplog):
    labels = draw(*spikes, "abcd", "per_unit", 10.0)
    assert labels.counts().tolist() == [10] * 4
    assert not labels.complete
    assert not caplog.records


def test_interval_knows_every_spike_of_the_first_seconds(spikes, caplog):
    labels = draw(*spikes, "abcd", "interval", 2.5, start=1000)
    assert not caplog.records
    inside = (spikes[0] >= 1000) & (spikes[0] < 3500)
    np.testing.assert_array_equal(labels.sample_index, spikes[0][inside])
    assert labels.complete
    assert (labels.start_sample, labels.stop_sample) == (1000, 3500)


def test_an_interval_has_at_least_one_sample():
    labels = draw([7, 8], [0, 0], "a", "interval", 1e-6, start=7)
    assert labels.sample_index.tolist() == [7]
    assert (labels.start_sample, labels.stop_sample) == (7, 8)


def test_interval_longer_than_the_time_there_is_warns(spikes, caplog):
    labels = draw(*spikes, "abcd", "interval", 60)
    assert labels.stop_sample == 10_000
    assert labels.num_spikes == 300
    assert "ask for 60 s of annotated time, only 10 s are available" in caplog.text


def test_all_spikes_are_complete_and_ignore_what_lies_outside(spikes):
    labels = draw(*spikes, "abcd", "proportional", 1.0, stop=5000)
    assert labels.complete
    np.testing.assert_array_equal(labels.sample_index, spikes[0][spikes[0] < 5000])


@settings(max_examples=40, deadline=None)
@given(
    data=st.lists(
        st.tuples(st.integers(0, 9_999), st.integers(0, 4)),
        min_size=1,
        max_size=60,
        unique=True,
    ),
    small=st.floats(0.01, 1),
    large=st.floats(0.01, 1),
    few=st.integers(1, 10),
    more=st.integers(1, 10),
    seed=st.integers(0, 3),
)
def test_smaller_budgets_are_subsets_of_larger_ones(data, small, large, few, more, seed):
    samples, units = map(list, zip(*data, strict=True))
    small, large = sorted((small, large))
    few, more = sorted((few, more))
    assert as_set(draw(samples, units, "abcde", "proportional", small, seed=seed)) <= as_set(
        draw(samples, units, "abcde", "proportional", large, seed=seed)
    )
    assert as_set(draw(samples, units, "abcde", "per_unit", few, seed=seed)) <= as_set(
        draw(samples, units, "abcde", "per_unit", more, seed=seed)
    )


def test_draw_of_a_unit_does_not_depend_on_the_others(spikes):
    samples, units = spikes
    full = draw(samples, units, "abcd", "per_unit", 7)
    alone = draw(samples[units == 2], np.zeros((units == 2).sum(), int), ["c"], "per_unit", 7)
    np.testing.assert_array_equal(full.sample_index[full.unit_index == 2], alone.sample_index)


def test_draw_follows_the_seed_and_not_the_order_of_the_input(spikes):
    samples, units = spikes
    first = draw(samples, units, "abcd", "per_unit", 5)
    shuffled = np.random.default_rng(9).permutation(samples.size)
    assert as_set(first) == as_set(draw(samples[shuffled], units[shuffled], "abcd", "per_unit", 5))
    assert as_set(first) != as_set(draw(samples, units, "abcd", "per_unit", 5, seed=1))


def test_a_seed_draws_the_same_labels_in_every_version():
    labels = draw(np.arange(0, 1000, 10), np.arange(100) % 2, ["a", 7], "per_unit", 4, seed=11)
    assert labels.sample_index.tolist() == [10, 40, 180, 470, 750, 840, 890, 900]
    assert labels.unit_index.tolist() == [1, 0, 0, 1, 1, 0, 1, 0]


def test_unit_with_fewer_labels_is_kept_and_named(caplog):
    labels = draw([1, 2, 3, 4, 50], [0, 0, 0, 0, 1], ["a", 17], "per_unit", 3)
    assert labels.counts().tolist() == [3, 1]
    assert "17 (1)" in caplog.text
    assert "fewer labels than the 3 of each unit" in caplog.text


def test_unit_without_a_label_is_left_out_and_named(caplog):
    labels = draw([1, 2, 30], [0, 0, 2], ["a", "b", "c"], "proportional", 0.5)
    assert labels.unit_ids == ("a", "c")
    assert labels.unit_index.tolist() == [0, 1]
    assert "units left out" in caplog.text
    assert caplog.text.strip().endswith(": b")
    assert draw([1, 2, 30], [0, 0, 2], ["a", "b", "c"], "per_unit", 1).unit_ids == ("a", "c")
    assert "fewer labels" not in caplog.text


def test_duplicates_are_kept_once_with_a_warning(caplog):
    labels = draw([5, 1, 5, 5], [0, 0, 0, 1], "ab", "proportional", 1.0)
    assert as_set(labels) == {(1, "a"), (5, "a"), (5, "b")}
    assert "1 labels name the same unit at the same sample twice" in caplog.text


@pytest.mark.parametrize(
    ("samples", "units", "unit_ids", "message"),
    [
        ([], [], [], "at least 1 unit, got 0"),
        ([20_000], [0], ["a"], r"no labelled spike of 1 units in samples \[0, 10000\)"),
        ([1.5], [0], ["a"], "sample_index must be a 1-d array of integers"),
        ([1], [1], ["a"], r"unit_index must be in \[0, 1\), got 1 to 1"),
        ([1, 2], [0], ["a"], "equally long, got 2 and 1"),
        ([1], [0], ["a", "a"], "must be different from each other"),
    ],
)
def test_labels_that_do_not_fit_are_refused(samples, units, unit_ids, message):
    with pytest.raises(ValueError, match=message):
        draw(samples, units, unit_ids, "proportional", 1.0)


def test_empty_interval_is_refused():
    with pytest.raises(ValueError, match=r"at least 1 sample, got \[5, 5\)"):
        draw([1], [0], ["a"], "proportional", 1.0, start=5, stop=5)


def test_room_for_windows(caplog):
    labels = draw([2, 50, 98, 99], [0, 0, 1, 0], "ab", "proportional", 1.0, stop=100)
    roomy = labels.with_room(2, 2)
    assert as_set(roomy) == {(2, "a"), (50, "a"), (98, "b")}
    assert not caplog.records
    assert labels.with_room(3, 3).unit_ids == ("a",)
    assert caplog.text.strip().endswith(": b")


def test_room_for_windows_is_counted_from_where_the_labels_begin():
    labels = draw([41, 42, 60, 61], [0, 1, 0, 1], "ab", "proportional", 1.0, start=40, stop=64)
    roomy = labels.with_room(2, 4)
    assert as_set(roomy) == {(42, "b"), (60, "a")}
    assert (roomy.start_sample, roomy.stop_sample) == (40, 64)
    assert roomy.complete


def make(samples, units=None, unit_ids=("a",), **changes):
    content = {
        "sample_index": np.array(samples),
        "unit_index": np.zeros(len(samples), int) if units is None else np.array(units),
        "unit_ids": unit_ids,
        "sampling_frequency": 1000.0,
        "start_sample": 0,
        "stop_sample": 10,
        "complete": True,
    }
    return LabelledSpikes(**content | changes)


def test_the_labels_of_some_units_keep_their_names_and_samples():
    labels = make([1, 2, 3, 4, 5], [2, 0, 1, 2, 2], ("a", "b", "c"), complete=False)
    some = labels.of_units(np.array([False, True, True]))
    assert some.unit_ids == ("b", "c")
    assert as_set(some) == {(1, "c"), (3, "b"), (4, "c"), (5, "c")}
    assert some.counts().tolist() == [1, 3]
    assert some.counts().dtype == np.int64
    assert not some.complete


def test_labels_that_lie_in_something_are_left_out_and_said(caplog):
    labels = make([1, 2, 3], [0, 1, 0], ("a", "b"))
    assert labels.outside(np.zeros(3, bool), "artefacts") is labels
    assert not caplog.records
    left = labels.outside(np.array([True, True, False]), "artefacts")
    assert as_set(left) == {(3, "a")}
    assert left.complete
    assert "2 of 3 labelled spikes lie in artefacts, left out" in caplog.text
    assert "units left out, all labelled spikes lie in artefacts: b" in caplog.text


def test_labelled_spikes_are_named_fields_that_stay():
    labels = make([1, 2])
    assert (labels.num_spikes, labels.num_units) == (2, 1)
    assert labels != make([1, 2]), "compared by identity: arrays have no single truth"
    with pytest.raises(TypeError):
        LabelledSpikes(np.array([1]), np.array([0]), ("a",), 1000.0, 0, 10, True)
    with pytest.raises(FrozenInstanceError):
        labels.complete = False


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.array([0.5, 1.5]), "got float64 of shape (2,): samples, not seconds"),
        (np.array([[1, 2]], dtype=np.uint16), "got uint16 of shape (1, 2)"),
        (np.array(["1", "2"]), "got <U1 of shape (2,)"),
    ],
)
def test_what_is_no_row_of_integers_is_refused_with_its_type(samples, message):
    with pytest.raises(ValueError) as error:
        draw(samples, [0, 0], "a", "proportional", 1.0)
    assert str(error.value) == f"sample_index must be a 1-d array of integers, {message}"


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([3, 2], "ascending order"),
        ([3, 4, 10], r"must lie in \[0, 10\), got 3 to 10"),
        ([-3, 4, 5], r"must lie in \[0, 10\), got -3 to 5"),
    ],
)
def test_labelled_spikes_check_themselves(samples, message):
    with pytest.raises(ValueError, match=message):
        make(samples)
