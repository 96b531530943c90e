"""Which spikes may be learned from: label budgets and the spikes drawn under them."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from esort.labelled_spikes import LabelledSpikes, spike_arrays, without_empty_units

__all__ = ["LabelBudget", "LabelledSpikes", "select_labels"]

logger = logging.getLogger(__name__)

# kind -> what its amount must be; the texts are part of the error messages
_LIMITS = {
    "proportional": "a number in (0, 1]",
    "per_unit": "a whole number of at least 1",
    "interval": "a number of seconds above 0",
}


@dataclass(frozen=True, kw_only=True)
class LabelBudget:
    """How much of the annotation training may know.

    Parameters
    ----------
    kind : {"proportional", "per_unit", "interval"}
        ``proportional``: this part of the spikes of each unit; ``per_unit``: this many spikes of each
        unit; ``interval``: every spike of the first ``amount`` seconds.
    amount : float or int
        In (0, 1], a whole number >= 1, or seconds > 0, by `kind`.

    Raises
    ------
    ValueError
        If the kind is unknown or the amount is outside its limits.
    """

    kind: str = "proportional"
    amount: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in _LIMITS:
            raise ValueError(f"label_budget must be one of {', '.join(_LIMITS)}, got {self.kind!r}")
        if not self._fits():
            raise ValueError(
                f"labels for label_budget={self.kind} must be {_LIMITS[self.kind]}, got {self.amount!r}"
            )

    def _fits(self) -> bool:
        amount = self.amount
        if isinstance(amount, bool) or not isinstance(amount, Real) or not math.isfinite(amount):
            return False
        if self.kind == "proportional":
            return 0 < amount <= 1
        if self.kind == "per_unit":
            return amount >= 1 and float(amount).is_integer()
        return amount > 0

    def num_labels(self, num_spikes: int) -> int:
        """Number of labels wanted of a unit that has `num_spikes` spikes (at least 1)."""
        if self.kind == "proportional":
            return max(1, round(self.amount * num_spikes))
        if self.kind == "per_unit":
            return int(self.amount)
        return num_spikes


def select_labels(
    sample_index: Sequence[int] | np.ndarray,
    unit_index: Sequence[int] | np.ndarray,
    unit_ids: Iterable[Any],
    *,
    budget: LabelBudget,
    sampling_frequency: float,
    start_sample: int,
    stop_sample: int,
    rng: np.random.Generator,
) -> LabelledSpikes:
    """Draw the spikes that training may know from all annotated ones.

    The draw of a unit depends on the generator, the unit's name and its own spikes, never on other units.
    With generators of the same seed a smaller budget is a subset of a larger one, also between
    ``proportional`` and ``per_unit``. A unit with fewer spikes than the budget is kept with what it has,
    a unit without any spike in the interval is left out; both are named in a warning.

    Parameters
    ----------
    sample_index, unit_index : int arrays, shape (S,)
        All annotated spikes, in any order; those outside the interval are ignored, exact duplicates
        are dropped with a warning.
    unit_ids : sequence, length U
        Names of the units.
    budget : LabelBudget
    sampling_frequency : float
        In Hz.
    start_sample, stop_sample : int
        Labels may come from [start_sample, stop_sample) only.
    rng : numpy.random.Generator
        One number is drawn from it, whatever the budget.

    Returns
    -------
    LabelledSpikes
        Complete when it holds every spike of its interval: ``interval``, or ``proportional`` of 1.

    Raises
    ------
    ValueError
        If there is no unit, no spike in the interval, or the arrays do not fit.
    """
    names = tuple(unit_id.item() if isinstance(unit_id, np.generic) else unit_id for unit_id in unit_ids)
    if not names:
        raise ValueError("labels need at least 1 unit, got 0")
    if len(set(names)) != len(names):
        raise ValueError(f"unit ids must be different from each other, got {list(names)}")
    if stop_sample <= start_sample:
        raise ValueError(f"labels need an interval of at least 1 sample, got [{start_sample}, {stop_sample})")
    if budget.kind == "interval":
        stop_sample = _interval_stop(budget.amount, sampling_frequency, start_sample, stop_sample)
    samples, units = spike_arrays(sample_index, unit_index, len(names))
    inside = (samples >= start_sample) & (samples < stop_sample)
    samples, units = _sorted_once(samples[inside], units[inside])
    if samples.size == 0:
        raise ValueError(
            f"no labelled spike of {len(names)} units in samples [{start_sample}, {stop_sample})"
        )

    seed = int(rng.integers(2**63))
    chosen = np.zeros(samples.size, dtype=bool)
    too_few = []
    for index, unit_id in enumerate(names):
        (of_unit,) = np.nonzero(units == index)
        wanted = budget.num_labels(of_unit.size)
        if 0 < of_unit.size < wanted:
            too_few.append(f"{unit_id} ({of_unit.size})")
        chosen[_unit_rng(seed, unit_id).permutation(of_unit)[:wanted]] = True
    if too_few:
        logger.warning(
            "fewer labels than the %d of each unit that the budget allows, kept with what there is: %s",
            int(budget.amount),
            ", ".join(too_few),
        )
    return without_empty_units(
        samples[chosen],
        units[chosen],
        names,
        f"no labelled spike in samples [{start_sample}, {stop_sample})",
        sampling_frequency=float(sampling_frequency),
        start_sample=int(start_sample),
        stop_sample=int(stop_sample),
        complete=budget.kind == "interval" or (budget.kind == "proportional" and budget.amount == 1),
    )


def _interval_stop(seconds: float, sampling_frequency: float, start_sample: int, stop_sample: int) -> int:
    stop = start_sample + max(1, round(seconds * sampling_frequency))
    if stop > stop_sample:
        available = (stop_sample - start_sample) / sampling_frequency
        logger.warning(
            "labels ask for %g s of annotated time, only %g s are available",
            seconds,
            available,
        )
    return min(stop, stop_sample)


def _unit_rng(seed: int, unit_id: Any) -> np.random.Generator:
    # The name is hashed (not its position) so that adding or removing units changes no other draw.
    digest = hashlib.sha256(str(unit_id).encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])


def _sorted_once(samples: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort((units, samples))
    samples, units = samples[order], units[order]
    repeated = np.zeros(samples.size, dtype=bool)
    repeated[1:] = (np.diff(samples) == 0) & (np.diff(units) == 0)
    if repeated.any():
        logger.warning(
            "%d labels name the same unit at the same sample twice; kept once",
            repeated.sum(),
        )
    return samples[~repeated], units[~repeated]
