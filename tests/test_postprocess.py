import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from postprocess_oracle import (
    ENGINES,
    LIBRARIES,
    Edges,
    as_lists,
    loop_rounds,
    loop_scores,
    probability_bits,
    to_library,
)

from esort.postprocess import (
    ConflictTable,
    Spikes,
    accept_mask,
    detect_in_chunks,
    detect_spikes,
    join_chunks,
    margin_samples,
)

RATE_HZ = 10_000.0  # one sample is 0.1 ms


def make_probabilities(seed, num_samples, num_units, levels=None):
    """Random probabilities, sparse peaks; on few ``levels`` there are many ties and plateaus."""
    rng = np.random.default_rng(seed)
    values = rng.random((num_samples, num_units)) ** 3
    if levels is not None:
        values = np.round(values * levels) / levels
    return values.astype(np.float32)


def loop_detect(probabilities, *, thresholds, half_width, exclusion, max_rounds, edges=None, bits=None):
    bits = probability_bits(half_width) if bits is None else bits
    limits = [max(1, round(float(np.float32(value)) * 2**bits)) * half_width**2 for value in thresholds]
    scores = loop_scores(probabilities, half_width, bits)
    spikes = loop_rounds(scores, limits, exclusion=exclusion, max_rounds=max_rounds, edges=edges)
    step = np.float32(1.0 / (2**bits * half_width**2))
    return [(sample, unit, float(np.float32(score) * step)) for sample, unit, score in spikes]


@pytest.fixture(scope="module", params=ENGINES, ids=lambda param: "-".join(param))
def backend(request):
    return request.param


def run(check, library, **example):
    """Look for a counter-example; on JAX, which compiles every operation for every shape, one example."""
    if library == "jax":
        check.hypothesis.inner_test(**example)
    else:
        check()


def test_equals_the_loop(backend):
    library, engine = backend
    num_samples, num_units = 60, 3

    @settings(max_examples=25, deadline=None)
    @given(
        seed=st.integers(0, 2**32 - 1),
        levels=st.sampled_from([None, 2, 5]),
        half_width=st.integers(1, 6),
        exclusion=st.integers(1, 12),
        max_rounds=st.sampled_from([1, 2, 16]),
        thresholds=st.lists(st.sampled_from([0.05, 0.2, 0.4]), min_size=num_units, max_size=num_units),
    )
    def check(seed, levels, half_width, exclusion, max_rounds, thresholds):
        probabilities = make_probabilities(seed, num_samples, num_units, levels)
        found = detect_spikes(
            to_library(probabilities, library),
            sampling_frequency=RATE_HZ,
            thresholds=thresholds,
            smoothing_ms=(2 * half_width - 1) / 10,
            refractory_ms=exclusion / 10,
            max_rounds=max_rounds,
            engine=engine,
            num_threads=2,
        )
        expected = loop_detect(
            probabilities,
            thresholds=thresholds,
            half_width=half_width,
            exclusion=exclusion,
            max_rounds=max_rounds,
        )
        assert as_lists(found) == expected

    run(
        check,
        library,
        seed=1,
        levels=5,
        half_width=3,
        exclusion=6,
        max_rounds=16,
        thresholds=[0.05, 0.2, 0.2],
    )


def test_equals_the_loop_with_a_table(backend):
    library, engine = backend
    pairs = np.array([[0, 1], [1, 0], [2, 1], [2, 2]])
    kernels = np.array(
        [[0.1, 0.3, 0.2], [0.0, 0.25, -0.125], [0.0, 0.5, 0.0], [0.1, 0.9, 0.1]], dtype=np.float32
    )

    @settings(max_examples=20, deadline=None)
    @given(
        seed=st.integers(0, 2**32 - 1),
        levels=st.sampled_from([None, 4]),
        window=st.integers(0, 4),
        with_kernels=st.booleans(),
        with_exclusive=st.booleans(),
        max_rounds=st.sampled_from([1, 3]),
    )
    def check(seed, levels, window, with_kernels, with_exclusive, max_rounds):
        chosen = slice(None) if with_kernels else slice(0, 3)  # a unit does not exclude itself by the table
        exclusive = np.array([with_exclusive, False, with_exclusive, False])[chosen]
        table = ConflictTable.from_pairs(
            3,
            to_library(pairs[chosen], library),
            to_library(kernels, library) if with_kernels else None,
            exclusive=to_library(exclusive, library),
            exclusive_samples=window,
        )
        probabilities = make_probabilities(seed, 60, 3, levels)
        found = detect_spikes(
            to_library(probabilities, library),
            sampling_frequency=RATE_HZ,
            thresholds=0.1,
            smoothing_ms=0.3,
            refractory_ms=0.4,
            conflicts=table,
            max_rounds=max_rounds,
            engine=engine,
        )
        bits = probability_bits(2, table.lowering_bound(4))
        scaled = np.round(kernels * np.float32(2**bits * 4)).astype(int).tolist() if with_kernels else None
        edges = Edges(pairs[chosen].tolist(), scaled, exclusive.tolist(), window)
        expected = loop_detect(
            probabilities,
            thresholds=[0.1] * 3,
            half_width=2,
            exclusion=4,
            max_rounds=max_rounds,
            edges=edges,
            bits=bits,
        )
        assert as_lists(found) == expected

    run(check, library, seed=1, levels=4, window=2, with_kernels=True, with_exclusive=True, max_rounds=3)


@pytest.mark.parametrize("engine", ["array", "numba"])
def test_chunked_equals_whole(engine):
    pairs = np.array([[0, 1], [1, 2], [2, 2]])
    kernels = np.array([[0.1, 0.3, 0.2], [0.0, 0.25, -0.125], [0.1, 0.9, 0.1]], dtype=np.float32)
    tables = [
        None,
        ConflictTable.from_pairs(3, pairs[:2], exclusive_samples=3),
        ConflictTable.from_pairs(3, pairs, kernels),
    ]

    @settings(max_examples=30, deadline=None)
    @given(
        seed=st.integers(0, 2**32 - 1),
        levels=st.sampled_from([None, 2, 5]),
        table=st.sampled_from(tables),
        chunk_samples=st.integers(1, 260),
        max_rounds=st.sampled_from([1, 2, 4]),
        half_width=st.sampled_from([1, 4]),
    )
    def check(seed, levels, table, chunk_samples, max_rounds, half_width):
        num_samples = 240
        probabilities = make_probabilities(seed, num_samples, 3, levels)
        options = {
            "sampling_frequency": RATE_HZ,
            "thresholds": 0.1,
            "smoothing_ms": (2 * half_width - 1) / 10,
            "refractory_ms": 0.5,
            "conflicts": table,
            "max_rounds": max_rounds,
            "engine": engine,
        }
        whole = detect_spikes(probabilities, **options)
        chunks = detect_in_chunks(
            lambda start, stop: probabilities[start:stop], num_samples, chunk_samples=chunk_samples, **options
        )
        assert as_lists(join_chunks(chunks)) == as_lists(whole)

    check()


def test_no_smaller_margin_is_enough():
    # Ever lower peaks, each within the refractory time of the one before: the last hangs on the first.
    probabilities = np.zeros((60, 1), dtype=np.float32)
    probabilities[4:52:4, 0] = np.linspace(0.9, 0.4, 12)
    options = {
        "sampling_frequency": RATE_HZ,
        "thresholds": 0.3,
        "smoothing_ms": 0,
        "refractory_ms": 0.5,
        "max_rounds": 6,
    }
    margin = margin_samples(RATE_HZ, smoothing_ms=0, refractory_ms=0.5, max_rounds=6)
    whole = detect_spikes(probabilities, **options)
    assert np.asarray(whole.sample_index).tolist() == [4, 12, 20, 28, 36, 44]
    assert margin == 9 * 6 - 4
    cut = detect_spikes(probabilities[8:], first_sample=8, core=(36, 37), **options)
    assert len(cut) == 0  # 36 samples of margin do not do: without the first peak, the second wins


def test_what_is_undecided_after_the_last_round_is_no_spike():
    probabilities = np.zeros((60, 1), dtype=np.float32)
    probabilities[4:52:4, 0] = np.linspace(0.9, 0.4, 12)
    options = {"sampling_frequency": RATE_HZ, "thresholds": 0.3, "smoothing_ms": 0, "refractory_ms": 0.5}
    few = detect_spikes(probabilities, max_rounds=2, **options)
    assert few.sample_index.tolist() == [4, 12]
    settings_samples = {"half_width_samples": 1, "exclusion_samples": 5}
    limits = np.asarray([0.3], dtype=np.float32)
    undecided = accept_mask(probabilities, limits, max_rounds=2, **settings_samples)[2]
    assert undecided[:, 0].nonzero()[0].tolist() == [20, 24, 28, 32, 36, 40, 44, 48]


@pytest.mark.parametrize("engine", ["array", "numba"])
@pytest.mark.parametrize(("places", "winner"), [((20, 20), 0), ((22, 20), 1), ((20, 22), 0)])
def test_of_equal_spikes_the_earlier_wins_then_the_lower_unit(places, winner, engine):
    probabilities = np.zeros((40, 2), dtype=np.float32)
    for unit, sample in enumerate(places):
        probabilities[sample, unit] = 0.75
    found = detect_spikes(
        probabilities,
        sampling_frequency=RATE_HZ,
        thresholds=0.5,
        smoothing_ms=0.0,
        refractory_ms=0.4,
        conflicts=ConflictTable.from_pairs(2, np.array([[1, 0]]), exclusive_samples=3),
        engine=engine,
    )
    assert as_lists(found) == [(places[winner], winner, 0.75)]


@pytest.mark.parametrize("smoothing_ms", [0.0, 0.3, 0.5, 1.0])
def test_spikes_are_where_they_were_put(smoothing_ms):
    rng = np.random.default_rng(3)
    samples = np.cumsum(rng.integers(50, 200, size=40)) + np.arange(40) % 2
    lag = np.arange(-6, 7)
    probabilities = np.zeros((samples[-1] + 60, 2), dtype=np.float32)
    for position, sample in enumerate(samples):
        probabilities[sample + lag, position % 2] = np.exp(-0.5 * (lag / 3.0) ** 2)
    found = detect_spikes(
        probabilities,
        sampling_frequency=32_000,
        thresholds=0.3,
        smoothing_ms=smoothing_ms,
        first_sample=10**10,
    )
    assert found.sample_index.tolist() == (samples + 10**10).tolist()
    assert found.unit_index.tolist() == (np.arange(40) % 2).tolist()
    assert found.sample_index.dtype == np.int64


def test_a_constant_reaches_a_threshold_of_its_own_height():
    probabilities = np.full((50, 1), 0.3, dtype=np.float32)
    found = detect_spikes(probabilities, sampling_frequency=RATE_HZ, thresholds=0.3, smoothing_ms=0.5)
    assert found.sample_index.tolist() == [
        2
    ]  # the first that no zero beyond the end lowers; one for the plateau
    np.testing.assert_allclose(found.probability, [0.3], atol=2**-13)


@pytest.mark.parametrize("lag", range(-64, 65, 8))
def test_overlapping_spikes_of_two_units_survive(lag):
    shape = np.exp(-0.5 * (np.arange(-8, 9) / 4.0) ** 2)
    probabilities = np.zeros((400, 2), dtype=np.float32)
    probabilities[192:209, 0] = 0.9 * shape
    probabilities[192 + lag : 209 + lag, 1] = 0.8 * shape
    found = detect_spikes(probabilities, sampling_frequency=32_000, thresholds=0.5)
    assert sorted(zip(found.unit_index.tolist(), found.sample_index.tolist(), strict=True)) == [
        (0, 200),
        (1, 200 + lag),
    ]


def test_the_static_core_under_jit():
    jax = pytest.importorskip("jax")
    probabilities = make_probabilities(5, 64, 2, 5)
    settings_samples = {"half_width_samples": 2, "exclusion_samples": 6, "max_rounds": 2}
    limits = np.array([0.2, 0.3], dtype=np.float32)
    pairs, kernels = (
        np.array([[0, 1], [1, 0]]),
        np.array([[0.1, 0.3, 0.0], [0.2, 0.2, 0.1]], dtype=np.float32),
    )
    for with_table in (False, True):
        tables = [
            ConflictTable.from_pairs(2, to_library(pairs, name), to_library(kernels, name))
            if with_table
            else None
            for name in ("numpy", "jax")
        ]
        expected = accept_mask(probabilities, limits, static=False, conflicts=tables[0], **settings_samples)
        compiled = jax.jit(partial(accept_mask, conflicts=tables[1], **settings_samples))
        found = compiled(to_library(probabilities, "jax"), to_library(limits, "jax"))
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(np.asarray(one), other)


@pytest.mark.parametrize(
    "compiler", ["eager", pytest.param("inductor", marks=pytest.mark.slow)]
)  # "eager": traced as one graph, not compiled
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_the_static_core_under_torch_compile(compiler):
    torch = pytest.importorskip("torch")
    probabilities = torch.from_numpy(make_probabilities(5, 90, 2, 5))
    limits = torch.tensor([0.2, 0.3])
    settings_samples = {"half_width_samples": 3, "exclusion_samples": 6, "max_rounds": 3}
    compiled = torch.compile(partial(accept_mask, **settings_samples), fullgraph=True, backend=compiler)
    expected = accept_mask(probabilities, limits, static=False, **settings_samples)
    for one, other in zip(compiled(probabilities, limits), expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("library", LIBRARIES)
def test_kind_of_the_result(library):
    probabilities = to_library(make_probabilities(1, 60, 3), library)
    found = detect_spikes(probabilities, sampling_frequency=RATE_HZ)
    assert isinstance(found, Spikes)
    for column in (found.sample_index, found.unit_index, found.probability):
        assert type(column) is type(probabilities)
    integer = "int32" if library == "jax" else "int64"  # JAX has no int64 unless told so
    assert str(found.sample_index.dtype).endswith(integer)
    assert str(found.unit_index.dtype).endswith(integer)
    assert str(found.probability.dtype).endswith("float32")


def test_jax_with_64_bits():
    jax = pytest.importorskip("jax")
    with jax.enable_x64(True):
        found = detect_spikes(
            to_library(make_probabilities(1, 60, 3), "jax"),
            sampling_frequency=RATE_HZ,
            thresholds=0.1,
            first_sample=2**40,
        )
    assert str(found.sample_index.dtype) == "int64"
    assert int(found.sample_index[0]) >= 2**40


@pytest.mark.parametrize("engine", ["array", "numba"])
def test_layouts_and_dtypes_do_not_matter(engine):
    import torch

    probabilities = np.round(make_probabilities(2, 80, 3) * 16) / np.float32(16)  # exact in every dtype
    detect = partial(detect_spikes, sampling_frequency=RATE_HZ, thresholds=0.2, engine=engine)
    expected = as_lists(detect(probabilities))
    read_only = probabilities.copy()
    read_only.flags.writeable = False
    tensor = torch.from_numpy(probabilities)
    signed_zero = np.where(probabilities == 0, np.float32(-0.0), probabilities)
    for same in (
        np.asfortranarray(probabilities),
        probabilities.astype(np.float64),
        probabilities.astype(np.float16),
        signed_zero,
        read_only,
        tensor.T.contiguous().T,
        tensor.bfloat16(),
        tensor.clone().requires_grad_(),
    ):
        assert as_lists(detect(same)) == expected


@pytest.mark.parametrize("shape", [(0, 3), (5, 0), (0, 0)])
def test_nothing_in_nothing_out(backend, shape):
    library, engine = backend
    empty = to_library(np.zeros(shape, dtype=np.float32), library)
    found = detect_spikes(empty, sampling_frequency=RATE_HZ, engine=engine)
    assert len(found) == 0
    assert type(found.sample_index) is type(empty)


def test_no_spikes(backend):
    library, engine = backend
    found = detect_spikes(
        to_library(np.zeros((60, 3), dtype=np.float32), library), sampling_frequency=RATE_HZ, engine=engine
    )
    assert as_lists(found) == []


def test_auto_takes_the_compiled_engine_for_large_arrays(monkeypatch):
    from esort.postprocess import engine

    probabilities = make_probabilities(7, 500, 3)
    small = detect_spikes(probabilities, sampling_frequency=RATE_HZ)
    assert engine.choose_engine("auto", probabilities) == "array"
    monkeypatch.setattr(engine, "WORTH_COMPILING", 100)
    assert engine.choose_engine("auto", probabilities) == "numba"
    assert as_lists(detect_spikes(probabilities, sampling_frequency=RATE_HZ)) == as_lists(small)


def test_imports_no_array_library():
    code = (
        "import sys, esort.postprocess; "
        "print([m for m in ('numpy', 'torch', 'jax', 'cupy', 'numba', 'scipy') if m in sys.modules], "
        "[m for m in sys.modules if m.startswith('esort.') and not m.startswith('esort.postprocess')])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[] []"


def one_bad(value, dtype=np.float32):
    values = np.zeros((8, 2), dtype=dtype)
    values[5, 1] = value
    return values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (one_bad(np.nan), r"probabilities must lie in \[0, 1\], got nan at sample 5 of unit 1"),
        (one_bad(1.5), r"probabilities must lie in \[0, 1\], got 1.5 at sample 5 of unit 1"),
        (one_bad(-0.5), r"probabilities must lie in \[0, 1\], got -0.5 at sample 5 of unit 1"),
        (one_bad(np.inf), r"probabilities must lie in \[0, 1\], got inf at sample 5 of unit 1"),
        (np.zeros(4, dtype=np.float32), r"probabilities must have shape \(samples, units\), got \(4,\)"),
        (np.zeros((4, 2, 1), dtype=np.float32), r"must have shape \(samples, units\), got \(4, 2, 1\)"),
        (one_bad(1, np.int32), r"probabilities must be floating point, got .*int32"),
        (one_bad(True, np.bool_), r"probabilities must be floating point, got .*bool"),
    ],
)
def test_bad_probabilities(backend, values, message):
    library, engine = backend
    with pytest.raises(ValueError, match=message):
        detect_spikes(to_library(values, library), sampling_frequency=RATE_HZ, engine=engine)


def test_not_an_array():
    with pytest.raises(
        ValueError, match=r"must be a \(samples, units\) array of an array-API library, got list"
    ):
        detect_spikes([[0.1, 0.2]], sampling_frequency=RATE_HZ)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ([0.5], r"thresholds must be one number or one for each of 2 units, got shape \(1,\)"),
        ([0.5, 0.0], r"thresholds must be \(0, 1\], got 0.0 for unit 1"),
        ([1.5, 0.5], r"thresholds must be \(0, 1\], got 1.5 for unit 0"),
        (float("nan"), r"thresholds must be \(0, 1\], got nan for unit 0"),
    ],
)
def test_bad_thresholds(library, thresholds, message):
    probabilities = to_library(np.zeros((8, 2), dtype=np.float32), library)
    with pytest.raises(ValueError, match=message):
        detect_spikes(probabilities, sampling_frequency=RATE_HZ, thresholds=thresholds)
    if isinstance(thresholds, list):
        thresholds = to_library(np.array(thresholds, dtype=np.float32), library)
        with pytest.raises(ValueError, match=message):
            detect_spikes(probabilities, sampling_frequency=RATE_HZ, thresholds=thresholds)


def test_mixed_libraries_and_devices():
    import array_api_strict
    import torch

    probabilities = np.zeros((8, 2), dtype=np.float32)
    with pytest.raises(ValueError, match="thresholds must be of the library of the scores, numpy, got torch"):
        detect_spikes(probabilities, sampling_frequency=RATE_HZ, thresholds=torch.tensor([0.5, 0.5]))
    table = ConflictTable.from_pairs(2, torch.tensor([[0, 1]]))
    with pytest.raises(ValueError, match="conflicts must be of the library of the scores, numpy, got torch"):
        detect_spikes(probabilities, sampling_frequency=RATE_HZ, conflicts=table)
    elsewhere = array_api_strict.asarray([0.5, 0.5], device=array_api_strict.Device("device1"))
    with pytest.raises(
        ValueError, match="thresholds must be on the device of the scores, .*CPU.*, got .*device1"
    ):
        detect_spikes(
            to_library(probabilities, "array_api_strict"), sampling_frequency=RATE_HZ, thresholds=elsewhere
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling_frequency": 0}, "sampling_frequency must be a positive number of Hz, got 0"),
        ({"sampling_frequency": float("nan")}, "sampling_frequency must be a positive number of Hz, got nan"),
        ({"smoothing_ms": -1}, "smoothing_ms must be at least 0, got -1"),
        ({"smoothing_ms": 1000}, "smoothing_ms must span at most 2047 samples, got 1000 ms at 10000.0 Hz"),
        ({"refractory_ms": -0.1}, "refractory_ms must be at least 0, got -0.1"),
        ({"max_rounds": 0}, "max_rounds must be a whole number of at least 1, got 0"),
        ({"max_rounds": 2.5}, "max_rounds must be a whole number of at least 1, got 2.5"),
        ({"first_sample": -1}, "first_sample must be a whole number of at least 0, got -1"),
        ({"num_threads": True}, "num_threads must be a whole number of at least 1, got True"),
        ({"core": (3, 9)}, "core must lie within the 8 samples of the array, got 3 to 9"),
        ({"engine": "fast"}, "engine must be 'auto', 'array' or 'numba', got 'fast'"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        detect_spikes(np.zeros((8, 2), dtype=np.float32), **{"sampling_frequency": RATE_HZ, **options})


def test_numba_needs_cpu_arrays(monkeypatch):
    from esort.postprocess import engine

    strict = to_library(np.zeros((8, 2), dtype=np.float32), "array_api_strict")
    with pytest.raises(
        ValueError, match="engine 'numba' needs NumPy arrays or PyTorch CPU tensors, got Array"
    ):
        detect_spikes(strict, sampling_frequency=RATE_HZ, engine="numba")
    monkeypatch.setattr(engine.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="engine 'numba' needs the package numba, which is not installed"):
        detect_spikes(np.zeros((8, 2), dtype=np.float32), sampling_frequency=RATE_HZ, engine="numba")


def test_jax_without_64_bits_refuses_late_samples():
    late = to_library(np.ones((8, 2), dtype=np.float32), "jax")
    with pytest.raises(
        ValueError, match=r"sample indices must be below 2147483647 .*; for JAX set jax_enable_x64"
    ):
        detect_spikes(late, sampling_frequency=RATE_HZ, first_sample=2**31)


def test_bad_chunks():
    with pytest.raises(ValueError, match="join_chunks expects at least one chunk, got none"):
        join_chunks([])
    one = detect_spikes(make_probabilities(0, 50, 2), sampling_frequency=RATE_HZ, thresholds=0.1)
    with pytest.raises(
        ValueError, match="chunks must follow each other in time, got a chunk whose first spike is"
    ):
        join_chunks([one, one])
    with pytest.raises(ValueError, match="chunk_samples must be a whole number of at least 1, got 0"):
        list(detect_in_chunks(lambda a, b: None, 10, chunk_samples=0, sampling_frequency=RATE_HZ))
