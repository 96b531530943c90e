"""What the page says of each unit, and in its table of metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from esort.page.closeup import Closeup
from esort.page.numbers import number, rounded
from esort.page.trains import Trains

if TYPE_CHECKING:
    from spikeinterface.core import BaseSorting

__all__ = ["describe_units", "tabulate_metrics"]

_CHANNELS_SHOWN = 20
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


def tabulate_metrics(
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
    rows = [[number(values[index]) for values in table.values()] for index in range(num_units)]
    return [[name, _MEANINGS.get(name, "")] for name in table], rows


def describe_units(
    sorting: BaseSorting,
    trains: Trains,
    closeup: Closeup | None,
    rows: list[list[float | None]],
    names: list[str],
    seconds: float,
) -> list[dict[str, Any]]:
    """Say of each unit how it fires, where it is and what it looks like."""
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
            "rate_hz": number(count / seconds),
            "probability": None if means is None else number(means[index]),
            "snr": row.get("snr"),
            "x": None,
            "y": None,
            "amplitude": None,
            "waveform": None,
            "autocorrelogram": trains.autocorrelograms[index].astype(int).tolist(),
            "rates": rounded(trains.counts[index] / widths, 3),
            "probabilities": None
            if trains.probabilities is None
            else rounded(trains.probabilities[index], 3),
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
        "x": number(x),
        "y": number(y),
        "amplitude": number(float(amplitudes.max())),
        "waveform": {
            "channels": channels.tolist(),
            "values": [rounded(template[:, channel], 1) for channel in channels],
        },
    }
