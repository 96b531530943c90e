"""Pursuit on energy scores: which spikes, together, explain the recording."""

from __future__ import annotations

from typing import Any

from array_api_compat import is_torch_array

from . import checks
from .compaction import collect_spikes, empty_spikes
from .engine import choose_engine, solve_energy_compiled
from .fit import AMPLITUDE_STEPS, MOST_STRIDE, Fit, amplitude_steps
from .rounds import fit_rounds
from .spikes import Spikes
from .table import ConflictTable, scale_for

Array = Any
MOST_SCORE = 2**28  # lowered or raised as much again, twice of which is the difference of two: 31 bits
MOST_PRODUCT = 2**30  # of a kernel and an amplitude in 64ths
SCORE_WITHOUT_KERNELS = 2.0**16


def solve_conflicts(
    scores: Array,
    table: ConflictTable | None = None,
    *,
    thresholds: Any,
    exclusion_samples: int = 1,
    max_rounds: int = 12,
    largest_score: float | None = None,
    energies: Any = None,
    amplitude_limits: tuple[float, float] = (0.7, 1.4),
    stride: int = 1,
    first_sample: int = 0,
    core: tuple[int, int] | None = None,
    engine: str = "auto",
) -> Spikes:
    r"""Accept spikes in parallel rounds on the conflict graph.

    Nodes are the local maxima of the scores that reach their unit's threshold. A round accepts every node
    that beats all its live rivals: nodes of its own unit closer than ``exclusion_samples``, and nodes of
    its neighbours in the table within the table's reach. The higher score wins; of equals the earlier
    sample, then the lower unit. Then *exclusive* rivals are dropped, the scores that the accepted spikes
    overlap are lowered by the table's kernels, and the maxima are found again.

    *It ends.* Scores and ties make a strict total order, so the first of all live nodes beats every rival:
    each round with a node left accepts one at least. An accepted sample is never a node again, and there
    are finitely many.

    *Between two samples.* With s the score of an accepted node, s- and s+ those of the rows beside it at that
    moment, d- = s - s- and d+ = s - s+, the parabola through the three has its vertex d- / (d- + d+) - 1/2
    rows after the node (0 at the ends of the array). If the table's kernels have P phases, number
    min(P - 1, floor(P d- / (d- + d+))) is taken, and a spike lies ``stride`` times the offset, rounded to the
    nearest integer and halves towards its row, after the sample of its row. (d- and d+ are first shifted
    right by the least common number of bits that leaves them below 2 ** 20.)

    *Amplitudes.* With ``energies`` E = |T|^2 a spike is taken away a times, a the least-squares amplitude
    <x, T> / E = s / E + 1/2, rounded to the nearest 64th (halves upwards) and kept within the limits: each
    score falls by a times the kernel, rounded to the nearest step of the fixed point. E is known to 20 bits,
    or to half a step. Without them a = 1.

    *The explained energy only grows.* Let the score of unit a at a sample be <x, T> - |T|^2 / 2 with x what
    is left of the recording and T the template there, and let each kernel hold <T_b, T_a> for the pair (a,
    b), itself included, at every lag where it is not zero. Taking T away changes |x|^2 by -2 <x, T> + |T|^2
    = -2 score, a fall, as a threshold is positive. Two nodes accepted in one round were no rivals, so <T_a,
    T_b> = 0 and their falls add up. The lowered score, <x - T_a, T_b> - |T_b|^2 / 2, is again a score of
    this form for what is left. Taking T away a times, |x|^2 falls by 2 a <x, T> - a^2 E = E (a*^2 - (a -
    a*)^2) with a* = s / E + 1/2 the least-squares amplitude: most at a*, and by 2 s at a = 1. The amplitude
    taken is, of the 64ths within the limits, one that is nearest to a*. The limits have 1 between them, so it
    is no further from a* than 1 is: the fall is never smaller than 2 s, whether clipped or not. (With
    detectors other than the templates, kernels cut short or made for the middle of a phase, all this holds up
    to what they leave out.) Ref.: matching pursuit, Mallat & Zhang 1993, section III.

    *The same everywhere.* Scores and kernels are rounded once to fixed point and then only added and
    compared as integers; a chunk with `conflict_margin_samples` on both sides has the spikes of the whole
    in its core.

    Parameters
    ----------
    scores : float array (samples, units)
        Finite; of any array library.
    table : ConflictTable, optional
        Of the same library and device. None: the units do not know of each other.
    thresholds : float, list of float, or array (units,)
        Least score of a spike, above 0.
    exclusion_samples : int
        Spikes of one unit are at least this far apart.
    max_rounds : int
        What is undecided after that is no spike.
    largest_score : float, optional
        Scores are cut at this value, either side; it sets the steps of the fixed point (a power of two,
        about ``largest_score`` / 2 ** 28 or coarser where many kernels overlap; with ``energies`` no finer
        than the largest kernel value times the largest amplitude / 2 ** 24). Default: 4 times the largest
        kernel value, or 65536 without kernels.
    energies : float, list of float, or array (units,), optional
        |T|^2 of each unit, above 0, for amplitudes other than 1.
    amplitude_limits : (float, float)
        Least and largest amplitude, rounded to 64ths: the first from 1/64 to 1, the second from 1 to 8.
    stride : int
        Samples of the recording per row of scores, at most 512.
    first_sample : int
        Sample index of the first row, in samples of the recording.
    core : (int, int), optional
        Only spikes in these rows are returned; the rows around them are margin.
    engine
        As in `detect_spikes`.

    Returns
    -------
    Spikes
        ``probability`` holds the score at which the spike was accepted; the amplitude follows from it.

    Raises
    ------
    ValueError
        As in `detect_spikes`; scores that are not finite.
    """
    xp = checks.check_scores("scores", scores)
    checks.check_count("exclusion_samples", exclusion_samples, least=1)
    checks.check_count("max_rounds", max_rounds, least=1)
    checks.check_count("first_sample", first_sample, least=0)
    checks.check_count("stride", stride, least=1, most=MOST_STRIDE)
    checks.check_engine(engine)
    start, stop = checks.check_core(core, scores.shape[0])
    checks.index_dtype(xp, scores, first_sample + stride * stop)
    if is_torch_array(scores):
        scores = scores.detach()
    limits = checks.as_thresholds(xp, thresholds, scores, most=float("inf"))
    energies = checks.as_energies(xp, energies, scores)
    checks.check_amplitude_limits(amplitude_limits)
    checks.check_table(table, scores)
    most = None if energies is None else amplitude_steps(amplitude_limits)[1] / AMPLITUDE_STEPS
    scale = energy_scale(table, exclusion_samples, largest_score, most)
    if scores.shape[0] == 0 or scores.shape[1] == 0:
        return empty_spikes(scores)
    limits = xp.round(xp.clip(limits, 1.0 / scale, MOST_SCORE / scale) * scale)
    limits = xp.astype(limits, xp.int32)
    phases = 1 if table is None else table.phases
    fit = Fit.make(
        phases=phases, stride=stride, energies=energies, amplitude_limits=amplitude_limits, scale=scale
    )
    settings: dict[str, Any] = {"exclusion_samples": exclusion_samples, "max_rounds": max_rounds, "fit": fit}
    where: dict[str, int] = {"first_sample": first_sample, "start": start, "stop": stop}
    if choose_engine(engine, scores) == "numba":
        return solve_energy_compiled(scores, limits, table, scale, MOST_SCORE, **settings, **where)
    checks.check_finite(xp, scores)
    kernels = None if table is None else table.quantise_once(scale)
    fixed = xp.round(xp.clip(xp.astype(scores, xp.float32), -MOST_SCORE / scale, MOST_SCORE / scale) * scale)
    accepted, heights, moved, _ = fit_rounds(
        xp.astype(fixed, xp.int32), limits, table=table, kernels=kernels, static=False, **settings
    )
    return collect_spikes(accepted, heights, 1.0 / scale, stride=stride, moved=moved, **where)


def conflict_margin_samples(table: ConflictTable | None, *, exclusion_samples: int, max_rounds: int) -> int:
    """Rows on each side that decide whether a row holds a spike; the induction is in `detect_spikes`.

    What a spike is fitted by, the rows beside it, lies nearer than what it was accepted by.
    """
    reach = max(exclusion_samples - 1, 0 if table is None else table.reach_samples)
    return (2 * reach + 1) * max_rounds - reach


def energy_scale(
    table: ConflictTable | None,
    exclusion_samples: int,
    largest_score: float | None,
    most_amplitude: float | None,
) -> float:
    """Steps of the fixed point to a score of 1; see `solve_conflicts`."""
    lowering = 0.0 if table is None else table.lowering_bound(exclusion_samples) * (most_amplitude or 1.0)
    largest_kernel = 0.0 if table is None else table.max_kernel
    if largest_score is None:
        largest_score = 4.0 * largest_kernel if largest_kernel > 0 else SCORE_WITHOUT_KERNELS
    if not 0 < largest_score < float("inf"):
        raise ValueError(f"largest_score must be a positive number, got {largest_score}")
    scale = scale_for(max(largest_score, lowering), MOST_SCORE)
    if most_amplitude is None or largest_kernel == 0.0:
        return scale
    return min(scale, scale_for(largest_kernel * most_amplitude * AMPLITUDE_STEPS, MOST_PRODUCT))
