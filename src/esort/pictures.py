"""Pictures of what sorting found: traces, the probe, accuracy and reliability."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from esort.evaluation import Scores
from esort.events import true_spikes
from esort.footprints import estimate_footprints
from esort.report import plot_accuracy, plot_probe, plot_reliability
from esort.sort_result import SortResult
from esort.sorter import Sorter
from esort.subject import Subject
from esort.traces import plot_traces

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording, BaseSorting

__all__ = ["PICTURES", "draw_pictures"]

PICTURES = ("traces.png", "probe.png", "accuracy.png", "reliability.png")
_PICTURE_S = 0.04
# The stretch that is drawn is looked for among so many spikes.
_SPIKES_LOOKED_AT = 1_000_000


def draw_pictures(
    sorter: Sorter,
    subject: Subject,
    result: SortResult,
    sorting: BaseSorting,
    scores: Scores | None,
    folder: Path,
    start_sample: int,
    stretch_s: float,
) -> list[Path]:
    """Draw what was found; nothing where nothing was.

    Parameters
    ----------
    sorter : Sorter
    subject : Subject
        What was sorted.
    result : SortResult
    sorting : BaseSorting
        The same spikes.
    scores : Scores or None
        Where the ground truth is known.
    folder : Path
        Must be there.
    start_sample : int
        Where the sorted stretch begins.
    stretch_s : float
        Of which the units' footprints are estimated, at most.

    Returns
    -------
    list of Path
        Of `PICTURES`, those that were drawn.
    """
    if len(result.spikes) == 0 or result.num_samples < result.sampling_frequency * _PICTURE_S:
        return []
    traces, probe, accuracy, reliability = (folder / name for name in PICTURES)
    filtered = sorter.filtered(subject.recording)
    matches = {unit.unit_id: unit.matched_unit_id for unit in scores.units} if scores else None
    plot_traces(
        filtered,
        sorting,
        traces,
        start_s=_busy_sample(result, start_sample) / result.sampling_frequency,
        duration_s=_PICTURE_S,
        ground_truth=subject.ground_truth,
        matches=matches,
    )
    length = min(result.num_samples, round(stretch_s * result.sampling_frequency))
    _draw_probe(filtered, sorting, scores, probe, start_sample, start_sample + length)
    if scores is None:
        return [traces, probe]
    plot_accuracy(scores.to_dict(), accuracy, signal_to_noise=subject.signal_to_noise or None)
    _draw_reliability(result, subject, scores, reliability)
    return [path for path in (traces, probe, accuracy, reliability) if path.exists()]


def _draw_reliability(result: SortResult, subject: Subject, scores: Scores, path: Path) -> None:
    """Whether the stated probabilities are right, on the time that is scored."""
    assert subject.ground_truth is not None
    spikes = result.spikes
    is_true = true_spikes(
        spikes.sample_index,
        spikes.unit_index,
        result.unit_ids,
        subject.ground_truth,
        {unit.unit_id: unit.matched_unit_id for unit in scores.units},
        round(scores.delta_ms * result.sampling_frequency / 1000),
    )
    scored = (spikes.sample_index >= scores.start_sample) & (spikes.sample_index < scores.stop_sample)
    if scored.any():
        plot_reliability(spikes.probability[scored], is_true[scored], path)


def _busy_sample(result: SortResult, start_sample: int) -> int:
    """Start of a stretch for the picture of the traces: the one that shows most spikes."""
    samples = result.spikes.sample_index[:_SPIKES_LOOKED_AT]
    length = int(_PICTURE_S * result.sampling_frequency)
    counts = np.searchsorted(samples, samples + length) - np.arange(samples.size)
    # A little before the first of these spikes, so that it is seen whole.
    start = int(samples[counts.argmax()]) - length // 20
    return min(max(start, start_sample), start_sample + result.num_samples - length - 1)


def _draw_probe(
    filtered: BaseRecording,
    sorting: BaseSorting,
    scores: Scores | None,
    path: Path,
    start_sample: int,
    stop_sample: int,
) -> None:
    """Where the units are, coloured by accuracy where it is known."""
    footprints = estimate_footprints(filtered, sorting, start_sample=start_sample, stop_sample=stop_sample)
    matched = [unit for unit in scores.units if unit.matched_unit_id is not None] if scores else []
    values = {unit.matched_unit_id: unit.accuracy for unit in matched}
    plot_probe(footprints, path, values=values if scores else None)
