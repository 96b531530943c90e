"""Accuracy against the number of labels: interpolated, compared at equal accuracy, fitted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["RESOLUTION", "ErrorCurve", "LabelsRatio", "fit_error_curve", "labels_for", "labels_ratio"]

RESOLUTION = 0.001
"""Accuracies that differ by less are no progress."""


def labels_for(labels: np.ndarray, accuracy: np.ndarray, wanted: float) -> float:
    """Labels at which a measured curve first reaches an accuracy, by interpolation over their logarithm.

    Where more labels gave less, the best so far counts.

    Parameters
    ----------
    labels, accuracy : float arrays, shape (K,)
        Ascending labels, at least 1.
    wanted : float

    Returns
    -------
    float
        At least ``labels[0]``, which says "this many or fewer"; inf where the curve never gets there.
    """
    best = np.maximum.accumulate(np.asarray(accuracy, dtype=float))
    position = int(np.searchsorted(best, wanted))  # first that reaches it
    if position == len(best):
        return math.inf
    if position == 0:
        return float(labels[0])
    low, high = np.log(labels[position - 1]), np.log(labels[position])
    share = (wanted - best[position - 1]) / (best[position] - best[position - 1])
    return float(np.exp(low + share * (high - low)))


@dataclass(frozen=True, kw_only=True)
class LabelsRatio:
    """Labels that one way of learning needs for what another reaches with a number of them.

    Parameters
    ----------
    labels : float
        Of the other.
    accuracy : float
        What it reaches with them.
    ratio : float
        Labels needed, over `labels`; NaN on a plateau.
    bound : {"", "at most", "at least", "plateau"}
        Whether the ratio is only known to be at most or at least this, because the curve ends; or the other
        had reached this accuracy with fewer labels, to within `RESOLUTION`, so that nothing can be compared.
    """

    labels: float
    accuracy: float
    ratio: float
    bound: str


def labels_ratio(
    labels: np.ndarray, accuracy: np.ndarray, reference_labels: np.ndarray, reference_accuracy: np.ndarray
) -> list[LabelsRatio]:
    """Compare two measured curves at equal accuracy.

    Parameters
    ----------
    labels, accuracy : float arrays, shape (K,)
        Ascending labels.
    reference_labels, reference_accuracy : float arrays, shape (J,)
        The curve that it is compared with.

    Returns
    -------
    list of LabelsRatio, length J
        One for each point of the reference; its own accuracy is also the best so far.
    """
    ratios = []
    best = np.maximum.accumulate(np.asarray(reference_accuracy, dtype=float))
    for own, reached, before in zip(reference_labels, best, [-np.inf, *best[:-1]], strict=True):
        if reached < before + RESOLUTION:
            ratios.append(
                LabelsRatio(labels=float(own), accuracy=float(reached), ratio=math.nan, bound="plateau")
            )
            continue
        needed = labels_for(labels, accuracy, reached)
        bound = "at most" if accuracy[0] > reached + 1e-9 else ""
        if math.isinf(needed):
            needed, bound = float(labels[-1]), "at least"
        ratios.append(
            LabelsRatio(labels=float(own), accuracy=float(reached), ratio=needed / float(own), bound=bound)
        )
    return ratios


@dataclass(frozen=True, kw_only=True)
class ErrorCurve:
    """Error against labels: ``floor + scale · labels ** -exponent``, at most 1.

    Power laws of this form describe learning curves of many kinds (Hestness et al., arXiv 1712.00409).

    Parameters
    ----------
    floor, scale : float
        In [0, 1]; what stays with any number of labels, and what labels take away.
    exponent : float
        Above 0.

    Raises
    ------
    ValueError
        If a value is outside its limits.
    """

    floor: float
    scale: float
    exponent: float

    def __post_init__(self) -> None:
        for name, low, high in (("floor", 0, 1), ("scale", 0, 100), ("exponent", 1e-9, 10)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                raise ValueError(f"{name} of an error curve must be in [{low:g}, {high:g}], got {value!r}")

    def error(self, labels: float) -> float:
        """Expected error with so many labels."""
        return min(1.0, self.floor + self.scale * labels**-self.exponent)

    def labels_for(self, error: float) -> float:
        """Labels after which the error is no larger than this; inf where it never is."""
        if error >= 1:
            return 1.0
        if error <= self.floor:
            return math.inf
        return max(1.0, (self.scale / (error - self.floor)) ** (1 / self.exponent)) if self.scale else 1.0


def fit_error_curve(labels: Sequence[float], accuracy: Sequence[float]) -> ErrorCurve:
    """Fit a curve to accuracies that were measured with different numbers of labels.

    Robust least squares (soft L1), because single runs of few labels are a lottery. Accuracies of 0 say
    "not found", not "how far off", and only bound the curve from below: they are given a tenth of the weight.

    Parameters
    ----------
    labels, accuracy : sequences of float, length K
        K >= 3, with at least 2 different numbers of labels.

    Raises
    ------
    ValueError
        If there are too few.
    """
    from scipy.optimize import least_squares

    counts, error = np.asarray(labels, dtype=float), 1 - np.asarray(accuracy, dtype=float)
    if len(counts) < 3 or np.unique(counts).size < 2:
        raise ValueError(
            f"a curve needs at least 3 accuracies at 2 numbers of labels, got {len(counts)} at "
            f"{np.unique(counts).size}"
        )
    weight = np.where(error >= 1, 0.1, 1.0)

    def residuals(parameters: np.ndarray) -> np.ndarray:
        floor, scale, exponent = parameters
        return weight * (np.minimum(1.0, floor + scale * counts**-exponent) - error)

    low, high = np.array([0.0, 0.0, 0.05]), np.array([1.0, 10.0, 3.0])
    start = np.array([max(0.0, error.min()) * 0.9, max(error.max() - error.min(), 1e-3), 0.7])
    fitted = least_squares(
        residuals, np.clip(start, low + 1e-6, high - 1e-6), bounds=(low, high), loss="soft_l1", f_scale=0.05
    )
    floor, scale, exponent = (float(value) for value in fitted.x)
    return ErrorCurve(floor=floor, scale=scale, exponent=exponent)
