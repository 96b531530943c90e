"""Scores of every second row, and of the others only around candidates: the variant of `ablation.py`."""

import numba
import numpy as np

from esort.pursuit.compiled import fir_bank

# Part of a unit's threshold from which a row's neighbours are looked at.
CANDIDATE = 0.5


def scores_around_candidates(network, white):
    """Scores as `PursuitScorer.scores` gives them, (U, T), on fewer rows.

    Even rows are computed for all units. An odd row is, for units of which an even row beside it reaches half
    their threshold; elsewhere it repeats the smaller of its neighbours, so that it is no maximum.
    """
    taps = network.filters
    num_rows = white.shape[1] - taps.shape[1] + 1
    even, odd = np.ascontiguousarray(white[:, ::2]), np.ascontiguousarray(white[:, 1::2])
    features = fir_bank(even, np.ascontiguousarray(taps[:, ::2]))
    others = fir_bank(odd, np.ascontiguousarray(taps[:, 1::2]))
    num_even = min(features.shape[2], others.shape[2])
    features = features[:, :, :num_even] + others[:, :, :num_even]
    half = network.head_rows @ features.reshape(-1, num_even)
    half -= network.energies[:, None] / 2
    templates = np.einsum("ucf,fk->uck", network.heads, taps)  # (U, M, L)
    scores = np.empty((len(half), num_rows), dtype=np.float32)
    _refine(white, half, templates, network.head_channels, network.energies / 2, limits(network), scores)
    return scores


def limits(network):
    from esort.pursuit.scorer import score_thresholds

    return CANDIDATE * score_thresholds(network.energies)


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz", "reassoc"})
def _refine(white, half, templates, channels, offsets, limits, scores):
    num_units, num_rows = scores.shape
    num_taps = templates.shape[2]
    for unit in range(num_units):
        for row in range(num_rows):
            here = row // 2
            if row % 2 == 0 and here < half.shape[1]:
                scores[unit, row] = half[unit, here]
                continue
            left, right = (
                half[unit, min(here, half.shape[1] - 1)],
                half[unit, min(here + 1, half.shape[1] - 1)],
            )
            if max(left, right) < limits[unit]:
                scores[unit, row] = min(left, right)
                continue
            total = -offsets[unit]
            for index in range(channels.shape[1]):
                line, template = white[channels[unit, index], row : row + num_taps], templates[unit, index]
                for tap in range(num_taps):
                    total += line[tap] * template[tap]
            scores[unit, row] = total
