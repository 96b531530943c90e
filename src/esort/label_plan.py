"""Which units need how many more labels: from what was measured, or from what calibration expects."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from esort.label_curve import ErrorCurve, fit_error_curve

__all__ = ["COLUMNS", "LabelNeed", "LabelPlanner", "expected_accuracy", "needs_of_curves"]

# Where no study has measured how errors fall with labels: half as many with about 2.7 times the labels.
_TYPICAL = ErrorCurve(floor=0.0, scale=0.3, exponent=0.7)
# Nobody labels more than this by hand.
MAX_LABELS = 1000
_SHOWN = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, MAX_LABELS)


@dataclass(frozen=True, kw_only=True)
class LabelNeed:
    """What a unit needs.

    Parameters
    ----------
    unit_id : int or str
    labels : int
        It has them now.
    accuracy : float
        Measured or expected with these.
    needed : int or None
        Labels with which the target is expected; None: more than 1000, or with no number.
    more : int or None
        Labels to add.
    advice : str
        ``enough``, ``more labels``, ``more time`` (it does not fire often enough in the labelled time) or
        ``out of reach``.
    """

    unit_id: Any
    labels: int
    accuracy: float
    needed: int | None
    more: int | None
    advice: str


COLUMNS = tuple(LabelNeed.__dataclass_fields__)
"""Of the table of all units."""


@dataclass(frozen=True, kw_only=True)
class LabelPlanner:
    """Says what each unit needs, from its expected accuracy and from how errors fall with labels elsewhere.

    A unit's error is taken to fall as the errors of the curve do: with K labels in the place of k it is
    multiplied by ``curve.error(K) / curve.error(k)``. Before that it is raised to ``curve.error(k)`` if it is
    smaller: calibration works with the mean of the labelled waveforms and cannot know how far off that is.
    With one or two labels it expects far too much (measured on 20 units: 0.90 where 0.78 came out).

    Parameters
    ----------
    target : float
        Accuracy to reach, in (0, 1).
    curve : str, optional
        ``curve.json`` that the study ``label_efficiency`` left. None: a typical curve, error falling with
        labels to the power of -0.7.

    Raises
    ------
    ValueError, FileNotFoundError
        If the target is outside its limits, or the file is none of that study.
    """

    target: float = 0.9
    curve: str | None = None

    def __post_init__(self) -> None:
        target = self.target
        if isinstance(target, bool) or not isinstance(target, (int, float)) or not 0 < target < 1:
            raise ValueError(f"label_plan.target must be an accuracy in (0, 1), got {target!r}")
        self.error_curve()

    def error_curve(self) -> ErrorCurve:
        """The curve by which errors fall."""
        if self.curve is None:
            return _TYPICAL
        path = Path(self.curve).expanduser()
        if not path.is_file():
            raise FileNotFoundError(
                f"label_plan.curve: expected a study's curve.json, found no file at {path}"
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))["transfer"]
            return ErrorCurve(**{name: content[name] for name in ("floor", "scale", "exponent")})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no curve.json of a label_efficiency study: {error}") from None

    def need(self, unit_id: Any, *, labels: int, accuracy: float, available: float = math.inf) -> LabelNeed:
        """What one unit needs.

        Parameters
        ----------
        unit_id : int or str
        labels : int
            It has them now, at least 1.
        accuracy : float
            That calibration expects with these.
        available : float
            Spikes of the unit in the time that may be labelled, as far as known.
        """
        curve = self.error_curve()
        error = max(1 - accuracy, curve.error(labels), 1e-9)
        wanted = curve.error(labels) * (1 - self.target) / error
        return _need(unit_id, labels, 1 - error, self.target, curve.labels_for(wanted), available)

    def expected(self, need: LabelNeed) -> list[tuple[int, float]]:
        """Accuracy that is expected of a unit with fewer and with more labels.

        Parameters
        ----------
        need : LabelNeed
            See `need`.

        Returns
        -------
        list of (labels, accuracy)
            From 1 to 1000 labels, with the number that the unit has among them.
        """
        curve = self.error_curve()
        scale = (1 - need.accuracy) / max(curve.error(need.labels), 1e-9)
        return [
            (labels, 1 - min(1.0, scale * curve.error(labels))) for labels in sorted({*_SHOWN, need.labels})
        ]

    def of_calibration(
        self, calibration: Mapping[str, Any], labels: Mapping[Any, int], labelled_s: float
    ) -> list[LabelNeed]:
        """What each unit of a training needs.

        Parameters
        ----------
        calibration : mapping
            Content of ``calibration.json``.
        labels : mapping of unit id to int
            Labels of each unit; units that calibration left out are here only, nothing is expected of them.
        labelled_s : float
            Seconds that labels may come from.

        Returns
        -------
        list of LabelNeed
            In the order of `labels`.
        """
        known = {str(unit["unit_id"]): unit for unit in calibration["units"]}
        needs = []
        for unit_id, count in labels.items():
            unit = known.get(str(unit_id))
            accuracy = 0.0 if unit is None else expected_accuracy(unit)
            available = math.inf if unit is None else max(count, unit["rate_hz"] * labelled_s)
            needs.append(self.need(unit_id, labels=count, accuracy=accuracy, available=available))
        return needs


def expected_accuracy(unit: Mapping[str, float]) -> float:
    """Accuracy that calibration expects of a unit: ``tp / (tp + fp + fn)`` per second.

    Parameters
    ----------
    unit : mapping
        With ``rate_hz``, ``recall`` and ``false_hz``.
    """
    spikes = unit["rate_hz"] + unit["false_hz"]
    return unit["rate_hz"] * unit["recall"] / spikes if spikes > 0 else 0.0


def needs_of_curves(
    measured: Mapping[Any, Sequence[tuple[float, float]]], *, target: float, labels: int
) -> list[dict[str, Any]]:
    """What each unit needs, from accuracies that were measured with different numbers of labels.

    Parameters
    ----------
    measured : mapping of unit id to sequence of (labels, accuracy)
        At least three of each unit.
    target : float
    labels : int
        Labels that a unit is taken to have now.

    Returns
    -------
    list of dict
        `COLUMNS`, and ``floor``, ``scale``, ``exponent`` of the unit's curve.
    """
    needs = []
    for unit_id, pairs in measured.items():
        curve = fit_error_curve(*zip(*pairs, strict=True))
        accuracy = 1 - curve.error(labels)
        need = _need(unit_id, labels, accuracy, target, curve.labels_for(1 - target), math.inf)
        needs.append(asdict(need) | asdict(curve))
    return needs


def _need(
    unit_id: Any, labels: int, accuracy: float, target: float, wanted: float, available: float
) -> LabelNeed:
    needed: int | None = None
    more: int | None = None
    advice = "out of reach"
    if accuracy >= target:
        needed, more, advice = labels, 0, "enough"
    elif wanted <= MAX_LABELS:
        needed = max(labels + 1, math.ceil(wanted - 1e-9))
        more = needed - labels
        advice = "more labels" if needed <= available else "more time"
    return LabelNeed(
        unit_id=unit_id, labels=labels, accuracy=accuracy, needed=needed, more=more, advice=advice
    )
