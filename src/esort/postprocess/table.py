"""The edges of the conflict graph: who excludes whom, and who lowers whose score by how much."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from array_api_compat import array_namespace, device

Array = Any
MOST_PHASES = 512  # so that 20 bits of a slope times the phases fit 32 bits


@dataclass(frozen=True, eq=False)
class ConflictTable:
    """Edges between units, sparse over the pairs; build it with `from_pairs`.

    The relation is symmetric: two units that stand in a pair, in either order, compete wherever their
    kernel or their exclusive window reaches. Shapes: U units, D neighbours at the most, P pairs, L
    lag_samples.

    Attributes
    ----------
    num_units : int
    neighbours : integer array (U, D)
        The units that a unit competes with, ascending; -1 where it has fewer than D.
    exclusive : bool array (U, D)
        The two may not both fire within ``exclusive_samples``.
    kernel_out, kernel_in : integer arrays (U, D)
        Row in ``kernels`` of what the unit does to its neighbour, and the neighbour to it; P (zeros) if
        nothing.
    kernels : float32 array (P, 2 L + 1) or (P, phases, 2 L + 1), or None
        At ``[p, L + lag]`` how much the lowered unit's score falls ``lag`` samples after the accepted spike.
    lag_samples, exclusive_samples : int
    phases : int
        Sub-sample positions of the accepted spike that the kernels tell apart.
    """

    num_units: int
    neighbours: Array
    exclusive: Array
    kernel_out: Array
    kernel_in: Array
    kernels: Array | None
    lag_samples: int
    exclusive_samples: int
    has_exclusive: bool
    max_kernel: float
    max_lowering: float  # of one unit's score by one spike of each neighbour
    phases: int = 1
    _kept: dict[tuple[str, float], Any] = field(default_factory=dict, repr=False)

    @property
    def max_degree(self) -> int:
        """Columns of the arrays (U, D)."""
        return int(self.neighbours.shape[1])

    @property
    def reach_samples(self) -> int:
        """Lags up to which neighbours compete."""
        return max(self.lag_samples, self.exclusive_samples)

    @classmethod
    def from_pairs(
        cls,
        num_units: int,
        pairs: Array,
        kernels: Array | None = None,
        *,
        exclusive: Array | None = None,
        exclusive_samples: int = 0,
    ) -> ConflictTable:
        """Build the table from a list of ordered pairs.

        Parameters
        ----------
        num_units : int
        pairs : integer array (P, 2)
            Columns (accepted, lowered). An unordered conflict may be given once; of a symmetric overlap
            give both orders. (a, a) is the overlap of a unit with itself.
        kernels : float array (P, 2 L + 1) or (P, phases, 2 L + 1), optional
            How much the score of the lowered unit falls, from L samples before to L after the accepted spike.
            For energy scores <x, T> - |T|^2 / 2 the Gram values <T_lowered shifted by lag, T_accepted>.
            With phases, ``[p, i]`` is for accepted spikes from ``i / phases - 1/2`` to ``(i + 1) / phases -
            1/2`` samples after their sample, as a parabola through the score and its two neighbours says;
            make it for the middle of that. At most 512 phases.
        exclusive : bool array (P,), optional
            The pairs that may not both fire within ``exclusive_samples``. Default: all if there are no
            kernels, else none.
        exclusive_samples : int
            Spikes of an exclusive pair are more than this far apart.

        Raises
        ------
        ValueError
            Wrong shapes, a unit outside ``0 ... num_units - 1``, a pair given twice, an exclusive pair of a
            unit with itself, kernels that are not finite, arrays of several libraries or devices.
        """
        arrays = [array for array in (pairs, kernels, exclusive) if array is not None]
        xp = _one_namespace(arrays)
        if pairs.ndim != 2 or pairs.shape[1] != 2 or not xp.isdtype(pairs.dtype, "integral"):
            raise ValueError(
                f"pairs must be integers of shape (pairs, 2), got {pairs.dtype} {tuple(pairs.shape)}"
            )
        num_pairs, like = int(pairs.shape[0]), device(pairs)
        if num_pairs and (int(xp.min(pairs)) < 0 or int(xp.max(pairs)) >= num_units):
            raise ValueError(
                f"pairs must name units from 0 to {num_units - 1}, "
                f"got {int(xp.min(pairs))} to {int(xp.max(pairs))}"
            )
        if exclusive_samples < 0:
            raise ValueError(f"exclusive_samples must be at least 0, got {exclusive_samples}")
        phases, lag_samples = _check_kernels(xp, kernels, num_pairs)
        if exclusive is None:
            exclusive = xp.full((num_pairs,), kernels is None, dtype=xp.bool, device=like)
        if tuple(exclusive.shape) != (num_pairs,):
            raise ValueError(
                f"exclusive must have one value for each of {num_pairs} pairs, got {tuple(exclusive.shape)}"
            )
        if bool(xp.any(exclusive & (pairs[:, 0] == pairs[:, 1]))):
            raise ValueError(
                "exclusive pairs must be of two units, got a unit with itself: use the exclusion period"
            )

        key = pairs[:, 0] * num_units + pairs[:, 1]  # (P,)
        mirrored = pairs[:, 1] * num_units + pairs[:, 0]
        relation = xp.unique_values(xp.concat([key, mirrored]))  # (E,) both directions of each edge
        if int(xp.unique_values(key).shape[0]) != num_pairs:
            raise ValueError(f"pairs must be given once each, got {num_pairs} with repetitions")
        relation = xp.sort(relation)
        units = xp.arange(num_units, dtype=relation.dtype, device=like)
        first = xp.searchsorted(relation, units * num_units)  # (U,)
        degree = xp.searchsorted(relation, (units + 1) * num_units) - first
        width = max(int(xp.max(degree)), 1) if num_units else 1
        column = xp.arange(width, dtype=first.dtype, device=like)
        exists = column[None, :] < degree[:, None]  # (U, D)
        if num_pairs == 0:
            neighbours = xp.full((num_units, width), -1, dtype=relation.dtype, device=like)
            nothing = xp.zeros((num_units, width), dtype=relation.dtype, device=like)
            return cls(
                num_units,
                neighbours,
                exists,
                nothing,
                nothing,
                kernels,
                lag_samples,
                exclusive_samples,
                False,
                0.0,
                0.0,
                phases,
            )
        place = xp.reshape(xp.where(exists, first[:, None] + column[None, :], 0), (-1,))
        edge = xp.reshape(xp.take(relation, place), exists.shape)  # (U, D) keys unit * U + neighbour
        neighbours = xp.where(exists, edge - units[:, None] * num_units, -1)
        backward = xp.where(exists, neighbours * num_units + units[:, None], 0)
        order = xp.argsort(key)
        kernel_out = _find(xp, key, order, edge, exists)
        kernel_in = _find(xp, key, order, backward, exists)
        padded = xp.concat([exclusive, xp.zeros((1,), dtype=xp.bool, device=like)])
        either = _take(xp, padded, kernel_out) | _take(xp, padded, kernel_in)
        max_kernel = max_lowering = 0.0
        if kernels is not None:
            kernels = xp.astype(kernels, xp.float32)
            peak = xp.max(xp.reshape(xp.abs(kernels), (num_pairs, -1)), axis=1)  # (P,)
            max_kernel = float(xp.max(peak))
            peak = xp.concat([peak, xp.zeros((1,), dtype=peak.dtype, device=like)])
            max_lowering = float(xp.max(xp.sum(_take(xp, peak, kernel_in), axis=1)))
        return cls(
            num_units=num_units,
            neighbours=neighbours,
            exclusive=either,
            kernel_out=kernel_out,
            kernel_in=kernel_in,
            kernels=kernels,
            lag_samples=lag_samples,
            exclusive_samples=exclusive_samples,
            has_exclusive=bool(xp.any(either)),
            max_kernel=max_kernel,
            max_lowering=max_lowering,
            phases=phases,
        )

    def quantise(self, scale: float) -> Array | None:
        """Kernels times ``scale`` as int32, None without kernels.

        The phases of a pair are rows one after the other; behind those of the last pair are rows of zeros:
        ((P + 1) phases, 2 L + 1).
        """
        if self.kernels is None:
            return None
        xp = array_namespace(self.kernels)
        rounded = xp.astype(xp.round(self.kernels * scale), xp.int32)
        rounded = xp.reshape(rounded, (-1, 2 * self.lag_samples + 1))  # (P phases, 2 L + 1)
        zeros = xp.zeros((self.phases, rounded.shape[1]), dtype=xp.int32, device=device(rounded))
        return xp.concat([rounded, zeros])

    def quantise_once(self, scale: float) -> Array | None:
        """Do as `quantise` and keep the result for the next chunk; not while a compiler traces the call."""
        return self.keep(("kernels", scale), lambda: self.quantise(scale))

    def keep(self, key: tuple[str, float], make: Callable[[], Any]) -> Any:
        """What ``make`` returned when it was last called for ``key``; it replaces what was kept before."""
        try:
            return self._kept[key]
        except KeyError:
            made = make()
            self._kept.clear()
            self._kept[key] = made
            return made

    def lowering_bound(self, exclusion_samples: int) -> float:
        """No score can be lowered, or raised, by more than this, however many spikes are accepted around it.

        Spikes of one unit are at least ``exclusion_samples`` apart, so that at most 2 L //
        exclusion_samples + 1 of each neighbour reach a sample.
        """
        return self.max_lowering * (2 * self.lag_samples // exclusion_samples + 1)


def scale_for(largest: float, most: int = 2**30) -> float:
    """The greatest power of two by which ``largest`` may be multiplied without passing ``most``."""
    return 2.0 ** math.floor(math.log2(most / largest))


def _one_namespace(arrays: list[Array]) -> Any:
    try:
        xp = array_namespace(*arrays)
    except TypeError as error:
        raise ValueError(f"arrays must all be of one array library: {error}") from None
    if len({str(device(array)) for array in arrays}) > 1:
        raise ValueError(f"arrays must all be on one device, got {sorted({str(device(a)) for a in arrays})}")
    return xp


def _check_kernels(xp: Any, kernels: Array | None, num_pairs: int) -> tuple[int, int]:
    """Return the number of phases and the lag samples."""
    if kernels is None:
        return 1, 0
    if kernels.ndim not in (2, 3) or kernels.shape[0] != num_pairs or kernels.shape[-1] % 2 == 0:
        raise ValueError(
            f"kernels must have shape ({num_pairs} pairs, odd number of lags) or ({num_pairs} pairs, phases, "
            f"odd number of lags), got {tuple(kernels.shape)}"
        )
    phases = int(kernels.shape[1]) if kernels.ndim == 3 else 1
    if not 1 <= phases <= MOST_PHASES:
        raise ValueError(f"kernels must have from 1 to {MOST_PHASES} phases, got {phases}")
    if not xp.isdtype(kernels.dtype, "real floating") or not bool(xp.all(xp.isfinite(kernels))):
        raise ValueError(
            f"kernels must be finite floating point values, got {kernels.dtype} with other values"
        )
    return phases, int(kernels.shape[-1]) // 2


def _take(xp: Any, values: Array, place: Array) -> Array:
    return xp.reshape(xp.take(values, xp.reshape(place, (-1,))), place.shape)


def _find(xp: Any, key: Array, order: Array, wanted: Array, exists: Array) -> Array:
    """Positions of ``wanted`` in ``key``; the number of keys where it is absent."""
    num_pairs = int(key.shape[0])
    flat = xp.reshape(wanted, (-1,))
    place = xp.searchsorted(xp.take(key, order), flat)
    place = xp.where(place < num_pairs, place, 0)
    found = xp.take(order, place)
    same = (xp.take(key, found) == flat) & xp.reshape(exists, (-1,))
    return xp.reshape(xp.where(same, found, num_pairs), wanted.shape)
