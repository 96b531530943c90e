"""Labels and accuracy of each unit as the page draws them: what it has, and what more would bring."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

__all__ = ["describe_labels"]


def describe_labels(
    folder: Path, scores: dict[str, Any] | None, index_of_sorted: dict[str, int]
) -> dict[str, Any] | None:
    """A curve for each labelled unit, the accuracy expected with its labels, and the one that was measured.

    Parameters
    ----------
    folder : Path
        That training and sorting left.
    scores : dict or None
        Content of ``scores.json``.
    index_of_sorted : dict
        By the name of the unit as text.

    Returns
    -------
    dict or None
        None where nothing was learned in this folder.
    """
    plan, curves = (_rows(folder / "tables" / f"{name}.csv") for name in ("label_plan", "label_curve"))
    if not plan or not curves:
        return None
    agreement = (scores or {}).get("agreement")
    known, value = ("", "") if scores is None else ("measured accuracy", "accuracy")
    entries = (scores or {}).get("units") or []
    if agreement is not None:
        known, value, entries = "agreement with the teacher", "agreement", agreement["units"]
    measured = {str(unit["unit_id"]): unit[value] for unit in entries}
    units = []
    for row in plan:
        name = row["unit_id"]
        own = [point for point in curves if point["unit_id"] == name]
        units.append(
            {
                "id": name,
                "index": index_of_sorted.get(name),
                "labels": int(row["labels"]),
                "expected": round(float(row["accuracy"]), 4),
                "measured": measured.get(name),
                "advice": row["advice"] if not row["needed"] else f"{row['advice']}, {row['needed']} in all",
                "curve": {
                    "labels": [int(point["labels"]) for point in own],
                    "accuracy": [round(float(point["accuracy"]), 4) for point in own],
                },
            }
        )
    return {"known": known, "units": units}


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
