"""Speed and memory of the post-processing, next to SciPy on the same data, and recall of overlapping spikes.

    python benchmarks/postprocess.py                 # 300 units, 50 s at 32 kHz: about 2 minutes on 2 cores
    python benchmarks/postprocess.py duration_s=5    # less of it

The probabilities of a Neuropixels recording (384 channels, 300 units) are made chunk by chunk, like
those of a network: a background of small, correlated values, bumps at spikes, lower bumps of near units
at the same events. Only the post-processing is timed. Each chunk is read with its margin, as in
sorting. SciPy does one unit after the other: ``convolve`` with the same kernel, ``find_peaks`` with the
same threshold and distance, on the same chunks in the same run. The engines that are not compiled see
the first seconds only, for their speed and to compare their spikes. Memory is that of a process of its
own that does nothing else. The pursuit on energy scores is measured by `benchmarks/pursuit.py`: a second of
rows solved at once, and all the time decided step by step, as `sort.py` does it. Overlaps are drawn for both.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
from pursuit import measure_all, measure_long, measure_overlaps, print_long, print_rows  # beside this file
from scipy.signal import convolve, find_peaks

from esort.postprocess import ConflictTable, detect_spikes, join_chunks, margin_samples, solve_conflicts

mpl.use("Agg")
import matplotlib.pyplot as plt

RATE_HZ = 32_000.0
THRESHOLD = 0.5
DEFAULTS = {
    "num_units": 300,
    "duration_s": 50,
    "chunk_s": 1.0,
    "num_threads": os.cpu_count() or 1,
    "array_backends": "numpy,torch",
    "array_duration_s": 3,
    "output": "benchmarks/results/postprocess.json",
}


def make_events(rng, num_samples, num_units):
    """Spikes of 0.5 to 20 Hz for each unit; with a third of them a lower bump of a near unit."""
    rates_hz = np.exp(rng.uniform(np.log(0.5), np.log(20.0), num_units))
    counts = rng.poisson(rates_hz * num_samples / RATE_HZ)
    unit = np.repeat(np.arange(num_units), counts)
    sample = rng.integers(0, num_samples, unit.size)
    height = rng.normal(12.0, 1.5, unit.size)  # above the background, in logits
    shadow = rng.random(unit.size) < 1 / 3
    sample = np.concatenate([sample, sample[shadow] + rng.integers(-5, 6, shadow.sum())])
    unit = np.concatenate([unit, (unit[shadow] + rng.integers(1, 4, shadow.sum())) % num_units])
    height = np.concatenate([height, rng.normal(5.0, 2.0, shadow.sum())])
    order = np.argsort(sample, kind="stable")
    return sample[order], unit[order], height[order]


def make_chunk(events, start, stop, num_units, seed):
    """Probabilities of samples ``start`` to ``stop``; those of a sample do not depend on the chunk."""
    sample, unit, height = events
    step = 8192  # the background is drawn for blocks of this size
    first, last = start // step, -(-stop // step)
    blocks = []
    for block in range(first, last):
        rng = np.random.default_rng((seed, block))
        white = rng.standard_normal((step + 3, num_units), dtype=np.float32)
        blocks.append((white[:-3] + white[1:-2] + white[2:-1] + white[3:]) * np.float32(0.6))
    logits = np.concatenate(blocks)[start - first * step : stop - first * step]  # (samples, units)
    logits -= np.float32(6.5)
    bump = np.exp(-0.5 * (np.arange(-15, 16) / 5.0) ** 2)
    near = slice(*np.searchsorted(sample, [start - 15, stop + 15]))
    for when, who, high in zip(sample[near], unit[near], height[near], strict=True):
        begin, end = max(when - 15, start), min(when + 16, stop)
        if begin < end:
            logits[begin - start : end - start, who] += high * bump[begin - when + 15 : end - when + 15]
    return 1.0 / (1.0 + np.exp(-logits))


def scipy_spikes(probabilities, exclusion):
    kernel = np.r_[1:9, 7:0:-1].astype(np.float32) / np.float32(
        64
    )  # 15 samples, as smoothing_ms=0.5 at 32 kHz
    found = []
    for unit in range(probabilities.shape[1]):
        smoothed = convolve(probabilities[:, unit], kernel, mode="same")
        peaks, _ = find_peaks(smoothed, height=THRESHOLD, distance=exclusion)
        found.append(np.stack([peaks, np.full(peaks.size, unit)]))
    return np.concatenate(found, axis=1)


def chunks_of(events, num_samples, options):
    """Yield first sample, core rows and probabilities of each chunk with its margins."""
    margin, chunk_samples = margin_samples(RATE_HZ), int(options["chunk_s"] * RATE_HZ)
    for start in range(0, num_samples, chunk_samples):
        stop = min(start + chunk_samples, num_samples)
        first, last = max(0, start - margin), min(num_samples, stop + margin)
        yield (
            first,
            (start - first, stop - first),
            make_chunk(events, first, last, options["num_units"], seed=2),
        )


def run_speed(options):
    num_samples = int(options["duration_s"] * RATE_HZ)
    events = make_events(np.random.default_rng(1), num_samples, options["num_units"])
    detectors = make_detectors(options["array_backends"], options["num_threads"])
    warm = make_chunk(events, 0, min(4000, num_samples), options["num_units"], seed=2)
    for convert, settings in detectors.values():  # compile, load
        detect_spikes(convert(warm), sampling_frequency=RATE_HZ, **settings)
    seconds, measured_s = dict.fromkeys(detectors, 0.0), dict.fromkeys(detectors, 0.0)
    seconds["scipy"] = measured_s["scipy"] = 0.0
    reference, same, in_scipy = [], True, 0
    for first, core, values in chunks_of(events, num_samples, options):
        length_s = (core[1] - core[0]) / RATE_HZ
        found = {}
        for name, (convert, settings) in detectors.items():
            if settings["engine"] == "array" and first >= options["array_duration_s"] * RATE_HZ - core[0]:
                continue
            array = convert(values)
            begin = time.perf_counter()
            found[name] = detect_spikes(
                array,
                sampling_frequency=RATE_HZ,
                thresholds=THRESHOLD,
                first_sample=first,
                core=core,
                **settings,
            )
            seconds[name] += time.perf_counter() - begin
            measured_s[name] += length_s
        begin = time.perf_counter()
        peaks, _ = scipy_spikes(values, exclusion=32)
        seconds["scipy"] += time.perf_counter() - begin
        measured_s["scipy"] += length_s
        in_scipy += int(np.sum((peaks >= core[0]) & (peaks < core[1])))
        reference.append(found["numba, 1 thread"])
        for other in found.values():
            for column in ("sample_index", "unit_index", "probability"):
                one, two = getattr(other, column), getattr(reference[-1], column)
                same = same and np.array_equal(np.asarray(one), np.asarray(two))
    per_second = {name: seconds[name] / measured_s[name] for name in seconds}
    return {
        "seconds": seconds,
        "measured_s": measured_s,
        "ratio_to_scipy": {name: per_second["scipy"] / value for name, value in per_second.items()},
        "num_spikes": len(join_chunks(reference)),
        "num_spikes_scipy": in_scipy,
        "backends_give_the_same_spikes": same,
        "margin_samples": margin_samples(RATE_HZ),
    }


def make_detectors(array_backends, num_threads):
    detectors = {"numba, 1 thread": (np.asarray, {"engine": "numba", "num_threads": 1})}
    if num_threads > 1:
        detectors[f"numba, {num_threads} threads"] = (
            np.asarray,
            {"engine": "numba", "num_threads": num_threads},
        )
    for name in filter(None, array_backends.split(",")):
        if name == "numpy":
            convert = np.asarray
        elif name == "torch":
            import torch

            torch.set_num_threads(1)  # more only helps on cores that nobody else uses
            convert = torch.from_numpy
        elif name == "jax":
            import jax.numpy

            convert = jax.numpy.asarray
        else:
            raise ValueError(f"array_backends must be of numpy, torch, jax, got {name!r}")
        detectors[f"{name} arrays, 1 thread"] = (convert, {"engine": "array"})
    return detectors


def measure_memory(options, duration_s):
    """Peak memory of a process that makes chunks, with or without finding the spikes in them."""
    result = {
        "duration_s": duration_s,
        "chunk_bytes": int(options["chunk_s"] * RATE_HZ) * options["num_units"] * 4,
    }
    for detect in ("0", "1"):
        command = [sys.executable, __file__, "--memory", str(duration_s), detect, json.dumps(options)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        result["peak_rss_bytes" if detect == "1" else "peak_rss_bytes_without"] = int(answer.stdout)
    return result


def run_memory(duration_s, detect, options):
    num_samples = int(duration_s * RATE_HZ)
    events = make_events(np.random.default_rng(1), num_samples, options["num_units"])
    settings = {"engine": "numba", "num_threads": options["num_threads"]}
    detect_spikes(np.zeros((64, 2), dtype=np.float32), sampling_frequency=RATE_HZ, **settings)
    for first, core, values in chunks_of(events, num_samples, options):
        if detect:
            detect_spikes(values, sampling_frequency=RATE_HZ, first_sample=first, core=core, **settings)
    # Not getrusage: its maximum begins with that of the process this one was started from.
    lines = Path("/proc/self/status").read_text().splitlines()
    print(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")))


def near_templates(spread):
    """Two units of near shape on four contacts, norms of 10 to 12; more ``spread``, less alike."""
    time_ms = (np.arange(64) - 32) / (RATE_HZ / 1000.0)
    shape = -np.exp(-0.5 * (time_ms / 0.12) ** 2) + 0.4 * np.exp(-0.5 * ((time_ms - 0.35) / 0.22) ** 2)
    other = -np.exp(-0.5 * (time_ms / 0.15) ** 2) + 0.3 * np.exp(-0.5 * ((time_ms - 0.40) / 0.25) ** 2)
    contacts = np.array([[1.0, 0.8, 0.4, 0.1], [0.4, 0.8, 0.7, 0.3]])
    contacts[0, 2:] *= 1 - spread
    contacts[1, :2] *= 1 - spread
    contacts *= 4.5 / np.linalg.norm(contacts, axis=1, keepdims=True)
    return np.stack([shape[:, None] * contacts[0], other[:, None] * contacts[1]])  # (U, 64, C)


def gram_kernels(templates):
    num_units, length, _ = templates.shape
    pairs = np.array([(a, b) for a in range(num_units) for b in range(num_units)])
    kernels = np.zeros((len(pairs), 2 * length - 1))
    for position, (a, b) in enumerate(pairs):
        for lag in range(-length + 1, length):
            one = templates[a][max(lag, 0) : length + min(lag, 0)]
            other = templates[b][max(-lag, 0) : length - max(lag, 0)]
            kernels[position, length - 1 + lag] = np.sum(one * other)
    return pairs, kernels


def run_overlaps(spread, trials=100):
    """Recall of both spikes of a pair, and false spikes, over the lag between them."""
    rng = np.random.default_rng(3)
    templates = near_templates(spread)
    length = templates.shape[1]
    pairs, kernels = gram_kernels(templates)
    variants = {
        "explanatory edges": (ConflictTable.from_pairs(2, pairs, kernels), {}),
        "exclusive within 0.5 ms": (
            ConflictTable.from_pairs(2, np.array([[0, 1]]), exclusive_samples=16),
            {},
        ),
        "no edges between units": (None, {}),
    }
    energy = (templates**2).sum(axis=(1, 2))
    lags = np.arange(-64, 65, 4)
    apart = 400
    cosine = float((templates[0] * templates[1]).sum() / np.sqrt(energy.prod()))
    lag_ms = (lags / RATE_HZ * 1000).tolist()
    result = {"lag_ms": lag_ms, "cosine": cosine, "recall": {}, "false_per_pair": {}}
    counts = {name: np.zeros((2, lags.size)) for name in variants}
    for place, lag in enumerate(lags):
        truth = [[], []]
        traces = rng.standard_normal((apart * (trials + 1), templates.shape[2]))
        for trial in range(trials):
            for unit, sample in ((0, apart * (trial + 1) - 50), (1, apart * (trial + 1) - 50 + lag)):
                traces[sample - length // 2 : sample + length // 2] += templates[unit]
                truth[unit].append(sample)
        padded = np.pad(traces, ((length // 2, length - 1 - length // 2), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, length, axis=0)  # (N, C, length)
        scores = (np.einsum("nct,utc->nu", windows, templates, optimize=True) - energy / 2).astype(np.float32)
        for name, (table, extra) in variants.items():
            found = solve_conflicts(scores, table, thresholds=[25.0, 25.0], exclusion_samples=32, **extra)
            hits = 0
            for unit in range(2):
                at = found.sample_index[found.unit_index == unit]
                hits += sum(bool(np.any(np.abs(at - sample) <= 13)) for sample in truth[unit])  # 0.4 ms
            counts[name][0, place] = hits / (2 * trials)
            counts[name][1, place] = (len(found) - hits) / trials
    for name, (recall, false) in counts.items():
        result["recall"][name] = recall.tolist()
        result["false_per_pair"][name] = false.tolist()
    return result


def run_overlaps_of_probabilities():
    """Recall of both spikes over the lag where each unit has its own output, as `detect_spikes` sees them."""
    rng = np.random.default_rng(4)
    lags = np.arange(-64, 65, 4)
    bump = np.exp(-0.5 * (np.arange(-15, 16) / 5.0) ** 2)
    recall = []
    for lag in lags:
        logits = rng.normal(-6.5, 1.0, size=(400 * 101, 2))
        for trial in range(100):
            for unit, sample in ((0, 400 * trial + 200), (1, 400 * trial + 200 + lag)):
                logits[sample - 15 : sample + 16, unit] += rng.normal(12.0, 1.5) * bump
        found = detect_spikes((1 / (1 + np.exp(-logits))).astype(np.float32), sampling_frequency=RATE_HZ)
        truth = [(400 * trial + 200 + lag * unit, unit) for trial in range(100) for unit in range(2)]
        places = [found.sample_index[found.unit_index == unit] for unit in range(2)]
        recall.append(sum(bool(np.any(np.abs(places[u] - s) <= 13)) for s, u in truth) / len(truth))
    return recall


def plot_overlaps(overlaps, path):
    figure, axes = plt.subplots(
        2, len(overlaps["pairs"]), figsize=(11, 6), sharex=True, sharey="row", layout="constrained"
    )
    for (top, bottom), pair in zip(axes.T, overlaps["pairs"], strict=True):
        for name, recall in pair["recall"].items():
            top.plot(pair["lag_ms"], recall, label=f"matched filters, {name}")
            bottom.plot(pair["lag_ms"], pair["false_per_pair"][name])
        top.plot(pair["lag_ms"], overlaps["recall_of_probabilities"], "k--", label="one probability a unit")
        near = min(overlaps["pursuit"], key=lambda case, pair=pair: abs(case["cosine"] - pair["cosine"]))
        top.plot(near["lag_ms"], near["recall"], "k", label="the pursuit, two of its own units")
        bottom.plot(near["lag_ms"], near["false_per_pair"], "k")
        top.text(0, 0.1, f"the pursuit's have {near['cosine']:.2f}", ha="center", fontsize=8)
        top.set(title=f"two units of cosine {pair['cosine']:.2f}", ylim=(0, 1.05))
        bottom.set(xlabel="lag between the two spikes (ms)")
    axes[0, 0].set(ylabel="recall")
    axes[1, 0].set(ylabel="false spikes per pair")
    axes[0, 0].legend(fontsize=8, loc="lower left")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def print_table(result):
    speed, options = result["speed"], result["options"]
    print(
        f"{options['num_units']} units, {options['duration_s']} s at {RATE_HZ / 1000:g} kHz: "
        f"{speed['num_spikes']} spikes (SciPy {speed['num_spikes_scipy']}), "
        f"same on all backends: {speed['backends_give_the_same_spikes']}"
    )
    print(f"{'':<24}{'of (s)':>8}{'seconds':>10}{'x real time':>14}{'x SciPy':>10}")
    for name, seconds in speed["seconds"].items():
        of = speed["measured_s"][name]
        print(
            f"{name:<24}{of:>8g}{seconds:>10.3f}{of / seconds:>14.1f}{speed['ratio_to_scipy'][name]:>10.1f}"
        )
    for memory in result["memory"]:
        print(
            f"peak memory over {memory['duration_s']} s: {memory['peak_rss_bytes'] / 2**20:.0f} MiB; "
            f"making the data alone: {memory['peak_rss_bytes_without'] / 2**20:.0f} MiB; "
            f"one chunk: {memory['chunk_bytes'] / 2**20:.0f} MiB"
        )
    print_rows(result["pursuit"])
    print_long(result["pursuit_long"])
    for case in result["overlaps"]["pursuit"]:
        print(
            f"overlaps, pursuit, cosine {case['cosine']:.2f}: recall {np.mean(case['recall']):.3f} "
            f"(least {np.min(case['recall']):.2f}), false per pair {np.mean(case['false_per_pair']):.3f}"
        )
    for pair in result["overlaps"]["pairs"]:
        for name, recall in pair["recall"].items():
            print(
                f"overlaps, cosine {pair['cosine']:.2f}, {name}: recall {np.mean(recall):.3f} "
                f"(least {np.min(recall):.2f}), false per pair {np.mean(pair['false_per_pair'][name]):.3f}"
            )


def main(arguments):
    if arguments[:1] == ["--memory"]:
        run_memory(float(arguments[1]), arguments[2] == "1", json.loads(arguments[3]))
        return
    options = dict(DEFAULTS)
    for argument in arguments:
        key, _, value = argument.removeprefix("--").partition("=")
        if key not in options:
            sys.exit(f"expected key=value with a key of {', '.join(DEFAULTS)}, got {argument!r}")
        options[key] = type(DEFAULTS[key])(value)
    output = Path(options["output"])
    output.parent.mkdir(parents=True, exist_ok=True)
    pairs = [run_overlaps(spread) for spread in (0.6, 0.0)]
    result = {
        "command": " ".join(["python benchmarks/postprocess.py", *sys.argv[1:]]),
        "options": options,
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "numpy": np.__version__},
        "speed": run_speed(options),
        "memory": [measure_memory(options, duration_s) for duration_s in (3, 12)],
        "pursuit": measure_all(),
        "pursuit_long": [
            measure_long(
                num_units=options["num_units"],
                duration_s=int(options["duration_s"]),
                num_threads=threads,
                rate_hz=rate_hz,
            )
            for rate_hz in (3.0, 10.0)
            for threads in sorted({1, options["num_threads"]})
        ],
        "overlaps": {
            "pairs": pairs,
            "recall_of_probabilities": run_overlaps_of_probabilities(),
            "pursuit": measure_overlaps(),
        },
    }
    print_table(result)
    plot_overlaps(result["overlaps"], output.with_suffix(".png"))
    partial = output.with_name(output.name + ".partial")
    partial.write_text(json.dumps(result, indent=2))
    partial.replace(output)
    print(f"written: {output} and {output.with_suffix('.png')}")


if __name__ == "__main__":
    main(sys.argv[1:])
