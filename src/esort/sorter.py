"""A trained network at work: recording in, spikes out.

`esort.inference` runs the network block by block on a fixed grid of time; post-processing goes over the
joined probabilities, and its result does not depend on the chunks it gets (see
`esort.postprocess.detect_spikes`). So the spikes of a stretch are the same whether it is sorted alone or
with the rest, and for any number of workers.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from esort.admission import UNFIT, check_weights_fit
from esort.blanking import BlankedRecording
from esort.card import Card
from esort.checkpoint import CheckpointError, load_checkpoint
from esort.detector import Detector, Postprocessing, UnitTables, no_spikes
from esort.handling import handling_of
from esort.health import SAME_RATE, match_channels
from esort.inference import Block, block_samples, output_blocks
from esort.motion import FollowedMotion
from esort.network import SpikeNetwork, build_network
from esort.postprocess import Spikes
from esort.prepared import PreparedRecording, prepare
from esort.preprocessing import Preprocessing
from esort.pursuit.detector import ScoreDetector
from esort.pursuit.following import Follower
from esort.pursuit.learning import score_thresholds
from esort.pursuit.missing import learned_noise, without_channels
from esort.pursuit.network import PursuitNetwork
from esort.resampling import ResampledRecording
from esort.stretches import within

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording, BaseSorting

__all__ = ["SortResult", "Sorter"]

logger = logging.getLogger(__name__)

_BACKBONE = "expected a checkpoint with units, got a backbone: fine-tune it first"


@dataclass(kw_only=True)
class SortResult:
    """What sorting a recording gave.

    Parameters
    ----------
    spikes : Spikes
        NumPy arrays; sample_index in samples of the recording.
    unit_ids : tuple
        Names of the units that `spikes.unit_index` points at.
    sampling_frequency : float
        In Hz.
    num_samples : int
        Samples that were sorted.
    seconds : dict of str to float
        Time of each stage, summed over workers, and ``total`` on the wall.
    blanked : int64 array, shape (K, 2)
        Stretches [start, stop) of samples that hold artefacts instead of neurons: no spike lies in them.
    bad_channel_ids : tuple
        Channels that were not listened to.
    motion : FollowedMotion or None
        Of the tissue, in the cells of time that the stretch touches; None where nothing follows it.
    """

    spikes: Spikes
    unit_ids: tuple
    sampling_frequency: float
    num_samples: int
    seconds: dict[str, float] = field(default_factory=dict)
    blanked: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), dtype=np.int64))
    bad_channel_ids: tuple = ()
    motion: FollowedMotion | None = None

    @property
    def real_time_factor(self) -> float:
        """Seconds of recording per second on the wall; 0 for an empty recording."""
        total = self.seconds.get("total", 0.0)
        return self.num_samples / self.sampling_frequency / total if total else 0.0

    def sorting(self) -> BaseSorting:
        """Return a SpikeInterface sorting with all units, also those without a spike."""
        from spikeinterface.core import NumpySorting
        from spikeinterface.core.base import minimum_spike_dtype

        vector = np.zeros(len(self.spikes.sample_index), dtype=minimum_spike_dtype)
        vector["sample_index"] = self.spikes.sample_index
        vector["unit_index"] = self.spikes.unit_index
        return NumpySorting(vector, self.sampling_frequency, unit_ids=list(self.unit_ids))


class Sorter:
    """A network, its card and its thresholds.

    Parameters
    ----------
    network : SpikeNetwork
    card : Card
        Must have units.
    tables : UnitTables, optional
        What calibration found out about the units.

    Raises
    ------
    ValueError
        If the card is a backbone's, or does not fit the network.
    """

    def __init__(self, network: SpikeNetwork, card: Card, tables: UnitTables | None = None) -> None:
        if card.is_backbone:
            raise ValueError(_BACKBONE)
        sizes = (network.num_channels, network.num_units, network.window_samples)
        of_card = (card.num_channels, card.num_units, card.window_samples)
        if sizes != of_card:
            raise ValueError(f"network and card differ in channels, units, window: {sizes} and {of_card}")
        self.card = card
        self.network = network.folded()
        self.tables = UnitTables() if tables is None else tables
        self.preprocessing = Preprocessing.from_dict(card.preprocessing)
        self.postprocessing = Postprocessing(**card.postprocess)
        self.missing_channels = np.zeros(0, dtype=np.int64)
        """Channels that are not listened to, see `without_channels`."""
        self._without: dict[tuple[int, ...], Sorter] = {}

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Sorter:
        """Load a checkpoint.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        CheckpointError
            If the file cannot be believed, or its weights do not fit its network.
        """
        card, weights = load_checkpoint(path, framework="torch")
        if card.is_backbone:
            raise CheckpointError(path, _BACKBONE)
        try:
            tables = UnitTables.from_weights(weights)
            tables.conflicts(card.num_units)  # checks that they fit
            check_weights_fit(card, weights)
            network = build_network(card.network, card.network_parameters)
            network.load_state_dict(weights)
            return cls(network, card, tables)
        except UNFIT as error:
            raise CheckpointError(path, " ".join(str(error).split())[:300]) from None

    @property
    def noise_uv(self) -> float:
        """Noise of the recording that was learned from: median over channels, in µV or its own unit."""
        if isinstance(self.network, PursuitNetwork):
            return float(np.median(learned_noise(self.network)))
        return float(np.median(self.card.noise_level_uv))

    def without_channels(self, channels: Iterable[int]) -> Sorter:
        """Return a sorter that does without some channels, which have died or become noisy.

        Parameters
        ----------
        channels : ints
            Positions in the network's order.

        Raises
        ------
        ValueError
            If no channel is left.
        """
        bad = np.unique(np.asarray(list(channels), dtype=np.int64))
        if not bad.size:
            return self
        if bad.size == self.card.num_channels:
            raise ValueError(f"all {bad.size} channels are bad: expected at least 1 good one")
        network, card = self.network, self.card
        if isinstance(network, PursuitNetwork):
            before = network.energies.numpy().astype(np.float64)
            network = without_channels(network, bad)
            after = network.energies.numpy().astype(np.float64)
            # As high in the energy that is left, and as unlikely to be noise.
            left = after / np.where(before > 0, before, 1)
            thresholds = np.maximum(np.asarray(card.thresholds) * left, score_thresholds(after))
            card = replace(card, thresholds=tuple(thresholds.tolist()))
        changed = Sorter(network, card, self.tables)
        changed.postprocessing = self.postprocessing
        changed.missing_channels = np.union1d(self.missing_channels, bad)
        return changed

    def follower(self) -> Follower | None:
        """What follows the tissue through a recording from its beginning; None: nothing does."""
        if isinstance(self.network, PursuitNetwork) and self.network.follows:
            return Follower(self.network)
        return None

    def prepare(self, recording: BaseRecording) -> PreparedRecording:
        """Put a recording behind the filter and scaling that the network learned with.

        Raises
        ------
        ValueError
            If rate or contacts differ; both sides are named.
        """
        return prepare(
            recording,
            self.preprocessing,
            noise_level_uv=np.asarray(self.card.noise_level_uv),
            channel_order=self._channel_order(recording),
            silent_channels=self.missing_channels,
        )

    def filtered(self, recording: BaseRecording) -> BaseRecording:
        """Return the recording behind the filter, with its own channels and at its own rate, for pictures."""
        blanking = handling_of(recording).blanking
        if blanking is not None:
            recording = BlankedRecording(recording, blanking, np.flatnonzero(handling_of(recording).bad))
        return self.preprocessing.resolve(recording).apply(recording)

    def _channel_order(self, recording: BaseRecording) -> np.ndarray:
        return match_channels(
            np.asarray(self.card.contact_positions_um),
            recording,
            card_sampling_frequency=self.card.sampling_frequency,
        )

    def sort(
        self,
        recording: BaseRecording,
        *,
        start_sample: int = 0,
        stop_sample: int | None = None,
        thresholds: float | Iterable[float] | None = None,
        num_workers: int | None = None,
        progress: Callable[[Iterable], Iterable] | None = None,
    ) -> SortResult:
        """Sort a recording or a stretch of it.

        Artefacts are blanked, and bad channels left out that the recording names, see `esort.handling`.

        Parameters
        ----------
        recording : BaseRecording
            One segment, with the contacts of the card in any order. One of another rate is sorted if it is
            marked to be resampled; the spikes are at samples of the recording.
        start_sample, stop_sample : int
            Spikes of [start_sample, stop_sample) are returned.
        thresholds : float or (U,) floats, optional
            In the place of the card's.
        num_workers : int, optional
            Threads; by default one per core.
        progress : callable, optional
            Wraps the iterator over blocks, for example in a progress bar; it has a length.

        Returns
        -------
        SortResult

        Raises
        ------
        ValueError
            If the recording does not fit the card, or holds a NaN; it says where.
        """
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
            unit_ids=self.card.unit_ids,
            sampling_frequency=float(recording.sampling_frequency),
            num_samples=stop_sample - start_sample,
            seconds={"read_filter": 0.0, "network": 0.0, "postprocess": 0.0},
        )
        resampled = self._at_own_rate(recording)
        if resampled is not None:
            return self._sort_resampled(
                resampled, result, start_sample, stop_sample, thresholds, num_workers, progress
            )
        order = self._channel_order(recording)  # one of another probe is refused also when it is short
        handling = handling_of(recording)
        result.bad_channel_ids = tuple(recording.channel_ids[handling.bad].tolist())
        by = self._cached_without(np.flatnonzero(handling.bad[order]))
        least = max(self.network.window_samples, self.preprocessing.min_samples)
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
            blocks = output_blocks(
                by.network,
                prepared,
                start_sample - detector.margin_samples,
                stop_sample + detector.margin_samples,
                follower=follower,
                num_workers=num_workers,
                progress=progress,
            )
            found = _detect(detector, blocks, result.seconds, shifts)
            inside = (found.sample_index >= start_sample) & (found.sample_index < stop_sample)
            result.blanked = prepared.blanked_stretches(start_sample, stop_sample)
            result.spikes = _chosen(found, inside & ~within(found.sample_index, result.blanked))
            if follower is not None:
                length = block_samples(by.network, prepared.sampling_frequency)
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

    def _at_own_rate(self, recording: BaseRecording) -> ResampledRecording | None:
        """Resample a recording that is marked so, if it has another rate."""
        rate = self.card.sampling_frequency
        same = math.isclose(recording.sampling_frequency, rate, rel_tol=SAME_RATE)
        return None if same or not handling_of(recording).resample else ResampledRecording(recording, rate)

    def _sort_resampled(
        self, resampled: ResampledRecording, result: SortResult, start: int, stop: int, *options: Any
    ) -> SortResult:
        """Sort at the card's rate, and count in samples of the recording."""
        thresholds, num_workers, progress = options
        # A spike is rounded to a sample of the recording: some more on either side belong to the stretch.
        first = max(0, resampled.from_original(start) - 2)
        last = min(resampled.get_num_samples(), resampled.from_original(stop) + 3)
        if start == stop:
            last = first
        found = self.sort(
            resampled,
            start_sample=first,
            stop_sample=last,
            thresholds=thresholds,
            num_workers=num_workers,
            progress=progress,
        )
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
        )

    def _cached_without(self, channels: np.ndarray) -> Sorter:
        """See `without_channels`: a long recording asks for the same again and again."""
        key = tuple(channels.tolist())
        if key not in self._without:
            self._without = {key: self.without_channels(channels)} if key else {key: self}
        return self._without[key]

    def outputs(self, prepared: PreparedRecording, start_sample: int, stop_sample: int) -> np.ndarray:
        """Return what the network says of a short stretch.

        Returns
        -------
        float32 array, shape (rows, U)
            Probabilities or scores, see `SpikeNetwork.outputs`; a row for each multiple of the network's
            stride in [start_sample, stop_sample).
        """
        stride = self.network.stride
        blocks = list(
            output_blocks(
                self.network, prepared, start_sample, stop_sample, follower=self.follower(), num_workers=1
            )
        )
        joined = np.concatenate([block.outputs for block in blocks])  # (N / stride, U)
        first = blocks[0].start_sample // stride
        return joined[-(-start_sample // stride) - first : -(-stop_sample // stride) - first]

    def detector(self, thresholds: float | Iterable[float] | None = None) -> Detector | ScoreDetector:
        """Return a post-processing for this sorter's outputs.

        Parameters
        ----------
        thresholds : float or (U,) floats, optional
            Least probability of a spike; by default the card's thresholds.
        """
        if isinstance(self.network, PursuitNetwork):
            return ScoreDetector(
                self.network,
                sampling_frequency=self.card.sampling_frequency,
                thresholds=self.card.thresholds,
                refractory_ms=self.postprocessing.refractory_ms,
                competition=self.postprocessing.competition,
                tables=self.tables,
                least_probability=0.0 if thresholds is None else _as_plain(thresholds),
            )
        return Detector(
            sampling_frequency=self.card.sampling_frequency,
            thresholds=self.card.thresholds if thresholds is None else thresholds,
            postprocessing=self.postprocessing,
            num_units=self.card.num_units,
            tables=self.tables,
        )


def _chosen(spikes: Spikes, chosen: np.ndarray) -> Spikes:
    return Spikes(spikes.sample_index[chosen], spikes.unit_index[chosen], spikes.probability[chosen])


def _as_plain(thresholds: float | Iterable[float]) -> float | list[float]:
    return float(thresholds) if isinstance(thresholds, (int, float)) else list(thresholds)


def _detect(
    detector: Detector | ScoreDetector,
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
        seconds["read_filter"] += block.read_filter_s
        seconds["network"] += block.network_s
        seconds["postprocess"] += perf_counter() - begin
    begin = perf_counter()
    found.append(detector.finish())
    spikes = _in_order(found)
    seconds["postprocess"] += perf_counter() - begin
    return spikes


def _in_order(found: list[Spikes]) -> Spikes:
    """All spikes by sample, then unit; a spike between two rows of scores may belong to either piece."""
    sample, unit, probability = (
        np.concatenate([getattr(spikes, name) for spikes in found])
        for name in ("sample_index", "unit_index", "probability")
    )
    order = np.lexsort((unit, sample))
    return Spikes(sample[order], unit[order], probability[order])
