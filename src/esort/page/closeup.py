"""Some spikes seen closely: a bounded part of the traces, and what SpikeInterface measures there."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from spikeinterface.core import BaseRecording, BaseSorting, SortingAnalyzer

__all__ = ["Closeup", "look_closely"]

# Traces that are read and held, whatever the length of the recording.
_SECONDS = 20.0
_BYTES = 256e6
_SLOT_S = 0.25
# This part of them is spread evenly; the rest goes where units fire that were hardly seen there.
_EVEN = 0.7
_RARE = 20
_PER_UNIT = 300
BEFORE_MS, AFTER_MS = 1.0, 2.0
_RADIUS_UM = 80.0
_JOB = {"n_jobs": 1, "progress_bar": False}
METRICS = ("snr", "amplitude_median", "amplitude_cutoff", "sd_ratio")


@dataclass(frozen=True, kw_only=True, eq=False)
class Closeup:
    """What was seen of a sample of S spikes; U units have at least one of them.

    Parameters
    ----------
    seconds : float
        Traces that were read.
    sample_index, unit_index : int arrays, shape (S,)
        In samples of the recording, and positions in the sorting's units.
    amplitude : float array, shape (S,)
        At the peak, on the unit's own channel, with its sign.
    positions_um : float array, shape (S, 2)
        Centre of mass of each spike.
    units : int array, shape (U,)
        Positions in the sorting's units.
    templates : float32 array, shape (U, T, C)
        Mean waveforms.
    mask : bool array, shape (U, C)
        Channels near the unit.
    unit_positions_um : float array, shape (U, 2)
    metrics : pandas.DataFrame
        SpikeInterface's, a row for each of the U units.
    """

    seconds: float
    sample_index: np.ndarray
    unit_index: np.ndarray
    amplitude: np.ndarray
    positions_um: np.ndarray
    units: np.ndarray
    templates: np.ndarray
    mask: np.ndarray
    unit_positions_um: np.ndarray
    metrics: pd.DataFrame


def look_closely(
    filtered: BaseRecording,
    sorting: BaseSorting,
    start_sample: int,
    stop_sample: int,
    *,
    seconds: float = _SECONDS,
    num_workers: int = 2,
    seed: int = 0,
) -> Closeup | None:
    """Read short slots of the traces and look at the spikes in them.

    Parameters
    ----------
    filtered : BaseRecording
        One segment, behind the filter.
    sorting : BaseSorting
    start_sample, stop_sample : int
        Where slots may lie.
    seconds : float
        How much to read at most; fewer of many channels, so that at most 256 MB are held.
    num_workers : int
        Threads that read.
    seed : int
        Of the choice of spikes.

    Returns
    -------
    Closeup or None
        None where no spike lies in a slot.
    """
    rate, num_channels = float(filtered.sampling_frequency), filtered.get_num_channels()
    rng = np.random.default_rng(seed)
    spikes = sorting.to_spike_vector()
    samples, units = spikes["sample_index"].astype(np.int64), spikes["unit_index"].astype(np.int64)
    length = min(max(2, round(_SLOT_S * rate)), stop_sample - start_sample)
    before, after = int(BEFORE_MS * rate / 1000), int(AFTER_MS * rate / 1000)
    if length <= before + after + 1:
        return None
    num_slots = max(1, int(min(seconds * rate, _BYTES / 4 / num_channels) / length))
    slots = _choose_slots(
        (samples - start_sample) // length, units, (stop_sample - start_sample) // length, num_slots, rng
    )
    slot = np.searchsorted(slots, (samples - start_sample) // length)  # of each spike, (N,)
    inside = slot < len(slots)
    inside[inside] = slots[slot[inside]] == (samples[inside] - start_sample) // length
    offset = (samples - start_sample) % length
    (chosen,) = np.nonzero(inside & (offset >= before) & (offset < length - after - 1))
    chosen = _thin(chosen, units[chosen], rng)
    if not chosen.size:
        return None

    def read(index: int) -> np.ndarray:
        start = start_sample + int(index) * length
        return filtered.get_traces(start_frame=start, end_frame=start + length)

    with ThreadPoolExecutor(num_workers) as pool:
        traces = np.concatenate(list(pool.map(read, slots)))  # (len(slots) * length, C)
    seen, numbers = np.unique(units[chosen], return_inverse=True)
    analyzer = _analyze(filtered, traces, slot[chosen] * length + offset[chosen], numbers, len(seen))
    order = np.lexsort((numbers, slot[chosen] * length + offset[chosen]))  # the analyzer's
    locations = analyzer.get_extension("spike_locations").get_data()
    templates = analyzer.get_extension("templates")
    assert analyzer.sparsity is not None
    return Closeup(
        seconds=len(traces) / rate,
        sample_index=samples[chosen][order],
        unit_index=units[chosen][order],
        amplitude=np.asarray(analyzer.get_extension("spike_amplitudes").get_data(), dtype=float),
        positions_um=np.column_stack([locations["x"], locations["y"]]),
        units=seen,
        templates=np.asarray(templates.get_data(operator="average"), dtype=np.float32),
        mask=analyzer.sparsity.mask,
        unit_positions_um=np.asarray(analyzer.get_extension("unit_locations").get_data(), dtype=float)[:, :2],
        metrics=analyzer.get_extension("quality_metrics").get_data(),
    )


def _choose_slots(
    slot: np.ndarray, units: np.ndarray, available: int, wanted: int, rng: np.random.Generator
) -> np.ndarray:
    """Return slots, sorted: most spread evenly, some where units fire that are rare in those."""
    if wanted >= available:
        return np.arange(available)
    usable = (slot >= 0) & (slot < available)
    for count in (wanted, max(1, int(_EVEN * wanted))):
        even = np.unique(np.linspace(0, available - 1, count).astype(np.int64))
        seen = np.bincount(units[usable & np.isin(slot, even)], minlength=int(units.max(initial=-1)) + 1)
        if (seen >= _RARE).all():
            return even
    chosen = set(even.tolist())
    for unit in np.argsort(seen, kind="stable"):
        if len(chosen) >= wanted or seen[unit] >= _RARE:
            break
        own = np.unique(slot[usable & (units == unit)])
        chosen.update(rng.permutation(own)[: min(4, wanted - len(chosen))].tolist())
    return np.array(sorted(chosen), dtype=np.int64)


def _thin(chosen: np.ndarray, units: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Keep at most so many spikes of each unit, in their order."""
    shuffled = rng.permutation(len(chosen))
    by_unit = shuffled[np.argsort(units[shuffled], kind="stable")]
    _, first, counts = np.unique(units[by_unit], return_index=True, return_counts=True)
    rank = np.arange(len(chosen)) - np.repeat(first, counts)
    return np.sort(chosen[by_unit[rank < _PER_UNIT]])


def _analyze(
    filtered: BaseRecording, traces: np.ndarray, samples: np.ndarray, numbers: np.ndarray, num_units: int
) -> SortingAnalyzer:
    """Let SpikeInterface measure spikes in traces that are held in memory."""
    from spikeinterface.core import NumpyRecording, NumpySorting, compute_sparsity, create_sorting_analyzer

    recording = NumpyRecording([traces], filtered.sampling_frequency)
    recording.set_probegroup(filtered.get_probegroup())
    recording.set_channel_gains(1.0)  # µV already, or a unit of which nothing is known
    recording.set_channel_offsets(0.0)
    order = np.argsort(samples, kind="stable")
    sorting = NumpySorting.from_samples_and_labels(
        [samples[order]], [numbers[order]], filtered.sampling_frequency, unit_ids=np.arange(num_units)
    )
    windows = {"ms_before": BEFORE_MS, "ms_after": AFTER_MS}
    noise = {
        "random_slices_kwargs": {
            "num_chunks_per_segment": 10,
            "chunk_size": min(8000, len(traces)),
            "seed": 0,
        }
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metrics that are undefined for few spikes; they show as "–"
        dense = create_sorting_analyzer(sorting, recording, sparse=False, format="memory", job_kwargs=_JOB)
        dense.compute("random_spikes", method="all")
        dense.compute("templates", **windows, **_JOB)
        near = compute_sparsity(dense, method="radius", radius_um=_RADIUS_UM)
        analyzer = create_sorting_analyzer(
            sorting,
            recording,
            sparsity=near,
            format="memory",
            main_channel_indices=dense.main_channel_indices,
            job_kwargs=_JOB,
        )
        analyzer.compute("random_spikes", method="all")
        analyzer.compute("noise_levels", **noise, **_JOB)
        analyzer.compute("templates", **windows, **_JOB)
        where = {"spike_amplitudes": {}, "spike_locations": {"method": "center_of_mass"}}
        analyzer.compute(where, **_JOB)
        analyzer.compute("unit_locations", method="center_of_mass")
        analyzer.compute("quality_metrics", metric_names=list(METRICS), skip_pc_metrics=True, **_JOB)
    return analyzer
