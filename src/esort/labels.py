"""Which spikes may be learned from: label budgets and the spikes drawn under them."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np

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


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledSpikes:
    """The spikes that training may know about.

    Parameters
    ----------
    sample_index : int64 array, shape (S,)
        When, in samples of the recording; ascending.
    unit_index : int64 array, shape (S,)
        Which unit, as a position in `unit_ids`.
    unit_ids : tuple, length U
        Names of the units; ints or strings.
    sampling_frequency : float
        In Hz.
    start_sample, stop_sample : int
        The time [start_sample, stop_sample) that the labels came from.
    complete : bool
        True: every spike of that time is known (annotated time), so the rest of it is background.
        False: all other spikes of the recording are unknown.

    Raises
    ------
    ValueError
        If the arrays do not fit each other or the interval.
    """

    sample_index: np.ndarray
    unit_index: np.ndarray
    unit_ids: tuple
    sampling_frequency: float
    start_sample: int
    stop_sample: int
    complete: bool

    def __post_init__(self) -> None:
        sample_index, unit_index = _spike_arrays(self.sample_index, self.unit_index, len(self.unit_ids))
        if np.any(np.diff(sample_index) < 0):
            raise ValueError("sample_index of labelled spikes must be in ascending order")
        if (
            sample_index.size
            and not self.start_sample <= sample_index[0] <= sample_index[-1] < self.stop_sample
        ):
            raise ValueError(
                f"labelled spikes must lie in [{self.start_sample}, {self.stop_sample}), "
                f"got {sample_index[0]} to {sample_index[-1]}"
            )
        object.__setattr__(self, "sample_index", sample_index)
        object.__setattr__(self, "unit_index", unit_index)
        object.__setattr__(self, "unit_ids", tuple(self.unit_ids))

    @property
    def num_spikes(self) -> int:
        """Number of labelled spikes."""
        return int(self.sample_index.size)

    @property
    def num_units(self) -> int:
        """Number of units."""
        return len(self.unit_ids)

    def counts(self) -> np.ndarray:
        """Labels of each unit, int64 array of shape (U,)."""
        return np.bincount(self.unit_index, minlength=self.num_units).astype(np.int64)

    def of_units(self, chosen: np.ndarray) -> LabelledSpikes:
        """The labels of some of the units, (U,) booleans."""
        new_index = np.cumsum(chosen) - 1
        kept = chosen[self.unit_index]
        return replace(
            self,
            sample_index=self.sample_index[kept],
            unit_index=new_index[self.unit_index[kept]],
            unit_ids=tuple(unit_id for unit_id, keep in zip(self.unit_ids, chosen, strict=True) if keep),
        )

    def outside(self, inside: np.ndarray, what: str) -> LabelledSpikes:
        """Leave out some spikes, and units that keep none; both are said in a warning.

        Parameters
        ----------
        inside : bool array, shape (S,)
            Which spikes to leave out.
        what : str
            What these lie in, for the warning.
        """
        if not inside.any():
            return self
        logger.warning("%d of %d labelled spikes lie in %s, left out", inside.sum(), inside.size, what)
        return _without_empty_units(
            self.sample_index[~inside],
            self.unit_index[~inside],
            self.unit_ids,
            f"all labelled spikes lie in {what}",
            sampling_frequency=self.sampling_frequency,
            start_sample=self.start_sample,
            stop_sample=self.stop_sample,
            complete=self.complete,
        )

    def with_room(self, before_samples: int, after_samples: int) -> LabelledSpikes:
        """Leave out the spikes whose window reaches beyond the labelled time.

        A window is ``[sample - before_samples, sample + after_samples)``. Units that keep no spike are
        left out too, and named in a warning.

        Parameters
        ----------
        before_samples, after_samples : int
            Extent of a window, both >= 0.

        Returns
        -------
        LabelledSpikes
        """
        inside = (self.sample_index - before_samples >= self.start_sample) & (
            self.sample_index + after_samples <= self.stop_sample
        )
        return _without_empty_units(
            self.sample_index[inside],
            self.unit_index[inside],
            self.unit_ids,
            f"no labelled spike {before_samples} samples after the start and {after_samples} before the end",
            sampling_frequency=self.sampling_frequency,
            start_sample=self.start_sample,
            stop_sample=self.stop_sample,
            complete=self.complete,
        )


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
    samples, units = _spike_arrays(sample_index, unit_index, len(names))
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
    return _without_empty_units(
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


def _spike_arrays(sample_index: Any, unit_index: Any, num_units: int) -> tuple[np.ndarray, np.ndarray]:
    arrays = []
    for name, values in (("sample_index", sample_index), ("unit_index", unit_index)):
        array = np.asarray(values)
        if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
            raise ValueError(
                f"{name} must be a 1-d array of integers, got {array.dtype} of shape {array.shape}"
            )
        arrays.append(array.astype(np.int64))
    samples, units = arrays
    if samples.size != units.size:
        raise ValueError(
            f"sample_index and unit_index must be equally long, got {samples.size} and {units.size}"
        )
    if units.size and not 0 <= units.min() <= units.max() < num_units:
        raise ValueError(f"unit_index must be in [0, {num_units}), got {units.min()} to {units.max()}")
    return samples, units


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


def _without_empty_units(
    samples: np.ndarray, units: np.ndarray, unit_ids: tuple, reason: str, **rest: Any
) -> LabelledSpikes:
    counts = np.bincount(units, minlength=len(unit_ids))
    empty = [str(unit_id) for unit_id, count in zip(unit_ids, counts, strict=True) if count == 0]
    if empty:
        logger.warning("units left out, %s: %s", reason, ", ".join(empty))
    new_index = np.cumsum(counts > 0) - 1
    kept = tuple(unit_id for unit_id, count in zip(unit_ids, counts, strict=True) if count > 0)
    return LabelledSpikes(sample_index=samples, unit_index=new_index[units], unit_ids=kept, **rest)
