"""Scores as the network `pursuit` makes them, of a recording made for it, and the speed of their pursuit.

    python benchmarks/pursuit.py                    # 90 units and 300 units: about two minutes

Units lie along a line of channels. A template is a fast spike near its unit and a slow after-potential
further around it; noise has sigma 1. Recordings are made at 32 kHz, every third sample is a row of
scores <x, T> - |T|^2 / 2, and spikes lie anywhere between samples and differ in amplitude. Kernels hold
the overlap of templates for 8 phases of the accepted spike; lags at their ends where it is below a
fraction of the noise are zero. `benchmarks/postprocess.py` takes its figures from here.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from scipy.signal import fftconvolve

from esort.postprocess import ConflictTable, solve_conflicts
from esort.postprocess.stepwise import StepSizes, StepwiseSolver

STRIDE = 3
ROW_RATE_HZ = 32_000.0 / STRIDE
PHASES = 8
LAG_ROWS = 78
FINE = 16  # points of a template per row: the middles of 8 phases lie on them
PITCH_UM = 20.0
LEAST_OVERLAP = 1.0  # what overlaps less, of any lag at the ends of a kernel, is left out


@dataclass(frozen=True)
class Pursuit:
    """What `solve_conflicts` is given, and the truth.

    Attributes
    ----------
    scores : float32 array (rows, U), the transpose of a C-contiguous array
    pairs, kernels, thresholds, energies : as of `ConflictTable.from_pairs` and `solve_conflicts`
    sample, unit, amplitude : arrays (S,)
        The spikes put in, sorted by sample; samples of 32 kHz.
    """

    scores: np.ndarray
    pairs: np.ndarray
    kernels: np.ndarray
    thresholds: np.ndarray
    energies: np.ndarray
    sample: np.ndarray
    unit: np.ndarray
    amplitude: np.ndarray

    def table(self):
        """Edges between the units."""
        return ConflictTable.from_pairs(self.scores.shape[1], self.pairs, self.kernels)

    def solve(self, table, **options):
        """Spikes of the scores, at least 1 ms apart in each unit."""
        settings = {
            "thresholds": self.thresholds,
            "energies": self.energies,
            "exclusion_samples": round(0.001 * ROW_RATE_HZ),
            "stride": STRIDE,
        }
        return solve_conflicts(self.scores, table, **(settings | options))


def make_pursuit(seed, *, num_units, num_neighbours, num_rows, rate_hz=10.0):
    """Draw templates, spikes and noise, and compute scores and kernels."""
    rng = np.random.default_rng(seed)
    reach_um = 200.0
    length_um = 2 * reach_um * num_units / num_neighbours
    depth_um = np.sort(rng.uniform(0, length_um, num_units))
    contacts_um = np.arange(0.0, length_um, PITCH_UM)
    shapes = fine_shapes(rng, num_units)  # (U, 2, points)
    footprints = make_footprints(rng, depth_um, contacts_um)  # (U, 2, C)
    rows = shapes[:, :, FINE // 2 :: FINE]  # (U, 2, rows of a template), its middle is a row
    energy = np.einsum("uip,ujp,uic,ujc->u", rows, rows, footprints, footprints, optimize=True)
    norm = rng.uniform(6.0, 25.0, num_units)
    footprints *= (norm / np.sqrt(energy))[:, None, None]
    energies = norm**2

    sample, unit = draw_spikes(rng, num_rows, num_units, rate_hz)
    amplitude = rng.normal(1.0, 0.08, len(sample)).clip(0.75, 1.3)
    traces = rng.standard_normal((num_rows, len(contacts_um)))
    half = LAG_ROWS // 2
    for when, who, size in zip(sample, unit, amplitude, strict=True):
        row = round(when / STRIDE)
        shift = round((when / STRIDE - row) * FINE)  # later on the fine grid
        shape = np.roll(shapes[who], shift, axis=1)[:, FINE // 2 :: FINE]  # (2, rows of a template)
        traces[row - half : row + half + 1] += size * shape.T @ footprints[who]
    scores = np.empty((num_units, num_rows), dtype=np.float32)
    for who in range(num_units):
        near = slice(*np.searchsorted(contacts_um, depth_um[who] + [-300.0, 300.0]))
        projected = traces[:, near] @ footprints[who, :, near].T  # (N, 2)
        filtered = [fftconvolve(projected[:, k], rows[who, k, ::-1], mode="same") for k in range(2)]
        scores[who] = filtered[0] + filtered[1] - energies[who] / 2
    pairs, kernels = make_kernels(shapes, footprints, depth_um, reach_um)
    return Pursuit(
        scores=scores.T,
        pairs=pairs,
        kernels=kernels,
        thresholds=np.maximum(0.1 * energies, np.maximum(7.3, 4.3 * norm - energies / 2)).astype(np.float32),
        energies=energies.astype(np.float32),
        sample=sample,
        unit=unit,
        amplitude=amplitude,
    )


def fine_shapes(rng, num_units):
    """Fast and slow part of each unit at FINE points a row, (U, 2, points): zero at the ends."""
    points = (LAG_ROWS + 1) * FINE
    time_ms = (np.arange(points) - points // 2) / FINE / ROW_RATE_HZ * 1000.0
    width = rng.uniform(0.08, 0.18, (num_units, 1))
    fast = -np.exp(-0.5 * (time_ms / width) ** 2) + 0.35 * np.exp(-0.5 * ((time_ms - 0.35) / 0.15) ** 2)
    delay, slow = rng.uniform(0.5, 1.0, (num_units, 1)), rng.uniform(0.4, 0.9, (num_units, 1))
    after = np.exp(-0.5 * ((time_ms - delay) / slow) ** 2)
    return np.stack([fast, 0.25 * after], axis=1)


def make_footprints(rng, depth_um, contacts_um):
    """Weight of the two parts on each channel, (U, 2, C)."""
    distance = contacts_um[None, :] - depth_um[:, None]
    spread = rng.uniform([20.0, 35.0], [40.0, 60.0], (len(depth_um), 2))  # µm
    footprints = np.exp(-0.5 * (distance[:, None, :] / spread[:, :, None]) ** 2)
    return footprints * np.exp(0.3 * rng.standard_normal(footprints.shape))


def draw_spikes(rng, num_rows, num_units, rate_hz):
    """Spikes of every unit, 1.5 ms apart at the least, away from the ends: samples of 32 kHz, and units."""
    sample, unit = [], []
    for who in range(num_units):
        when = np.sort(
            rng.integers(
                STRIDE * LAG_ROWS,
                STRIDE * (num_rows - LAG_ROWS),
                rng.poisson(rate_hz * num_rows / ROW_RATE_HZ),
            )
        )
        when = when[np.diff(when, prepend=-10_000) > 0.0015 * STRIDE * ROW_RATE_HZ]
        sample.append(when)
        unit.append(np.full(len(when), who))
    sample, unit = np.concatenate(sample), np.concatenate(unit)
    order = np.argsort(sample, kind="stable")
    return sample[order], unit[order]


def make_kernels(shapes, footprints, depth_um, reach_um):
    """Pairs of near units and <T_b lag rows later, T_a at the middle of a phase>, (P, phases, 2 L + 1)."""
    near = np.abs(depth_um[:, None] - depth_um[None, :]) <= reach_um
    pairs = np.argwhere(near)
    size = 1 << (2 * shapes.shape[2] - 1).bit_length()
    spectra = np.fft.rfft(shapes, size, axis=2)
    kernels = np.zeros((len(pairs), PHASES, 2 * LAG_ROWS + 1), dtype=np.float32)
    # A spike of phase i is (i + 1/2) / phases - 1/2 rows late: lags from it are that much shorter.
    late = ((np.arange(PHASES) + 0.5) / PHASES - 0.5) * FINE
    lags = np.arange(-LAG_ROWS, LAG_ROWS + 1) * FINE
    place = (lags[None, :] - late[:, None]).astype(int) % size  # (phases, 2 L + 1)
    for row, (a, b) in enumerate(pairs):
        weight = footprints[a] @ footprints[b].T  # (2, 2)
        product = np.einsum("if,jf,ij->f", spectra[a], spectra[b].conj(), weight)
        overlap = np.fft.irfft(product, size) / FINE
        # overlap[m] = sum over t of T_a(t + m) T_b(t): T_b lies m points after T_a, so m is the lag.
        kernels[row] = overlap[place]
        matters = np.flatnonzero(np.abs(kernels[row]).max(axis=0) >= LEAST_OVERLAP)
        first, stop = (matters[0], matters[-1] + 1) if len(matters) else (0, 0)
        kernels[row, :, :first] = kernels[row, :, stop:] = 0
    kept = np.abs(kernels).max(axis=(1, 2)) > 0
    return pairs[kept], kernels[kept]


def count_found(pursuit, spikes, tolerance_samples=13):
    """How many of the spikes put in were found within 0.4 ms, each found spike counted once."""
    found = 0
    for who in range(pursuit.scores.shape[1]):
        free = [int(when) for when in spikes.sample_index[spikes.unit_index == who]]
        for when in pursuit.sample[pursuit.unit == who]:
            near = [other for other in free if abs(other - when) <= tolerance_samples]
            if near:
                free.remove(min(near, key=lambda other: abs(other - when)))
                found += 1
    return found


def measure(*, num_units, num_neighbours, rate_hz, repeats=25):
    """Best wall time of one thread for a second of rows, and what was found."""
    pursuit = make_pursuit(
        1, num_units=num_units, num_neighbours=num_neighbours, num_rows=int(ROW_RATE_HZ), rate_hz=rate_hz
    )
    table = pursuit.table()
    spikes = pursuit.solve(table, engine="numba")  # compile, load, put the kernels into fixed point
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        pursuit.solve(table, engine="numba")
        seconds.append(time.perf_counter() - begin)
    return {
        "num_units": num_units,
        "neighbours": len(pursuit.pairs) / num_units,
        "lags_that_matter": float((pursuit.kernels != 0).any(axis=1).sum(axis=1).mean()),
        "num_true": len(pursuit.sample),
        "num_spikes": len(spikes),
        "num_found": count_found(pursuit, spikes),
        "best_ms": 1000.0 * min(seconds),
        "median_ms": 1000.0 * float(np.median(seconds)),
    }


def measure_all():
    """Small and large probe, and the large one as silent as the small."""
    cases = [(90, 30, 10.0), (300, 40, 3.0), (300, 40, 10.0)]
    return [measure(num_units=u, num_neighbours=d, rate_hz=r) for u, d, r in cases]


def measure_long(*, num_units=300, num_neighbours=40, rate_hz=3.0, duration_s=50, num_threads=1):
    """Wall time of what `sort.py` does after the network: scores second by second, decided step by step.

    Two seconds of scores are made, and come again and again. Each thread takes a stretch of the time.
    """
    pursuit = make_pursuit(
        2, num_units=num_units, num_neighbours=num_neighbours, num_rows=int(2 * ROW_RATE_HZ), rate_hz=rate_hz
    )
    table = pursuit.table()
    halves = np.array_split(pursuit.scores, 2)
    parts = [np.ascontiguousarray(half.T).T for half in halves]  # as a network gives them
    step = round(0.005 * ROW_RATE_HZ)  # 5 ms, as `esort.pursuit.detector` has it
    sizes = StepSizes(
        step=step, ahead=step, behind=round(0.001 * ROW_RATE_HZ), epoch=200 * step, warm_up=10 * step
    )

    def decide(seconds):
        solver = StepwiseSolver(
            table,
            thresholds=pursuit.thresholds,
            energies=pursuit.energies,
            sizes=sizes,
            exclusion_samples=round(0.001 * ROW_RATE_HZ),
            max_rounds=12,
            amplitude_limits=(0.7, 1.4),
            stride=STRIDE,
        )
        count = 0
        for second in range(seconds):
            count += len(solver.push(parts[second % 2]))
        return count + len(solver.finish())

    decide(1)  # compile, load, put the kernels into fixed point
    with ThreadPoolExecutor(num_threads) as pool:
        begin = time.perf_counter()
        counts = list(pool.map(decide, [duration_s // num_threads] * num_threads))
        seconds = time.perf_counter() - begin
    return {
        "num_units": num_units,
        "rate_hz": rate_hz,
        "duration_s": duration_s // num_threads * num_threads,
        "num_threads": num_threads,
        "num_spikes": sum(counts),
        "seconds": seconds,
    }


def overlapping(lag_rows, *, apart_um, trials=100, seed=5):
    """Part of the spikes of two near units, so many rows apart, that is found; false spikes a pair; cosine.

    The units have norms of 12 and 14.
    """
    rng = np.random.default_rng(seed)
    contacts_um = np.arange(0.0, 400.0, PITCH_UM)
    shapes = fine_shapes(rng, 2)
    depth_um = np.array([190.0, 190.0 + apart_um])
    footprints = make_footprints(rng, depth_um, contacts_um)
    rows = shapes[:, :, FINE // 2 :: FINE]
    norm = np.sqrt(np.einsum("uip,ujp,uic,ujc->u", rows, rows, footprints, footprints, optimize=True))
    footprints *= (np.array([12.0, 14.0]) / norm)[:, None, None]
    apart, half = 400, LAG_ROWS // 2
    traces = rng.standard_normal((apart * (trials + 1), len(contacts_um)))
    truth = [[], []]
    for trial in range(trials):
        for who, row in enumerate((apart * trial + 200, apart * trial + 200 + lag_rows)):
            shift = int(rng.integers(-FINE // 2 + 1, FINE // 2))
            shape = np.roll(shapes[who], shift, axis=1)[:, FINE // 2 :: FINE]
            traces[row - half : row + half + 1] += rng.normal(1.0, 0.08) * shape.T @ footprints[who]
            truth[who].append(STRIDE * (row + shift / FINE))
    scores = np.empty((2, len(traces)), dtype=np.float32)
    energies = np.array([144.0, 196.0])
    for who in range(2):
        projected = traces @ footprints[who].T  # (N, 2)
        filtered = [fftconvolve(projected[:, k], rows[who, k, ::-1], mode="same") for k in range(2)]
        scores[who] = filtered[0] + filtered[1] - energies[who] / 2
    pairs, kernels = make_kernels(shapes, footprints, depth_um, 100.0)
    found = solve_conflicts(
        scores.T,
        ConflictTable.from_pairs(2, pairs, kernels),
        thresholds=0.1 * energies,
        energies=energies,
        exclusion_samples=round(0.001 * ROW_RATE_HZ),
        stride=STRIDE,
        engine="numba",
    )
    hits = 0
    for who in range(2):
        times = found.sample_index[found.unit_index == who]
        hits += sum(bool(np.any(np.abs(times - when) <= 13)) for when in truth[who])  # 0.4 ms
    cosine = np.einsum("ip,jp,ic,jc->", rows[0], rows[1], footprints[0], footprints[1]) / 12.0 / 14.0
    return hits / (2 * trials), (len(found) - hits) / trials, cosine


def measure_overlaps():
    """Recall and false spikes over lags from -2 to 2 ms, for units one and three contacts apart."""
    lags = np.arange(-21, 22)
    cases = []
    for apart_um in (PITCH_UM, 3 * PITCH_UM):
        both = np.array([overlapping(lag, apart_um=apart_um) for lag in lags.tolist()])  # (lags, 3)
        cases.append(
            {
                "apart_um": apart_um,
                "cosine": float(both[0, 2]),
                "lag_ms": (lags / ROW_RATE_HZ * 1000).tolist(),
                "recall": both[:, 0].tolist(),
                "false_per_pair": both[:, 1].tolist(),
            }
        )
    return cases


def print_rows(rows):
    """Print what `measure_all` returned."""
    for row in rows:
        print(
            f"pursuit, {ROW_RATE_HZ:.0f} rows, {row['num_units']} units of "
            f"{row['neighbours']:.0f} neighbours ({row['lags_that_matter']:.0f} lags): "
            f"best {row['best_ms']:.1f} ms, median {row['median_ms']:.1f} ms on 1 thread; "
            f"{row['num_spikes']} spikes, {row['num_found']} of {row['num_true']} true ones"
        )


def print_long(rows):
    """Print what `measure_long` returned."""
    for row in rows:
        print(
            f"pursuit step by step, {row['num_units']} units at {row['rate_hz']:g} Hz, "
            f"{row['duration_s']} s at 32 kHz, {row['num_threads']} thread(s): {row['seconds']:.2f} s, "
            f"{row['num_spikes']} spikes"
        )


if __name__ == "__main__":
    print_rows(measure_all())
    print_long([measure_long(num_threads=threads) for threads in (1, 2)])
