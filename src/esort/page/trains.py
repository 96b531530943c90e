"""What all the spikes say without their traces: rates, probabilities, autocorrelograms, metrics."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from spikeinterface.core import BaseRecording, BaseSorting

__all__ = ["Trains", "describe_trains"]

MAX_BINS = 120
# The autocorrelogram of a unit is made from so many consecutive spikes, its first.
MAX_TRAIN = 10_000
WINDOW_MS, BIN_MS = 100.0, 1.0
METRICS = (
    "num_spikes",
    "firing_rate",
    "presence_ratio",
    "isi_violation",
    "rp_violation",
)
_JOB = {"n_jobs": 1, "progress_bar": False}


@dataclass(frozen=True, kw_only=True, eq=False)
class Trains:
    """The spike trains of U units in B bins of time.

    Parameters
    ----------
    edges_s : float array, shape (B + 1,)
    counts : int array, shape (U, B)
    probabilities : float array, shape (U, B), or None
        Mean probability; NaN in a bin without a spike.
    mean_probability : float array, shape (U,), or None
    correlogram_ms : float array, shape (L,)
        Centres of the lags.
    autocorrelograms : int array, shape (U, L)
    metrics : pandas.DataFrame
        SpikeInterface's, a row for each unit.
    """

    edges_s: np.ndarray
    counts: np.ndarray
    probabilities: np.ndarray | None
    mean_probability: np.ndarray | None
    correlogram_ms: np.ndarray
    autocorrelograms: np.ndarray
    metrics: pd.DataFrame


def describe_trains(
    recording: BaseRecording,
    sorting: BaseSorting,
    probability: np.ndarray | None,
    start_sample: int,
    stop_sample: int,
) -> Trains:
    """Describe all spikes of [start_sample, stop_sample).

    Parameters
    ----------
    recording : BaseRecording
        Only its length and rate are asked for.
    sorting : BaseSorting
        All its spikes in the stretch.
    probability : float array, shape (S,), or None
        Of each spike, in the order of the spike vector.
    start_sample, stop_sample : int

    Returns
    -------
    Trains
    """
    rate, num_units = float(sorting.sampling_frequency), sorting.get_num_units()
    spikes = sorting.to_spike_vector()
    seconds = (stop_sample - start_sample) / rate
    num_bins = int(np.clip(seconds, 1, MAX_BINS))
    edges = np.linspace(start_sample, stop_sample, num_bins + 1)  # samples
    bins = np.clip(np.searchsorted(edges, spikes["sample_index"], side="right") - 1, 0, num_bins - 1)
    flat = spikes["unit_index"] * num_bins + bins
    counts = np.bincount(flat, minlength=num_units * num_bins).reshape(num_units, num_bins)
    sums = None
    if probability is not None:
        sums = np.bincount(flat, weights=probability, minlength=counts.size).reshape(counts.shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        probabilities = None if sums is None else sums / counts
        means = None if sums is None else sums.sum(axis=1) / counts.sum(axis=1)
    lags, correlograms = _autocorrelograms(sorting)
    return Trains(
        edges_s=edges / rate,
        counts=counts,
        probabilities=probabilities,
        mean_probability=means,
        correlogram_ms=lags,
        autocorrelograms=correlograms,
        metrics=_metrics(recording, sorting, start_sample, stop_sample),
    )


def _autocorrelograms(sorting: BaseSorting) -> tuple[np.ndarray, np.ndarray]:
    from spikeinterface.core import NumpySorting
    from spikeinterface.postprocessing import compute_auto_correlograms

    unit_ids = np.arange(sorting.get_num_units())
    firsts = [sorting.get_unit_spike_train(unit_id)[:MAX_TRAIN] for unit_id in sorting.unit_ids]
    first = NumpySorting.from_unit_dict(
        [dict(zip(unit_ids, firsts, strict=True))], sorting.sampling_frequency
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Numba would need longer to compile than NumPy for so few spikes.
        counts, edges = compute_auto_correlograms(first, window_ms=WINDOW_MS, bin_ms=BIN_MS, method="numpy")
    return (edges[1:] + edges[:-1]) / 2, np.asarray(counts)


def _metrics(
    recording: BaseRecording, sorting: BaseSorting, start_sample: int, stop_sample: int
) -> pd.DataFrame:
    from spikeinterface.core import NumpySorting, create_sorting_analyzer

    spikes = sorting.to_spike_vector().copy()
    spikes["sample_index"] -= start_sample
    numbered = NumpySorting(spikes, sorting.sampling_frequency, unit_ids=np.arange(sorting.get_num_units()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metrics that are undefined for few spikes; they show as "–"
        analyzer = create_sorting_analyzer(
            numbered,
            recording.frame_slice(start_sample, stop_sample),
            sparse=False,
            format="memory",
            # Otherwise it would read traces to find them, and none of these metrics asks for them.
            main_channel_indices=np.zeros(len(numbered.unit_ids), dtype=int),
            job_kwargs=_JOB,
        )
        analyzer.compute("quality_metrics", metric_names=list(METRICS), skip_pc_metrics=True, **_JOB)
    return analyzer.get_extension("quality_metrics").get_data()
