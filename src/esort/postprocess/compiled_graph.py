"""A `ConflictTable` as the compiled engine reads it.

Shapes: U units, D neighbours of a unit at the most, P pairs, L lag samples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

LANES = 8
"""Numbers in a vector; as many zeros fill up what is stored of a kernel."""


# Columns of an edge: whether both may not fire within the exclusive window; the first lag and the number of
# lags of what a spike does to the neighbour's score, 0 if nothing; where its values begin.
EXCLUSIVE, FIRST_LAG, LENGTH, START = range(4)


class Graph(NamedTuple):
    """A `ConflictTable` as the compiled functions read it.

    Lags at either end of a pair's kernels where they are zero for all phases are not stored. What a spike of
    one unit and phase does to all its neighbours lies together: the values for edge ``d`` of unit ``u`` and
    phase ``i`` begin at ``edges[u, d, START] + i * stride[u]``. Two units are rivals up to ``reach`` all the
    same: who wins does not depend on how kernels were rounded.
    """

    neighbours: np.ndarray  # int32 (U, D), -1 where a unit has fewer
    edges: np.ndarray  # int64 (U, D, 4)
    stride: np.ndarray  # int64 (U,)
    values: np.ndarray  # int32
    reach: int
    exclusive_samples: int


def make_graph(
    *,
    num_units: int,
    phases: int = 1,
    kernels: np.ndarray | None = None,
    kernel_out: np.ndarray | None = None,
    neighbours: np.ndarray | None = None,
    exclusive: np.ndarray | None = None,
    reach: int = 0,
    exclusive_samples: int = 0,
) -> Graph:
    """Take the arrays of a `ConflictTable`, its kernels by `ConflictTable.quantise`; no edges by default."""
    if neighbours is None or exclusive is None or kernel_out is None:
        neighbours = kernel_out = np.zeros((num_units, 1), dtype=np.int64) - 1
        exclusive = np.zeros((num_units, 1), dtype=np.bool_)
    if kernels is None:
        kernels = np.zeros((phases * (int(kernel_out.max(initial=0)) + 1), 1), dtype=np.int32)
    pairs = kernels.reshape(-1, phases, kernels.shape[1])  # (P + 1, phases, 2 L + 1), the last are zeros
    first, length = _stored(pairs)
    filled = -(-length // LANES) * LANES
    taken = filled[kernel_out]  # (U, D)
    stride = taken.sum(axis=1)
    before = np.cumsum(stride * phases) - stride * phases  # values of the units before
    pairs = np.pad(pairs, ((0, 0), (0, 0), (0, LANES)))
    lines = [pair[:, a : a + n] for pair, a, n in zip(pairs, first, filled, strict=True)]
    by_unit = [np.concatenate([lines[pair] for pair in own], axis=1).reshape(-1) for own in kernel_out]
    edges = np.zeros((*kernel_out.shape, 4), dtype=np.int64)
    edges[:, :, EXCLUSIVE] = exclusive
    edges[:, :, FIRST_LAG] = first[kernel_out] - kernels.shape[1] // 2
    edges[:, :, LENGTH] = length[kernel_out]
    edges[:, :, START] = before[:, None] + np.cumsum(taken, axis=1) - taken
    return Graph(
        neighbours=neighbours.astype(np.int32),
        edges=edges,
        stride=stride.astype(np.int64),
        values=np.concatenate([np.zeros(0, dtype=np.int32), *by_unit]),
        reach=reach,
        exclusive_samples=exclusive_samples,
    )


def _stored(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First lag of each pair that is not zero for all phases, and how many follow, (P + 1,) each."""
    matters = (pairs != 0).any(axis=1)  # (P + 1, 2 L + 1)
    first = matters.argmax(axis=1)
    stop = np.where(matters.any(axis=1), pairs.shape[2] - matters[:, ::-1].argmax(axis=1), first)
    return first, stop - first
