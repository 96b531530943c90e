"""The spikes that training may know about."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

__all__ = ["LabelledSpikes", "spike_arrays", "without_empty_units"]

logger = logging.getLogger(__name__)


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
        sample_index, unit_index = spike_arrays(self.sample_index, self.unit_index, len(self.unit_ids))
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
        return without_empty_units(
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
        return without_empty_units(
            self.sample_index[inside],
            self.unit_index[inside],
            self.unit_ids,
            f"no labelled spike {before_samples} samples after the start and {after_samples} before the end",
            sampling_frequency=self.sampling_frequency,
            start_sample=self.start_sample,
            stop_sample=self.stop_sample,
            complete=self.complete,
        )


def spike_arrays(sample_index: Any, unit_index: Any, num_units: int) -> tuple[np.ndarray, np.ndarray]:
    """Check that two arrays, (S,) both, are samples and positions of units; return them as int64."""
    arrays = []
    for name, values in (("sample_index", sample_index), ("unit_index", unit_index)):
        array = np.asarray(values)
        if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
            raise ValueError(
                f"{name} must be a 1-d array of integers, got {array.dtype} of shape {array.shape}"
                + (": samples, not seconds" if array.dtype.kind == "f" else "")
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


def without_empty_units(
    samples: np.ndarray, units: np.ndarray, unit_ids: tuple, reason: str, **rest: Any
) -> LabelledSpikes:
    """Labels without the units that have none; these are named in a warning, with the reason."""
    counts = np.bincount(units, minlength=len(unit_ids))
    empty = [str(unit_id) for unit_id, count in zip(unit_ids, counts, strict=True) if count == 0]
    if empty:
        logger.warning("units left out, %s: %s", reason, ", ".join(empty))
    new_index = np.cumsum(counts > 0) - 1
    kept = tuple(unit_id for unit_id, count in zip(unit_ids, counts, strict=True) if count > 0)
    return LabelledSpikes(sample_index=samples, unit_index=new_index[units], unit_ids=kept, **rest)
