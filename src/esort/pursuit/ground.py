"""A recording made ready to learn the units of: filtered, decimated, whitened."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from esort.files import new_memory_map
from esort.fitted import Fitted, TrainingSettings, without_artefacts
from esort.labels import LabelledSpikes
from esort.motion import FollowedMotion
from esort.prepared import PreparedRecording, prepare
from esort.pursuit.bandpass import Bandpass, reduction
from esort.pursuit.examples import RowLabels
from esort.pursuit.explain import exclusion_rows
from esort.pursuit.following import can_follow
from esort.pursuit.motion import CELL_S
from esort.pursuit.moving import MovedWhitening
from esort.pursuit.network import PursuitNetwork
from esort.pursuit.recipe import Layout
from esort.pursuit.whitening import local_whitening, noise_of
from esort.subject import Subject
from esort.threads import map_in_threads, one_thread_each

__all__ = ["Ground", "layout_of", "prepare_ground"]

logger = logging.getLogger(__name__)

FOOTPRINT_BEFORE_MS, FOOTPRINT_AFTER_MS = 2.7, 4.7
"""Large units leave energy far from their peak."""
FILTER_BEFORE_MS, FILTER_AFTER_MS = 1.6, 2.4
NUM_FOOTPRINT_CHANNELS = 64

_BLOCK_S = 1.0
_PARAMETERS = {"num_filters": 6, "num_head_channels": 14, "follows": True}


def layout_of(sampling_frequency: float, settings: TrainingSettings) -> Layout:
    """Sizes in rows at the reduced rate of a recording."""
    parameters = _PARAMETERS | dict(settings.network.parameters or {})
    rate_hz = sampling_frequency / reduction(sampling_frequency)

    def rows(milliseconds: float) -> int:
        return round(milliseconds * rate_hz / 1000)

    return Layout(
        rate_hz=rate_hz,
        footprint_before=rows(FOOTPRINT_BEFORE_MS),
        footprint_samples=rows(FOOTPRINT_BEFORE_MS) + rows(FOOTPRINT_AFTER_MS) + 1,
        filter_before=rows(FILTER_BEFORE_MS),
        filter_samples=rows(FILTER_BEFORE_MS) + rows(FILTER_AFTER_MS) + 1,
        num_filters=parameters["num_filters"],
        num_footprint_channels=NUM_FOOTPRINT_CHANNELS,
        num_head_channels=parameters["num_head_channels"],
        exclusion_rows=exclusion_rows(rate_hz, settings.postprocessing.refractory_ms),
    )


def _filtered_traces(
    prepared: PreparedRecording, stop_sample: int, path: Path
) -> tuple[np.ndarray, Bandpass]:
    """Band-pass and decimate [0, stop_sample) of an unfiltered recording: float32 memory map (C, T)."""
    rate = prepared.sampling_frequency
    corners = prepared.preprocessing
    bandpass = Bandpass.design(rate, freq_min_hz=corners.freq_min_hz, freq_max_hz=corners.freq_max_hz)
    step, half = bandpass.step, bandpass.num_taps // 2
    num_rows = stop_sample // step
    traces = new_memory_map(path, np.float32, (prepared.num_channels, num_rows))

    def filter_block(block: tuple[int, int]) -> None:
        start, stop = block
        low, high = start * step - half, (stop - 1) * step + half + 1
        first, last = max(0, low), min(stop_sample, high)
        raw = np.pad(prepared.traces(first, last), ((first - low, high - last), (0, 0)), mode="edge")
        traces[:, start:stop] = bandpass.apply(raw)

    map_in_threads(filter_block, _blocks(num_rows, round(_BLOCK_S * rate / step)))
    return traces, bandpass


def _blocks(num_rows: int, length: int) -> Iterator[tuple[int, int]]:
    for start in range(0, num_rows, length):
        yield start, min(num_rows, start + length)


@dataclass(frozen=True, kw_only=True, eq=False)
class Ground:
    """A recording ready to learn on.

    Parameters
    ----------
    prepared : PreparedRecording
    filtered : float32 array, shape (C, T)
        Band-passed and decimated.
    labels, given : LabelledSpikes
        Of the units that are learned, and of all that were labelled.
    contact_positions_um : float array, shape (C, 2)
    layout : Layout
    sizes : dict
        Keywords of the network that do not depend on its units.
    bandpass : Bandpass
    whitening : float32 array, shape (C, C)
    scratch : Path
        Folder for large arrays.
    rivals : tuple of int64 arrays
        Rows of spikes of neurons that nobody labelled, see `esort.pursuit.rivals`.
    """

    prepared: PreparedRecording
    filtered: np.ndarray
    labels: LabelledSpikes
    given: LabelledSpikes
    contact_positions_um: np.ndarray
    layout: Layout
    sizes: dict[str, Any]
    bandpass: Bandpass
    whitening: np.ndarray
    scratch: Path
    rivals: tuple[np.ndarray, ...] = ()

    @cached_property
    def row_labels(self) -> RowLabels:
        """Labels of the units, and of the rivals behind them, in rows."""
        return RowLabels.of(self.labels, self.sizes["step"]).joined(self.rivals)

    def whitened(self, motion: FollowedMotion | None = None) -> np.ndarray:
        """Whiten the traces, moved back by a motion: float32 memory map (C, T)."""
        traces = new_memory_map(self.scratch / "whitened.npy", np.float32, self.filtered.shape)
        length = round(CELL_S * self.layout.rate_hz)
        moved = MovedWhitening(self.whitening, self.contact_positions_um, smooth=True)

        def whiten_block(block: tuple[int, int]) -> None:
            start, stop = block
            matrix = self.whitening
            if motion is not None:
                matrix = moved.matrix(motion.depths_um, motion.shift_um[start // length])
            rows = torch.from_numpy(matrix) @ torch.from_numpy(self.filtered[:, start:stop].copy())
            traces[:, start:stop] = rows.numpy()

        map_in_threads(whiten_block, _blocks(traces.shape[1], length))
        return traces

    def of_units(self, chosen: np.ndarray) -> Ground:
        """The same recording with labels of some units alone, (U,) booleans."""
        return replace(self, labels=self.labels.of_units(chosen))

    def complete(self, network: PursuitNetwork) -> PursuitNetwork:
        """Give a network what it has of the recording and not of the units."""
        network.bandpass = self.bandpass
        network.whitening.copy_(torch.from_numpy(self.whitening))
        network.positions.copy_(torch.from_numpy(self.contact_positions_um))
        return network.eval()

    def fitted(
        self, network: PursuitNetwork, traces: np.ndarray, subject: Subject, settings: TrainingSettings
    ) -> Fitted:
        """Put a network together with everything that its card says."""
        return Fitted(
            subject=subject,
            prepared=self.prepared,
            traces=traces,
            labels=self.labels,
            given=self.given,
            network=self.complete(network),
            hyper_parameters=network.hyper_parameters(),
            settings=settings,
            metrics={},
        )


def prepare_ground(
    subject: Subject, labels: LabelledSpikes, settings: TrainingSettings, scratch: Path
) -> Ground:
    """Filter and whiten what may be learned from.

    Raises
    ------
    ValueError
        If no label has room for a footprint around it.
    """
    # Cut off in front of the filter: not even its margin reaches into what is sorted and scored later.
    learnable = subject.recording.frame_slice(start_frame=0, end_frame=labels.stop_sample)
    preprocessing = replace(settings.preprocessing, inside_network=True)
    prepared = prepare(learnable, preprocessing, noise_level_uv=np.ones(learnable.get_num_channels()))
    rate = subject.sampling_frequency
    step = reduction(rate)
    layout = layout_of(rate, settings)
    room = step * (layout.footprint_samples + 1)
    labels = labels.with_room(room, room)
    if labels.num_units == 0:
        raise ValueError(
            f"expected labelled spikes with {room} samples before and after them in "
            f"[{labels.start_sample}, {labels.stop_sample}), got none"
        )
    logger.info(
        "%d units, %d labelled spikes, %d channels, %.1f s; filtering",
        labels.num_units,
        labels.num_spikes,
        prepared.num_channels,
        labels.stop_sample / rate,
    )
    positions = subject.contact_positions_um
    scratch.mkdir(parents=True, exist_ok=True)
    filtered, bandpass = _filtered_traces(prepared, labels.stop_sample, scratch / "filtered.npy")
    with one_thread_each():
        whitening = local_whitening(filtered, noise_of(filtered), positions, rate_hz=layout.rate_hz)
    labels = without_artefacts(labels, prepared)
    parameters = _PARAMETERS | dict(settings.network.parameters or {})
    return Ground(
        prepared=prepared,
        filtered=filtered,
        labels=labels,
        given=labels,
        contact_positions_um=positions,
        layout=layout,
        sizes={
            "num_channels": prepared.num_channels,
            "step": step,
            "lowpass_samples": len(bandpass.lowpass),
            "highpass_samples": len(bandpass.highpass),
            "window_samples": bandpass.num_taps + step * (layout.filter_samples - 1),
            "peak_offset_samples": bandpass.num_taps // 2 + step * layout.filter_before,
            "follows": parameters["follows"] and can_follow(positions),
        },
        bandpass=bandpass,
        whitening=whitening,
        scratch=scratch,
    )
