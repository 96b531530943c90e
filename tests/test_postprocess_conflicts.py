import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from postprocess_oracle import ENGINES, LIBRARIES, Edges, as_lists, loop_rounds, to_library

from esort.postprocess import ConflictTable, conflict_margin_samples, join_chunks, solve_conflicts
from esort.postprocess.compiled_graph import make_graph
from esort.postprocess.compiled_kernels import solve_kernels
from esort.postprocess.fit import Fit

BACKENDS = ["-".join(backend) for backend in ENGINES]


@pytest.fixture(scope="module", params=ENGINES, ids=BACKENDS)
def backend(request):
    return request.param


PAIRS = np.array([[0, 1], [1, 0], [2, 1], [2, 2], [0, 0]])
KERNELS = np.array(
    [[1, 3, 6, 2, 0], [0, 2, 6, 3, 1], [0, -1, -3, 0, 0], [1, 4, 9, 4, 1], [1, 4, 8, 4, 1]], dtype=np.float32
)


def test_equals_the_loop(backend):
    library, engine = backend

    @settings(max_examples=25, deadline=None)
    @given(
        seed=st.integers(0, 2**32 - 1),
        whole_numbers=st.booleans(),  # many ties
        exclusion=st.integers(1, 5),
        window=st.integers(0, 4),
        max_rounds=st.sampled_from([1, 3, 12]),
    )
    def check(seed, whole_numbers, exclusion, window, max_rounds):
        scores = (np.random.default_rng(seed).standard_normal((60, 3)) * 4).astype(np.float32)
        scores = np.round(scores) if whole_numbers else np.round(scores * 64) / np.float32(64)
        exclusive = np.array([True, False, False, False, False])
        table = ConflictTable.from_pairs(
            3,
            to_library(PAIRS, library),
            to_library(KERNELS, library),
            exclusive=to_library(exclusive, library),
            exclusive_samples=window,
        )
        found = solve_conflicts(
            to_library(scores, library),
            table,
            thresholds=[1.0, 2.0, 1.5],
            exclusion_samples=exclusion,
            max_rounds=max_rounds,
            engine=engine,
        )
        expected = loop_rounds(
            np.round(scores * 64).astype(int).tolist(),
            [64, 128, 96],
            exclusion=exclusion,
            max_rounds=max_rounds,
            edges=Edges(PAIRS.tolist(), (KERNELS * 64).astype(int).tolist(), exclusive.tolist(), window),
        )
        assert as_lists(found) == [(sample, unit, score / 64) for sample, unit, score in expected]

    if library == "jax":  # it compiles every operation for every shape: one example
        check.hypothesis.inner_test(seed=1, whole_numbers=True, exclusion=3, window=2, max_rounds=3)
    else:
        check()


@pytest.mark.parametrize("engine", ["array", "numba"])
def test_long_kernels_over_block_borders(engine):
    # The compiled engine works in blocks of 128 samples: kernels and windows longer than one.
    rng = np.random.default_rng(4)
    scores = (rng.integers(-20, 40, size=(700, 4)) / 4).astype(np.float32)
    pairs = np.array(list(itertools.product(range(4), range(4))))
    kernels = (rng.integers(-2, 6, size=(16, 301)) / 4).astype(np.float32)
    table = ConflictTable.from_pairs(4, pairs, kernels)
    found = solve_conflicts(scores, table, thresholds=4.0, exclusion_samples=40, max_rounds=4, engine=engine)
    expected = loop_rounds(
        (scores * 4).astype(int).tolist(),
        [16] * 4,
        exclusion=40,
        max_rounds=4,
        edges=Edges(pairs.tolist(), (kernels * 4).astype(int).tolist()),
    )
    assert len(expected) > 4
    assert as_lists(found) == [(sample, unit, score / 4) for sample, unit, score in expected]


@pytest.mark.parametrize("engine", ["array", "numba"])
def test_chunked_equals_whole(engine):
    table = ConflictTable.from_pairs(3, PAIRS, KERNELS)

    @settings(max_examples=25, deadline=None)
    @given(
        seed=st.integers(0, 2**32 - 1),
        chunk_samples=st.integers(1, 320),
        max_rounds=st.integers(1, 4),
        exclusion=st.integers(1, 6),
    )
    def check(seed, chunk_samples, max_rounds, exclusion):
        scores = np.round(np.random.default_rng(seed).standard_normal((300, 3)) * 4).astype(np.float32)
        options = {"exclusion_samples": exclusion, "max_rounds": max_rounds}
        margin = conflict_margin_samples(table, **options)
        whole = solve_conflicts(scores, table, thresholds=1.0, engine=engine, **options)
        chunks = []
        for start in range(0, 300, chunk_samples):
            stop = min(start + chunk_samples, 300)
            first = max(0, start - margin)
            chunks.append(
                solve_conflicts(
                    scores[first : stop + margin],
                    table,
                    thresholds=1.0,
                    first_sample=first,
                    core=(start - first, stop - first),
                    engine=engine,
                    **options,
                )
            )
        assert as_lists(join_chunks(chunks)) == as_lists(whole)

    check()


def place_nodes(nodes, num_samples, num_units):
    """Scores with the given (sample, unit, weight) nodes and nothing else."""
    scores = np.full((num_samples, num_units), -1.0, dtype=np.float32)
    for sample, unit, weight in nodes:
        scores[sample, unit] = weight
    return scores


@st.composite
def small_graphs(draw):
    places = st.tuples(st.integers(0, 14), st.integers(0, 2))
    chosen = draw(st.lists(places, min_size=1, max_size=12, unique=True))
    weights = draw(st.lists(st.integers(1, 6), min_size=len(chosen), max_size=len(chosen)))
    # Every second sample, so that each is a local maximum.
    return [(2 * sample, unit, weight) for (sample, unit), weight in zip(chosen, weights, strict=True)]


@settings(max_examples=60, deadline=None)
@given(
    nodes=small_graphs(),
    exclusion=st.integers(1, 9),
    window=st.integers(0, 6),
    engine=st.sampled_from(["array", "numba"]),
)
def test_graphs_of_up_to_12_nodes_against_all_subsets(nodes, exclusion, window, engine):
    pairs = [(0, 1), (1, 2)]
    table = ConflictTable.from_pairs(3, np.array(pairs), exclusive_samples=window)
    found = solve_conflicts(
        place_nodes(nodes, 32, 3), table, thresholds=0.5, exclusion_samples=exclusion, engine=engine
    )
    accepted = {(sample, unit) for sample, unit, _ in as_lists(found)}

    order = sorted(nodes, key=lambda node: (-node[2], node[0], node[1]))

    def conflict(one, other):
        distance = abs(one[0] - other[0])
        if one[1] == other[1]:
            return distance < exclusion
        return (min(one[1], other[1]), max(one[1], other[1])) in pairs and distance <= window

    best = None
    for chosen in itertools.product([True, False], repeat=len(order)):
        subset = [node for node, take in zip(order, chosen, strict=True) if take]
        if not any(conflict(a, b) for a, b in itertools.combinations(subset, 2)):
            best = max(best, chosen) if best is not None else chosen
    # Of all sets without a conflict, the one that takes the first node if it can, then the second, and so on.
    assert accepted == {node[:2] for node, take in zip(order, best, strict=True) if take}
    # So it is independent and maximal: every node left out has a rival within that goes before it.
    for position, node in enumerate(order):
        if node[:2] not in accepted:
            assert any(conflict(node, other) and other[:2] in accepted for other in order[:position])


def best_total_weight(nodes, exclusion):
    """Optimum for one unit by dynamic programming over the nodes in time: take it or leave it."""
    nodes = sorted(nodes)
    best = [0]
    for position, (sample, _, weight) in enumerate(nodes):
        free = sum(1 for other in nodes[:position] if sample - other[0] >= exclusion)
        best.append(max(best[-1], best[free] + weight))
    return best[-1]


@settings(max_examples=60, deadline=None)
@given(
    gaps=st.lists(st.integers(2, 12), min_size=1, max_size=30),
    seed=st.integers(0, 2**32 - 1),
    exclusion=st.integers(1, 10),
    engine=st.sampled_from(["array", "numba"]),
)
def test_one_unit_reaches_half_the_optimum_at_least(gaps, seed, exclusion, engine):
    # A node of the optimum that was left out has an accepted rival at least as high; an accepted node is the
    # rival of at most two nodes of the optimum, one on either side. So the rounds reach half of it or more.
    samples = np.cumsum(gaps)
    weights = np.random.default_rng(seed).integers(1, 9, size=len(gaps))
    nodes = [(int(sample), 0, int(weight)) for sample, weight in zip(samples, weights, strict=True)]
    scores = place_nodes(nodes, int(samples[-1]) + 2, 1)
    found = solve_conflicts(scores, thresholds=0.5, exclusion_samples=exclusion, max_rounds=30, engine=engine)
    assert 2 * float(np.sum(found.probability)) >= best_total_weight(nodes, exclusion)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=8),
    seed=st.integers(0, 2**32 - 1),
    engine=st.sampled_from(["array", "numba"]),
)
def test_one_unit_reaches_the_optimum_where_events_are_apart(sizes, seed, engine):
    # Groups of peaks within the exclusion, further than it apart: peaks of one event.
    rng = np.random.default_rng(seed)
    exclusion, nodes = 8, []
    for group, size in enumerate(sizes):
        nodes += [(20 * group + 2 * position + 1, 0, int(rng.integers(1, 9))) for position in range(size)]
    scores = place_nodes(nodes, 20 * len(sizes) + 2, 1)
    found = solve_conflicts(scores, thresholds=0.5, exclusion_samples=exclusion, engine=engine)
    assert float(np.sum(found.probability)) == best_total_weight(nodes, exclusion)


def make_templates(rng, num_units, num_channels, length):
    time = np.arange(length) - length // 2
    shapes = np.stack(
        [np.exp(-0.5 * (time / w) ** 2) * np.cos(time / v) for w, v in rng.uniform(2, 5, (num_units, 2))]
    )
    return shapes[:, :, None] * rng.uniform(0.2, 3.0, (num_units, 1, num_channels))  # (U, length, C)


def gram_table(templates):
    num_units, length, _ = templates.shape
    pairs = np.array(list(itertools.product(range(num_units), repeat=2)))
    kernels = np.zeros((len(pairs), 2 * length - 1))
    for position, (a, b) in enumerate(pairs):
        for lag in range(-length + 1, length):  # T_b lies `lag` samples after T_a
            one, other = templates[a], templates[b]
            overlap = one[lag:] * other[: length - lag] if lag >= 0 else one[:lag] * other[-lag:]
            kernels[position, length - 1 + lag] = overlap.sum()
    return ConflictTable.from_pairs(num_units, pairs, kernels)


def render(spikes, templates, num_samples):
    length = templates.shape[1]
    traces = np.zeros((num_samples, templates.shape[2]))
    for sample, unit in spikes:
        traces[sample - length // 2 : sample - length // 2 + length] += templates[unit]
    return traces


def matched_filter(traces, templates):
    length = templates.shape[1]
    padded = np.pad(traces, ((length // 2, length - 1 - length // 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, length, axis=0)  # (N, C, length)
    energy = (templates**2).sum(axis=(1, 2))
    return (np.einsum("nct,utc->nu", windows, templates) - energy / 2).astype(np.float32)


@pytest.mark.parametrize("engine", ["array", "numba"])
@pytest.mark.parametrize("seed", range(3))
def test_the_explained_energy_only_grows(seed, engine):
    rng = np.random.default_rng(seed)
    templates = make_templates(rng, 4, 3, 21)
    spikes = sorted(
        (int(sample), int(unit))
        for sample, unit in zip(rng.integers(30, 570, 60), rng.integers(0, 4, 60), strict=True)
    )
    traces = render(spikes, templates, 600) + 0.3 * rng.standard_normal((600, 3))
    scores, table = matched_filter(traces, templates), gram_table(templates)
    before, counted = (traces**2).sum(), 0
    for max_rounds in range(1, 40):
        found = solve_conflicts(
            scores, table, thresholds=1.0, max_rounds=max_rounds, engine=engine, exclusion_samples=2
        )
        inside = [(s, u) for s, u, _ in as_lists(found)]
        assert all(10 <= sample < 590 for sample, _ in inside)  # no template is cut at the ends
        residual = ((traces - render(inside, templates, 600)) ** 2).sum()
        assert residual <= before + 1e-3
        # The energy falls by twice the sum of the scores at which the spikes were accepted.
        gained = 2 * float(np.sum(np.asarray(found.probability, dtype=float)))
        assert residual == pytest.approx((traces**2).sum() - gained, rel=1e-4, abs=0.05)
        if len(found) == counted:
            break
        before, counted = residual, len(found)
    else:
        pytest.fail("the rounds did not end")
    assert counted > 30


@pytest.mark.parametrize("engine", ["array", "numba"])
@pytest.mark.parametrize("lag", range(-64, 65, 8))
def test_overlapping_spikes_of_near_units_survive(lag, engine):
    time = (np.arange(41) - 20)[:, None]
    shape = -np.exp(-0.5 * (time / 4) ** 2) + 0.4 * np.exp(-0.5 * ((time - 10) / 6) ** 2)
    templates = np.stack([shape * [8.0, 5.0, 2.0, 1.0], shape * [2.0, 5.0, 8.0, 3.0]])
    traces = render([(200, 0), (200 + lag, 1)], templates, 400)
    scores, table = matched_filter(traces, templates), gram_table(templates)
    found = solve_conflicts(scores, table, thresholds=40.0, exclusion_samples=32, engine=engine)
    assert [unit for _, unit in sorted((sample, unit) for sample, unit, _ in as_lists(found))] == (
        [0, 1] if lag >= 0 else [1, 0]
    )
    # At a quarter of a millisecond the maximum of the sum lies 2 samples beside the first spike accepted.
    where = {unit: sample for sample, unit, _ in as_lists(found)}
    assert abs(where[0] - 200) <= 2
    assert abs(where[1] - 200 - lag) <= 2


def test_scores_beyond_the_largest_are_cut():
    scores = np.full((9, 2), -3e38, dtype=np.float32)
    scores[3, 0], scores[6, 1] = 3e38, 900.0
    for engine in ("array", "numba"):
        found = solve_conflicts(scores, thresholds=1.0, largest_score=1024.0, engine=engine)
        assert as_lists(found) == [(3, 0, 1024.0), (6, 1, 900.0)]


def test_the_compiled_rounds_list_each_spike_once():
    """More of them than there is room for at first; nothing is listed that is none."""
    scores = np.zeros((2, 1000), dtype=np.int32)
    places = [np.arange(5, 1000, 10), np.arange(9, 900, 30)]
    for unit, rows in enumerate(places):
        scores[unit, rows] = 100 + unit
    row, unit, score, moved = solve_kernels(
        scores,
        np.array([50, 50], dtype=np.int32),
        make_graph(num_units=2),
        exclusion_samples=3,
        max_rounds=4,
        fit=Fit(phases=1),
    )
    assert sorted(zip(unit, row, score, strict=True)) == [
        (unit, row, 100 + unit) for unit, rows in enumerate(places) for row in rows
    ]
    assert not moved.any()


@pytest.mark.parametrize("shape", [(0, 3), (5, 0)])
def test_nothing_in_nothing_out(backend, shape):
    library, engine = backend
    scores = to_library(np.zeros(shape, dtype=np.float32), library)
    assert len(solve_conflicts(scores, thresholds=1.0, engine=engine)) == 0


def test_a_table_without_pairs(backend):
    library, engine = backend
    table = ConflictTable.from_pairs(2, to_library(np.zeros((0, 2), dtype=np.int64), library))
    scores = to_library(place_nodes([(3, 0, 5), (3, 1, 4)], 8, 2), library)
    found = solve_conflicts(scores, table, thresholds=1.0, engine=engine)
    assert as_lists(found) == [(3, 0, 5.0), (3, 1, 4.0)]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_must_be_finite(library, value):
    scores = np.zeros((8, 2), dtype=np.float32)
    scores[5, 1] = value
    with pytest.raises(ValueError, match=f"scores must be finite, got {value} at sample 5 of unit 1"):
        solve_conflicts(to_library(scores, library), thresholds=1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"thresholds": 0.0}, r"thresholds must be above 0, got 0.0 for unit 0"),
        ({"exclusion_samples": 0}, "exclusion_samples must be a whole number of at least 1, got 0"),
        ({"max_rounds": 0}, "max_rounds must be a whole number of at least 1, got 0"),
        ({"largest_score": 0.0}, "largest_score must be a positive number, got 0.0"),
        ({"largest_score": float("nan")}, "largest_score must be a positive number, got nan"),
        (
            {"table": ConflictTable.from_pairs(3, np.array([[0, 1]]))},
            "conflicts must be a table of 2 units, got one of 3",
        ),
    ],
)
def test_bad_settings(options, message):
    scores = np.zeros((8, 2), dtype=np.float32)
    with pytest.raises(ValueError, match=message):
        solve_conflicts(scores, **{"thresholds": 1.0, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": np.array([0, 1])}, r"pairs must be integers of shape \(pairs, 2\), got int64 \(2,\)"),
        (
            {"pairs": np.array([[0.0, 1.0]])},
            r"pairs must be integers of shape \(pairs, 2\), got float64 \(1, 2\)",
        ),
        ({"pairs": np.array([[0, 3]])}, "pairs must name units from 0 to 2, got 0 to 3"),
        ({"pairs": np.array([[-1, 2]])}, "pairs must name units from 0 to 2, got -1 to 2"),
        ({"pairs": np.array([[0, 1], [0, 1]])}, "pairs must be given once each, got 2 with repetitions"),
        ({"pairs": np.array([[1, 1]])}, "exclusive pairs must be of two units, got a unit with itself"),
        ({"exclusive_samples": -1}, "exclusive_samples must be at least 0, got -1"),
        (
            {"exclusive": np.array([True, False])},
            r"exclusive must have one value for each of 1 pairs, got \(2,\)",
        ),
        (
            {"kernels": np.zeros((1, 4))},
            r"kernels must have shape \(1 pairs, odd number of lags\) or .*, got \(1, 4\)",
        ),
        (
            {"kernels": np.zeros((2, 5))},
            r"kernels must have shape \(1 pairs, odd number of lags\) or .*, got \(2, 5\)",
        ),
        ({"kernels": np.full((1, 3), np.nan)}, "kernels must be finite floating point values"),
        ({"kernels": np.zeros((1, 3), dtype=np.int64)}, "kernels must be finite floating point values"),
        ({"kernels": to_library(np.zeros((1, 3)), "torch")}, "arrays must all be of one array library"),
    ],
)
def test_bad_tables(options, message):
    with pytest.raises(ValueError, match=message):
        ConflictTable.from_pairs(3, **{"pairs": np.array([[0, 1]]), **options})


def test_a_table_on_two_devices():
    import array_api_strict

    pairs = array_api_strict.asarray([[0, 1]])
    kernels = array_api_strict.zeros((1, 3), device=array_api_strict.Device("device1"))
    with pytest.raises(ValueError, match="arrays must all be on one device, got .*device1"):
        ConflictTable.from_pairs(2, pairs, kernels)
