"""Pursuit on energy scores: which spikes, together, explain the recording."""

from __future__ import annotations

from typing import Any

from array_api_compat import is_torch_array

from . import checks
from .compaction import collect_spikes, empty_spikes
from .engine import choose_engine, solve_energy_compiled
from .rounds import solve_rounds
from .spikes import Spikes
from .table import ConflictTable, scale_for

Array = Any
MOST_SCORE = 2**29
SCORE_WITHOUT_KERNELS = 2.0**16


def solve_conflicts(
    scores: Array,
    table: ConflictTable | None = None,
    *,
    thresholds: Any,
    exclusion_samples: int = 1,
    max_rounds: int = 12,
    largest_score: float | None = None,
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

    *The explained energy only grows.* Let the score of unit a at a sample be <x, T> - |T|^2 / 2 with x what
    is left of the recording and T the template there, and let each kernel hold <T_b, T_a> for the pair (a,
    b), itself included, at every lag where it is not zero. Taking T away changes |x|^2 by -2 <x, T> + |T|^2
    = -2 score, a fall, as a threshold is positive. Two nodes accepted in one round were no rivals, so <T_a,
    T_b> = 0 and their falls add up. The lowered score, <x - T_a, T_b> - |T_b|^2 / 2, is again a score of
    this form for what is left. (With detectors other than the templates, or kernels cut short, this holds
    up to what they leave out.) Ref.: matching pursuit, Mallat & Zhang 1993, section III.

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
        about ``largest_score`` / 2 ** 29 or coarser where many kernels overlap). Default: 4 times the
        largest kernel value, or 65536 without kernels.
    first_sample, core, engine
        As in `detect_spikes`.

    Returns
    -------
    Spikes
        ``probability`` holds the score at which the spike was accepted.

    Raises
    ------
    ValueError
        As in `detect_spikes`; scores that are not finite.
    """
    xp = checks.check_scores("scores", scores)
    checks.check_count("exclusion_samples", exclusion_samples, least=1)
    checks.check_count("max_rounds", max_rounds, least=1)
    checks.check_count("first_sample", first_sample, least=0)
    checks.check_engine(engine)
    start, stop = checks.check_core(core, scores.shape[0])
    if is_torch_array(scores):
        scores = scores.detach()
    limits = checks.as_thresholds(xp, thresholds, scores, most=float("inf"))
    checks.check_table(table, scores)
    scale = _energy_scale(table, exclusion_samples, largest_score)
    if scores.shape[0] == 0 or scores.shape[1] == 0:
        return empty_spikes(scores)
    checks.check_finite(xp, scores)
    limits = xp.round(xp.clip(limits, 1.0 / scale, MOST_SCORE / scale) * scale)
    limits = xp.astype(limits, xp.int32)
    kernels = None if table is None else table.quantise_once(scale)
    settings: dict[str, Any] = {"exclusion_samples": exclusion_samples, "max_rounds": max_rounds}
    where: dict[str, int] = {"first_sample": first_sample, "start": start, "stop": stop}
    if choose_engine(engine, scores) == "numba":
        return solve_energy_compiled(scores, limits, table, kernels, scale, MOST_SCORE, **settings, **where)
    fixed = xp.round(xp.clip(xp.astype(scores, xp.float32), -MOST_SCORE / scale, MOST_SCORE / scale) * scale)
    accepted, heights, _ = solve_rounds(
        xp.astype(fixed, xp.int32), limits, table=table, kernels=kernels, static=False, **settings
    )
    return collect_spikes(accepted, heights, 1.0 / scale, **where)


def conflict_margin_samples(table: ConflictTable | None, *, exclusion_samples: int, max_rounds: int) -> int:
    """Samples on each side that decide whether a sample is a spike; the induction is in `detect_spikes`."""
    reach = max(exclusion_samples - 1, 0 if table is None else table.reach_samples)
    return (2 * reach + 1) * max_rounds - reach


def _energy_scale(table: ConflictTable | None, exclusion_samples: int, largest_score: float | None) -> float:
    lowering = 0.0 if table is None else table.lowering_bound(exclusion_samples)
    if largest_score is None:
        has_kernels = table is not None and table.max_kernel > 0
        largest_score = 4.0 * table.max_kernel if table is not None and has_kernels else SCORE_WITHOUT_KERNELS
    if not 0 < largest_score < float("inf"):
        raise ValueError(f"largest_score must be a positive number, got {largest_score}")
    return scale_for(max(largest_score, lowering), MOST_SCORE)
