"""What the public functions accept; every refusal is one line naming what was expected and what came."""

from __future__ import annotations

import math
from typing import Any

from array_api_compat import array_namespace, device, is_jax_array

from .fit import AMPLITUDE_STEPS, MOST_AMPLITUDE, MOST_FLOAT32
from .table import ConflictTable

Array = Any


def check_scores(name: str, values: Array) -> Any:
    """Check kind, rank and dtype of (samples, units); return its namespace."""
    try:
        xp = array_namespace(values)
    except TypeError:
        raise ValueError(
            f"{name} must be a (samples, units) array of an array-API library, got {type(values).__name__}"
        ) from None
    if values.ndim != 2:
        raise ValueError(f"{name} must have shape (samples, units), got {tuple(values.shape)}")
    if not xp.isdtype(values.dtype, "real floating") and "float" not in str(
        values.dtype
    ):  # bfloat16 is no standard
        raise ValueError(f"{name} must be floating point, got {values.dtype}")
    return xp


def check_probabilities(xp: Any, probabilities: Array) -> None:
    """Refuse NaN and values outside [0, 1], naming the first."""
    if float(xp.min(probabilities)) >= 0 and float(xp.max(probabilities)) <= 1:  # neither for NaN
        return
    good = (probabilities >= 0) & (probabilities <= 1)
    sample, unit = (int(where[0]) for where in xp.nonzero(~good))
    value = float(probabilities[sample, unit])
    raise ValueError(f"probabilities must lie in [0, 1], got {value} at sample {sample} of unit {unit}")


def check_finite(xp: Any, scores: Array) -> None:
    """Refuse NaN and infinite scores, naming the first."""
    good = xp.isfinite(scores)
    if bool(xp.all(good)):
        return
    sample, unit = (int(where[0]) for where in xp.nonzero(~good))
    value = float(scores[sample, unit])
    raise ValueError(f"scores must be finite, got {value} at sample {sample} of unit {unit}")


def as_thresholds(xp: Any, thresholds: Any, like: Array, *, most: float) -> Array:
    """Return float32 (U,) of the library and device of ``like`` from one number, a list or an array.

    Raises
    ------
    ValueError
        Wrong length, a value outside (0, ``most``], another library or device than the scores.
    """
    return _as_unit_values(xp, "thresholds", thresholds, like, most)


def as_energies(xp: Any, energies: Any, like: Array) -> Array | None:
    """Do as `as_thresholds` for energies, which are finite; None is no energies."""
    if energies is None:
        return None
    return _as_unit_values(xp, "energies", energies, like, MOST_FLOAT32)


def check_amplitude_limits(limits: tuple[float, float]) -> None:
    """Refuse limits of the amplitude that do not hold 1 between them."""
    if len(limits) != 2 or not 1 / AMPLITUDE_STEPS <= limits[0] <= 1 <= limits[1] <= MOST_AMPLITUDE:
        raise ValueError(
            f"amplitude_limits must be two numbers, the first from 1/{AMPLITUDE_STEPS} to 1, the second from "
            f"1 to {MOST_AMPLITUDE}, got {limits}"
        )


def _as_unit_values(xp: Any, name: str, values: Any, like: Array, most: float) -> Array:
    num_units = like.shape[1]
    if isinstance(values, (int, float)):
        values = [float(values)] * num_units
    if isinstance(values, (list, tuple)):
        values = xp.asarray([float(value) for value in values], dtype=xp.float32, device=device(like))
    else:
        _check_same_kind(name, values, like)
    if tuple(values.shape) != (num_units,):
        raise ValueError(
            f"{name} must be one number or one for each of {num_units} units, got shape {tuple(values.shape)}"
        )
    values = xp.astype(values, xp.float32)
    good = (values > 0) & (values <= most)
    if not bool(xp.all(good)):
        unit = int(xp.nonzero(~good)[0][0])
        limits = f"(0, {most:g}]" if most < MOST_FLOAT32 else "above 0"
        if most == MOST_FLOAT32 and math.isinf(float(values[unit])):
            limits += " and finite"
        raise ValueError(f"{name} must be {limits}, got {float(values[unit])} for unit {unit}")
    return values


def check_table(table: ConflictTable | None, scores: Array) -> None:
    """Refuse a table of another number of units, library or device; None is no table."""
    if table is None:
        return
    if table.num_units != scores.shape[1]:
        raise ValueError(
            f"conflicts must be a table of {scores.shape[1]} units, got one of {table.num_units}"
        )
    _check_same_kind("conflicts", table.neighbours, scores)


def check_core(core: tuple[int, int] | None, num_samples: int) -> tuple[int, int]:
    """Return the rows whose spikes are wanted, all rows by default."""
    start, stop = (0, num_samples) if core is None else core
    if not 0 <= start <= stop <= num_samples:
        raise ValueError(
            f"core must lie within the {num_samples} samples of the array, got {start} to {stop}"
        )
    return start, stop


def check_count(name: str, value: int, *, least: int, most: int | None = None) -> None:
    """Refuse what is not a whole number of at least ``least``, or above ``most``."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if most is not None and not (whole and least <= value <= most):
        raise ValueError(f"{name} must be a whole number from {least} to {most}, got {value!r}")
    if not whole or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def check_engine(engine: str) -> None:
    """Refuse what is not the name of an engine."""
    if engine not in ("auto", "array", "numba"):
        raise ValueError(f"engine must be 'auto', 'array' or 'numba', got {engine!r}")


def widest_integer(xp: Any, like: Array) -> Any:
    """int64, except on JAX without ``jax_enable_x64``, which has none: int32."""
    if is_jax_array(like) and "int64" not in xp.__array_namespace_info__().dtypes(kind="signed integer"):
        return xp.int32
    return xp.int64


def index_dtype(xp: Any, like: Array, most: int) -> Any:
    """Return the widest integer; refuse sample indices up to ``most`` where they do not fit it."""
    integer = widest_integer(xp, like)
    if most > xp.iinfo(integer).max:
        raise ValueError(
            f"sample indices must be below {xp.iinfo(integer).max} in a library without 64-bit integers, "
            f"got up to {most}; for JAX set jax_enable_x64"
        )
    return integer


def _check_same_kind(name: str, values: Any, like: Array) -> None:
    try:
        array_namespace(values, like)
    except TypeError:
        raise ValueError(
            f"{name} must be of the library of the scores, {_library(like)}, got {_library(values)}"
        ) from None
    if str(device(values)) != str(device(like)):
        raise ValueError(f"{name} must be on the device of the scores, {device(like)}, got {device(values)}")


def _library(values: Any) -> str:
    return type(values).__module__.split(".")[0]
