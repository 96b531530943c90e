"""Shifts by fractions of a row, exact for what the band holds."""

from __future__ import annotations

import math
from typing import Any, TypeVar

from array_api_compat import array_namespace

__all__ = ["shifted"]

# Silence on either side, so that what leaves the window at one end does not come in at the other.
_MARGIN = 16

_Array = TypeVar("_Array")


def shifted(waveforms: _Array, rows: Any) -> _Array:
    """Delay waveforms by a fraction of a row, or by some rows.

    Parameters
    ----------
    waveforms : float array, shape (..., T)
        Taken as silent beyond their ends.
    rows : float or array, shape (...)
        Delay; one for all or one for each of the leading entries.

    Returns
    -------
    float array, shape (..., T)
        Of the kind of the waveforms: NumPy's or PyTorch's.
    """
    given: Any = waveforms
    if not math.prod(given.shape):
        return waveforms
    xp = array_namespace(given)
    length = given.shape[-1]
    padded = length + 2 * _MARGIN
    spectrum = xp.fft.rfft(given, n=padded)  # (..., f)
    frequency = xp.arange(spectrum.shape[-1], dtype=xp.float64) * (2 * math.pi / padded)
    delay = xp.asarray(rows, dtype=xp.float64)
    delay = xp.reshape(delay, delay.shape + (1,) * (given.ndim - delay.ndim))
    turn = xp.astype(xp.exp(-1j * (delay * frequency)), xp.complex64)
    result: _Array = xp.fft.irfft(spectrum * turn, n=padded)[..., :length]
    return result
