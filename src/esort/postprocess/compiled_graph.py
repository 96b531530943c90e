"""A `ConflictTable` as the compiled engine reads it.

Shapes: U units, D neighbours of a unit at the most, P pairs, L lag samples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Graph(NamedTuple):
    """A `ConflictTable` as the compiled functions read it.

    Lags at either end of a pair's kernels where they are zero for all phases are not stored: the values of
    phase ``i`` of pair ``p`` are ``values[start[p] + i * length[p]:][:length[p]]``, the first of them for
    ``first_lag[p]`` rows after the accepted spike. Two units are rivals up to ``reach`` all the same: who
    wins does not depend on how kernels were rounded.
    """

    neighbours: np.ndarray  # int64 (U, D), -1 where a unit has fewer
    exclusive: np.ndarray  # bool (U, D)
    kernel_out: np.ndarray  # int64 (U, D)
    values: np.ndarray  # int32
    start: np.ndarray  # int64 (P + 1,)
    first_lag: np.ndarray  # int64 (P + 1,)
    length: np.ndarray  # int64 (P + 1,)
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
        neighbours = kernel_out = np.zeros((num_units, 0), dtype=np.int64)
        exclusive = np.zeros((num_units, 0), dtype=np.bool_)
    if kernels is None:
        kernels = np.zeros((phases * (int(kernel_out.max(initial=0)) + 1), 1), dtype=np.int32)
    lag_samples = kernels.shape[1] // 2
    pairs = kernels.reshape(-1, phases, kernels.shape[1])
    matters = (pairs != 0).any(axis=1)  # (P + 1, 2 L + 1)
    first = matters.argmax(axis=1)
    stop = np.where(matters.any(axis=1), kernels.shape[1] - matters[:, ::-1].argmax(axis=1), first)
    length = stop - first
    return Graph(
        neighbours=neighbours.astype(np.int64),
        exclusive=exclusive,
        kernel_out=kernel_out.astype(np.int64),
        values=np.concatenate(
            [pair[:, a:b].reshape(-1) for pair, a, b in zip(pairs, first, stop, strict=True)]
        ),
        start=np.cumsum(length * phases) - length * phases,
        first_lag=first - lag_samples,
        length=length,
        reach=reach,
        exclusive_samples=exclusive_samples,
    )
