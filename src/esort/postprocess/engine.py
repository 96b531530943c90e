"""Which engine does the work, and the way into the compiled one for arrays in CPU memory."""

from __future__ import annotations

import importlib.util
from typing import Any

from array_api_compat import array_namespace, device, is_numpy_array, is_torch_array

from . import checks
from .fit import Fit
from .sliding import smooth
from .spikes import Spikes
from .table import ConflictTable

Array = Any
WORTH_COMPILING = 2_000_000  # values; below, loading numba takes longer than it saves


def choose_engine(engine: str, values: Array) -> str:
    """Return "array" or "numba".

    Raises
    ------
    ValueError
        "numba" was asked for without the package, or for arrays that are not in CPU memory.
    """
    if engine == "array":
        return "array"
    on_cpu = is_numpy_array(values) or (is_torch_array(values) and str(device(values)) == "cpu")
    installed = importlib.util.find_spec("numba") is not None
    if engine == "auto":
        large = values.shape[0] * values.shape[1] >= WORTH_COMPILING
        return "numba" if on_cpu and installed and large else "array"
    if not installed:
        raise ValueError("engine 'numba' needs the package numba, which is not installed")
    if not on_cpu:
        raise ValueError(
            f"engine 'numba' needs NumPy arrays or PyTorch CPU tensors, got {type(values).__name__}"
        )
    return "numba"


def detect_compiled(
    probabilities: Array,
    limits: Array,
    conflicts: ConflictTable | None,
    *,
    half_width: int,
    unit_scale: float,
    exclusion_samples: int,
    max_rounds: int,
    num_threads: int,
    first_sample: int,
    start: int,
    stop: int,
) -> Spikes:
    """Nodes behind the gate and rounds on lists; with kernels, rounds on all scores."""
    import numpy as np

    from . import compiled

    xp = array_namespace(probabilities)
    values = _contiguous(probabilities)
    half, steps = half_width, unit_scale
    rounds: dict[str, int] = {"exclusion_samples": exclusion_samples, "max_rounds": max_rounds}
    where: dict[str, int] = {"first_sample": first_sample, "start": start, "stop": stop}
    if conflicts is not None and conflicts.kernels is not None:
        checks.check_probabilities(xp, probabilities)
        scores = smooth(np.round(values * np.float32(steps)).astype(np.int32), half)
        fixed = np.ascontiguousarray(scores.T)  # (U, N)
        fit, scale = Fit(phases=conflicts.phases), steps * half**2
        return solve_fixed_compiled(
            probabilities, fixed, limits, conflicts, scale, fit=fit, **rounds, **where
        )
    nodes = compiled.find_nodes(values, np.asarray(limits), half, steps, num_threads)
    if nodes is None:  # a value outside [0, 1], or -0.0, which is 0
        checks.check_probabilities(xp, probabilities)
        nodes = compiled.find_nodes(np.abs(values), np.asarray(limits), half, steps, num_threads)
    assert nodes is not None
    sample, unit, score = nodes
    edges: dict[str, Any] = dict(rounds)
    if conflicts is not None:
        edges |= _edges(conflicts) | {"exclusive_samples": conflicts.exclusive_samples}
    accepted = compiled.solve_nodes(sample, unit, score, num_units=values.shape[1], **edges)
    sample, unit, score = sample[accepted], unit[accepted], score[accepted]
    keep = (sample >= start) & (sample < stop)
    return _collect(
        probabilities, sample[keep], unit[keep], score[keep], 1.0 / (steps * half**2), first_sample
    )


def solve_energy_compiled(
    scores: Array,
    limits: Array,
    table: ConflictTable | None,
    scale: float,
    most: int,
    **settings: Any,
) -> Spikes:
    """Pursuit with kernels, unit by unit in memory; settings as of `solve_fixed_compiled`.

    Scores that are the transpose of a C-contiguous array (U, N) are read as they lie.
    """
    import numpy as np

    from . import fixed_point

    values = scores.float().numpy() if is_torch_array(scores) else scores
    values = np.asarray(values, dtype=np.float32)
    fixed = np.empty(values.T.shape, dtype=np.int32)  # (U, N)
    if not fixed_point.by_unit(values, scale, most, fixed, 0):  # or beyond float32, where they are cut
        checks.check_finite(array_namespace(scores), scores)
    return solve_fixed_compiled(scores, fixed, limits, table, scale, **settings)


def solve_fixed_compiled(
    like: Array,
    fixed: Any,
    limits: Array,
    table: ConflictTable | None,
    scale: float,
    *,
    exclusion_samples: int,
    max_rounds: int,
    fit: Fit,
    first_sample: int,
    start: int,
    stop: int,
) -> Spikes:
    """Solve int32 scores (U, N) of NumPy; the spikes are of the library of ``like``."""
    import numpy as np

    from . import compiled_kernels

    graph = graph_of(table, scale, fixed.shape[0])
    row, unit, score, moved = compiled_kernels.solve_kernels(
        fixed, np.asarray(limits), graph, exclusion_samples=exclusion_samples, max_rounds=max_rounds, fit=fit
    )
    keep = np.nonzero((row >= start) & (row < stop))[0]
    keep = keep[np.argsort(row[keep], kind="stable")]  # the order of what falls on one sample and unit
    sample = fit.stride * row[keep] + moved[keep]
    return _collect(like, sample, unit[keep], score[keep], 1.0 / scale, first_sample)


def graph_of(table: ConflictTable | None, scale: float, num_units: int) -> Any:
    """A table as the compiled engine reads it, made once for each scale."""
    import numpy as np

    from . import compiled_graph

    if table is None:
        return compiled_graph.make_graph(num_units=num_units)
    return table.keep(
        ("graph", scale),
        lambda: compiled_graph.make_graph(
            num_units=table.num_units,
            phases=table.phases,
            kernels=None if table.kernels is None else np.asarray(table.quantise(scale)),
            kernel_out=np.asarray(table.kernel_out),
            reach=table.reach_samples,
            exclusive_samples=table.exclusive_samples,
            **_edges(table),
        ),
    )


def _contiguous(values: Array) -> Any:
    import numpy as np

    if is_torch_array(values):
        values = values.float().contiguous().numpy()  # bfloat16 has no counterpart in NumPy
    return np.ascontiguousarray(values, dtype=np.float32)


def _edges(table: ConflictTable) -> dict[str, Any]:
    import numpy as np

    return {
        "neighbours": np.asarray(table.neighbours).astype(np.int64),
        "exclusive": np.asarray(table.exclusive),
    }


def _collect(like: Array, sample: Any, unit: Any, score: Any, step: float, first_sample: int) -> Spikes:
    """Sort by sample, then unit; bring back to the library of ``like``."""
    import numpy as np

    order = np.lexsort((unit, sample))
    xp = array_namespace(like)
    return Spikes(
        sample_index=xp.asarray(sample[order].astype(np.int64) + first_sample),
        unit_index=xp.asarray(unit[order].astype(np.int64)),
        probability=xp.asarray(score[order].astype(np.float32) * np.float32(step)),
    )
