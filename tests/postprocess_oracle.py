"""What the post-processing has to give, by loops over Python integers, and the libraries to give it on."""

import math

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
        self.lag = 0 if kernels is None else len(kernels[0]) // 2
        for position, (a, b) in enumerate(pairs):
            self.related |= {(a, b), (b, a)}
            if kernels is not None:
                self.kernels[a, b] = kernels[position]
            if kernels is None if exclusive is None else exclusive[position]:
                self.exclusive |= {(a, b), (b, a)}
        self.reach = max(self.lag, window)


def loop_rounds(scores, limits, *, exclusion, max_rounds, edges=None):
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
        accepted += [(t, u, scores[t][u]) for t, u in winners]
        for sample, unit in winners:
            barred |= {(t, unit) for t in range(sample - exclusion + 1, sample + exclusion)}
            for other in range(num_units):
                if (unit, other) in edges.exclusive:
                    barred |= {(t, other) for t in range(sample - edges.window, sample + edges.window + 1)}
                for position, amount in enumerate(edges.kernels.get((unit, other), ())):
                    when = sample + position - edges.lag
                    if 0 <= when < num_samples:
                        scores[when][other] -= amount
    return sorted(accepted)
