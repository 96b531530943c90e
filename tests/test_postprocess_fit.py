"""Sub-sample phases, amplitudes and strides of the pursuit, on every engine against the loop."""

import itertools
import runpy
from functools import partial
from pathlib import Path

import array_api_compat.numpy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from postprocess_oracle import (
    ENGINES,
    Edges,
    as_lists,
    energy_scale,
    loop_rounds,
    probability_bits,
    to_library,
)

from esort.postprocess import (
    ConflictTable,
    Spikes,
    accept_mask,
    conflict_margin_samples,
    detect_spikes,
    join_chunks,
    solve_conflicts,
)
from esort.postprocess.compaction import collect_spikes
from esort.postprocess.fit import Fit, slopes
from esort.postprocess.fixed_point import by_unit
from esort.postprocess.rounds import fit_rounds

PAIRS = np.array([[0, 1], [1, 0], [2, 1], [2, 2], [0, 0]])
LOWERED = np.array(
    [[0, 3, 6, 2, 0], [0, 2, 6, 3, 1], [0, -1, -3, 0, 0], [1, 4, 9, 4, 1], [1, 4, 8, 4, 1]], dtype=np.float32
)
ENERGIES = [8.0, 3.0, 9.0]


def make_kernels(phases):
    """Kernels of each phase, a little different from one another."""
    rng = np.random.default_rng(phases)
    return (LOWERED[:, None, :] * rng.uniform(0.8, 1.2, (len(PAIRS), phases, 5))).astype(np.float32)


def make_scores(seed, whole_numbers, num_samples=60):
    scores = (np.random.default_rng(seed).standard_normal((num_samples, 3)) * 4).astype(np.float32)
    return np.round(scores) if whole_numbers else scores  # whole numbers: many ties


def static_spikes(scores, table, *, thresholds, exclusion_samples, max_rounds, stride, energies, limits):
    """What `solve_conflicts` would give with the static rounds of jit and export."""
    most = None if energies is None else round(64 * limits[1]) / 64
    scale = energy_scale(table, exclusion_samples, most)
    energies = None if energies is None else np.array(energies, dtype=np.float32)
    accepted, heights, moved, live = fit_rounds(
        np.round(scores * np.float32(scale)).astype(np.int32),
        np.round(np.array(thresholds) * scale).astype(np.int32),
        exclusion_samples=exclusion_samples,
        max_rounds=max_rounds,
        table=table,
        kernels=table.quantise(scale),
        fit=Fit.make(
            phases=table.phases, stride=stride, energies=energies, amplitude_limits=limits, scale=scale
        ),
        static=True,
    )
    assert live.shape == scores.shape
    rows = {"first_sample": 0, "start": 0, "stop": len(scores)}
    return collect_spikes(accepted, heights, 1.0 / scale, stride=stride, moved=moved, **rows)


@pytest.mark.parametrize(
    ("library", "engine"), [*ENGINES, ("numpy", "static")], ids=[*map("-".join, ENGINES), "static"]
)
def test_equals_the_loop(library, engine):
    @settings(max_examples=25, deadline=None)
    @given(
        seed=st.integers(0, 2**32 - 1),
        whole_numbers=st.booleans(),
        phases=st.sampled_from([1, 2, 3, 8]),
        amplitude_limits=st.sampled_from([None, (0.7, 1.4), (1 / 64, 8.0), (1.0, 1.0)]),
        stride=st.sampled_from([1, 2, 3, 8]),
        exclusion=st.integers(1, 5),
        max_rounds=st.sampled_from([1, 3, 12]),
    )
    def check(seed, whole_numbers, phases, amplitude_limits, stride, exclusion, max_rounds):
        scores, kernels = make_scores(seed, whole_numbers), make_kernels(phases)
        exclusive = np.array([True, False, False, False, False])
        table = ConflictTable.from_pairs(
            3,
            to_library(PAIRS, library),
            to_library(kernels[:, 0] if phases == 1 else kernels, library),
            exclusive=to_library(exclusive, library),
            exclusive_samples=1,
        )
        options = {
            "thresholds": [1.0, 2.0, 1.5],
            "exclusion_samples": exclusion,
            "max_rounds": max_rounds,
            "stride": stride,
            "energies": None if amplitude_limits is None else ENERGIES,
        }
        limits = amplitude_limits or (0.7, 1.4)
        if engine == "static":
            found = static_spikes(scores, table, limits=limits, **options)
        else:
            found = solve_conflicts(
                to_library(scores, library), table, amplitude_limits=limits, engine=engine, **options
            )
        most = None if amplitude_limits is None else round(64 * limits[1]) / 64
        scale = np.float32(energy_scale(table, exclusion, most))
        expected = loop_rounds(
            np.round(scores * scale).astype(int).tolist(),
            [round(value * float(scale)) for value in options["thresholds"]],
            exclusion=exclusion,
            max_rounds=max_rounds,
            edges=Edges(
                PAIRS.tolist(), np.round(kernels * scale).astype(int).tolist(), exclusive.tolist(), 1
            ),
            stride=stride,
            energies=None if amplitude_limits is None else [value * float(scale) for value in ENERGIES],
            amplitude_limits=limits,
        )
        assert as_lists(found) == [(t, u, float(np.float32(s) * (1 / scale))) for t, u, s in expected]

    if library == "jax":  # it compiles every operation for every shape: one example
        check.hypothesis.inner_test(
            seed=1,
            whole_numbers=False,
            phases=8,
            amplitude_limits=(0.7, 1.4),
            stride=2,
            exclusion=3,
            max_rounds=3,
        )
    else:
        check()


@pytest.mark.parametrize("engine", ["array", "numba"])
def test_chunked_equals_whole(engine):
    @settings(max_examples=25, deadline=None)
    @given(
        seed=st.integers(0, 2**32 - 1),
        chunk_rows=st.integers(1, 320),
        max_rounds=st.integers(1, 4),
        exclusion=st.integers(1, 6),
        stride=st.sampled_from([1, 2, 8]),
        whole_numbers=st.booleans(),
    )
    def check(seed, chunk_rows, max_rounds, exclusion, stride, whole_numbers):
        table = ConflictTable.from_pairs(3, PAIRS, make_kernels(4))
        scores = make_scores(seed, whole_numbers, 300)
        samples = {"exclusion_samples": exclusion, "max_rounds": max_rounds}
        margin = conflict_margin_samples(table, **samples)
        solve = partial(
            solve_conflicts, table=table, thresholds=1.0, energies=ENERGIES, stride=stride, engine=engine
        )
        whole = solve(scores, first_sample=1000, **samples)
        chunks = []
        for start in range(0, 300, chunk_rows):
            stop = min(start + chunk_rows, 300)
            first = max(0, start - margin)
            chunks.append(
                solve(
                    scores[first : stop + margin],
                    first_sample=1000 + stride * first,
                    core=(start - first, stop - first),
                    **samples,
                )
            )
        assert as_lists(join_chunks(chunks)) == as_lists(whole)
        assert as_lists(whole) == sorted(as_lists(whole), key=lambda spike: spike[:2])

    check()


@pytest.mark.parametrize("library", ["numpy", "torch", "array_api_strict"])
def test_probabilities_compete_by_phases_too(library):
    rng = np.random.default_rng(5)
    probabilities = rng.random((60, 3)).astype(np.float32) ** 3
    pairs, kernels = PAIRS[:3], make_kernels(3)[:3] / 8
    table = ConflictTable.from_pairs(3, to_library(pairs, library), to_library(kernels, library))
    options = {"sampling_frequency": 10_000.0, "thresholds": 0.1, "smoothing_ms": 0.3, "refractory_ms": 0.4}
    found = detect_spikes(to_library(probabilities, library), conflicts=table, **options)
    scale = 2 ** probability_bits(2, table.lowering_bound(4)) * 4
    own = ConflictTable.from_pairs(3, pairs, kernels)
    limits = np.full(3, 0.1, dtype=np.float32)
    settings_samples = {"half_width_samples": 2, "exclusion_samples": 4, "max_rounds": 16}
    accepted, heights, _ = accept_mask(probabilities, limits, conflicts=own, **settings_samples)
    expected = collect_spikes(accepted, heights, 1.0 / scale, first_sample=0, start=0, stop=60)
    assert as_lists(found) == as_lists(expected)
    assert len(found) > 3
    if library in ("numpy", "torch"):
        options |= {"engine": "numba"}
        assert as_lists(found) == as_lists(
            detect_spikes(to_library(probabilities, library), conflicts=table, **options)
        )


def one_peak(before, after, num_rows=9):
    scores = np.zeros((num_rows, 1), dtype=np.float32)
    scores[3:6, 0] = [10 - before, 10, 10 - after]
    return scores


@pytest.mark.parametrize("engine", ["array", "numba"])
@pytest.mark.parametrize(
    ("before", "after", "stride", "off"),
    [
        (4, 4, 8, 0),
        (4, 0, 8, 4),  # a plateau: half a row later
        (1, 3, 8, -2),
        (3, 1, 8, 2),
        (3, 1, 2, 0),  # 0.5 samples: halves go towards the row
        (1, 3, 2, 0),
        (4, 0, 1, 0),
        (7, 1, 2, 1),
    ],
)
def test_where_a_spike_lies_between_rows(before, after, stride, off, engine):
    found = solve_conflicts(
        one_peak(before, after), thresholds=1.0, stride=stride, first_sample=100, engine=engine
    )
    assert as_lists(found) == [(100 + 4 * stride + off, 0, 10.0)]


@pytest.mark.parametrize("engine", ["array", "numba"])
def test_at_the_ends_a_spike_lies_on_its_row(engine):
    scores = np.array([[9, 0], [8, 0], [0, 1], [0, 2]], dtype=np.float32)
    found = solve_conflicts(scores, thresholds=1.0, stride=8, engine=engine)
    assert as_lists(found) == [(0, 0, 9.0), (24, 1, 2.0)]


@pytest.mark.parametrize("engine", ["array", "numba"])
def test_the_phase_chooses_the_kernel(engine):
    # Phase i lowers the score of unit 1 by i + 1; its own score is not touched.
    kernels = np.zeros((1, 4, 3), dtype=np.float32)
    kernels[0, :, 1] = [1, 2, 3, 4]
    table = ConflictTable.from_pairs(2, np.array([[0, 1]]), kernels)
    for before, after, phase in [(1, 9, 0), (1, 3, 1), (4, 4, 2), (9, 1, 3), (5, 0, 3)]:
        scores = np.concatenate([one_peak(before, after), np.zeros((9, 1), dtype=np.float32)], axis=1)
        scores[4, 1] = 9
        found = solve_conflicts(scores, table, thresholds=0.5, exclusion_samples=4, engine=engine)
        assert as_lists(found) == [(4, 0, 10.0), (4, 1, 9.0 - (phase + 1))]


@pytest.mark.parametrize("engine", ["array", "numba"])
@pytest.mark.parametrize(
    ("energy", "amplitude"), [(20.0, 1.0), (16.0, 1.125), (1.0, 1.40625), (40.0, 0.75), (1e30, 0.703125)]
)
def test_the_amplitude_scales_the_kernel(energy, amplitude, engine):
    table = ConflictTable.from_pairs(2, np.array([[0, 1]]), np.array([[0, 4, 0]], dtype=np.float32))
    scores = np.concatenate([one_peak(3, 3), np.zeros((9, 1), dtype=np.float32)], axis=1)
    scores[4, 1] = 9
    found = solve_conflicts(
        scores, table, thresholds=0.5, energies=[energy, 1.0], exclusion_samples=4, engine=engine
    )
    assert as_lists(found) == [(4, 0, 10.0), (4, 1, 9.0 - 4 * amplitude)]


@pytest.mark.parametrize("engine", ["array", "numba"])
def test_scores_beyond_the_largest_are_safe(engine):
    rng = np.random.default_rng(3)
    table = ConflictTable.from_pairs(3, PAIRS, make_kernels(8))
    scores = (rng.standard_normal((200, 3)) * np.float32(3e37)).astype(np.float32)
    for energies in (1e-30, 3.0, 3e38):
        options = {"thresholds": 1e-30, "energies": energies, "amplitude_limits": (0.5, 8.0), "stride": 512}
        found = solve_conflicts(scores, table, engine=engine, **options)
        assert len(found) > 50
        assert float(np.max(found.probability)) <= 2.0**31
        assert as_lists(found) == as_lists(solve_conflicts(scores, table, engine="array", **options))


@pytest.mark.parametrize("order", ["C", "F"])
def test_fixed_point_is_rounded_and_cut_and_says_whether_all_is_finite(order):
    values = np.array([[0.5, -1.25], [0.0625, 3e37], [-0.1875, -300.0]], dtype=np.float32, order=order)
    fixed = np.full((2, 5), 7, dtype=np.int32)
    assert by_unit(values, 8.0, 1000, fixed, 1)
    assert fixed.tolist() == [[7, 4, 0, -2, 7], [7, -10, 1000, -1000, 7]]
    for odd in (np.nan, np.inf, -np.inf):
        values[1, 1] = odd
        assert not by_unit(values, 8.0, 1000, fixed, 1)


@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_energies_are_halved_until_they_have_20_bits(factor):
    exponents = np.arange(50)
    energies = (factor * 2.0**exponents).astype(np.float32)
    fit = Fit.make(phases=1, stride=1, energies=energies, amplitude_limits=(0.5, 2.0), scale=1.0)
    wanted = np.maximum(exponents - 19, 0)
    np.testing.assert_array_equal(fit.shifts, wanted)
    np.testing.assert_array_equal(fit.energies, np.round(energies / 2.0**wanted))
    assert (fit.least, fit.most) == (32, 128)


@settings(max_examples=100, deadline=None)
@given(rise=st.integers(0, 30), fall=st.integers(0, 30), data=st.data())
def test_slopes_lose_no_more_bits_than_leaves_them_below_20(rise, fall, data):
    rise, fall = (data.draw(st.integers(2**bits - 1, 2**bits)) for bits in (rise, fall))
    score, before, after = np.array([[rise], [0], [rise - fall]])
    wanted = [rise, fall]
    while max(wanted) >= 2**20:
        wanted = [slope >> 1 for slope in wanted]
    found = slopes(array_api_compat.numpy, score, before, after, np.array([True]))
    assert [int(slope[0]) for slope in found] == wanted
    unknown = slopes(array_api_compat.numpy, score, before, after, np.array([False]))
    assert [int(slope[0]) for slope in unknown] == [1, 1]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("amplitude_limits", [(0.7, 1.4), (1.0, 1.0), (0.25, 4.0)])
def test_amplitudes_explain_more_energy(seed, amplitude_limits):
    # Detectors are the templates, lags are whole: the fall of the energy is known from the scores alone.
    rng = np.random.default_rng(seed)
    length, num_samples, units = 15, 500, 3
    shape = np.exp(-0.5 * ((np.arange(length) - 7) / rng.uniform(1.5, 3, (units, 1))) ** 2)
    templates = shape * np.array([[5.0], [8.0], [12.0]]) * np.cos(np.arange(length) / 2)
    traces = 0.3 * rng.standard_normal(num_samples)
    for sample, unit in zip(rng.integers(20, 480, 25), rng.integers(0, units, 25), strict=True):
        traces[sample - 7 : sample + 8] += rng.uniform(0.5, 2.0) * templates[unit]
    energies = (templates**2).sum(axis=1)
    pairs = np.array(list(itertools.product(range(units), repeat=2)))
    kernels = np.stack([np.correlate(templates[a], templates[b], "full") for a, b in pairs])
    table = ConflictTable.from_pairs(units, pairs, kernels)
    scores = np.stack([np.correlate(traces, t, "same") for t in templates], axis=1) - energies / 2
    found = solve_conflicts(
        scores.astype(np.float32),
        table,
        thresholds=2.0,
        energies=energies.tolist(),
        amplitude_limits=amplitude_limits,
    )
    score = np.asarray(found.probability, dtype=float)
    energy = energies[np.asarray(found.unit_index)]
    least, most = (round(64 * limit) / 64 for limit in amplitude_limits)
    best = score / energy + 0.5
    size = np.clip(np.floor(64 * best + 0.5) / 64, least, most)
    residual = traces.copy()
    for (sample, unit, _), a in zip(as_lists(found), size, strict=True):
        residual[sample - 7 : sample + 8] -= a * templates[unit]
    falls = energy * (best**2 - (size - best) ** 2)
    assert np.all(falls >= 2 * score * (1 - 1e-9))
    assert (residual**2).sum() == pytest.approx((traces**2).sum() - falls.sum(), rel=1e-4, abs=0.05)
    assert len(found) >= 20


def test_chunks_that_share_a_sample_are_sorted_by_unit():
    def spikes(*rows):
        sample, unit, probability = zip(*rows, strict=True)
        return Spikes(np.array(sample), np.array(unit), np.array(probability, dtype=np.float32))

    joined = join_chunks([spikes((3, 0, 1), (9, 2, 1)), spikes((9, 1, 2), (12, 0, 3))])
    assert as_lists(joined) == [(3, 0, 1), (9, 1, 2), (9, 2, 1), (12, 0, 3)]
    with pytest.raises(ValueError, match="chunks must follow each other in time, got a chunk whose first"):
        join_chunks([spikes((3, 0, 1), (9, 2, 1)), spikes((8, 1, 2), (12, 0, 3))])


@pytest.mark.parametrize("engine", ["array", "numba"])
def test_layouts_and_dtypes_do_not_matter(engine):
    import torch

    scores = np.round(make_scores(2, whole_numbers=False, num_samples=80) * 16) / np.float32(16)
    table = ConflictTable.from_pairs(3, PAIRS, make_kernels(8))
    like_torch = ConflictTable.from_pairs(3, torch.from_numpy(PAIRS), torch.from_numpy(make_kernels(8)))
    solve = partial(solve_conflicts, thresholds=1.0, energies=ENERGIES, stride=2, engine=engine)
    expected = as_lists(solve(scores, table))
    by_unit = np.ascontiguousarray(scores.T)
    wide = np.repeat(scores, 2, axis=1)
    for same in (by_unit.T, scores.astype(np.float64), scores.astype(np.float16), wide[:, ::2]):
        assert as_lists(solve(same, table)) == expected
    for same in (torch.from_numpy(by_unit).T, torch.from_numpy(scores).requires_grad_()):
        assert as_lists(solve(same, like_torch)) == expected
    np.testing.assert_array_equal(by_unit, scores.T)  # the caller's array is not touched


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 0}, "stride must be a whole number from 1 to 512, got 0"),
        ({"stride": 513}, "stride must be a whole number from 1 to 512, got 513"),
        ({"stride": 2.0}, "stride must be a whole number from 1 to 512, got 2.0"),
        ({"energies": [1.0]}, r"energies must be one number or one for each of 2 units, got shape \(1,\)"),
        ({"energies": [1.0, 0.0]}, "energies must be above 0, got 0.0 for unit 1"),
        ({"energies": [1.0, float("nan")]}, "energies must be above 0, got nan for unit 1"),
        ({"energies": [float("inf"), 1.0]}, "energies must be above 0 and finite, got inf for unit 0"),
        (
            {"amplitude_limits": (1.1, 1.4)},
            r"must be two numbers, the first from 1/64 to 1, the second from 1 to 8, got \(1.1, 1.4\)",
        ),
        ({"amplitude_limits": (0.7, 0.9)}, "amplitude_limits must be two numbers"),
        ({"amplitude_limits": (0.0, 2.0)}, "amplitude_limits must be two numbers"),
        ({"amplitude_limits": (0.7, 9.0)}, "amplitude_limits must be two numbers"),
        ({"amplitude_limits": (0.7,)}, "amplitude_limits must be two numbers"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        solve_conflicts(np.zeros((8, 2), dtype=np.float32), **{"thresholds": 1.0, **options})


@pytest.mark.parametrize("phases", [0, 513])
def test_bad_phases(phases):
    with pytest.raises(ValueError, match=f"kernels must have from 1 to 512 phases, got {phases}"):
        ConflictTable.from_pairs(2, np.array([[0, 1]]), np.zeros((1, phases, 3)))


def test_jax_without_64_bits_refuses_late_samples():
    late = to_library(np.ones((8, 2), dtype=np.float32), "jax")
    with pytest.raises(ValueError, match="sample indices must be below 2147483647"):
        solve_conflicts(late, thresholds=1.0, stride=8, first_sample=2**31 - 32)


@pytest.fixture(scope="module")
def pursuit():
    """Scores with noise, overlapping spikes between the rows and amplitudes, made by the benchmark."""
    path = Path(__file__).parents[1] / "benchmarks" / "pursuit.py"
    module = runpy.run_path(str(path), run_name="pursuit")
    return module["make_pursuit"](1, num_units=12, num_neighbours=8, num_rows=8000)


def test_the_spikes_put_in_are_found(pursuit):
    table = pursuit.table()
    found = pursuit.solve(table, engine="numba")
    assert as_lists(found) == as_lists(pursuit.solve(table, engine="array"))
    truth = sorted(zip(pursuit.unit.tolist(), pursuit.sample.tolist(), strict=True))
    answer = sorted(zip(found.unit_index.tolist(), found.sample_index.tolist(), strict=True))
    assert len(truth) > 40
    assert [unit for unit, _ in answer] == [unit for unit, _ in truth]
    off = np.array(answer)[:, 1] - np.array(truth)[:, 1]  # samples of 32 kHz, three a row
    assert np.max(np.abs(off)) <= 4  # less than a row and a half
    assert np.mean(np.abs(off) <= 1) > 0.9
    order = np.lexsort((found.sample_index, found.unit_index))
    amplitude = (found.probability / pursuit.energies[found.unit_index] + 0.5)[order]
    true_amplitude = pursuit.amplitude[np.lexsort((pursuit.sample, pursuit.unit))]
    assert np.abs(np.mean(amplitude - true_amplitude)) < 0.03  # noise alone: 1 / norm of the template each
