"""The conflict graph solved step by step: certain soon, the same in any pieces, near to the whole."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from esort.postprocess import ConflictTable, solve_conflicts
from esort.postprocess.stepwise import StepSizes, StepwiseSolver

NUM_UNITS, LAG = 3, 6
ENERGIES = (30.0, 40.0, 50.0)
THRESHOLDS = (4.0, 5.0, 6.0)
EXCLUSION = 5
SMALL = StepSizes(step=8, ahead=10, behind=3, epoch=32, warm_up=16)


def templates():
    """Three units that overlap, each with its energy: (U, C, T)."""
    rows = np.arange(7) - 3
    shape = np.exp(-0.5 * (rows / 1.3) ** 2)
    space = np.array([[1.0, 0.4, 0.0], [0.3, 1.0, 0.3], [0.0, 0.4, 1.0]])
    result = space[:, :, None] * shape
    norm = np.sqrt(np.square(result).sum(axis=(1, 2)))
    return result * (np.sqrt(ENERGIES) / norm)[:, None, None]


def make_table():
    waveforms = templates()
    pairs, kernels = [], []
    for one in range(NUM_UNITS):
        for other in range(NUM_UNITS):
            lines = [np.convolve(a[::-1], b) for a, b in zip(waveforms[one], waveforms[other], strict=True)]
            pairs.append((one, other))
            kernels.append(np.sum(lines, axis=0)[::-1])
    return ConflictTable.from_pairs(NUM_UNITS, np.array(pairs), np.array(kernels, dtype=np.float32))


TABLE = make_table()


def make_scores(num_rows, seed, rate=0.05):
    """Scores of traces with overlapping spikes, (N, U)."""
    rng = np.random.default_rng(seed)
    waveforms = templates()
    traces = rng.standard_normal((3, num_rows + 6))
    for unit_index in range(NUM_UNITS):
        for row in np.flatnonzero(rng.random(num_rows) < rate):
            traces[:, row : row + 7] += rng.uniform(0.8, 1.2) * waveforms[unit_index]
    scores = [
        sum(np.correlate(line, taps, "valid") for line, taps in zip(traces, waveform, strict=True))
        for waveform in waveforms
    ]
    return (np.stack(scores, axis=1) - np.array(ENERGIES) / 2).astype(np.float32)


def solver(sizes=SMALL, table=TABLE, first_row=0, stride=1):
    return StepwiseSolver(
        table,
        thresholds=THRESHOLDS,
        energies=ENERGIES,
        sizes=sizes,
        exclusion_samples=EXCLUSION,
        max_rounds=12,
        amplitude_limits=(0.7, 1.4),
        stride=stride,
        first_row=first_row,
    )


def solve(scores, cuts=(), **options):
    one = solver(**options)
    bounds = [0, *sorted(cuts), len(scores)]
    pieces = [one.push(scores[start:stop]) for start, stop in pairwise(bounds)]
    return joined([*pieces, one.finish()])


def joined(pieces):
    columns = [
        np.concatenate([getattr(piece, name) for piece in pieces])
        for name in ("sample_index", "unit_index", "probability")
    ]
    order = np.lexsort((columns[1], columns[0]))
    return [column[order] for column in columns]


def assert_same(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, 300), max_size=20))
def test_any_pieces(seed, cuts):
    scores = make_scores(300, seed)
    assert_same(solve(scores, cuts), solve(scores))


@pytest.mark.parametrize("seed", range(5))
def test_one_step_over_all_is_the_solution_of_the_whole(seed):
    scores = make_scores(400, seed)
    sizes = StepSizes(step=400, ahead=1, behind=1, epoch=400, warm_up=0)
    whole = solve_conflicts(
        scores,
        TABLE,
        thresholds=list(THRESHOLDS),
        energies=list(ENERGIES),
        exclusion_samples=EXCLUSION,
        engine="numba",
    )
    assert_same(solve(scores, sizes=sizes), joined([whole]))


def test_steps_find_nearly_what_the_whole_has():
    scores = make_scores(20_000, 0)
    whole = solve_conflicts(
        scores,
        TABLE,
        thresholds=list(THRESHOLDS),
        energies=list(ENERGIES),
        exclusion_samples=EXCLUSION,
        engine="numba",
    )
    sizes = StepSizes(step=40, ahead=40, behind=8, epoch=4000, warm_up=400)
    found = set(zip(*(column.tolist() for column in solve(scores, sizes=sizes)[:2]), strict=True))
    wanted = set(zip(whole.sample_index.tolist(), whole.unit_index.tolist(), strict=True))
    assert len(wanted) > 2000
    assert len(found & wanted) > 0.98 * max(len(found), len(wanted))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), first=st.integers(0, 400))
def test_where_solving_begins(seed, first):
    """A margin later the spikes are the same."""
    scores = make_scores(600, seed)
    whole, part = solve(scores), solve(scores[first:], first_row=first)
    begin = first + SMALL.margin(EXCLUSION)
    assert_same([c[part[0] >= begin] for c in part], [c[whole[0] >= begin] for c in whole])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000))
@example(seed=731)  # two epochs that do not agree on a spike between them
def test_exclusion_across_steps_and_epochs(seed):
    samples, units, _ = solve(make_scores(400, seed, rate=0.1))
    for unit_index in range(NUM_UNITS):
        assert np.diff(samples[units == unit_index]).min(initial=EXCLUSION) >= EXCLUSION


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), stop=st.integers(1, 300))
def test_latency(seed, stop):
    """What is decided after some rows is all that lies before them by the latency, for good."""
    scores = make_scores(300, seed)
    first = solver().push(scores[:stop])
    whole = solve(scores)
    count = len(first.sample_index)
    assert count >= (whole[0] < stop - SMALL.latency).sum()
    early = joined([first])
    known = set(zip(*(column.tolist() for column in whole[:2]), strict=True))
    assert set(zip(*(column.tolist() for column in early[:2]), strict=True)) <= known


def test_units_that_do_not_know_of_each_other():
    scores = make_scores(300, 1)
    whole = solve_conflicts(
        scores,
        None,
        thresholds=list(THRESHOLDS),
        energies=list(ENERGIES),
        exclusion_samples=EXCLUSION,
        engine="numba",
    )
    found = solve(scores, table=None)
    same = set(zip(*(column.tolist() for column in found[:2]), strict=True))
    wanted = set(zip(whole.sample_index.tolist(), whole.unit_index.tolist(), strict=True))
    assert len(same & wanted) > 0.95 * max(len(same), len(wanted))


def test_stride():
    scores = make_scores(300, 2)
    samples = solve(scores)[0]
    by_four = solve(scores, stride=4)[0]
    assert np.abs(by_four - 4 * samples).max() <= 2


def test_scores_that_are_not_finite():
    scores = make_scores(50, 0)
    scores[20, 1] = np.nan
    with pytest.raises(ValueError, match="scores must be finite, got nan at sample 20 of unit 1"):
        solver().push(scores)


def test_no_rows():
    empty = np.zeros((0, NUM_UNITS), dtype=np.float32)
    assert len(solve(empty)[0]) == 0
    assert_same(solve(make_scores(300, 3), cuts=[0, 0, 150, 150]), solve(make_scores(300, 3)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": 0}, "step must be"),
        ({"ahead": 0}, "ahead must be"),
        ({"behind": -1}, "behind must be"),
        ({"warm_up": -8}, "warm_up must be"),
        ({"epoch": 30}, "epoch must be a multiple of step=8 rows, got 30"),
        ({"warm_up": 9}, "warm_up must be a multiple of step=8 rows, got 9"),
    ],
)
def test_sizes_that_do_not_fit(changes, message):
    values = {"step": 8, "ahead": 10, "behind": 3, "epoch": 32, "warm_up": 16}
    with pytest.raises(ValueError, match=message):
        StepSizes(**(values | changes))


def test_no_units():
    sizes = StepSizes(step=8, ahead=10, behind=3, epoch=32, warm_up=16)
    settings = {"exclusion_samples": 5, "max_rounds": 12, "amplitude_limits": (0.7, 1.4), "sizes": sizes}
    one = StepwiseSolver(None, thresholds=[], energies=[], **settings)
    assert len(one.push(np.zeros((100, 0), dtype=np.float32))) == len(one.finish()) == 0


@pytest.mark.parametrize("length", [1, 3, 40])
def test_scores_as_they_lie_in_memory(length):
    """Rows first or units first, and parts of larger arrays."""
    scores = make_scores(200, 4)
    wanted = solve(scores)
    by_unit = np.ascontiguousarray(scores.T).T
    wide = np.repeat(scores, 2, axis=1)[:, ::2]
    for same in (by_unit, wide, scores.astype(np.float64)):
        assert_same(solve(same, cuts=range(length, 200, length)), wanted)
