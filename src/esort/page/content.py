"""What the page says, as plain values: `page.js` draws from these and computes nothing."""

from __future__ import annotations

import base64
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from esort.card import Card
from esort.page.closeup import Closeup, look_closely
from esort.page.comparison import accuracy_of_units, agreement_matrix, confusion_matrix
from esort.page.facts import describe_cards, describe_facts, describe_notes
from esort.page.health import describe_health
from esort.page.labels import describe_labels
from esort.page.motion import describe_motion
from esort.page.numbers import rounded
from esort.page.trains import describe_trains
from esort.page.units import describe_units, tabulate_metrics
from esort.results import AGREEMENT
from esort.subject import Subject
from esort.threads import available_cores

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording, BaseSorting

__all__ = ["describe_run"]

logger = logging.getLogger(__name__)

# What `report` has drawn already and this page does not draw again.
_PICTURES = {
    "traces.png": "A stretch of traces with its spikes",
    "reliability.png": "Are the probabilities right?",
    "learning.png": "Learning",
}
_STRETCHES_SHOWN = 20


def describe_run(
    *,
    folder: Path,
    run: dict[str, Any],
    card: Card,
    scores: dict[str, Any] | None,
    subject: Subject,
    filtered: BaseRecording,
    sorting: BaseSorting,
) -> dict[str, Any]:
    """Gather all that the page shows.

    Parameters
    ----------
    folder : Path
        Where pictures and probabilities lie.
    run, scores : dict
        Contents of ``run.json`` and ``scores.json``.
    card : Card
        Of the checkpoint that sorted.
    subject : Subject
    filtered : BaseRecording
        The recording behind the filter.
    sorting : BaseSorting

    Returns
    -------
    dict
        What `esort.files.plain` takes.
    """
    start, stop = int(run["start_sample"]), int(run["stop_sample"])
    range_s = [start / sorting.sampling_frequency, stop / sorting.sampling_frequency]
    trains = describe_trains(filtered, sorting, _probability(folder, sorting), start, stop)
    closeup = look_closely(filtered, sorting, start, stop, num_workers=available_cores())
    columns, rows = tabulate_metrics(trains, closeup, sorting.get_num_units())
    names = [name for name, _ in columns]
    units = describe_units(sorting, trains, closeup, rows, names, (stop - start) / sorting.sampling_frequency)
    confusion = None
    if subject.ground_truth is not None and scores is not None:
        stretch = int(scores["start_sample"]), int(scores["stop_sample"])
        confusion = confusion_matrix(subject.ground_truth, sorting, *stretch)
    elif scores is not None:
        confusion = _agreement(folder, scores)
    quantity = "µV" if filtered.get_channel_gains() is not None else "own unit"
    positions = np.asarray(filtered.get_channel_locations(), dtype=float)
    snr = {str(unit["id"]): unit["snr"] for unit in units if unit["snr"] is not None}
    indices = {str(unit["id"]): index for index, unit in enumerate(units)}
    source = Path(run["recording"])
    return {
        "title": f"Spikes of {source.name}",
        "subtitle": f"{source} · {round(range_s[0], 2):.9g} to {round(range_s[1], 2):.9g} s",
        "quantity": quantity,
        "num_spikes": int(run["num_spikes"]),
        "range_s": range_s,
        "cards": describe_cards(run, scores, units),
        "probe": {
            "x": rounded(positions[:, 0], 2),
            "y": rounded(positions[:, 1], 2),
            "ids": [str(channel_id) for channel_id in filtered.channel_ids],
        },
        "spikes": _spikes(closeup, sorting.sampling_frequency),
        "bins": {
            "centre_s": rounded((trains.edges_s[1:] + trains.edges_s[:-1]) / 2, 3),
            "rate_hz": rounded(trains.counts.sum(axis=0) / np.diff(trains.edges_s), 3),
        },
        "motion": describe_motion(folder),
        "health": describe_health(folder, run, sorting.sampling_frequency),
        "waveform_ms": [] if closeup is None else _times_ms(closeup, sorting.sampling_frequency),
        "correlogram_ms": rounded(trains.correlogram_ms, 2),
        "units": units,
        "metrics": {"columns": columns, "rows": rows},
        "accuracy": accuracy_of_units(scores, subject.signal_to_noise, snr, indices),
        "confusion": confusion,
        "labels": describe_labels(folder, scores, indices),
        "pictures": _pictures(folder),
        "notes": describe_notes(closeup, quantity),
        "facts": describe_facts(run, card),
    }


def _probability(folder: Path, sorting: BaseSorting) -> np.ndarray | None:
    path = folder / "sorting" / "probability.npy"
    if not path.is_file():
        return None
    probability = np.load(path, allow_pickle=False)
    if probability.shape != (len(sorting.to_spike_vector()),):
        logger.warning("%s does not belong to the sorting beside it: the page does without", path)
        return None
    return probability


def _agreement(folder: Path, scores: dict[str, Any]) -> dict[str, Any] | None:
    """The pairs of units that ``scores.json`` sums up, where the teacher had something to say."""
    path = folder / AGREEMENT
    if not (scores.get("agreement") or {}).get("units") or not path.is_file():
        return None
    return agreement_matrix(json.loads(path.read_text(encoding="utf-8")))


def _spikes(closeup: Closeup | None, rate: float) -> dict[str, list]:
    if closeup is None:
        return {"time": [], "depth": [], "amplitude": [], "unit": []}
    return {
        "time": rounded(closeup.sample_index / rate, 4),
        "depth": rounded(closeup.positions_um[:, 1], 1),
        "amplitude": rounded(closeup.amplitude, 1),
        "unit": closeup.unit_index.tolist(),
    }


def _times_ms(closeup: Closeup, rate: float) -> list[float]:
    from esort.page.closeup import BEFORE_MS

    num_samples = closeup.templates.shape[1]
    return rounded((np.arange(num_samples) - int(BEFORE_MS * rate / 1000)) * 1000 / rate, 3)


def _pictures(folder: Path) -> list[dict[str, str]]:
    return [
        {"title": title, "source": f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"}
        for name, title in _PICTURES.items()
        if (path := folder / name).is_file()
    ]
