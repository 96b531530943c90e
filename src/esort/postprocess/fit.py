"""What an accepted spike is fitted by: where between two samples it lies, and how large it is.

Everything is 32-bit integers, so that the result is the same everywhere, JAX without 64-bit integers
included. Shapes: N samples, U units, S accepted spikes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace

Array = Any
SLOPE_BITS = 20  # of slopes and energies; times at most 2 ** 9 phases, strides or steps of amplitude
AMPLITUDE_STEPS = 64  # to an amplitude of 1
MOST_AMPLITUDE = 8
MOST_STRIDE = 512
MOST_FLOAT32 = (2.0 - 2.0**-23) * 2.0**127


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """What is fitted of accepted spikes.

    Attributes
    ----------
    phases : int
        Kernels of a pair, for as many positions of the spike within half a row of its own.
    stride : int
        Samples of the recording per row.
    energies : int32 array (U,), or None
        Of each unit, in the fixed point of the scores shifted right by ``shifts``. None: no amplitude but 1.
    shifts : int32 array (U,), or None
    least, most : int
        Limits of the amplitude in steps of 1 / 64.
    """

    phases: int
    stride: int = 1
    energies: Array | None = None
    shifts: Array | None = None
    least: int = AMPLITUDE_STEPS
    most: int = AMPLITUDE_STEPS

    @classmethod
    def make(
        cls,
        *,
        phases: int,
        stride: int,
        energies: Array | None,
        amplitude_limits: tuple[float, float],
        scale: float,
    ) -> Fit:
        """Put ``energies``, float32 (U,), into the fixed point of scores of ``scale`` steps."""
        if energies is None:
            return cls(phases=phases, stride=stride)
        xp = array_namespace(energies)
        fixed = xp.clip(energies, 0.0, min(2.0**50 / scale, MOST_FLOAT32)) * scale
        fixed = xp.clip(fixed, 1.0, 2.0**50)
        shifts = xp.zeros_like(energies, dtype=xp.int32)
        for step in (16, 8, 4, 2, 1):  # halved, exactly, until it is below 2 ** 20
            large = fixed >= 2.0 ** (SLOPE_BITS - 1 + step)
            fixed = xp.where(large, fixed * 2.0**-step, fixed)
            shifts = shifts + xp.astype(large, xp.int32) * step
        least, most = amplitude_steps(amplitude_limits)
        return cls(
            phases=phases,
            stride=stride,
            energies=xp.astype(xp.round(fixed), xp.int32),
            shifts=shifts,
            least=least,
            most=most,
        )

    def phase(self, xp: Any, rise: Array, fall: Array) -> Array:
        """Which of the phases the vertex of the parabola lies in."""
        phase = self.phases * rise // (rise + fall)
        return xp.where(phase < self.phases, phase, self.phases - 1)

    def samples(self, xp: Any, rise: Array, fall: Array) -> Array:
        """``stride`` times the offset of the vertex, to the nearest integer, halves towards 0."""
        whole = rise + fall
        size = (self.stride * xp.abs(rise - fall) + whole - 1) // (2 * whole)
        return xp.where(rise < fall, -size, size)

    def amplitude(self, xp: Any, score: Array, energy: Array, shift: Array) -> Array:
        """Amplitude in 64ths: the score over the energy and a half, within the limits."""
        part = score >> shift
        bound = MOST_AMPLITUDE * energy
        part = xp.where(part < bound, part, bound)
        steps = (AMPLITUDE_STEPS * part + energy // 2) // energy + AMPLITUDE_STEPS // 2
        steps = xp.where(steps < self.most, steps, self.most)
        return xp.where(steps > self.least, steps, self.least)


def amplitude_steps(limits: tuple[float, float]) -> tuple[int, int]:
    """Limits of the amplitude in 64ths."""
    return round(limits[0] * AMPLITUDE_STEPS), round(limits[1] * AMPLITUDE_STEPS)


def slopes(xp: Any, score: Array, before: Array, after: Array, known: Array) -> tuple[Array, Array]:
    """How far the score lies above the row before and the row after it.

    Both are shifted right by the least common number of bits that leaves them below 2 ** 20; both are 1, a
    vertex in the middle, where one of the rows is not ``known``. A node is above the row before it: never
    are both 0.
    """
    rise = xp.where(known, score - before, 1)
    fall = xp.where(known, score - after, 1)
    most = xp.maximum(rise, fall)
    shift = xp.zeros_like(most)
    for step in (8, 4, 2, 1):
        bits = xp.astype(most >= 2 ** (SLOPE_BITS - 1 + step), xp.int32) * step
        most = most >> bits
        shift = shift + bits
    return rise >> shift, fall >> shift
