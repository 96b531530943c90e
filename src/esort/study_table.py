"""From the runs of a study to one table: means over seeds, intervals, gains and labels ratios."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from esort.grid import OURS, StudySpec
from esort.label_curve import ErrorCurve, LabelsRatio, fit_error_curve, labels_ratio

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "SCORES_OF_A_RUN",
    "fitted_curves",
    "interval",
    "overall_labels_ratio",
    "results_table",
    "summarise",
]

SCORES_OF_A_RUN = ("pooled_accuracy", "mean_accuracy")
_CONFIDENCE = 0.95


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % confidence interval by Student's t over seeds.

    With three seeds that is the mean ± 4.3 standard errors: wide, and honest about three seeds. (A bootstrap
    of three values has ten different resamples and is too narrow.)

    Parameters
    ----------
    values : sequence of float
        One for each seed; NaN are left out.

    Returns
    -------
    mean, low, high : float
        NaN where there is nothing; low and high are NaN for a single value.
    """
    from scipy import stats

    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]
    if known.size == 0:
        return math.nan, math.nan, math.nan
    mean = float(known.mean())
    if known.size == 1:
        return mean, math.nan, math.nan
    half = float(stats.t.ppf(0.5 + _CONFIDENCE / 2, known.size - 1) * known.std(ddof=1) / np.sqrt(known.size))
    return mean, mean - half, mean + half


def summarise(table: pd.DataFrame, spec: StudySpec) -> pd.DataFrame:
    """One row for each point of the grid, over its seeds.

    Parameters
    ----------
    table : DataFrame
        One row for each run: ``sorter``, the axes, ``seed``, ``status`` and what came out. A run that failed
        (nothing could be learned) counts with an accuracy of 0, one that was skipped does not count.
    spec : StudySpec

    Returns
    -------
    DataFrame
        ``n``, ``failed``; each score with ``_low`` and ``_high``; with a baseline also ``gain`` (difference
        of pooled accuracy from the baseline's, paired by seed) and, for a curve, ``labels_ratio``: labels
        needed for what the baseline reaches with these labels, over these labels, in the seeds where the
        baseline had not reached that with fewer (else ``labels_ratio_bound`` is "plateau").
    """
    import pandas as pd

    keys = ["sorter", *spec.axes]
    rows = []
    for values, group in table.groupby(keys, sort=False, dropna=False):
        row: dict[str, Any] = dict(zip(keys, values, strict=True))
        counted = group[group["status"] != "skipped"]
        row |= {"n": len(counted), "failed": int((group["status"] == "failed").sum())}
        for score in SCORES_OF_A_RUN:
            row |= _columns(score, interval(counted[score]))
        row["labels_per_unit"] = float(counted["labels_per_unit"].mean())
        row["seconds"] = float(counted["seconds"].mean())
        if spec.baseline is not None:
            row |= _columns("gain", interval(_gains(table, group, spec)))
            if spec.figure == "curve":
                row |= _ratio_columns(table, row, spec)
        rows.append(row)
    return pd.DataFrame(rows)


def overall_labels_ratio(summary: pd.DataFrame) -> float:
    """Geometric mean of the labels ratios that are not only known by a bound; NaN where there is none."""
    if "labels_ratio" not in summary:
        return math.nan
    exact = summary.loc[summary["labels_ratio_bound"] == "", "labels_ratio"].dropna()
    return float(np.exp(np.log(exact).mean())) if len(exact) else math.nan


def results_table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The rows of all runs as a table, whose numbers are numbers also where some runs have none."""
    import pandas as pd

    table = pd.DataFrame(rows)
    for name in (*SCORES_OF_A_RUN, "labels_per_unit", "seconds"):
        table[name] = pd.to_numeric(table[name])
    return table


def fitted_curves(table: pd.DataFrame, spec: StudySpec) -> dict[str, ErrorCurve]:
    """A curve of errors for each value of `by`, fitted to the pooled accuracies of all seeds.

    A value with too few numbers of labels is left out.
    """
    curves = {}
    ours = table[(table["sorter"] == OURS) & (table["status"] != "skipped")]
    for name, group in _by(ours, spec):
        known = group[np.isfinite(group["labels_per_unit"])]
        if len(known) >= 3 and known["labels_per_unit"].nunique() >= 2:
            curves[str(name)] = fit_error_curve(known["labels_per_unit"], known["pooled_accuracy"])
    return curves


def _columns(name: str, values: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


def _by(table: pd.DataFrame, spec: StudySpec) -> Any:
    return table.groupby(spec.by, sort=False) if spec.by else [("all", table)]


def _gains(table: pd.DataFrame, group: pd.DataFrame, spec: StudySpec) -> list[float]:
    """Pooled accuracy minus the baseline's with the same seed and otherwise the same values."""
    own = group.iloc[0]
    if own[spec.by] == spec.baseline:
        return []
    baseline = table[(table[spec.by] == spec.baseline) & (table["status"] != "skipped")]
    for key in {"sorter", *spec.axes} - {spec.by}:
        # A peer's row leaves those axes empty that do not change the recording.
        empty = baseline[key].eq("") | (own[key] == "") if spec.by == "sorter" else False
        baseline = baseline[baseline[key].eq(own[key]) | empty]
    of_seed = baseline.groupby("seed")["pooled_accuracy"].mean()
    counted = group[group["status"] != "skipped"].set_index("seed")["pooled_accuracy"]
    return [float(value - of_seed[seed]) for seed, value in counted.items() if seed in of_seed.index]


def _ratio_columns(table: pd.DataFrame, row: dict[str, Any], spec: StudySpec) -> dict[str, Any]:
    """Labels ratio at the accuracy that the baseline reaches with a row's labels."""
    import pandas as pd

    by = spec.by
    assert by is not None
    nothing = {**_columns("labels_ratio", (math.nan,) * 3), "labels_ratio_bound": ""}
    if row[by] == spec.baseline:
        return nothing
    others = [key for key in ("sorter", *spec.axes) if key not in (spec.by, spec.x)]
    same = table[(table[others] == pd.Series({key: row[key] for key in others})).all(axis=1)]
    found = []
    for _, of_seed in same[same["status"] != "skipped"].groupby("seed"):
        ratio = _ratio_of_seed(of_seed, row, spec)
        if ratio is not None:
            found.append(ratio)
    if not found:
        return nothing
    compared = [one for one in found if one.bound != "plateau"]
    if not compared:
        return nothing | {"labels_ratio_bound": "plateau"}
    found = compared
    mean, low, high = interval([math.log(one.ratio) for one in found])  # ratios multiply
    bounds = {one.bound for one in found} - {""}
    return _columns("labels_ratio", (math.exp(mean), math.exp(low), math.exp(high))) | {
        "labels_ratio_bound": " and ".join(sorted(bounds))
    }


def _ratio_of_seed(of_seed: pd.DataFrame, row: dict[str, Any], spec: StudySpec) -> LabelsRatio | None:
    by = spec.by
    assert by is not None
    curves = []
    for value in (row[by], spec.baseline):
        curve = of_seed[(of_seed[by] == value) & np.isfinite(of_seed["labels_per_unit"])]
        curve = curve.sort_values("labels_per_unit")
        if curve.empty:
            return None
        curves.append(curve)
    own, reference = curves
    place = np.flatnonzero(reference[spec.x].to_numpy() == row[spec.x])
    if place.size == 0:
        return None
    ratios = labels_ratio(
        own["labels_per_unit"].to_numpy(),
        own["pooled_accuracy"].to_numpy(),
        reference["labels_per_unit"].to_numpy(),
        reference["pooled_accuracy"].to_numpy(),
    )
    return ratios[int(place[0])]
