"""Shifts by fractions of a row, exact for what the band holds."""

from __future__ import annotations

import math
from typing import overload

import torch
from torch import Tensor

__all__ = ["shifted"]

# Silence on either side, so that what leaves the window at one end does not come in at the other.
_MARGIN = 16


@overload
def shifted(waveforms: Tensor, rows: float) -> Tensor: ...
@overload
def shifted(waveforms: Tensor, rows: Tensor) -> Tensor: ...
def shifted(waveforms: Tensor, rows: float | Tensor) -> Tensor:
    """Delay waveforms by a fraction of a row, or by some rows.

    Parameters
    ----------
    waveforms : float tensor, shape (..., T)
        Taken as silent beyond their ends.
    rows : float or tensor, shape (...)
        Delay; one for all or one for each of the leading entries.

    Returns
    -------
    float tensor, shape (..., T)
    """
    if waveforms.numel() == 0:
        return waveforms
    length = waveforms.shape[-1]
    padded = length + 2 * _MARGIN
    spectrum = torch.fft.rfft(waveforms, n=padded)  # (..., f)
    frequency = torch.arange(spectrum.shape[-1], dtype=torch.float64) * (2 * math.pi / padded)
    delay = torch.as_tensor(rows, dtype=torch.float64)
    delay = delay.reshape(delay.shape + (1,) * (waveforms.ndim - delay.ndim))
    turn = torch.polar(torch.ones((), dtype=torch.float64), -delay * frequency)
    return torch.fft.irfft(spectrum * turn.to(torch.complex64), n=padded)[..., :length]
