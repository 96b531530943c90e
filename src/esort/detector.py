"""From a stream of probabilities to spikes, keeping as little of the past as certainty needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from esort.postprocess import ConflictTable, Spikes, detect_spikes, margin_samples

__all__ = ["Detector", "Postprocessing", "conflicts_of", "conflicts_to_weights", "no_spikes"]

# Names of the conflicts among a checkpoint's arrays.
_PAIRS, _KERNELS = "conflicts.pairs", "conflicts.kernels"


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


class Detector:
    """Takes probabilities piece by piece and returns the spikes that have become certain.

    The pieces may have any length; together the spikes are those of the whole.

    Parameters
    ----------
    sampling_frequency : float
        In Hz.
    thresholds : float or (U,) floats
    postprocessing : Postprocessing
    conflicts : ConflictTable or None
    """

    def __init__(
        self,
        *,
        sampling_frequency: float,
        thresholds: float | Iterable[float],
        postprocessing: Postprocessing,
        conflicts: ConflictTable | None = None,
    ) -> None:
        self._settings: dict[str, Any] = {
            "sampling_frequency": sampling_frequency,
            "smoothing_ms": postprocessing.smoothing_ms,
            "refractory_ms": postprocessing.refractory_ms,
            "conflicts": conflicts if postprocessing.competition else None,
        }
        # A list, for post-processing knows no other containers than arrays of its own library.
        self._thresholds: Any = thresholds if isinstance(thresholds, (int, float)) else list(thresholds)
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
        return spikes


def no_spikes() -> Spikes:
    """An empty list of spikes."""
    empty = np.zeros(0, dtype=np.int64)
    return Spikes(empty, empty, np.zeros(0, dtype=np.float32))


def conflicts_to_weights(pairs: np.ndarray, kernels: np.ndarray) -> dict[str, np.ndarray]:
    """Name conflicts (P, 2) and (P, 2 L + 1) as arrays of a checkpoint."""
    return {_PAIRS: pairs, _KERNELS: kernels} if len(pairs) else {}


def conflicts_of(weights: dict[str, Any], num_units: int) -> ConflictTable | None:
    """Take the conflicts out of a checkpoint's arrays; None where there are none.

    Raises
    ------
    ValueError
        If they do not fit the units, or only half of them is there.
    """
    pairs, kernels = weights.pop(_PAIRS, None), weights.pop(_KERNELS, None)
    if (pairs is None) != (kernels is None):
        raise ValueError(f"expected both {_PAIRS} and {_KERNELS}, got one of them")
    if pairs is None or kernels is None:
        return None
    return ConflictTable.from_pairs(num_units, np.asarray(pairs), np.asarray(kernels))
