"""How large a unit's spikes are, and how many of its events are spikes of neurons far away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr

__all__ = ["Amplitudes", "fit_amplitudes"]

# Amplitudes that are tried; labels tell the typical one so well, and spikes of a unit differ by so much.
_TRIED = np.linspace(0.5, 1.4, 91)
_OF_LABELS, _LABELS_WITHIN, _SPREAD = 0.15, (0.6, 1.2), 0.05
# Larger ones are spikes of another unit.
_LARGEST = 1.7
# Spikes of far neurons are the rarer the larger they are: so fast do their amplitudes fall above the least.
_SCALES = np.geomspace(0.04, 0.4, 12)
# In noise levels: they do not resemble larger units, whose own amplitudes differ by more than noise.
_FAR_BELOW = 25.0
_ROUNDS = 12
# Where more of the events are its own the others may be too: drift makes them differ.
_MOST_OWN = 0.5


@dataclass(frozen=True)
class Amplitudes:
    """Of a unit's events, in units of its footprint.

    Parameters
    ----------
    typical : float
        Of its own spikes.
    num_far : float
        Events that are spikes of far neurons.
    scale : float
        The amplitude by which these become rarer by a factor of e.
    least : float
        The least amplitude of an event.
    """

    typical: float
    num_far: float
    scale: float
    least: float

    def far_above(self, amplitude: np.ndarray) -> np.ndarray:
        """How many events of far neurons are at least so large."""
        return self.num_far * np.exp(-np.maximum(amplitude - self.least, 0) / self.scale)


def fit_amplitudes(
    amplitudes: np.ndarray, least: float, at_labels: float, energy: float, *, moved: bool = False
) -> Amplitudes:
    """Likeliest amplitude of a unit's spikes when only those above a limit were seen.

    A normal distribution cut off at the limit, its width that of noise; the labels' amplitude is what one
    would think beforehand. Labels alone say too much: a footprint contains their noise. Events of small units
    may also be spikes of neurons too far away to be units, an exponential distribution above the limit.

    Parameters
    ----------
    amplitudes : float array, shape (S,)
        Of the unit's events, in units of its footprint.
    least : float
        The limit.
    at_labels : float
        Amplitude of the labelled spikes.
    energy : float
        Of the unit's detector; its inverse is the variance of an amplitude by noise.
    moved : bool
        Whether the tissue moved, by which a unit's own amplitudes differ: none is taken for a far neuron's.

    Returns
    -------
    Amplitudes
        The typical one from 0.5 to 1.4.
    """
    width = np.sqrt(1 / max(energy, 1e-9) + _SPREAD**2)
    seen = amplitudes[amplitudes < _LARGEST][:, None]  # (S, 1)
    beforehand = -0.5 * np.square((_TRIED - np.clip(at_labels, *_LABELS_WITHIN)) / _OF_LABELS)
    own = -0.5 * np.square((seen - _TRIED) / width) - np.log(width * np.sqrt(2 * np.pi))
    own -= log_ndtr((_TRIED - least) / width)  # (S, A), log density
    alone = beforehand + own.sum(axis=0)
    best = Amplitudes(float(_TRIED[alone.argmax()]), 0.0, 1.0, least)
    if moved or energy >= _FAR_BELOW**2 or len(seen) == 0:
        return best
    highest = alone.max() + np.log(len(seen))  # two more parameters must pay
    density = np.exp(own)
    for scale in _SCALES:
        room = scale * (1 - np.exp(-(_LARGEST - least) / scale))
        far = np.exp(-(seen - least) / scale) / room  # (S, 1)
        share = np.full(len(_TRIED), 0.5)
        for _ in range(_ROUNDS):
            both = share * density + (1 - share) * far
            share = (share * density / np.maximum(both, 1e-300)).mean(axis=0)
        both = share * density + (1 - share) * far
        likelihood = beforehand + np.log(np.maximum(both, 1e-300)).sum(axis=0)
        at = likelihood.argmax()
        if likelihood[at] > highest and share[at] < _MOST_OWN:
            highest = likelihood[at]
            best = Amplitudes(float(_TRIED[at]), float((1 - share[at]) * len(seen)), float(scale), least)
    return best
