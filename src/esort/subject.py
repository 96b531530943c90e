"""A recording to work on, with what is known of it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from esort.defects import Defects, look_over
from esort.health import check_finite, check_recording, check_signal, fingerprint
from esort.recordings import RecordingPath
from esort.simulation import Simulation, SimulationSpec, simulate

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording, BaseSorting

__all__ = ["Subject", "open_subject"]

_CHUNK_S = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A recording and what is known of it.

    Parameters
    ----------
    recording : BaseRecording
        As stored, one segment.
    ground_truth : BaseSorting or None
    source : str
        Where it lies.
    fingerprint : str
        See `esort.health.fingerprint`.
    signal_to_noise : dict of unit id to float
        Of ground-truth units, where known: trough over noise level, before the filter.
    defects : Defects
        What is wrong with the recording.
    """

    recording: BaseRecording
    ground_truth: BaseSorting | None
    source: str
    fingerprint: str
    signal_to_noise: dict[Any, float] = field(default_factory=dict)
    defects: Defects = field(default_factory=Defects)

    @property
    def num_samples(self) -> int:
        """Length of the recording."""
        return int(self.recording.get_num_samples())

    @property
    def sampling_frequency(self) -> float:
        """In Hz."""
        return float(self.recording.sampling_frequency)

    @property
    def contact_positions_um(self) -> np.ndarray:
        """Contact of each channel, (C, 2)."""
        return np.asarray(self.recording.get_channel_locations(), dtype=float)

    def check_traces(self, stop_sample: int) -> None:
        """Look for a NaN or an infinity in [0, stop_sample), before anything is made of the traces.

        Integers hold none, and are not read.

        Raises
        ------
        ValueError
            It says where the first one is.
        """
        if np.dtype(self.recording.dtype).kind != "f":
            return
        length = round(_CHUNK_S * self.sampling_frequency)
        for start in range(0, stop_sample, length):
            traces = self.recording.get_traces(start_frame=start, end_frame=min(stop_sample, start + length))
            check_finite(traces, start, self.recording.channel_ids)


def open_subject(spec: SimulationSpec | RecordingPath, cache_folder: str | os.PathLike[str]) -> Subject:
    """Open a recording, or make it if it is a simulation that is not in the cache.

    Parameters
    ----------
    spec : SimulationSpec or RecordingPath
    cache_folder : path-like
        Of simulations.

    Raises
    ------
    FileNotFoundError, ValueError
        If the recording cannot be opened or sorted, see `RecordingPath.open` and `check_recording`.
    """
    signal_to_noise: dict[Any, float] = {}
    if isinstance(spec, SimulationSpec):
        simulation: Simulation = simulate(spec, Path(cache_folder) / "simulations")
        recording, ground_truth = simulation.recording, simulation.sorting
        source = str(simulation.folder)
        signal_to_noise = {unit["unit_id"]: float(unit["snr"]) for unit in simulation.units}
        check_recording(recording)
        check_signal(recording)
        defects = look_over(recording)
        recording = defects.mark(recording)
    else:
        recording, defects = spec.open_checked()
        ground_truth = spec.open_ground_truth()
        source = str(Path(spec.path).expanduser().resolve())
    return Subject(
        recording=recording,
        ground_truth=ground_truth,
        source=source,
        fingerprint=fingerprint(recording),
        signal_to_noise=signal_to_noise,
        defects=defects,
    )
