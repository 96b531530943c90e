"""A trained network at work: recording in, spikes out.

`esort.inference` runs the network block by block on a fixed grid of time; post-processing goes over the
joined probabilities, and its result does not depend on the chunks it gets (see
`esort.postprocess.detect_spikes`). So the spikes of a stretch are the same whether it is sorted alone or
with the rest, and for any number of workers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from esort.blanking import BlankedRecording
from esort.card import Card
from esort.checkpoint import CheckpointError, load_checkpoint
from esort.detector import Detector, Postprocessing, UnitTables
from esort.handling import handling_of
from esort.health import match_channels
from esort.inference import output_blocks
from esort.offline import sort_stretch
from esort.one_line import one_line
from esort.prepared import PreparedRecording, prepare
from esort.preprocessing import Preprocessing
from esort.pursuit.detector import ScoreDetector
from esort.pursuit.following import Follower
from esort.pursuit.missing import without_channels
from esort.pursuit.scorer import PursuitScorer, PursuitSizes, score_thresholds, scorer_of
from esort.sort_result import SortResult
from esort.weights_fit import UNFIT, check_weights_fit

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording

    from esort.network import SpikeNetwork

__all__ = ["Sorter"]

_BACKBONE = "expected a checkpoint with units, got a backbone: fine-tune it first"


class Sorter:
    """A network, its card and its thresholds.

    Parameters
    ----------
    network : SpikeNetwork or PursuitScorer
    card : Card
        Must have units.
    tables : UnitTables, optional
        What calibration found out about the units.

    Raises
    ------
    ValueError
        If the card is a backbone's, or does not fit the network.
    """

    def __init__(
        self, network: SpikeNetwork | PursuitScorer, card: Card, tables: UnitTables | None = None
    ) -> None:
        if card.is_backbone:
            raise ValueError(_BACKBONE)
        self.tables = UnitTables() if tables is None else tables
        sizes = (network.num_channels, network.num_units, network.window_samples)
        of_card = (card.num_channels, card.num_units + len(self.tables.rivals), card.window_samples)
        if sizes != of_card:
            raise ValueError(f"network and card differ in channels, units, window: {sizes} and {of_card}")
        self.card = card
        self._network: Any = None if isinstance(network, PursuitScorer) else network.folded()
        given: Any = network
        self.scorer: Any = scorer_of(given) if card.network == "pursuit" else self._network
        """What sorts: the network, or of a pursuit network what computes its scores."""
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
        card, weights = load_checkpoint(path)
        if card.is_backbone:
            raise CheckpointError(path, _BACKBONE)
        try:
            tables = UnitTables.from_weights(weights)
            tables.conflicts(card.num_units)  # checks that they fit
            check_weights_fit(card, weights)
            return cls(_network_of(card, weights), card, tables)
        except UNFIT as error:
            raise CheckpointError(path, one_line(error, 300)) from None

    @property
    def is_pursuit(self) -> bool:
        """Whether scores are computed, not probabilities."""
        return self.card.network == "pursuit"

    @property
    def network(self) -> SpikeNetwork:
        """The network as PyTorch has it; of a pursuit network it is made when it is first asked for."""
        if self._network is None:
            from esort.pursuit.network import PursuitNetwork

            self._network = PursuitNetwork.of_arrays(self.scorer.sizes, self.scorer.arrays())
        network: SpikeNetwork = self._network
        return network

    @property
    def noise_uv(self) -> float:
        """Noise of the recording that was learned from: median over channels, in µV or its own unit."""
        if self.is_pursuit:
            return float(np.median(self.scorer.noise_uv))
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
        network, card, tables = self.scorer, self.card, self.tables
        if self.is_pursuit:
            before = network.energies.astype(np.float64)
            learned: Any = self.network
            network = without_channels(learned, bad).scorer()
            after = network.energies.astype(np.float64)
            # As high in the energy that is left, and as unlikely to be noise.
            left = after / np.where(before > 0, before, 1)
            thresholds = np.maximum(tables.with_rivals(card.thresholds) * left, score_thresholds(after))
            card = replace(card, thresholds=tuple(thresholds[: card.num_units].tolist()))
            rivals = replace(tables.rivals, thresholds=thresholds[card.num_units :])
            tables = replace(tables, rivals=rivals)
        changed = Sorter(network, card, tables)
        changed.postprocessing = self.postprocessing
        changed.missing_channels = np.union1d(self.missing_channels, bad)
        return changed

    def follower(self) -> Follower | None:
        """What follows the tissue through a recording from its beginning; None: nothing does."""
        if self.is_pursuit and self.scorer.follows:
            return Follower(self.scorer)
        return None

    def make_ready(self) -> None:
        """Make the tables that sorting needs, and load what is compiled: otherwise the first block waits."""
        detector, follower, scorer = self.detector(), self.follower(), self.scorer
        if not self.is_pursuit:
            return
        silence = np.zeros((scorer.window_samples + 64 * scorer.stride, scorer.num_channels), dtype=np.int16)
        filtered = scorer.filtered(silence, np.ones(scorer.num_channels))
        if follower is None:
            scores = scorer.outputs(silence, np.ones(scorer.num_channels))
        else:
            follower.evidence(filtered)
            scores = follower.scores(filtered, np.zeros(len(follower.depths_um), dtype=np.int64))
        detector.push(scores, 0)
        detector.finish()

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
            channel_order=self.channel_order(recording),
            silent_channels=self.missing_channels,
        )

    def filtered(self, recording: BaseRecording) -> BaseRecording:
        """Return the recording behind the filter, with its own channels and at its own rate, for pictures."""
        blanking = handling_of(recording).blanking
        if blanking is not None:
            recording = BlankedRecording(recording, blanking, np.flatnonzero(handling_of(recording).bad))
        return self.preprocessing.resolve(recording).apply(recording)

    def channel_order(self, recording: BaseRecording) -> np.ndarray:
        """Positions of the network's channels in a recording, int64 (C,); one of another probe is refused."""
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
        return sort_stretch(
            self,
            recording,
            start_sample=start_sample,
            stop_sample=stop_sample,
            thresholds=thresholds,
            num_workers=num_workers,
            progress=progress,
        )

    def cached_without(self, channels: np.ndarray) -> Sorter:
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
        stride = self.scorer.stride
        blocks = list(
            output_blocks(
                self.scorer, prepared, start_sample, stop_sample, follower=self.follower(), num_workers=1
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
        if self.is_pursuit:
            return ScoreDetector(
                self.scorer,
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


def _network_of(card: Card, weights: Mapping[str, np.ndarray]) -> SpikeNetwork | PursuitScorer:
    """The network of a checkpoint; the one that needs no PyTorch is made without."""
    if card.network == "pursuit":
        return PursuitScorer(PursuitSizes(**card.network_parameters), weights)
    import torch

    from esort.network import build_network

    network = build_network(card.network, card.network_parameters)
    network.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    return network


def _as_plain(thresholds: float | Iterable[float]) -> float | list[float]:
    return float(thresholds) if isinstance(thresholds, (int, float)) else list(thresholds)
