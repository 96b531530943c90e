"""From a stream of probabilities to spikes, keeping as little of the past as certainty needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from esort.baseline import Baseline
from esort.postprocess import ConflictTable, Spikes, detect_spikes, margin_samples
from esort.rivals import Rivals

__all__ = ["Detector", "Postprocessing", "UnitTables", "joined_spikes", "no_spikes"]

# Names of the tables among a checkpoint's arrays.
_PAIRS, _KERNELS, _RELIABILITY = "conflicts.pairs", "conflicts.kernels", "reliability"


@dataclass(frozen=True, kw_only=True)
class Postprocessing:
    """Settings of the post-processing, see `esort.postprocess.detect_spikes`.

    Parameters
    ----------
    smoothing_ms, refractory_ms : float
    competition : bool
        Whether units compete for events by the calibrated conflicts; without them each unit stands alone.

    Raises
    ------
    ValueError
        If a value is outside its limits.
    """

    smoothing_ms: float = 0.4
    refractory_ms: float = 1.0
    competition: bool = True

    def __post_init__(self) -> None:
        for name, high in (("smoothing_ms", 5), ("refractory_ms", 20)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= high:
                raise ValueError(f"{name} must be a number in [0, {high}] ms, got {value!r}")
        if not isinstance(self.competition, bool):
            raise ValueError(f"competition must be true or false, got {self.competition!r}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint's card."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class UnitTables:
    """What calibration found out about the units of a network, see `esort.calibration`.

    Parameters
    ----------
    pairs : int64 array, shape (P, 2)
        Columns (accepted, lowered).
    kernels : float32 array, shape (P, 2 L + 1)
        How much an accepted spike lowers the smoothed probability of the other unit around it.
    reliability : float32 array, shape (2, K)
        Smoothed probability of a spike, and which part of such spikes is true.
    baseline : Baseline or None
        What was usual while the units were learned.
    rivals : Rivals
        What the network knows behind its units.
    """

    pairs: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), dtype=np.int64))
    kernels: np.ndarray = field(default_factory=lambda: np.zeros((0, 1), dtype=np.float32))
    reliability: np.ndarray = field(default_factory=lambda: np.array([[0, 1], [0, 1]], dtype=np.float32))
    baseline: Baseline | None = None
    rivals: Rivals = field(default_factory=Rivals)

    def conflicts(self, num_units: int) -> ConflictTable | None:
        """The edges for the post-processing; None where there are none.

        Raises
        ------
        ValueError
            If the tables are of other units.
        """
        if self.baseline is not None and len(self.baseline.rates_hz) != num_units:
            raise ValueError(f"expected rates of {num_units} units, got {len(self.baseline.rates_hz)}")
        if len(self.pairs) == 0:
            return None
        return ConflictTable.from_pairs(num_units, self.pairs, self.kernels)

    def with_rivals(self, thresholds: Sequence[float] | np.ndarray) -> np.ndarray:
        """Thresholds of the units (U,), and behind them of the rivals: float64 (U + R,)."""
        return np.concatenate([np.asarray(thresholds, dtype=np.float64), self.rivals.thresholds])

    def to_weights(self) -> dict[str, np.ndarray]:
        """Arrays for a checkpoint."""
        tables = {_RELIABILITY: self.reliability}
        if self.baseline is not None:
            tables |= self.baseline.to_weights()
        tables |= self.rivals.to_weights()
        return tables | ({_PAIRS: self.pairs, _KERNELS: self.kernels} if len(self.pairs) else {})

    @classmethod
    def from_weights(cls, weights: dict[str, Any]) -> UnitTables:
        """Take the tables out of a checkpoint's arrays.

        Raises
        ------
        ValueError
            If only half of the conflicts is there, or the reliability is no curve in [0, 1], or these are no
            rivals.
        """
        found = {name: np.asarray(weights.pop(name)) for name in (_PAIRS, _KERNELS) if name in weights}
        if len(found) == 1:
            raise ValueError(f"expected both {_PAIRS} and {_KERNELS}, got one of them")
        values = dict(zip(("pairs", "kernels"), found.values(), strict=False))
        if _RELIABILITY in weights:
            curve = np.asarray(weights.pop(_RELIABILITY))
            in_range = curve.size and 0 <= curve.min() <= curve.max() <= 1
            if curve.ndim != 2 or len(curve) != 2 or not in_range or (np.diff(curve[0]) <= 0).any():
                raise ValueError(f"expected {_RELIABILITY} to be a curve in [0, 1], got shape {curve.shape}")
            values["reliability"] = curve
        rivals = Rivals.from_weights(weights)
        return cls(**values, baseline=Baseline.from_weights(weights), rivals=rivals)


class Detector:
    """Takes probabilities piece by piece and returns the spikes that have become certain.

    The pieces may have any length; together the spikes are those of the whole. The probability of a spike is
    the part of such spikes that calibration expects to be true.

    Parameters
    ----------
    sampling_frequency : float
        In Hz.
    thresholds : float or (U,) floats
    postprocessing : Postprocessing
    num_units : int
    tables : UnitTables
    """

    def __init__(
        self,
        *,
        sampling_frequency: float,
        thresholds: float | Iterable[float],
        postprocessing: Postprocessing,
        num_units: int,
        tables: UnitTables,
    ) -> None:
        self._settings: dict[str, Any] = {
            "sampling_frequency": sampling_frequency,
            "smoothing_ms": postprocessing.smoothing_ms,
            "refractory_ms": postprocessing.refractory_ms,
            "conflicts": tables.conflicts(num_units) if postprocessing.competition else None,
        }
        # A list, for post-processing knows no other containers than arrays of its own library.
        self._thresholds: Any = thresholds if isinstance(thresholds, (int, float)) else list(thresholds)
        self._reliability = tables.reliability
        self.margin_samples = margin_samples(**self._settings)
        """Samples before and after a sample that decide on it: the latency of the post-processing."""
        self._held: np.ndarray | None = None
        self._first = self._done = 0

    def push(self, probabilities: np.ndarray, start_sample: int) -> Spikes:
        """Take the next probabilities and return the spikes that became certain.

        Parameters
        ----------
        probabilities : float32 array, shape (n, U)
        start_sample : int
            Sample index of the first row: where the rows before ended, or anywhere for the first ones.
        """
        if self._held is None:
            self._held, self._first, self._done = probabilities, start_sample, start_sample
        else:
            assert start_sample == self._first + len(self._held)
            self._held = np.concatenate([self._held, probabilities])
        return self._detect(self._first + len(self._held) - self.margin_samples)

    def finish(self) -> Spikes:
        """Return the spikes of the last samples: nothing follows them."""
        return self._detect(self._first + (0 if self._held is None else len(self._held)))

    def _detect(self, upto: int) -> Spikes:
        if self._held is None or upto <= self._done:
            return no_spikes()
        spikes = detect_spikes(
            self._held,
            thresholds=self._thresholds,
            first_sample=self._first,
            core=(self._done - self._first, upto - self._first),
            engine="numba",
            **self._settings,
        )
        self._done = upto
        keep = max(self._first, self._done - self.margin_samples)
        self._held, self._first = self._held[keep - self._first :], keep
        probability = np.interp(spikes.probability, *self._reliability).astype(np.float32)
        return Spikes(spikes.sample_index, spikes.unit_index, probability)


def no_spikes() -> Spikes:
    """An empty list of spikes."""
    empty = np.zeros(0, dtype=np.int64)
    return Spikes(empty, empty, np.zeros(0, dtype=np.float32))


def joined_spikes(found: list[Spikes]) -> Spikes:
    """All spikes by sample, then unit: one between two rows of scores may belong to either piece."""
    if not found:
        return no_spikes()
    sample, unit, probability = (
        np.concatenate([getattr(spikes, name) for spikes in found])
        for name in ("sample_index", "unit_index", "probability")
    )
    order = np.lexsort((unit, sample))
    return Spikes(sample[order], unit[order], probability[order])
