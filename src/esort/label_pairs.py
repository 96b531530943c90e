"""Labels that do not look like one neuron each: one neuron under two names, or two under one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np

from esort.labels import LabelledSpikes

__all__ = ["BEFORE_MS", "SAMPLES_MS", "Suspect", "suspicious_labels"]

BEFORE_MS, SAMPLES_MS = 0.6, 1.6
"""Waveforms begin so long before a label, and are so long."""

# More spikes of a unit cost time and show no more.
_MAX_SPIKES = 100
_MIN_SPIKES, _MIN_SPIKES_MERGED = 3, 20
_NUM_CHANNELS = 10
# Cosine of two means, freed from their noise, and ratio of their sizes. Neurons a contact apart stay below.
_SAME_SHAPE, _SAME_SIZE = 0.95, 0.6
_SHIFT_MS = 0.2
# Spikes of two names that lie so close are one; in the other window one neuron cannot fire twice.
_SAME_MS, _REFRACTORY_MS = 0.25, 1.5
_DUPLICATED = 0.3
# So many coincidences must be expected by chance before their absence says something.
_MIN_EXPECTED = 5.0
# Distance of two groups of waveforms over their width (halves of one round group: 2.7), and the least part of
# the spikes in a group.
_APART, _LEAST_PART = 4.5, 0.25
# Energy of the difference of two groups, of that of the mean.
_LEAST_DIFFERENCE = 0.15


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """Labels that do not look like one neuron.

    Parameters
    ----------
    kind : {"split", "duplicate", "merged"}
        ``split``: two units look like one neuron; ``duplicate``: two units name the same spikes;
        ``merged``: one unit looks like two neurons.
    unit_ids : tuple
        Two of them, or one.
    similarity : float
        Cosine of the mean waveforms; of a merged unit, of its two groups.
    coincidences, expected : float
        Pairs of spikes within 1.5 ms, and as many as two neurons that ignore each other would have. Of a
        merged unit, intervals below 1.5 ms.
    """

    kind: Literal["split", "duplicate", "merged"]
    unit_ids: tuple
    similarity: float
    coincidences: int
    expected: float

    def __str__(self) -> str:
        names = " and ".join(map(str, self.unit_ids))
        counts = f"{self.coincidences} coincidences, {self.expected:.1f} by chance"
        return {
            "split": f"{names} look like one neuron (similarity {self.similarity:.2f}, {counts})",
            "duplicate": f"{names} name the same spikes ({self.coincidences} of them)",
            "merged": f"{names} looks like two neurons (similarity of the two {self.similarity:.2f}, "
            f"{self.coincidences} intervals below {_REFRACTORY_MS:g} ms)",
        }[self.kind]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"unit_ids": list(self.unit_ids)}


def suspicious_labels(
    labels: LabelledSpikes, windows: Callable[[np.ndarray], np.ndarray], rate_hz: float
) -> list[Suspect]:
    """Compare the labelled waveforms of units with each other, and with themselves.

    Parameters
    ----------
    labels : LabelledSpikes
    windows : callable
        Takes samples, (n,), and returns the traces around them from `BEFORE_MS` before on, float (n, T, C),
        in units of the noise.
    rate_hz : float
        Of these windows.

    Returns
    -------
    list of Suspect
    """
    waveforms = {}
    for unit_index in range(labels.num_units):
        own = labels.sample_index[labels.unit_index == unit_index]
        if len(own) >= _MIN_SPIKES:
            evenly = np.linspace(0, len(own) - 1, min(len(own), _MAX_SPIKES)).astype(int)
            waveforms[unit_index] = windows(own[evenly]).astype(np.float32)
    found = list(_alike(labels, waveforms, round(_SHIFT_MS * rate_hz / 1000)))
    for unit_index, own in waveforms.items():
        if len(own) >= _MIN_SPIKES_MERGED:
            similarity = _two_groups(own)
            if similarity is not None:
                found.append(_suspect(labels, "merged", (unit_index,), similarity))
    return found


def _alike(labels: LabelledSpikes, waveforms: dict[int, np.ndarray], reach: int) -> Iterator[Suspect]:
    """Pairs of units with the same waveform, of which nothing says that they are two neurons."""
    means = {unit_index: own.mean(axis=0) for unit_index, own in waveforms.items()}  # (T, C)
    # Energy that the noise of the spikes leaves in a mean.
    noise = {unit_index: own.var(axis=0, ddof=1) / len(own) for unit_index, own in waveforms.items()}
    peaks = {unit_index: np.square(mean).sum(axis=0) for unit_index, mean in means.items()}  # (C,)
    strongest = {
        unit_index: np.argsort(-peak, kind="stable")[:_NUM_CHANNELS] for unit_index, peak in peaks.items()
    }
    near = {unit_index: set(channels.tolist()) for unit_index, channels in strongest.items()}
    for one, other in combinations(waveforms, 2):
        if int(strongest[one][0]) not in near[other] or int(strongest[other][0]) not in near[one]:
            continue
        channels = np.argsort(-(peaks[one] + peaks[other]), kind="stable")[:_NUM_CHANNELS]
        similarity, size = _similarity(
            (means[one][:, channels], means[other][:, channels]),
            (noise[one][:, channels], noise[other][:, channels]),
            reach,
        )
        suspect = _suspect(labels, "split", (one, other), similarity)
        fewer = int(labels.counts()[[one, other]].min())
        close = _coincidences(labels, one, other, _SAME_MS)
        if close >= max(_MIN_SPIKES, _DUPLICATED * fewer):
            yield _suspect(labels, "duplicate", (one, other), similarity, close)
        elif similarity >= _SAME_SHAPE and _SAME_SIZE <= size <= 1 / _SAME_SIZE:
            independent = suspect.expected >= _MIN_EXPECTED and suspect.coincidences > suspect.expected / 2
            if not independent:
                yield suspect


def _similarity(
    waveforms: tuple[np.ndarray, np.ndarray], noise: tuple[np.ndarray, np.ndarray], reach: int
) -> tuple[float, float]:
    """Cosine of two waveforms, (T, C), at their best shift, and the ratio of their sizes; noise apart."""
    (one, other), (noise_one, noise_other) = waveforms, noise
    length = len(one) - 2 * reach
    middle = slice(reach, reach + length)
    best = (0.0, 1.0)
    own = max(float(np.square(one[middle]).sum() - noise_one[middle].sum()), 1e-9)
    for shift in range(2 * reach + 1):
        part = slice(shift, shift + length)
        theirs = max(float(np.square(other[part]).sum() - noise_other[part].sum()), 1e-9)
        cosine = min(float((one[middle] * other[part]).sum()) / np.sqrt(own * theirs), 1.0)
        best = max(best, (cosine, float(np.sqrt(theirs / own))))
    return best


def _two_groups(waveforms: np.ndarray) -> float | None:
    """Similarity of the two groups that the waveforms of a unit, (n, T, C), fall into; None: they do not."""
    energy = np.square(waveforms).sum(axis=1).mean(axis=0)
    channels = np.argsort(-energy, kind="stable")[:_NUM_CHANNELS]
    own = waveforms[:, :, channels]
    mean = own.mean(axis=0)
    centred = (own - mean).reshape(len(own), -1)
    # Spikes differ in size and lie between samples: neither makes two neurons.
    nuisance = np.stack([mean.ravel(), np.gradient(mean, axis=0).ravel()])
    basis = np.linalg.qr(nuisance.T)[0]
    rest = centred - (centred @ basis) @ basis.T
    _, _, axes = np.linalg.svd(rest, full_matrices=False)
    least = max(5, round(_LEAST_PART * len(own)))
    best, first = 0.0, np.zeros(len(own), dtype=bool)
    for axis in axes[:3]:
        place = rest @ axis
        order = np.argsort(place)
        for cut in range(least, len(own) - least + 1):
            low, high = place[order[:cut]], place[order[cut:]]
            width = np.sqrt((low.var() * len(low) + high.var() * len(high)) / len(own))
            apart = float((high.mean() - low.mean()) / max(width, 1e-9))
            if apart > best:
                best, first = apart, np.isin(np.arange(len(own)), order[:cut])
    if best < _APART:
        return None
    one, other = own[first].mean(axis=0), own[~first].mean(axis=0)
    if np.square(one - other).sum() < _LEAST_DIFFERENCE * np.square(mean).sum():
        return None
    return float((one * other).sum() / np.sqrt(np.square(one).sum() * np.square(other).sum()))


def _suspect(
    labels: LabelledSpikes, kind: Any, units: tuple[int, ...], similarity: float, count: int | None = None
) -> Suspect:
    counts = labels.counts()
    seconds = max(labels.stop_sample - labels.start_sample, 1) / labels.sampling_frequency
    one, other = units[0], units[-1]
    pairs = counts[one] * (counts[other] if len(units) == 2 else (counts[one] - 1) / 2)
    return Suspect(
        kind=kind,
        unit_ids=tuple(labels.unit_ids[unit] for unit in units),
        similarity=similarity,
        coincidences=_coincidences(labels, one, other, _REFRACTORY_MS) if count is None else count,
        expected=float(pairs * 2 * _REFRACTORY_MS / 1000 / seconds),
    )


def _coincidences(labels: LabelledSpikes, one: int, other: int, within_ms: float) -> int:
    """Pairs of spikes of two units, or of one, that lie so close."""
    reach = within_ms * labels.sampling_frequency / 1000
    first, second = (labels.sample_index[labels.unit_index == unit] for unit in (one, other))
    near = np.searchsorted(second, first + reach, side="right") - np.searchsorted(second, first - reach)
    return int((near.sum() - len(first)) // 2) if one == other else int(near.sum())
