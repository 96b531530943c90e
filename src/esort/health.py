"""Whether a recording can be sorted, whether two are the same, and whether one fits a probe seen before."""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from esort.contacts import has_positions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spikeinterface.core import BaseRecording

# Rates that differ by less are the same: amplifiers are calibrated one by one (30000.07 Hz).
SAME_RATE = 1e-3
OVERLAP = (
    "the probes of the recording lie on top of each other: sort them one by one (SpikeInterface: "
    "recording.split_by('group')), or move one of them in the probe file"
)
_FINGERPRINT_PLACES = 5
_FINGERPRINT_FRAMES = 256
_SIGNAL_PLACES = 5
_SIGNAL_S = 0.1


def check_recording(recording: BaseRecording) -> None:
    """Refuse a recording that cannot be sorted.

    Only its first tenth of a second is read: non-finite values further on are found by `check_finite` on
    each chunk.

    Raises
    ------
    ValueError
        If it has several segments, no channels, no samples, traces that are no real numbers, no or doubled
        positions, or non-finite values.
    """
    if recording.get_num_segments() != 1:
        raise ValueError(f"expected a recording of 1 segment, got {recording.get_num_segments()}")
    if recording.get_num_channels() == 0:
        raise ValueError("the recording has 0 channels, expected at least 1")
    if recording.get_num_samples() == 0:
        raise ValueError("the recording has 0 samples, expected at least 1")
    if np.dtype(recording.dtype).kind not in "iuf":
        raise ValueError(f"traces must be integers or real numbers, got {np.dtype(recording.dtype)}")
    if not has_positions(recording):
        raise ValueError("the recording has no contact positions: attach a probe")
    try:
        positions = recording.get_channel_locations()
    except Exception as error:  # noqa: BLE001 (SpikeInterface has no narrower one for probes that overlap)
        raise ValueError(f"{OVERLAP}: {error}") from None
    finite = np.isfinite(positions).all(axis=1)
    if not finite.all():
        raise ValueError(f"channel {recording.channel_ids[~finite][0]} has no finite position")
    _, first, counts = np.unique(positions, axis=0, return_index=True, return_counts=True)
    if (counts > 1).any():
        position = positions[first[counts > 1][0]]
        same = recording.channel_ids[(positions == position).all(axis=1)]
        raise ValueError(
            f"contact positions must differ, but channels {', '.join(map(str, same))} are all at "
            f"({position[0]:g}, {position[1]:g}) µm"
        )
    if np.dtype(recording.dtype).kind == "f":
        stop = min(recording.get_num_samples(), max(1, round(0.1 * recording.sampling_frequency)))
        check_finite(recording.get_traces(start_frame=0, end_frame=stop), 0, recording.channel_ids)


def check_signal(recording: BaseRecording) -> None:
    """Refuse a recording in which nothing ever changes: an empty file, the wrong stream, a cut cable.

    A tenth of a second is read at five places. Single dead channels are no reason to refuse.

    Raises
    ------
    ValueError
        If every channel is constant at each of these places.
    """
    num_samples = int(recording.get_num_samples())
    length = min(num_samples, max(2, round(_SIGNAL_S * recording.sampling_frequency)))
    for start in np.linspace(0, num_samples - length, _SIGNAL_PLACES).astype(int):
        traces = recording.get_traces(start_frame=int(start), end_frame=int(start) + length)
        if (traces != traces[:1]).any():
            return
    raise ValueError(
        f"all {recording.get_num_channels()} traces are constant at each of {_SIGNAL_PLACES} places that "
        f"were looked at: is it the right file and stream?"
    )


def find_nonfinite(traces: np.ndarray, start_sample: int = 0) -> tuple[int, int] | None:
    """Find the first NaN or infinity.

    Parameters
    ----------
    traces : array, shape (N, C)
        As stored: a filter spreads one NaN over the whole chunk.
    start_sample : int
        Sample of the recording that the first row is.

    Returns
    -------
    (sample_index, channel_index) or None
        None where all values are finite.
    """
    if np.dtype(traces.dtype).kind != "f":
        return None
    finite = np.isfinite(traces)
    if finite.all():
        return None
    row, channel = np.unravel_index(np.argmin(finite), finite.shape)
    return start_sample + int(row), int(channel)


def check_finite(
    traces: np.ndarray, start_sample: int = 0, channel_ids: Sequence[Any] | np.ndarray | None = None
) -> None:
    """Raise a ValueError that says where the first NaN or infinity is, and how many; see `find_nonfinite`."""
    found = find_nonfinite(traces, start_sample)
    if found is None:
        return
    sample, channel = found
    name = channel if channel_ids is None else channel_ids[channel]
    bad = ~np.isfinite(traces)
    raise ValueError(
        f"traces must be finite, got {traces[sample - start_sample, channel]} "
        f"at sample {sample}, channel {name}, the first of {bad.sum()} such values on "
        f"{bad.any(axis=0).sum()} channels in samples {start_sample} to {start_sample + len(traces)}; "
        f"recording.on_nan=interpolate bridges them"
    )


def fingerprint(recording: BaseRecording) -> str:
    """Return a digest that tells recordings apart, wherever they lie and whatever wrote them.

    Returns
    -------
    str
        SHA-256 in hexadecimal of the shape, the rate, the channel locations and some frames as stored.
    """
    num_samples = recording.get_num_samples()
    header = {
        "num_samples": int(num_samples),
        "num_channels": int(recording.get_num_channels()),
        "sampling_frequency": float(recording.sampling_frequency),
        "dtype": np.dtype(recording.dtype).str,
    }
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    if has_positions(recording):
        digest.update(np.ascontiguousarray(recording.get_channel_locations(), dtype="<f8").tobytes())
    for start in np.linspace(0, max(0, num_samples - _FINGERPRINT_FRAMES), _FINGERPRINT_PLACES).astype(int):
        stop = min(num_samples, int(start) + _FINGERPRINT_FRAMES)
        digest.update(
            np.ascontiguousarray(recording.get_traces(start_frame=int(start), end_frame=stop)).tobytes()
        )
    return digest.hexdigest()


def match_channels(
    card_positions: np.ndarray,
    recording: BaseRecording,
    *,
    tolerance_um: float = 0.5,
    card_sampling_frequency: float | None = None,
) -> np.ndarray:
    """Order the recording's channels as a network saw them, by contact position.

    Parameters
    ----------
    card_positions : array, shape (C, 2)
        Positions in µm of the channels that the network was trained on.
    recording : BaseRecording
        Must have the same contacts, in any order.
    tolerance_um : float
        How far a contact may lie from its place.
    card_sampling_frequency : float, optional
        In Hz; checked to 0.1 % where given.

    Returns
    -------
    int64 array, shape (C,)
        ``recording.get_channel_locations()[order]`` equals `card_positions`.

    Raises
    ------
    ValueError
        If rate, number of channels or a contact differ; both sides are named.
    """
    card_positions = np.asarray(card_positions, dtype=float)
    rate = recording.sampling_frequency
    if card_sampling_frequency is not None and not math.isclose(
        rate, card_sampling_frequency, rel_tol=SAME_RATE
    ):
        raise ValueError(
            f"the checkpoint is for {card_sampling_frequency:g} Hz, the recording has {rate:g} Hz"
        )
    positions = np.asarray(recording.get_channel_locations(), dtype=float)
    if len(positions) != len(card_positions):
        raise ValueError(
            f"the checkpoint is for {len(card_positions)} channels, "
            f"the recording has {len(positions)} channels"
        )
    distances = np.linalg.norm(card_positions[:, None] - positions[None], axis=2)  # (C, C)
    order = distances.argmin(axis=1)
    nearest = distances[np.arange(len(order)), order]
    if (nearest > tolerance_um).any():
        channel = int(np.argmax(nearest > tolerance_um))
        x, y = card_positions[channel]
        found_x, found_y = positions[order[channel]]
        raise ValueError(
            f"the checkpoint has a contact at ({x:g}, {y:g}) µm (channel {channel}), the recording's "
            f"nearest is {nearest[channel]:g} µm away at ({found_x:g}, {found_y:g}) µm "
            f"(channel {recording.channel_ids[order[channel]]})"
        )
    if len(np.unique(order)) != len(order):
        raise ValueError(
            f"contacts of the checkpoint and the recording do not pair up within {tolerance_um:g} µm"
        )
    return order.astype(np.int64)
