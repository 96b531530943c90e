"""What the post-processing has to give, by loops over Python integers, and the libraries to give it on."""

import math
from fractions import Fraction

import numpy as np

LIBRARIES = ["numpy", "torch", "jax", "array_api_strict"]
ENGINES = [*[(library, "array") for library in LIBRARIES], ("numpy", "numba"), ("torch", "numba")]


def to_library(values, library):
    """Convert a NumPy array; None stays None."""
    if values is None or library == "numpy":
        return values
    if library == "torch":
        import torch

        return torch.from_numpy(np.ascontiguousarray(values))
    if library == "jax":
        import jax

        jax.config.update(
            "jax_disable_most_optimizations", True
        )  # every operation is compiled for every shape
        return jax.numpy.asarray(values)
    import array_api_strict

    return array_api_strict.asarray(values)


def as_lists(spikes):
    """Spikes of any library as a list of (sample, unit, probability)."""
    columns = (spikes.sample_index, spikes.unit_index, spikes.probability)
    return list(zip(*(np.asarray(column).tolist() for column in columns), strict=True))


def loop_scores(probabilities, half_width, bits):
    """Integer scores by the definition: weights 1, 2, ..., h, ..., 2, 1, zeros beyond the ends."""
    num_samples, num_units = probabilities.shape
    rounded = [[round(float(value) * 2**bits) for value in row] for row in probabilities]  # half to even
    scores = [[0] * num_units for _ in range(num_samples)]
    for sample in range(num_samples):
        for unit in range(num_units):
            for lag in range(-half_width + 1, half_width):
                if 0 <= sample + lag < num_samples:
                    scores[sample][unit] += (half_width - abs(lag)) * rounded[sample + lag][unit]
    return scores


def probability_bits(half_width, lowering=0.0):
    return min(12, math.floor(math.log2(2**30 / (half_width**2 * (1 + lowering)))))


class Edges:
    """The conflict graph between units, as dictionaries."""

    def __init__(self, pairs=(), kernels=None, exclusive=None, window=0):
        self.related, self.exclusive, self.kernels = set(), set(), {}
        self.window = window
        self.lag = 0 if kernels is None else np.shape(kernels)[-1] // 2
        self.phases = 1 if np.ndim(kernels) < 3 else np.shape(kernels)[1]
        for position, (a, b) in enumerate(pairs):
            self.related |= {(a, b), (b, a)}
            if kernels is not None:
                rows = kernels[position]  # (2 L + 1,), or (phases, 2 L + 1)
                self.kernels[a, b] = rows if isinstance(rows[0], list) else [rows]
            if kernels is None if exclusive is None else exclusive[position]:
                self.exclusive |= {(a, b), (b, a)}
        self.reach = max(self.lag, window)


def energy_scale(table, exclusion, most_amplitude=None):
    """Steps of the fixed point of `solve_conflicts` where ``largest_score`` is not given."""
    largest = max(4 * table.max_kernel, table.lowering_bound(exclusion) * (most_amplitude or 1))
    scale = 2.0 ** math.floor(math.log2(2**28 / largest))
    if most_amplitude is not None:
        scale = min(scale, 2.0 ** math.floor(math.log2(2**30 / (table.max_kernel * most_amplitude * 64))))
    return scale


def vertex(column, sample):
    """Offset of the parabola through three integer scores from the middle one, low bits dropped."""
    if not 0 < sample < len(column) - 1:
        return Fraction(0)
    slopes = [column[sample] - column[sample - 1], column[sample] - column[sample + 1]]
    while max(slopes) >= 2**20:
        slopes = [slope >> 1 for slope in slopes]
    return Fraction(slopes[0], sum(slopes)) - Fraction(1, 2)


def nearest_integer(value):
    """The nearest integer, halves towards 0."""
    return min((math.floor(value), math.ceil(value)), key=lambda whole: (abs(value - whole), abs(whole)))


def amplitude_in_64ths(score, energy, limits):
    """Score over energy and a half; the energy, in steps of the scores, rounded to 20 bits."""
    energy, dropped = Fraction(energy), 0
    while energy >= 2**20:
        energy, dropped = energy / 2, dropped + 1
    amplitude = Fraction(score >> dropped, max(1, round(energy))) + Fraction(1, 2)
    least, most = (round(64 * limit) for limit in limits)
    return min(max(math.floor(64 * amplitude + Fraction(1, 2)), least), most)


def loop_rounds(
    scores, limits, *, exclusion, max_rounds, edges=None, stride=1, energies=None, amplitude_limits=(1, 1)
):
    """Rounds over lists of nodes, every node compared with every other one; returns (sample, unit, score)."""
    edges = edges or Edges()
    scores = [list(row) for row in scores]
    num_samples, num_units = len(scores), len(limits)
    accepted, barred = [], set()

    def is_node(sample, unit):
        score = scores[sample][unit]
        return (
            score >= limits[unit]
            and (sample, unit) not in barred
            and (sample == 0 or score > scores[sample - 1][unit])
            and (sample == num_samples - 1 or score >= scores[sample + 1][unit])
        )

    def rivals(one, other):
        distance = abs(one[0] - other[0])
        same = one[1] == other[1] and distance < exclusion
        return same or ((one[1], other[1]) in edges.related and distance <= edges.reach)

    for _ in range(max_rounds):
        live = [(t, u) for t in range(num_samples) for u in range(num_units) if is_node(t, u)]
        rank = {node: (-scores[node[0]][node[1]], *node) for node in live}
        winners = [
            node for node in live if all(rank[node] <= rank[other] for other in live if rivals(node, other))
        ]
        offsets = [vertex([row[u] for row in scores], t) for t, u in winners]
        heights = [scores[t][u] for t, u in winners]
        for (sample, unit), offset, height in zip(winners, offsets, heights, strict=True):
            accepted.append((stride * sample + nearest_integer(stride * offset), unit, sample, height))
            phase = min(edges.phases - 1, math.floor(edges.phases * (offset + Fraction(1, 2))))
            size = 64
            if energies is not None:
                size = amplitude_in_64ths(height, energies[unit], amplitude_limits)
            barred |= {(t, unit) for t in range(sample - exclusion + 1, sample + exclusion)}
            for other in range(num_units):
                if (unit, other) in edges.exclusive:
                    barred |= {(t, other) for t in range(sample - edges.window, sample + edges.window + 1)}
                rows = edges.kernels.get((unit, other))
                for position, amount in enumerate(rows[phase] if rows else ()):
                    when = sample + position - edges.lag
                    if 0 <= when < num_samples:
                        scores[when][other] -= (size * amount + 32) // 64
    return [(sample, unit, height) for sample, unit, _, height in sorted(accepted)]
