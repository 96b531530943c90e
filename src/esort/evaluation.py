"""How good a sorting is: scores against the truth, and agreement between two sortings where none is known."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from esort.files import plain, write_json

if TYPE_CHECKING:
    from spikeinterface.core import BaseSorting

__all__ = ["Agreement", "Scores", "UnitScore", "agreement", "score"]

# Two spikes further apart are not the same spike.
DELTA_MS = 0.4
# Units that agree less are different units, and all spikes of the sorted one are false.
MATCH_SCORE = 0.5


@dataclass(frozen=True, kw_only=True)
class UnitScore:
    """Score of one ground-truth unit.

    Parameters
    ----------
    unit_id : int or str
        The ground-truth unit.
    matched_unit_id : int, str or None
        The sorted unit it is matched with (one to one); None where no agreement reaches 0.5.
    num_spikes : int
        Its true spikes in the interval.
    tp, fp, fn : int
        Spikes found, spikes of the matched unit that are none, and spikes missed.
    accuracy, precision, recall : float
        ``tp / (tp + fp + fn)``, ``tp / (tp + fp)``, ``tp / (tp + fn)``; 0 where unmatched.
    """

    unit_id: int | str
    matched_unit_id: int | str | None
    num_spikes: int
    tp: int
    fp: int
    fn: int
    accuracy: float
    precision: float
    recall: float


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of a sorting on a stretch of time.

    Parameters
    ----------
    pooled_accuracy : float
        ``Σtp / (Σtp + Σfp + Σfn)`` over the ground-truth units, where fp also counts every spike of the
        sorted units that match none. NaN where there is no spike on either side.
    mean_accuracy : float
        Mean of the units' accuracies; NaN without a unit.
    units : tuple of UnitScore
        Of the ground-truth units with at least one spike in the interval.
    silent_unit_ids : tuple
        Ground-truth units without a spike in the interval; they are not scored.
    num_unmatched_spikes : int
        Spikes of sorted units that match no ground-truth unit.
    start_sample, stop_sample : int
    delta_ms : float
    """

    pooled_accuracy: float
    mean_accuracy: float
    units: tuple[UnitScore, ...]
    silent_unit_ids: tuple = ()
    num_unmatched_spikes: int = 0
    start_sample: int
    stop_sample: int
    delta_ms: float = DELTA_MS

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, undefined scores as None."""
        return plain(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `to_dict` as JSON; the file is whole or absent."""
        write_json(path, self.to_dict())


@dataclass(frozen=True, kw_only=True, eq=False)
class Agreement:
    """How far two sortings agree. Neither is the truth: both may be wrong in the same way.

    Parameters
    ----------
    matrix : float64 array, shape (A, B)
        ``matches / (spikes of a + spikes of b − matches)`` of each pair of units.
    unit_ids_a, unit_ids_b : tuple
        Units with at least one spike in the interval: rows and columns.
    mean_best : float
        Mean over the units of `a` of their best agreement with any unit of `b`; NaN without units.
    pooled : float
        Pooled accuracy of `b` with `a` in the place of the truth (see `Scores`).
    start_sample, stop_sample : int
    delta_ms : float
    """

    matrix: np.ndarray
    unit_ids_a: tuple
    unit_ids_b: tuple
    mean_best: float
    pooled: float
    start_sample: int
    stop_sample: int
    delta_ms: float = DELTA_MS

    def best(self) -> list[dict[str, Any]]:
        """Best partner in `b` of each unit of `a`: ``unit_id``, ``best_unit_id`` (or None), ``agreement``."""
        pairs = []
        for unit_id, row in zip(self.unit_ids_a, self.matrix, strict=True):
            value = float(row.max()) if row.size else 0.0
            partner = self.unit_ids_b[int(row.argmax())] if value > 0 else None
            pairs.append({"unit_id": unit_id, "best_unit_id": partner, "agreement": value})
        return pairs

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, undefined ones as None."""
        return plain(self) | {"best": plain(self.best())}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `to_dict` as JSON; the file is whole or absent."""
        write_json(path, self.to_dict())


def score(
    ground_truth: BaseSorting,
    sorting: BaseSorting,
    *,
    start_sample: int,
    stop_sample: int,
    delta_ms: float = DELTA_MS,
) -> Scores:
    """Score a sorting against the truth on [start_sample, stop_sample), by SpikeInterface's comparison.

    Units are matched one to one by the Hungarian method on their agreement. Spikes on different sides of an
    end of the interval do not meet, even if they are close.

    Parameters
    ----------
    ground_truth, sorting : BaseSorting
        Same rate, same time origin, one segment.
    start_sample, stop_sample : int
        Should hold no time that a label came from.
    delta_ms : float
        How far apart two spikes may be and still be the same.

    Returns
    -------
    Scores

    Raises
    ------
    ValueError
        If the interval is empty or the rates differ.
    """
    truth, found, comparison = _compare(ground_truth, sorting, start_sample, stop_sample, delta_ms)
    units, matched = [], set()
    for index, (unit_id, num_spikes) in enumerate(zip(truth.unit_ids, truth.counts, strict=True)):
        partner = -1 if comparison is None else int(comparison.hungarian_match_12[index])
        tp = fp = 0
        if partner >= 0:
            matched.add(partner)
            tp = int(comparison.match_event_count.at[index, partner])
            fp = found.counts[partner] - tp
        fn = num_spikes - tp
        units.append(
            UnitScore(
                unit_id=unit_id,
                matched_unit_id=found.unit_ids[partner] if partner >= 0 else None,
                num_spikes=num_spikes,
                tp=tp,
                fp=fp,
                fn=fn,
                accuracy=tp / (tp + fp + fn),
                precision=tp / (tp + fp) if tp else 0.0,
                recall=tp / num_spikes,
            )
        )
    unmatched = sum(count for index, count in enumerate(found.counts) if index not in matched)
    total_tp = sum(unit.tp for unit in units)
    total = unmatched + sum(unit.tp + unit.fp + unit.fn for unit in units)
    return Scores(
        pooled_accuracy=total_tp / total if total else math.nan,
        mean_accuracy=float(np.mean([unit.accuracy for unit in units])) if units else math.nan,
        units=tuple(units),
        silent_unit_ids=truth.silent,
        num_unmatched_spikes=unmatched,
        start_sample=int(start_sample),
        stop_sample=int(stop_sample),
        delta_ms=delta_ms,
    )


def agreement(
    sorting_a: BaseSorting,
    sorting_b: BaseSorting,
    *,
    start_sample: int,
    stop_sample: int,
    delta_ms: float = DELTA_MS,
) -> Agreement:
    """Compare two sortings of which neither is the truth, on [start_sample, stop_sample).

    Parameters
    ----------
    sorting_a, sorting_b : BaseSorting
        `a` is the reference, such as the teacher.
    start_sample, stop_sample, delta_ms
        See `score`.

    Returns
    -------
    Agreement

    Raises
    ------
    ValueError
        If the interval is empty or the rates differ.
    """
    a, b, comparison = _compare(sorting_a, sorting_b, start_sample, stop_sample, delta_ms)
    matrix = np.zeros((len(a.unit_ids), len(b.unit_ids)))
    if comparison is not None:
        matrix = comparison.agreement_scores.to_numpy(dtype=np.float64)
    best = matrix.max(axis=1, initial=0.0)
    scores = score(
        sorting_a, sorting_b, start_sample=start_sample, stop_sample=stop_sample, delta_ms=delta_ms
    )
    return Agreement(
        matrix=matrix,
        unit_ids_a=a.unit_ids,
        unit_ids_b=b.unit_ids,
        mean_best=float(best.mean()) if best.size else math.nan,
        pooled=scores.pooled_accuracy,
        start_sample=int(start_sample),
        stop_sample=int(stop_sample),
        delta_ms=delta_ms,
    )


@dataclass(frozen=True, kw_only=True)
class _Part:
    """The units of a sorting that spike in an interval, numbered 0, 1, ... in SpikeInterface's object."""

    numbered: BaseSorting
    unit_ids: tuple
    counts: tuple[int, ...]
    silent: tuple


def _part(sorting: BaseSorting, start_sample: int, stop_sample: int) -> _Part:
    from spikeinterface.core import NumpySorting

    spikes = sorting.to_spike_vector()
    inside = (spikes["sample_index"] >= start_sample) & (spikes["sample_index"] < stop_sample)
    samples, units = spikes["sample_index"][inside] - start_sample, spikes["unit_index"][inside]
    all_ids = tuple(np.asarray(sorting.unit_ids).tolist())
    counts = np.bincount(units, minlength=len(all_ids))
    numbers = (np.cumsum(counts > 0) - 1)[units] if len(all_ids) else units
    return _Part(
        numbered=NumpySorting.from_samples_and_labels(
            [samples], [numbers], sorting.sampling_frequency, unit_ids=np.arange((counts > 0).sum())
        ),
        unit_ids=tuple(unit_id for unit_id, count in zip(all_ids, counts, strict=True) if count),
        counts=tuple(int(count) for count in counts if count),
        silent=tuple(unit_id for unit_id, count in zip(all_ids, counts, strict=True) if not count),
    )


def _compare(
    first: BaseSorting, second: BaseSorting, start_sample: int, stop_sample: int, delta_ms: float
) -> tuple[_Part, _Part, Any]:
    """Cut both to the interval and compare them; None where a side has no spike."""
    from spikeinterface.comparison import compare_sorter_to_ground_truth

    if stop_sample <= start_sample:
        raise ValueError(f"scores need an interval of at least 1 sample, got [{start_sample}, {stop_sample})")
    rates = first.sampling_frequency, second.sampling_frequency
    if not math.isclose(*rates, rel_tol=1e-3):
        raise ValueError(f"sortings must have the same rate, got {rates[0]:g} and {rates[1]:g} Hz")
    parts = _part(first, start_sample, stop_sample), _part(second, start_sample, stop_sample)
    if not (parts[0].unit_ids and parts[1].unit_ids):
        return *parts, None
    comparison = compare_sorter_to_ground_truth(
        parts[0].numbered,
        parts[1].numbered,
        delta_time=delta_ms,
        match_score=MATCH_SCORE,
        exhaustive_gt=True,
    )
    return *parts, comparison
