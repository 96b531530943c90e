"""What the page says of the run as a whole: its cards, notes and facts."""

from __future__ import annotations

from typing import Any

from esort.card import Card
from esort.motion import LEAST_MOTION_UM
from esort.page.closeup import Closeup
from esort.page.trains import MAX_TRAIN

__all__ = ["describe_cards", "describe_facts", "describe_notes"]

_STRETCHES_SHOWN = 20


def describe_cards(
    run: dict[str, Any], scores: dict[str, Any] | None, units: list[dict[str, Any]]
) -> list[dict[str, str]]:
    """Say in a few large numbers what came out."""
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
    if run.get("num_rivals"):
        cards.append(("rivals", str(run["num_rivals"]), "neurons that nobody labelled; they compete"))
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


def describe_notes(closeup: Closeup | None, quantity: str) -> list[str]:
    """Say what the numbers of the page are of."""
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


def describe_facts(run: dict[str, Any], card: Card) -> list[list[str]]:
    """Say where the sorting comes from, and what was wrong with the recording: names and values."""
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


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
