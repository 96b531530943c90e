"""What each idea behind the speed of ``model=pursuit`` brings: every stage with it and without, on one file.

    python benchmarks/ablation.py                     # 128 channels: some minutes
    python benchmarks/ablation.py channels=384 rates=none

Cost is the time of one thread per second of recording, the median over blocks of 0.5 s, the block in memory
or in the page cache. For the reduced rate units are learned anew at each of `rates` (Hz), by a process of its
own, and sorted: accuracy is that of the time that no label came from. `docs/speed.md` shows the tables.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from time import thread_time

import numba
import numpy as np
import torch
from every_second_row import scores_around_candidates  # beside this file
from marked import write_between  # beside this file
from options import read_options  # beside this file
from speed import LABELS, PROBES, ROOT, STARTUP_S, learned_file, open_file

from esort.files import write_json
from esort.inference import BLOCK_S, output_blocks
from esort.pursuit.compiled import decimate, fir_bank
from esort.pursuit.evidence import MotionEvidence
from esort.pursuit.mixing import SparseRows
from esort.sorter import Sorter
from esort.threads import one_thread_each

DEFAULTS = {
    "channels": "128",
    "seconds": "30",
    "rates": "32000,16000,10667,8000",
    "folder": "data/cache/benchmark",
    "output": "benchmarks/results/ablation.json",
}
PAGE, BEGIN, END = ROOT / "docs/speed.md", "<!-- ablation: {} channels -->", "<!-- end of ablation -->"
BLOCKS = 20
EVERY_SECOND = "every second row, and around candidates"


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz"})
def running_sums(lines, taps, result):
    """A filter bank as a compiler makes it: eight products for each load and store of a running sum."""
    num_filters, num_taps = taps.shape
    num_rows = result.shape[2]
    for channel in range(lines.shape[0]):
        for start in range(0, num_rows, 512):
            count = min(512, num_rows - start)
            for index in range(num_filters):
                total = result[channel, index, start : start + count]
                total[:] = 0
                line = lines[channel, start : start + count + num_taps - 1]
                whole = num_taps // 8 * 8
                for tap in range(0, whole, 8):
                    a, b, c, d, e, f, g, h = (
                        taps[index, tap],
                        taps[index, tap + 1],
                        taps[index, tap + 2],
                        taps[index, tap + 3],
                        taps[index, tap + 4],
                        taps[index, tap + 5],
                        taps[index, tap + 6],
                        taps[index, tap + 7],
                    )
                    part = line[tap:]
                    for row in range(count):
                        total[row] += (
                            a * part[row]
                            + b * part[row + 1]
                            + c * part[row + 2]
                            + d * part[row + 3]
                            + e * part[row + 4]
                            + f * part[row + 5]
                            + g * part[row + 6]
                            + h * part[row + 7]
                        )
                for tap in range(whole, num_taps):
                    part = line[tap:]
                    for row in range(count):
                        total[row] += taps[index, tap] * part[row]


def stages(sorter, prepared):
    """Yield (stage, variant, whether it is used, function of a block's first sample)."""
    defined, network = sorter.network, sorter.scorer
    before = network.peak_offset_samples
    after = network.window_samples - before - 1
    length = round(BLOCK_S * prepared.sampling_frequency) // network.stride * network.stride
    held = {}

    def samples(start):
        return start - before, start + length + after

    def block(start):
        if start not in held:
            held.clear()
            raw, gains = prepared.stored(*samples(start))
            traces = prepared.traces(*samples(start))
            reduced = network.bandpass.apply(raw, gains)
            white = network.whitened(raw, gains)
            held[start] = np.array(raw), gains, traces, reduced, white, network.features(white)
        return held[start]

    taps = network.filters
    bandpass, nothing = network.bandpass, np.ones(1, dtype=np.float32)
    heads = torch.from_numpy(network.dense_heads()).flatten(1)
    resting = network.resting_whitening()
    whitening, sparse_whitening = torch.from_numpy(resting), SparseRows(resting)
    evidence = MotionEvidence(network)
    bank = torch.from_numpy(taps)[:, None]

    def sums(start):
        lines = block(start)[4]
        result = np.empty((*lines.shape[:1], len(taps), lines.shape[1] - taps.shape[1] + 1), np.float32)
        running_sums(lines, taps, result)

    def features_then_heads(start):
        features = network.features(block(start)[4])
        return network.head_rows @ features.reshape(-1, features.shape[2])

    yield "reading", "µV, by SpikeInterface", False, lambda start: prepared.traces(*samples(start))
    yield "reading", "integers as stored", True, lambda start: prepared.stored(*samples(start))
    yield (
        "band-pass",
        "one filter at the recording's rate",
        False,
        lambda start: decimate(
            block(start)[0], bandpass.taps, nothing, bandpass.step, np.ones(network.num_channels, np.float32)
        ),
    )
    yield (
        "band-pass",
        "high-pass at the reduced rate",
        True,
        lambda start: bandpass.apply(block(start)[0], block(start)[1]),
    )
    yield "band-pass", "the same on µV", False, lambda start: bandpass.apply(block(start)[2])
    yield (
        "whitening",
        "matrix product",
        False,
        lambda start: whitening @ torch.from_numpy(block(start)[3]),
    )
    yield "whitening", "sparse sums", True, lambda start: sparse_whitening @ block(start)[3]
    yield (
        "filter bank",
        "conv1d of PyTorch",
        False,
        lambda start: torch.nn.functional.conv1d(torch.from_numpy(block(start)[4])[:, None], bank),
    )
    yield "filter bank", "running sums in the cache", False, sums
    yield "filter bank", "running sums in registers", True, lambda start: fir_bank(block(start)[4], taps)
    yield (
        "heads",
        "matrix product",
        False,
        lambda start: heads @ torch.from_numpy(block(start)[5]).flatten(0, 1),
    )
    yield "bank and heads", "one after the other", False, features_then_heads
    yield (
        "bank and heads",
        "by 112 rows, through the cache",
        True,
        lambda start: network.scores(block(start)[4]),
    )
    yield (
        "bank and heads",
        EVERY_SECOND,
        False,
        lambda start: scores_around_candidates(network, block(start)[4]),
    )
    yield (
        "network",
        "as it is defined, by PyTorch",
        False,
        lambda start: defined(torch.from_numpy(block(start)[2])[None]),
    )
    yield "network", "all of the above", True, lambda start: network.outputs(*block(start)[:2])
    yield (
        "motion",
        "evidence of large spikes",
        True,
        lambda start: evidence.add(
            evidence.empty(), block(start)[3], 0, block(start)[3].shape[1] - taps.shape[1] + 1
        ),
    )


def measured(sorter, recording):
    """Rows of all stages."""
    prepared = sorter.prepare(recording)
    step = round(BLOCK_S * prepared.sampling_frequency)
    starts = [step * (1 + number) for number in range(BLOCKS)]
    rows = []
    with one_thread_each(), torch.inference_mode():
        for stage, variant, used, function in stages(sorter, prepared):
            times = []
            for start in (starts[0], *starts):
                if stage != "reading":
                    function(start)  # what it needs is made
                begin = thread_time()
                function(start)
                times.append(thread_time() - begin)
            rows.append(
                {"stage": stage, "variant": variant, "used": used}
                | {"ms_per_s": 1000 * float(np.median(times[1:])) / BLOCK_S}
            )
            print(f"{stage:<16} {variant:<34} {rows[-1]['ms_per_s']:8.2f} ms per s", flush=True)
        blocks = list(output_blocks(sorter.scorer, prepared, 0, starts[-1], num_workers=1))
        for variant, used, detector in (
            ("each unit alone", False, competing(sorter, False)),
            ("with competition", True, competing(sorter, True)),
        ):
            times = []
            for block in blocks:
                begin = thread_time()
                detector.push(block.outputs, block.start_sample)
                times.append(thread_time() - begin)
            rows.append(
                {"stage": "post-processing", "variant": variant, "used": used}
                | {"ms_per_s": 1000 * float(np.median(times[1:])) / BLOCK_S}
            )
            print(f"{'post-processing':<16} {variant:<34} {rows[-1]['ms_per_s']:8.2f} ms per s", flush=True)
    return rows, {
        "definition": differing(sorter, prepared, blocks, by_definition),
        EVERY_SECOND: differing(sorter, prepared, blocks, around_candidates),
    }


def competing(sorter, competition):
    """A post-processing with or without competition."""
    before = sorter.postprocessing
    sorter.postprocessing = replace(before, competition=competition)
    detector = sorter.detector()
    sorter.postprocessing = before
    return detector


def by_definition(network, sorter, prepared, start, stop):
    """Scores as they are defined, by PyTorch on µV, (T, U)."""
    with torch.inference_mode():
        return network(torch.from_numpy(prepared.traces(start, stop))[None])[0].numpy()


def around_candidates(network, sorter, prepared, start, stop):
    """Scores of every second row and around candidates, (T, U)."""
    white = sorter.scorer.whitened(*prepared.stored(start, stop))
    return scores_around_candidates(sorter.scorer, white).T


def differing(sorter, prepared, blocks, way):
    """Spikes that differ if the scores are computed another way."""
    network = sorter.network
    before = network.peak_offset_samples
    after = network.window_samples - before - 1
    detectors = sorter.detector(), sorter.detector()
    found = set(), set()
    for block in blocks[1:]:
        start, stop = block.start_sample, block.start_sample + len(block.outputs) * network.stride
        other = way(network, sorter, prepared, start - before, stop + after)[: len(block.outputs)]
        for detector, scores, kept in zip(detectors, (block.outputs, other), found, strict=True):
            spikes = detector.push(np.ascontiguousarray(scores), start)
            kept.update(zip(spikes.sample_index.tolist(), spikes.unit_index.tolist(), strict=True))
    return {"num_spikes": len(found[0]), "differ": len(found[0] ^ found[1])}


def at_rate(probe, rate_hz, path):
    """Learn and sort at a reduced rate, in a process of its own; accuracy and cost."""
    with tempfile.TemporaryDirectory() as folder:
        run_folder = Path(folder) / "run"
        overrides = [f"probe={probe}", *LABELS, f"hydra.run.dir={run_folder}"]
        command = [sys.executable, __file__, "rate", str(rate_hz), *overrides]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        scores = json.loads((run_folder / "scores.json").read_text())
        sorter = Sorter.load(run_folder / "model.safetensors")
        rows, _ = measured(sorter, open_file(*path))
    cost = {row["stage"]: row["ms_per_s"] for row in rows if row["used"]}
    row = {"rate_hz": sorter.card.sampling_frequency / sorter.network.stride}
    row |= {"pooled_accuracy": scores["pooled_accuracy"]}
    row |= {"network_ms_per_s": cost["network"], "postprocess_ms_per_s": cost["post-processing"]}
    print(f"{row['rate_hz']:8.0f} Hz: pooled accuracy {row['pooled_accuracy']:.4f}", flush=True)
    return row


def train_at_rate(rate_hz, arguments):
    """``train.py`` with another reduced rate."""
    from esort.command import train
    from esort.pursuit import bandpass

    bandpass.REDUCED_HZ = float(rate_hz)
    sys.argv = ["train.py", *arguments]
    train()


def page_table(content):
    """Lines of the tables for the page."""
    lines = ["| stage | variant | ms of one thread per second |", "|---|---|---|"]
    for row in content["rows"]:
        bold = "**" if row["used"] else ""
        lines.append(f"| {row['stage']} | {bold}{row['variant']}{bold} | {bold}{row['ms_per_s']:.1f}{bold} |")
    spikes, fewer = (content["against"][name] for name in ("definition", EVERY_SECOND))
    lines += [
        "",
        f"{spikes['differ']} of {spikes['num_spikes']} spikes differ from those of the definition; with "
        f"{EVERY_SECOND}, {fewer['differ']} would.",
    ]
    if content["rates"]:
        lines += ["", "| reduced rate | network | post-processing | pooled accuracy |", "|---|---|---|---|"]
        for row in content["rates"]:
            lines.append(
                f"| {row['rate_hz'] / 1000:.1f} kHz | {row['network_ms_per_s']:.1f} ms | "
                f"{row['postprocess_ms_per_s']:.1f} ms | {row['pooled_accuracy']:.4f} |"
            )
    return [*lines, "", f"`{content['command']}`"]


def main(arguments):
    options = read_options(arguments, DEFAULTS)
    if options["channels"] not in PROBES:
        sys.exit(f"expected channels={' or '.join(PROBES)}, got {options['channels']}")
    folder, probe, seconds = ROOT / options["folder"], PROBES[options["channels"]], float(options["seconds"])
    assert seconds > BLOCK_S * (BLOCKS + 2) > STARTUP_S
    run_folder, path = learned_file(probe, seconds, folder)
    run = json.loads((run_folder / "run.json").read_text())
    sorter = Sorter.load(run_folder / "model.safetensors")
    rows, against = measured(sorter, open_file(*path))
    rates = [] if options["rates"] == "none" else options["rates"].split(",")
    content = {
        "command": "python benchmarks/ablation.py "
        + " ".join(f"{key}={options[key]}" for key in ("channels", "seconds", "rates")),
        "cores": os.cpu_count(),
        "channels": int(options["channels"]),
        "num_units": run["num_units"],
        "rows": rows,
        "against": against,
        "rates": [at_rate(probe, rate, path) for rate in rates],
    }
    write_json(ROOT / options["output"].replace(".json", f"_{options['channels']}.json"), content)
    if options["output"] == DEFAULTS["output"]:
        write_between(PAGE, BEGIN.format(content["channels"]), END, page_table(content))


if __name__ == "__main__":
    if sys.argv[1:2] == ["rate"]:
        train_at_rate(sys.argv[2], sys.argv[3:])
    else:
        main(sys.argv[1:])
