"""What was usual while the units were learned: what sorting is compared with later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["DEFAULT_SIZE", "Baseline"]

DEFAULT_SIZE = 10.0
"""Least size of an unknown event, in noise levels, where no calibration says better."""

_RATES, _NUMBERS = "usual.rates_hz", "usual.numbers"
_NAMES = ("least_size", "false_per_minute", "unknown_share", "fit")


@dataclass(frozen=True, kw_only=True, eq=False)
class Baseline:
    """Figures of the time that the labels came from; NaN where nobody measured.

    Parameters
    ----------
    rates_hz : float array, shape (U,)
        Spikes that sorting finds of each unit in a second.
    least_size : float
        Of an unknown event: norm of what is left of it, in noise levels.
    false_per_minute : float
        Unknown events that noise and imperfect fits make, on the whole probe.
    unknown_share : float
        Unknown events, as part of all events.
    fit : float
        Mean part of a large event that is explained.

    Raises
    ------
    ValueError
        If a figure is outside its limits.
    """

    rates_hz: np.ndarray
    least_size: float = DEFAULT_SIZE
    false_per_minute: float = float("nan")
    unknown_share: float = float("nan")
    fit: float = float("nan")

    def __post_init__(self) -> None:
        rates = np.asarray(self.rates_hz)
        if rates.ndim != 1 or not (rates >= 0).all() or not np.isfinite(rates).all():
            raise ValueError(f"expected rates of units of at least 0 Hz, got shape {rates.shape}")
        if not 0 < self.least_size < np.inf:
            raise ValueError(f"least_size must be above 0, got {self.least_size}")
        for name, high in (("false_per_minute", np.inf), ("unknown_share", 1), ("fit", 1)):
            value = getattr(self, name)
            if not (np.isnan(value) or 0 <= value <= high):
                raise ValueError(f"{name} must be in [0, {high:g}] or NaN, got {value}")

    def to_weights(self) -> dict[str, np.ndarray]:
        """Arrays for a checkpoint."""
        numbers = np.array([getattr(self, name) for name in _NAMES], dtype=np.float32)
        # A checkpoint holds finite numbers only.
        return {
            _RATES: np.asarray(self.rates_hz, dtype=np.float32),
            _NUMBERS: np.where(np.isnan(numbers), np.float32(-1), numbers),
        }

    @classmethod
    def from_weights(cls, weights: dict[str, Any]) -> Baseline | None:
        """Take the figures out of a checkpoint's arrays; None: it is older than they are.

        Raises
        ------
        ValueError
            If only half of them is there, or they are no such figures.
        """
        found = {name: np.asarray(weights.pop(name)) for name in (_RATES, _NUMBERS) if name in weights}
        if not found:
            return None
        if len(found) == 1 or found[_NUMBERS].shape != (len(_NAMES),):
            raise ValueError(f"expected {_RATES} and {len(_NAMES)} {_NUMBERS}")
        numbers = [float("nan") if value < 0 else float(value) for value in found[_NUMBERS]]
        return cls(rates_hz=found[_RATES], **dict(zip(_NAMES, numbers, strict=True)))
