"""From probabilities to spikes: smoothing, local maxima, thresholds, exclusion; chunked equals whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from array_api_compat import array_namespace, is_jax_array, is_torch_array

from . import checks
from .compaction import collect_spikes, empty_spikes, list_spikes
from .engine import choose_engine, detect_compiled
from .reach import exclusion_samples, margin_samples, smoothing_half_width
from .rounds import solve_rounds
from .sliding import smooth
from .sparse import find_nodes, solve_nodes
from .spikes import Spikes
from .table import ConflictTable, scale_for

Array = Any
# One step in 4096 is far below what a probability means, and far above what float arithmetic differs by
# between libraries, machines and sizes of a matrix product: rounded to it, they agree on where a peak is.
MOST_BITS = 12


def detect_spikes(
    probabilities: Array,
    *,
    sampling_frequency: float,
    thresholds: Any = 0.5,
    smoothing_ms: float = 0.5,
    refractory_ms: float = 1.0,
    conflicts: ConflictTable | None = None,
    max_rounds: int = 16,
    first_sample: int = 0,
    core: tuple[int, int] | None = None,
    engine: str = "auto",
    num_threads: int = 1,
) -> Spikes:
    """Find the spikes in an array of probabilities.

    1. *Smoothing* over time by a triangular kernel of sum 1, centred on its sample: no time offset. Beyond
       both ends of the recording the probability is taken as 0.
    2. *Nodes:* every sample whose smoothed probability reaches the unit's threshold and is a local maximum:
       above the sample before, not below the sample after. The first sample of a plateau stands for it.
    3. *Rounds:* a node is accepted if it beats all undecided nodes of its unit closer than
       ``refractory_ms``, and all undecided nodes of the units that ``conflicts`` couples to it, within the
       reach of the table. The higher wins; of equals the earlier, then the lower unit. Nodes excluded by an
       accepted one are dropped, those coupled by a kernel are lowered and the local maxima found again;
       then the next round, until nothing is left or ``max_rounds`` have passed. What is undecided then is
       no spike (without a table: only at the end of a run of more than 2 ``max_rounds`` ever lower peaks of
       one unit, each within the refractory time of the one before).

    *Chunked equals whole.* Probabilities are rounded once, to 12 bits or less; all else is exact integer
    arithmetic, so no result depends on an order of summation. Smoothing looks at most ``h - 1`` samples
    away (``h`` half the width of the kernel), a local maximum one further, and one round looks and acts at
    most ``c`` samples away (the exclusion or the reach of the table): by induction over the rounds, whether
    a sample is accepted depends on ``(2 c + 1) max_rounds - c + h - 1`` samples on each side and on nothing
    else. That is `margin_samples`. A chunk read with this margin (less only where the recording ends)
    therefore has, between the margins, the spikes of the whole, whatever its length. `detect_in_chunks` and
    `join_chunks` do this.

    Parameters
    ----------
    probabilities : float array (samples, units)
        In [0, 1]; NumPy, PyTorch, JAX, CuPy or any library that array-api-compat knows.
    sampling_frequency : float
        In Hz.
    thresholds : float, list of float, or array (units,)
        Least smoothed probability of a spike, in (0, 1].
    smoothing_ms : float
        Width of the kernel from the first to the last sample that counts: the largest odd number of samples
        that fits. 0 for none.
    refractory_ms : float
        Spikes of one unit are at least this far apart.
    conflicts : ConflictTable, optional
        Edges between units, in units of the smoothed probability.
    max_rounds : int
    first_sample : int
        Sample index of the first row.
    core : (int, int), optional
        Only spikes in these rows are returned; the rows around them are margin.
    engine : {"auto", "array", "numba"}
        "array": array-API operations. "numba": compiled, for NumPy arrays and PyTorch CPU tensors, with the
        same result; "auto" takes it where it is installed and the array is large enough to repay it.
    num_threads : int
        Of the compiled engine.

    Returns
    -------
    Spikes
        Same library and device as ``probabilities``; empty for zero samples or zero units.

    Raises
    ------
    ValueError
        Anything else than a floating point (samples, units) array in [0, 1]; thresholds of another length,
        range, library or device; a setting out of its range.
    """
    xp = checks.check_scores("probabilities", probabilities)
    half_width = smoothing_half_width(sampling_frequency, smoothing_ms)
    exclusion = exclusion_samples(sampling_frequency, refractory_ms)
    checks.check_count("max_rounds", max_rounds, least=1)
    checks.check_count("first_sample", first_sample, least=0)
    checks.check_count("num_threads", num_threads, least=1)
    checks.check_engine(engine)
    start, stop = checks.check_core(core, probabilities.shape[0])
    if is_torch_array(probabilities):
        probabilities = probabilities.detach()
    limits = checks.as_thresholds(xp, thresholds, probabilities, most=1.0)
    checks.check_table(conflicts, probabilities)
    if probabilities.shape[0] == 0 or probabilities.shape[1] == 0:
        return empty_spikes(probabilities)

    where = {"first_sample": first_sample, "start": start, "stop": stop}
    scale = score_scale(half_width, exclusion, conflicts)
    unit_scale = scale / half_width**2
    integer_limits = _integer_limits(xp, limits, unit_scale, half_width)
    rounds = {"exclusion_samples": exclusion, "max_rounds": max_rounds}
    if choose_engine(engine, probabilities) == "numba":
        settings: dict[str, Any] = {
            "half_width": half_width,
            "unit_scale": unit_scale,
            "num_threads": num_threads,
        }
        return detect_compiled(probabilities, integer_limits, conflicts, **settings, **rounds, **where)
    checks.check_probabilities(xp, probabilities)
    if conflicts is None and not is_jax_array(probabilities):  # JAX compiles anew for every number of nodes
        nodes = find_nodes(probabilities, integer_limits, half_width, unit_scale)
        won = solve_nodes(*nodes, num_samples=probabilities.shape[0], **rounds)
        return list_spikes(*nodes, won, 1.0 / scale, **where)
    accepted, heights, _ = accept_mask(
        probabilities, limits, half_width_samples=half_width, conflicts=conflicts, static=False, **rounds
    )
    return collect_spikes(accepted, heights, 1.0 / scale, **where)


def accept_mask(
    probabilities: Array,
    thresholds: Array,
    *,
    half_width_samples: int,
    exclusion_samples: int,
    max_rounds: int,
    conflicts: ConflictTable | None = None,
    static: bool = True,
) -> tuple[Array, Array, Array]:
    """Return the static part of `detect_spikes`, without checks: for ``jax.jit`` and ``torch.compile``.

    Parameters
    ----------
    probabilities : float array (N, U)
    thresholds : float32 array (U,)
    half_width_samples : int
        From `smoothing_half_width`; the kernel has ``2 half_width_samples - 1`` taps.
    exclusion_samples, max_rounds, conflicts
        As in `detect_spikes`, in samples.
    static : bool
        False stops early when nothing is left; the result is the same.

    Returns
    -------
    accepted, heights, undecided : bool, int32, bool arrays (N, U)
        Heights are in units of 1 / `score_scale`.
    """
    xp = array_namespace(probabilities)
    scale = score_scale(half_width_samples, exclusion_samples, conflicts)
    unit_scale = scale / half_width_samples**2  # a power of two: the product is exact
    scores = smooth(
        xp.astype(xp.round(xp.astype(probabilities, xp.float32) * unit_scale), xp.int32), half_width_samples
    )
    limits = _integer_limits(xp, thresholds, unit_scale, half_width_samples)
    kernels = None if conflicts is None else conflicts.quantise(scale)
    return solve_rounds(
        scores,
        limits,
        exclusion_samples=exclusion_samples,
        max_rounds=max_rounds,
        table=conflicts,
        kernels=kernels,
        static=static,
    )


def _integer_limits(xp: Any, thresholds: Array, unit_scale: float, half_width: int) -> Array:
    limits = xp.astype(xp.round(thresholds * unit_scale), xp.int32)
    return xp.maximum(limits, xp.ones_like(limits)) * half_width**2


def score_scale(half_width: int, exclusion: int, conflicts: ConflictTable | None) -> float:
    """Integer steps to a smoothed probability of 1: a power of two times ``half_width ** 2``."""
    largest = float(half_width**2)
    if conflicts is not None:
        largest *= 1.0 + conflicts.lowering_bound(exclusion)
    return min(2.0**MOST_BITS, scale_for(largest)) * half_width**2


def detect_in_chunks(
    read: Callable[[int, int], Array],
    num_samples: int,
    *,
    chunk_samples: int,
    sampling_frequency: float,
    smoothing_ms: float = 0.5,
    refractory_ms: float = 1.0,
    conflicts: ConflictTable | None = None,
    max_rounds: int = 16,
    **options: Any,
) -> Iterator[Spikes]:
    """Yield the spikes of chunk after chunk; joined by `join_chunks` they are the spikes of the whole.

    Parameters
    ----------
    read : callable
        ``read(start, stop)`` returns the probabilities of these samples, (stop - start, units).
    num_samples : int
        Length of the recording.
    chunk_samples : int
        Samples of a chunk without its margins.
    **options
        As in `detect_spikes`.
    """
    checks.check_count("chunk_samples", chunk_samples, least=1)
    settings: dict[str, Any] = {
        "smoothing_ms": smoothing_ms,
        "refractory_ms": refractory_ms,
        "conflicts": conflicts,
        "max_rounds": max_rounds,
    }
    margin = margin_samples(sampling_frequency, **settings)
    for start in range(0, max(num_samples, 1), chunk_samples):
        stop = min(start + chunk_samples, num_samples)
        first = max(0, start - margin)
        yield detect_spikes(
            read(first, min(num_samples, stop + margin)),
            sampling_frequency=sampling_frequency,
            first_sample=first,
            core=(start - first, stop - first),
            **settings,
            **options,
        )
