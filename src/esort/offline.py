"""Sorting of a recording that is there as a whole, or of a stretch of it; see `esort.sorter`."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from esort.detector import Detector, joined_spikes, no_spikes
from esort.handling import handling_of
from esort.health import SAME_RATE
from esort.inference import Block, block_samples, output_blocks
from esort.motion import FollowedMotion
from esort.observer import Observer
from esort.postprocess import Spikes
from esort.pursuit.detector import ScoreDetector
from esort.resampling import ResampledRecording
from esort.sort_result import SortResult
from esort.stretches import within

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording

    from esort.sorter import Sorter

__all__ = ["sort_stretch"]

logger = logging.getLogger(__name__)


def sort_stretch(
    sorter: Sorter,
    recording: BaseRecording,
    *,
    start_sample: int = 0,
    stop_sample: int | None = None,
    thresholds: float | Iterable[float] | None = None,
    num_workers: int | None = None,
    progress: Callable[[Iterable], Iterable] | None = None,
) -> SortResult:
    """See `Sorter.sort`."""
    begin = perf_counter()
    num_samples = int(recording.get_num_samples())
    stop_sample = num_samples if stop_sample is None else stop_sample
    if not 0 <= start_sample <= stop_sample <= num_samples:
        raise ValueError(
            f"expected a stretch inside the recording's [0, {num_samples}), "
            f"got [{start_sample}, {stop_sample})"
        )
    result = SortResult(
        spikes=no_spikes(),
        unit_ids=sorter.card.unit_ids,
        sampling_frequency=float(recording.sampling_frequency),
        num_samples=stop_sample - start_sample,
        seconds={"read_filter": 0.0, "network": 0.0, "postprocess": 0.0},
    )
    resampled = _at_own_rate(sorter, recording)
    if resampled is not None:
        return _sort_resampled(
            sorter, resampled, result, start_sample, stop_sample, thresholds, num_workers, progress
        )
    order = sorter.channel_order(recording)  # one of another probe is refused also when it is short
    handling = handling_of(recording)
    result.bad_channel_ids = tuple(recording.channel_ids[handling.bad].tolist())
    by = sorter.cached_without(np.flatnonzero(handling.bad[order]))
    least = max(sorter.scorer.window_samples, sorter.preprocessing.min_samples)
    if num_samples < least:
        logger.warning(
            "the recording has %d samples, network and filter need %d: nothing to sort",
            num_samples,
            least,
        )
    elif start_sample == stop_sample:
        logger.warning("the stretch to sort is empty: nothing to sort")
    else:
        detector, prepared = by.detector(thresholds), by.prepare(recording)
        follower, shifts = by.follower(), dict[int, np.ndarray]()
        observer = Observer(
            by,
            detector,
            order,
            sampling_frequency=prepared.sampling_frequency,
            start_sample=start_sample,
            stop_sample=stop_sample,
        )
        margin = detector.margin_samples + observer.margin_samples
        blocks = output_blocks(
            by.scorer,
            prepared,
            start_sample - margin,
            stop_sample + margin,
            follower=follower,
            observer=observer,
            num_workers=num_workers,
            progress=progress,
        )
        found = _detect(detector, observer, blocks, result.seconds, shifts)
        inside = (found.sample_index >= start_sample) & (found.sample_index < stop_sample)
        result.blanked = prepared.blanked_stretches(start_sample, stop_sample)
        result.spikes = _chosen(found, inside & ~within(found.sample_index, result.blanked))
        result.unknown, minutes = observer.take(result.blanked)
        result.minutes = minutes.with_spikes(result.spikes, prepared.sampling_frequency)
        if follower is not None:
            length = block_samples(by.scorer, prepared.sampling_frequency)
            result.motion = FollowedMotion.of_cells(
                {
                    start: shift
                    for start, shift in shifts.items()
                    if start_sample - length < start < stop_sample
                },
                depths_um=follower.depths_um,
                length_s=length / prepared.sampling_frequency,
                sampling_frequency=prepared.sampling_frequency,
            )
    result.seconds["total"] = perf_counter() - begin
    return result


def _at_own_rate(sorter: Sorter, recording: BaseRecording) -> ResampledRecording | None:
    """Resample a recording that is marked so, if it has another rate."""
    rate = sorter.card.sampling_frequency
    same = math.isclose(recording.sampling_frequency, rate, rel_tol=SAME_RATE)
    return None if same or not handling_of(recording).resample else ResampledRecording(recording, rate)


def _sort_resampled(
    sorter: Sorter, resampled: ResampledRecording, result: SortResult, start: int, stop: int, *options: Any
) -> SortResult:
    """Sort at the card's rate, and count in samples of the recording."""
    thresholds, num_workers, progress = options
    # A spike is rounded to a sample of the recording: some more on either side belong to the stretch.
    first = max(0, resampled.from_original(start) - 2)
    last = min(resampled.get_num_samples(), resampled.from_original(stop) + 3)
    if start == stop:
        last = first
    found = sorter.sort(
        resampled,
        start_sample=first,
        stop_sample=last,
        thresholds=thresholds,
        num_workers=num_workers,
        progress=progress,
    )
    events = resampled.to_original(found.unknown.sample_index)
    unknown = replace(found.unknown, sample_index=events).chosen((events >= start) & (events < stop))
    sample = resampled.to_original(found.spikes.sample_index)
    spikes = Spikes(sample, found.spikes.unit_index, found.spikes.probability)
    blanked = np.clip(resampled.to_original(found.blanked), start, stop)
    return replace(
        result,
        spikes=_chosen(spikes, (sample >= start) & (sample < stop)),
        seconds=found.seconds,
        blanked=blanked[blanked[:, 0] < blanked[:, 1]],
        bad_channel_ids=found.bad_channel_ids,
        motion=found.motion,
        unknown=unknown,
        minutes=found.minutes,
    )


def _chosen(spikes: Spikes, chosen: np.ndarray) -> Spikes:
    return Spikes(spikes.sample_index[chosen], spikes.unit_index[chosen], spikes.probability[chosen])


def _detect(
    detector: Detector | ScoreDetector,
    observer: Observer,
    blocks: Iterable[Block],
    seconds: dict[str, float],
    shifts: dict[int, np.ndarray],
) -> Spikes:
    """Post-process block after block; add up what they took, and keep how far the tissue had moved."""
    found: list[Spikes] = []
    for block in blocks:
        if block.shift_um is not None:
            shifts[block.start_sample] = block.shift_um
        begin = perf_counter()
        found.append(detector.push(block.outputs, block.start_sample))
        observer.push(block.sight)
        seconds["read_filter"] += block.read_filter_s
        seconds["network"] += block.network_s
        seconds["postprocess"] += perf_counter() - begin
    begin = perf_counter()
    found.append(detector.finish())
    observer.finish()
    spikes = joined_spikes(found)
    seconds["postprocess"] += perf_counter() - begin
    return spikes
