"""Gaps among events: where two neurons' spikes lie apart.

Shapes: S events, K channels, F filters, d directions.
"""

from __future__ import annotations

import numpy as np

__all__ = ["LEAST_EVENTS", "parts_of"]

LEAST_EVENTS = 8
"""Fewer are no neuron."""

# So many directions tell neurons apart; few events lie apart in some of many.
_NUM_DIRECTIONS, _EVENTS_PER_DIRECTION = 12, 8
# Between the events of two neurons lie so many of their standard deviations; between halves of one neuron's
# hardly three.
_GAP = 4.5


def parts_of(features: np.ndarray) -> list[np.ndarray]:
    """Split events for as long as there is a gap.

    Parameters
    ----------
    features : float array, shape (S, K, F)
        Of each event, in noise levels.

    Returns
    -------
    list of int64 arrays
        Positions of the events of each part; a few outliers are in none.
    """
    from scipy.cluster.hierarchy import linkage, to_tree  # not before it is needed: it takes long to load

    if len(features) < LEAST_EVENTS:
        return []
    flat = features.reshape(len(features), -1)
    flat = flat - flat.mean(axis=0)
    number = min(_NUM_DIRECTIONS, max(2, len(flat) // _EVENTS_PER_DIRECTION))
    seen = flat @ np.linalg.svd(flat, full_matrices=False)[2][:number].T  # (S, d)
    parts, waiting = [], [to_tree(linkage(seen, method="ward"))]
    while waiting:
        node = waiting.pop()
        if node.count < LEAST_EVENTS:
            continue
        whole = np.array(node.pre_order())
        if node.count < 2 * LEAST_EVENTS:
            parts.append(whole)
            continue
        sides = [np.array(side.pre_order()) for side in (node.left, node.right)]
        # A few outliers are no neuron, but may hide two.
        if min(map(len, sides)) < LEAST_EVENTS or _gap(*(seen[side] for side in sides)) >= _GAP:
            waiting += [node.right, node.left]
        else:
            parts.append(whole)
    return parts


def _gap(one: np.ndarray, other: np.ndarray) -> float:
    """Distance of the means of two groups of events, (S, d), in their standard deviations along it."""
    between = one.mean(axis=0) - other.mean(axis=0)
    distance = float(np.linalg.norm(between))
    along = between / max(distance, 1e-9)
    return distance / max(float(np.sqrt(((one @ along).var() + (other @ along).var()) / 2)), 1e-9)
