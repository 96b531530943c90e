"""Starting a network from a backbone: of the same probe and rate, of others, or of the plainer design.

What the layers over time have learned is true of any probe; what mixes channels only of the one that it was
learned on. Filters are resampled to the recording's rate.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from esort.card import Card
from esort.checkpoint import load_checkpoint
from esort.dense_network import DenseNetwork
from esort.network import SpikeNetwork, build_network
from esort.waveform_prior import WaveformPrior

__all__ = ["MAX_RATIO", "PLAINER", "plainer_parameters", "start_from_backbone"]

logger = logging.getLogger(__name__)

PLAINER = {"convrecurrent": "dense"}
"""Networks that can start from another's backbone: they begin as it, see `ConvRecurrentNetwork`."""
MAX_RATIO = 3.0
"""Between the rates of backbone and recording: filters of 300 to 6000 Hz are resampled that far."""

# Hyper-parameters in which a backbone may differ from the network that starts from it.
_OF_THE_RECORDING = {"num_channels", "num_units"}
_SAMPLES = ("window_samples", "peak_offset_samples")
_ROUNDING_MS = 0.3
_OVER_CHANNELS = ("mixing", "recurrence")


def start_from_backbone(
    network: SpikeNetwork,
    path: Path,
    *,
    name: str,
    hyper_parameters: Mapping[str, Any],
    sampling_frequency: float,
    contact_positions_um: np.ndarray,
) -> WaveformPrior | None:
    """Load what fits of a backbone, in place, and say what is left out.

    Parameters
    ----------
    network : SpikeNetwork
    path : Path
        The backbone's checkpoint.
    name : str
        Of the network, in `esort.network.NETWORKS`.
    hyper_parameters : mapping
        That it was built with.
    sampling_frequency : float
        Of the recording, in Hz.
    contact_positions_um : float array, shape (C, 2)
        In the order of its channels. Layers over channels are taken only from a backbone with the same.

    Returns
    -------
    WaveformPrior or None
        What the backbone knows of waveforms, if it does; true of any probe.

    Raises
    ------
    ValueError
        If the backbone is one of another network or has other hyper-parameters, or the rates differ by more
        than `MAX_RATIO`.
    """
    card, weights = load_checkpoint(path, framework="torch")
    if card.network not in (name, PLAINER.get(name)):
        raise ValueError(f"{path}: a backbone of network {card.network}, expected one of network {name}")
    ratio = sampling_frequency / card.sampling_frequency
    if not 1 / MAX_RATIO <= ratio <= MAX_RATIO:
        raise ValueError(
            f"{path}: a backbone for {card.sampling_frequency:g} Hz, expected one within a factor of "
            f"{MAX_RATIO:g} of the recording's {sampling_frequency:g} Hz"
        )
    try:
        prior = WaveformPrior.pop_from(weights)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    _check_parameters(path, card, name, hyper_parameters, ratio)
    if "filters.weight" in weights and isinstance(network, DenseNetwork):
        weights["filters.weight"] = _resampled(weights["filters.weight"], card, network, ratio)
    theirs = np.asarray(card.contact_positions_um)
    if theirs.shape != contact_positions_um.shape or not np.allclose(theirs, contact_positions_um, atol=1e-3):
        over_channels = {key for key in weights if key.startswith(_OVER_CHANNELS)}
    else:
        over_channels = set()
    taken = network.load_backbone({key: weights[key] for key in weights.keys() - over_channels})
    left = sorted(set(weights) - set(taken))
    if left:
        logger.info("from the backbone without %s, which are for another probe", ", ".join(left))
    return prior


def plainer_parameters(
    name: str, hyper_parameters: Mapping[str, Any], known: Iterable[str]
) -> dict[str, Any]:
    """Hyper-parameters of the plainer design that a network starts as.

    Parameters
    ----------
    name : str
        A key of `PLAINER`.
    hyper_parameters : mapping
        Of that network.
    known : iterable of str
        Those that the plainer design has.

    Returns
    -------
    dict
        Window and peak without the margin, on which that design's filters do not look.
    """
    with torch.device("meta"):
        network = build_network(name, hyper_parameters)
    assert isinstance(network, DenseNetwork)
    ours = {key: hyper_parameters[key] for key in known if key in hyper_parameters}
    ours["window_samples"] -= 2 * network.margin_samples
    ours["peak_offset_samples"] -= network.margin_samples
    return ours


def _check_parameters(
    path: Path, card: Card, name: str, hyper_parameters: Mapping[str, Any], ratio: float
) -> None:
    theirs, ours = dict(card.network_parameters), dict(hyper_parameters)
    if card.network != name:
        ours = plainer_parameters(name, ours, theirs)
    # Rounded to samples of the one rate and of the other, and to places of a recurrence.
    most = _ROUNDING_MS / 1000 * card.sampling_frequency * ratio
    for key in _SAMPLES:
        if ratio != 1 and key in theirs and abs(theirs[key] * ratio - ours[key]) <= most:
            theirs[key] = ours[key]
    for key in sorted((ours.keys() | theirs.keys()) - _OF_THE_RECORDING):
        if theirs.get(key) != ours.get(key):
            raise ValueError(
                f"{path}: a backbone with {key}={theirs.get(key)}, expected one with {key}={ours.get(key)}"
            )


def _resampled(filters: torch.Tensor, card: Card, network: DenseNetwork, ratio: float) -> torch.Tensor:
    """Filters (F, W) at another rate, their answers to the same waveform as large as before."""
    num_taps = network.filters.in_features
    if abs(ratio - 1) < 1e-3 and filters.shape[1] == num_taps:
        return filters
    # The peak stays where it is. A backbone of this network has a margin too, the plainer one has none.
    margin = network.margin_samples
    theirs = card.network_parameters["peak_offset_samples"] - (card.network in PLAINER) * margin / ratio
    ours = network.peak_offset_samples - margin
    times = theirs + (np.arange(num_taps) - ours) / ratio  # in samples of the backbone
    known = np.arange(filters.shape[1])
    values = [np.interp(times, known, row, left=0.0, right=0.0) for row in filters.numpy()]
    return torch.from_numpy(np.asarray(values, dtype=np.float32) / np.float32(ratio))  # (F, W')
