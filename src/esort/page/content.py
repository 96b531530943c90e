"""What the page says, as plain values: `page.js` draws from these and computes nothing."""

from __future__ import annotations

import base64
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from esort.card import Card
from esort.motion import LEAST_MOTION_UM
from esort.page.closeup import Closeup, look_closely
from esort.page.comparison import accuracy_of_units, agreement_matrix, confusion_matrix
from esort.page.motion import describe_motion
from esort.page.trains import MAX_TRAIN, Trains, describe_trains
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
_CHANNELS_SHOWN = 20
_STRETCHES_SHOWN = 20
_MEANINGS = {
    "num_spikes": "spikes",
    "firing_rate": "spikes per second",
    "presence_ratio": "part of the minutes in which it fires",
    "isi_violations_ratio": "intervals below 1.5 ms, over those of a random contamination",
    "isi_violations_count": "intervals below 1.5 ms",
    "rp_contamination": "contamination that refractory violations tell of",
    "rp_violations": "refractory violations",
    "snr": "amplitude over noise level",
    "amplitude_median": "median amplitude of the spikes",
    "amplitude_cutoff": "estimated part of the spikes below threshold",
    "sd_ratio": "spread of amplitudes over the noise; well above 1: mixed or drifting",
}


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
    columns, rows = _metrics(trains, closeup, sorting.get_num_units())
    names = [name for name, _ in columns]
    units = _units(sorting, trains, closeup, rows, names, (stop - start) / sorting.sampling_frequency)
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
        "cards": _cards(run, scores, units),
        "probe": {
            "x": _round(positions[:, 0], 2),
            "y": _round(positions[:, 1], 2),
            "ids": [str(channel_id) for channel_id in filtered.channel_ids],
        },
        "spikes": _spikes(closeup, sorting.sampling_frequency),
        "bins": {
            "centre_s": _round((trains.edges_s[1:] + trains.edges_s[:-1]) / 2, 3),
            "rate_hz": _round(trains.counts.sum(axis=0) / np.diff(trains.edges_s), 3),
        },
        "motion": describe_motion(folder),
        "waveform_ms": [] if closeup is None else _times_ms(closeup, sorting.sampling_frequency),
        "correlogram_ms": _round(trains.correlogram_ms, 2),
        "units": units,
        "metrics": {"columns": columns, "rows": rows},
        "accuracy": accuracy_of_units(scores, subject.signal_to_noise, snr, indices),
        "confusion": confusion,
        "pictures": _pictures(folder),
        "notes": _notes(closeup, quantity),
        "facts": _facts(run, card),
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


def _metrics(
    trains: Trains, closeup: Closeup | None, num_units: int
) -> tuple[list[list[str]], list[list[float | None]]]:
    """Join the metrics of all spikes and of those looked at closely: names with meanings, a row a unit."""
    table = {name: np.asarray(trains.metrics[name], dtype=float) for name in trains.metrics.columns}
    if closeup is not None:
        for name in closeup.metrics.columns:
            values = np.full(num_units, np.nan)
            values[closeup.units] = np.asarray(closeup.metrics[name], dtype=float)
            table[name] = values
    # SpikeInterface counts -1 violations of a unit without spikes.
    silent = table["num_spikes"] == 0
    for name in set(table) - {"num_spikes"}:
        table[name] = np.where(silent, np.nan, table[name])
    rows = [[_number(values[index]) for values in table.values()] for index in range(num_units)]
    return [[name, _MEANINGS.get(name, "")] for name in table], rows


def _units(
    sorting: BaseSorting,
    trains: Trains,
    closeup: Closeup | None,
    rows: list[list[float | None]],
    names: list[str],
    seconds: float,
) -> list[dict[str, Any]]:
    seen = {} if closeup is None else {int(unit): place for place, unit in enumerate(closeup.units)}
    widths = np.diff(trains.edges_s)
    units = []
    for index, unit_id in enumerate(np.asarray(sorting.unit_ids).tolist()):
        count = int(trains.counts[index].sum())
        row = dict(zip(names, rows[index], strict=True))
        means = trains.mean_probability
        unit = {
            "id": unit_id,
            "num_spikes": count,
            "rate_hz": _number(count / seconds),
            "probability": None if means is None else _number(means[index]),
            "snr": row.get("snr"),
            "x": None,
            "y": None,
            "amplitude": None,
            "waveform": None,
            "autocorrelogram": trains.autocorrelograms[index].astype(int).tolist(),
            "rates": _round(trains.counts[index] / widths, 3),
            "probabilities": None if trains.probabilities is None else _round(trains.probabilities[index], 3),
            "facts": [["refractory violations", row.get("rp_violations")]],
        }
        if closeup is not None and index in seen:
            unit |= _appearance(closeup, seen[index])
        units.append(unit)
    return units


def _appearance(closeup: Closeup, place: int) -> dict[str, Any]:
    """Where a unit is and what it looks like, on the channels where it is largest."""
    template = closeup.templates[place]  # (T, C)
    amplitudes = np.where(closeup.mask[place], np.abs(template).max(axis=0), -1.0)  # (C,)
    largest = np.argsort(-amplitudes, kind="stable")[:_CHANNELS_SHOWN]
    channels = np.sort(largest[amplitudes[largest] >= 0])
    x, y = closeup.unit_positions_um[place]
    return {
        "x": _number(x),
        "y": _number(y),
        "amplitude": _number(float(amplitudes.max())),
        "waveform": {
            "channels": channels.tolist(),
            "values": [_round(template[:, channel], 1) for channel in channels],
        },
    }


def _spikes(closeup: Closeup | None, rate: float) -> dict[str, list]:
    if closeup is None:
        return {"time": [], "depth": [], "amplitude": [], "unit": []}
    return {
        "time": _round(closeup.sample_index / rate, 4),
        "depth": _round(closeup.positions_um[:, 1], 1),
        "amplitude": _round(closeup.amplitude, 1),
        "unit": closeup.unit_index.tolist(),
    }


def _times_ms(closeup: Closeup, rate: float) -> list[float]:
    from esort.page.closeup import BEFORE_MS

    num_samples = closeup.templates.shape[1]
    return _round((np.arange(num_samples) - int(BEFORE_MS * rate / 1000)) * 1000 / rate, 3)


def _cards(
    run: dict[str, Any], scores: dict[str, Any] | None, units: list[dict[str, Any]]
) -> list[dict[str, str]]:
    seconds = (run["stop_sample"] - run["start_sample"]) / run["sampling_frequency"]
    firing = sum(unit["num_spikes"] > 0 for unit in units)
    cards = [
        (
            "units" if firing == len(units) else f"units that fired, of {len(units)}",
            str(firing),
            "that fired",
        ),
        ("spikes", f"{run['num_spikes']:,}", ""),
        ("sorted", _duration(seconds), "length of the recording that was sorted"),
        ("channels", str(run["num_channels"]), f"at {run['sampling_frequency']:g} Hz"),
        ("times real time", f"{run['real_time_factor']:.1f}", f"on {run['cores']} cores"),
        ("wall time", _duration(run["seconds"]["total"]), "file to spikes, filter and reading included"),
    ]
    if (run.get("motion_um") or 0) >= LEAST_MOTION_UM:
        cards.append(("the tissue moved", f"{run['motion_um']} µm", "along the probe; sorting followed it"))
    if scores is not None and scores.get("pooled_accuracy") is not None:
        cards += [
            ("pooled accuracy", f"{scores['pooled_accuracy']:.3f}", "on time that no label came from"),
            ("mean accuracy", f"{scores['mean_accuracy']:.3f}", "over the true units"),
        ]
    agreement = (scores or {}).get("agreement") or {}
    if agreement.get("mean_best") is not None:
        cards.append(("agreement", f"{agreement['mean_best']:.3f}", "with the teacher, mean over its units"))
    return [{"name": name, "value": value, "note": note} for name, value, note in cards]


def _notes(closeup: Closeup | None, quantity: str) -> list[str]:
    notes = [
        "Spike counts, rates, probabilities and refractory metrics are of all spikes.",
        f"Autocorrelograms are of the first {MAX_TRAIN:,} spikes of each unit.",
        "Probability: the part of such spikes that is expected to be true; points are means over a bin.",
    ]
    if closeup is None:
        notes.append("Traces were not looked at closely: no spike lies far enough from the ends.")
    else:
        notes.append(
            f"Waveforms, amplitudes, positions, signal to noise and the drift map are of a sample: "
            f"{len(closeup.sample_index):,} spikes in {closeup.seconds:.1f} s of traces, short pieces spread "
            f"over the recording. Metrics that need more spikes than that are left out (–)."
        )
    if quantity != "µV":
        notes.append("The recording does not say its gain: amplitudes are in its own unit.")
    return notes


def _facts(run: dict[str, Any], card: Card) -> list[list[str]]:
    labels = card.labels
    learned = "" if labels is None else f"{labels.num_labels} spikes"
    facts = {
        "recording": run["recording"],
        "checkpoint": run["checkpoint"],
        "checkpoint SHA-256": run["checkpoint_sha256"],
        "network": card.network,
        "learned from": learned,
        "trained": card.created,
        "filter": ", ".join(f"{name}={value}" for name, value in card.preprocessing.items()),
        "seconds": ", ".join(f"{name} {value:.2f}" for name, value in run["seconds"].items()),
        "peak memory": f"{run['peak_rss_bytes'] / 1e9:.2f} GB",
        "platform": run["platform"],
        "versions": ", ".join(f"{name} {value}" for name, value in run["versions"].items()),
        **_defects(run.get("defects")),
    }
    return [[name, str(value)] for name, value in facts.items() if value]


def _defects(defects: dict[str, Any] | None) -> dict[str, str]:
    """What was wrong with the recording, and what was cut out of it."""
    if not defects:
        return {}
    blanked, first = defects["blanked"], defects["blanked"]["stretches_s"][:_STRETCHES_SHOWN]
    shown = ", ".join(f"{start:.3f}–{stop:.3f}" for start, stop in first)
    more = " …" if blanked["count"] > len(first) else ""
    total = f"{blanked['count']} artefacts, {blanked['seconds']:.3g} s, without spikes: {shown}{more} (s)"
    bad = ", ".join(map(str, defects["not_listened_to"]))
    nonfinite = f"{defects['nonfinite']} NaN or infinite values bridged" if defects["nonfinite"] else ""
    return {
        "blanked": total if blanked["count"] else "",
        "channels not listened to": bad,
        "interpolated": nonfinite,
    }


def _pictures(folder: Path) -> list[dict[str, str]]:
    return [
        {"title": title, "source": f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"}
        for name, title in _PICTURES.items()
        if (path := folder / name).is_file()
    ]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _number(value: float) -> float | None:
    return float(f"{value:.5g}") if np.isfinite(value) else None


def _round(values: np.ndarray, decimals: int) -> list:
    """Return numbers with as many decimals as a page can show; undefined ones become None in `plain`."""
    return np.round(np.asarray(values, dtype=float), decimals).tolist()
