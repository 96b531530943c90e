"""Accuracy of each unit and who was taken for whom, where a truth or a teacher is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from esort.evaluation import DELTA_MS, MATCH_SCORE

if TYPE_CHECKING:
    from spikeinterface.core import BaseSorting

__all__ = ["accuracy_of_units", "agreement_matrix", "confusion_matrix"]


def accuracy_of_units(
    scores: dict[str, Any] | None,
    signal_to_noise: dict[Any, float],
    snr_of_sorted: dict[str, float],
    index_of_sorted: dict[str, int],
) -> dict[str, Any] | None:
    """Put the scores of units against how well they stand out.

    Parameters
    ----------
    scores : dict or None
        Content of ``scores.json``: against the ground truth, or the agreement with a teacher.
    signal_to_noise : dict
        Of true units, where known; otherwise that of the matched sorted unit is taken.
    snr_of_sorted, index_of_sorted : dict
        By the name of the sorted unit as text: JSON may have turned numbers into text.

    Returns
    -------
    dict or None
        None where nothing is known of the truth.
    """
    if scores is None:
        return None
    known = {str(unit_id): value for unit_id, value in signal_to_noise.items()}
    agreement = scores.get("agreement")
    if agreement is None and not scores.get("units"):
        return None
    if agreement is None:
        entries = [(unit, unit["matched_unit_id"], unit["accuracy"]) for unit in scores["units"]]
        title = f"Accuracy of each true unit (pooled {_text(scores['pooled_accuracy'])})"
        axis = "accuracy"
    else:
        entries = [(unit, unit["best_unit_id"], unit["agreement"]) for unit in agreement["units"]]
        title, axis = f"Agreement with the teacher (pooled {_text(agreement['pooled'])})", "agreement"
    units = []
    for unit, matched, value in entries:
        name = str(matched)
        units.append(
            {
                "id": unit["unit_id"],
                "matched": matched,
                "index": None if matched is None else index_of_sorted.get(name),
                "value": value,
                "num_spikes": unit["num_spikes"],
                "snr": known.get(str(unit["unit_id"]), None if matched is None else snr_of_sorted.get(name)),
            }
        )
    return {"title": title, "axis": axis, "units": units}


def confusion_matrix(
    ground_truth: BaseSorting, sorting: BaseSorting, start_sample: int, stop_sample: int
) -> dict[str, Any] | None:
    """Count whose spikes were taken for whose, by SpikeInterface's comparison.

    Returns
    -------
    dict or None
        ``rows`` (true units, last "false"), ``columns`` (sorted units, last "missed"), ``text`` with counts
        and ``share``, the part of the true unit's spikes. False and missed is what the matched unit has or
        lacks; spikes that two sorted units claim stand in both. None where a side has no spike.
    """
    from spikeinterface.comparison import compare_sorter_to_ground_truth

    sides = [
        side.frame_slice(start_sample, stop_sample).remove_empty_units() for side in (ground_truth, sorting)
    ]
    if not all(side.get_num_units() for side in sides):
        return None
    # By position: what stands for "no partner" depends on the type of the names.
    numbered = [side.rename_units(np.arange(side.get_num_units())) for side in sides]
    comparison = compare_sorter_to_ground_truth(
        *numbered, delta_time=DELTA_MS, match_score=MATCH_SCORE, exhaustive_gt=True
    )
    # SpikeInterface's own confusion matrix leaves out what lies beside the matches, and stumbles over fewer
    # sorted than true units (0.105.3).
    pairs = comparison.match_event_count.to_numpy().astype(int)  # (true, sorted)
    partner = np.asarray(comparison.hungarian_match_12, dtype=int)  # of each true unit; -1: none
    (found,) = np.nonzero(partner >= 0)
    rows = np.concatenate([found, np.flatnonzero(partner < 0)])
    columns = np.concatenate([partner[found], np.setdiff1d(np.arange(pairs.shape[1]), partner)])
    names = [np.asarray(side.unit_ids)[order] for side, order in zip(sides, (rows, columns), strict=True)]
    true, sorted_ = (side.count_num_spikes_per_unit(outputs="array") for side in sides)
    hits = np.where(partner >= 0, pairs[np.arange(len(pairs)), partner], 0)  # of each true unit
    right = np.zeros(pairs.shape[1], dtype=int)
    right[partner[found]] = hits[found]
    values = np.zeros((len(rows) + 1, len(columns) + 1), dtype=int)
    values[:-1, :-1] = pairs[rows][:, columns]
    values[:-1, -1] = (true - hits)[rows]
    values[-1, :-1] = (sorted_ - right)[columns]
    total = np.append(true[rows], max(1, true.sum()))[:, None]  # false spikes: as a part of all true ones
    return {
        "title": "Whose spikes were taken for whose",
        "down": "true unit",
        "across": "sorted unit",
        "rows": [*map(str, names[0]), "false"],
        "columns": [*map(str, names[1]), "missed"],
        "share": np.round(np.minimum(values / total, 1), 4).tolist(),
        "text": [[f"{count} spikes" for count in row] for row in values.tolist()],
    }


def agreement_matrix(agreement: dict[str, Any]) -> dict[str, Any]:
    """Arrange what `esort.evaluation.Agreement.to_dict` holds for the page, as `confusion_matrix` does."""
    matrix = np.asarray(agreement["matrix"], dtype=float)  # (teacher's, sorted)
    matrix = matrix.reshape(len(agreement["unit_ids_a"]), len(agreement["unit_ids_b"]))
    # The best partner of each row comes next to the diagonal, as far as it is free.
    best = matrix.argmax(axis=1).tolist() if matrix.size else []
    order = list(dict.fromkeys([*best, *range(matrix.shape[1])]))
    return {
        "title": "Agreement of each pair of units",
        "down": "teacher's unit",
        "across": "sorted unit",
        "rows": [str(unit_id) for unit_id in agreement["unit_ids_a"]],
        "columns": [str(agreement["unit_ids_b"][column]) for column in order],
        "share": np.round(matrix[:, order], 4).tolist(),
        "text": [[f"agreement {value:.2f}" for value in row] for row in matrix[:, order].tolist()],
    }


def _text(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
