"""From a recording and labels to the checkpoint of a pursuit network."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from esort.calibration import Calibration
from esort.checkpoint import load_checkpoint
from esort.files import new_memory_map
from esort.fitted import Fitted, TrainingSettings, without_artefacts
from esort.inference import one_thread_each
from esort.labels import LabelledSpikes
from esort.prepared import PreparedRecording, prepare
from esort.pursuit.bandpass import Bandpass, reduction
from esort.pursuit.calibration import calibrate_scores
from esort.pursuit.denoising import NUM_COMPONENTS, temporal_components
from esort.pursuit.explain import exclusion_rows
from esort.pursuit.learning import (
    Layout,
    RowLabels,
    learn_units,
    mean_footprints,
)
from esort.pursuit.network import PursuitNetwork
from esort.pursuit.whitening import local_whitening, noise_of
from esort.subject import Subject

__all__ = ["fit_backbone_by_pursuit", "fit_by_pursuit", "layout_of", "whitened_traces"]

logger = logging.getLogger(__name__)

FOOTPRINT_BEFORE_MS, FOOTPRINT_AFTER_MS = 2.7, 4.7
"""Large units leave energy far from their peak."""
FILTER_BEFORE_MS, FILTER_AFTER_MS = 1.6, 2.4
NUM_FOOTPRINT_CHANNELS = 64

_BLOCK_S = 1.0


def layout_of(
    sampling_frequency: float, *, num_filters: int, num_head_channels: int, refractory_ms: float
) -> Layout:
    """Sizes in rows at the reduced rate of a recording."""
    rate_hz = sampling_frequency / reduction(sampling_frequency)

    def rows(milliseconds: float) -> int:
        return round(milliseconds * rate_hz / 1000)

    return Layout(
        rate_hz=rate_hz,
        footprint_before=rows(FOOTPRINT_BEFORE_MS),
        footprint_samples=rows(FOOTPRINT_BEFORE_MS) + rows(FOOTPRINT_AFTER_MS) + 1,
        filter_before=rows(FILTER_BEFORE_MS),
        filter_samples=rows(FILTER_BEFORE_MS) + rows(FILTER_AFTER_MS) + 1,
        num_filters=num_filters,
        num_footprint_channels=NUM_FOOTPRINT_CHANNELS,
        num_head_channels=num_head_channels,
        exclusion_rows=exclusion_rows(rate_hz, refractory_ms),
    )


def whitened_traces(
    prepared: PreparedRecording, stop_sample: int, contact_positions_um: np.ndarray, path: Path
) -> tuple[np.ndarray, Bandpass, np.ndarray]:
    """Band-pass, decimate and whiten the traces of [0, stop_sample).

    Parameters
    ----------
    prepared : PreparedRecording
        Unfiltered, in µV.
    stop_sample : int
    contact_positions_um : float array, shape (C, 2)
    path : Path
        Where to keep them.

    Returns
    -------
    whitened : float32 memory map, shape (C, T)
    bandpass : Bandpass
    whitening : float32 array, shape (C, C)
    """
    rate = prepared.sampling_frequency
    step = reduction(rate)
    corners = prepared.preprocessing
    bandpass = Bandpass.design(rate, freq_min_hz=corners.freq_min_hz, freq_max_hz=corners.freq_max_hz)
    path.parent.mkdir(parents=True, exist_ok=True)
    num_rows = stop_sample // step
    shape = (prepared.num_channels, num_rows)
    traces = new_memory_map(path, np.float32, shape)
    for start, stop in _blocks(num_rows, round(_BLOCK_S * rate / step)):
        half = bandpass.num_taps // 2
        low, high = start * step - half, (stop - 1) * step + half + 1
        first, last = max(0, low), min(stop_sample, high)
        raw = np.pad(prepared.traces(first, last), ((first - low, high - last), (0, 0)), mode="edge")
        traces[:, start:stop] = bandpass.apply(raw)
    noise = noise_of(traces)
    whitening = local_whitening(traces, noise, contact_positions_um, rate_hz=rate / step)
    for start, stop in _blocks(num_rows, round(_BLOCK_S * rate / step)):
        block = torch.from_numpy(traces[:, start:stop].copy())
        traces[:, start:stop] = (torch.from_numpy(whitening) @ block).numpy()
    return traces, bandpass, whitening


def _blocks(num_rows: int, length: int) -> Iterator[tuple[int, int]]:
    for start in range(0, num_rows, length):
        yield start, min(num_rows, start + length)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Ground:
    """A recording ready to learn on."""

    prepared: PreparedRecording
    traces: np.ndarray
    labels: LabelledSpikes
    row_labels: RowLabels
    positions: np.ndarray
    layout: Layout
    shared: dict[str, int]
    bandpass: Bandpass
    whitening: np.ndarray

    def fitted(self, network: PursuitNetwork, subject: Subject, settings: TrainingSettings) -> Fitted:
        """Give the network its filter and whitening, and everything that its card says."""
        network.bandpass = self.bandpass
        network.whitening.copy_(torch.from_numpy(self.whitening))
        return Fitted(
            subject=subject,
            prepared=self.prepared,
            traces=self.traces,
            labels=self.labels,
            network=network.eval(),
            hyper_parameters=network.hyper_parameters(),
            settings=settings,
            metrics={},
        )


def fit_by_pursuit(
    subject: Subject,
    labels: LabelledSpikes,
    settings: TrainingSettings,
    backbone: Path | None,
    *,
    scratch: Path,
) -> tuple[Fitted, Calibration]:
    """Learn the units of a recording from labelled spikes; see `esort.training.train_units`."""
    ground = _prepare(subject, labels, settings, scratch)
    shared = {} if backbone is None else _load_backbone(backbone, subject.sampling_frequency, ground.layout)
    with one_thread_each():
        network, table = learn_units(
            ground.traces, ground.row_labels, ground.positions, ground.layout, ground.shared, **shared
        )
    calibration = calibrate_scores(network, table, ground.traces, ground.row_labels, ground.layout)
    return ground.fitted(network, subject, settings), calibration


def fit_backbone_by_pursuit(
    subject: Subject, labels: LabelledSpikes, settings: TrainingSettings, *, scratch: Path
) -> Fitted:
    """Learn what knows no unit, the temporal components; see `esort.training.train_backbone`."""
    ground = _prepare(subject, labels, settings, scratch)
    layout = ground.layout
    with one_thread_each():
        footprints, _ = mean_footprints(ground.traces, ground.row_labels, ground.positions, layout)
    network = PursuitNetwork(
        **ground.shared,
        num_units=1,
        num_filters=layout.num_filters,
        filter_samples=layout.filter_samples,
        filter_before=layout.filter_before,
        footprint_before=layout.footprint_before,
        footprint_samples=layout.footprint_samples,
        num_components=NUM_COMPONENTS,
    )
    first = layout.footprint_before - layout.filter_before
    middle = footprints[:, :, first : first + layout.filter_samples]
    network.filters.copy_(temporal_components(middle, layout.num_filters))
    network.basis.copy_(temporal_components(footprints, NUM_COMPONENTS))
    return ground.fitted(network, subject, settings)


def _prepare(subject: Subject, labels: LabelledSpikes, settings: TrainingSettings, scratch: Path) -> _Ground:
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
    parameters = {"num_filters": 6, "num_head_channels": 14} | dict(settings.network.parameters or {})
    layout = layout_of(rate, refractory_ms=settings.postprocessing.refractory_ms, **parameters)
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
    with one_thread_each():
        traces, bandpass, whitening = whitened_traces(
            prepared, labels.stop_sample, positions, scratch / "whitened.npy"
        )
    labels = without_artefacts(labels, prepared)
    return _Ground(
        prepared=prepared,
        traces=traces,
        labels=labels,
        row_labels=RowLabels(
            time=labels.sample_index / step, unit_index=labels.unit_index, num_units=labels.num_units
        ),
        positions=positions,
        layout=layout,
        shared={
            "num_channels": prepared.num_channels,
            "step": step,
            "lowpass_samples": len(bandpass.lowpass),
            "highpass_samples": len(bandpass.highpass),
            "window_samples": bandpass.num_taps + step * (layout.filter_samples - 1),
            "peak_offset_samples": bandpass.num_taps // 2 + step * layout.filter_before,
        },
        bandpass=bandpass,
        whitening=whitening,
    )


def _load_backbone(path: Path, sampling_frequency: float, layout: Layout) -> dict[str, torch.Tensor]:
    """Temporal components of a backbone, for any probe, or say why they do not fit."""
    card, weights = load_checkpoint(path, framework="torch")
    if card.network != "pursuit":
        raise ValueError(f"{path}: a backbone of network {card.network}, expected one of network pursuit")
    rate_hz = card.sampling_frequency / reduction(card.sampling_frequency)
    expected = {
        "filters": (layout.num_filters, layout.filter_samples),
        "basis": (NUM_COMPONENTS, layout.footprint_samples),
    }
    if set(weights) != set(expected):
        raise ValueError(f"{path}: expected the weights {sorted(expected)}, got {sorted(weights)}")
    resampled = {
        name: _at_rate(weights[name], layout.rate_hz / rate_hz, expected[name][1]) for name in expected
    }
    for name, (rows, _) in expected.items():
        if len(resampled[name]) != rows:
            raise ValueError(f"{path}: a backbone with {len(resampled[name])} {name}, expected {rows}")
    return resampled


def _at_rate(components: torch.Tensor, ratio: float, length: int) -> torch.Tensor:
    """Resample orthonormal components to another rate, and make them orthonormal again."""
    if abs(ratio - 1) < 1e-6 and components.shape[1] == length:
        return components
    values = torch.nn.functional.interpolate(
        components[None], size=length, mode="linear", align_corners=True
    )[0]
    return torch.linalg.qr(values.T).Q.T.contiguous()
