"""Ways to run a network that esort was tried with: what each costs, and how far it is from the exact one.

    python benchmarks/runtimes.py                     # 128 channels, some minutes; needs esort[export]

Cost is the time of one thread per second of recording, the median over blocks of 0.5 s in memory, after the
first ones (compilers work then). *Off* is the largest difference from the exact outputs, as a part of the
largest output. The dense network has random weights, on which its cost does not depend. Threads and processes
are compared by the clock, on both cores: a process more needs its own margins, memory and start-up, and only
the first of these is counted. `docs/speed.md` shows the table.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import warnings
from itertools import pairwise
from pathlib import Path
from time import perf_counter, thread_time

import numpy as np
import onnxruntime
import torch
from ablation import PAGE
from marked import write_between  # beside this file
from onnxruntime.quantization import QuantType, quantize_dynamic
from options import read_options  # beside this file
from speed import PROBES, ROOT, learned_file, open_file
from torch import nn

from esort.dense_network import DenseNetwork
from esort.files import write_json
from esort.sorter import Sorter
from esort.threads import one_thread_each

DEFAULTS = {
    "channels": "128",
    "seconds": "30",
    "folder": "data/cache/benchmark",
    "output": "benchmarks/results/runtimes.json",
}
BEGIN, END = "<!-- runtimes -->", "<!-- end of runtimes -->"
BLOCK_S, BLOCKS, FIRST = 0.5, 7, 2


class AsConvolution(nn.Module):
    """The dense network's bank of filters as PyTorch's convolution, and all that follows as it is."""

    def __init__(self, network: DenseNetwork, memory_format: torch.memory_format) -> None:
        super().__init__()
        self.network, self.memory_format = network, memory_format
        self.weight = network.filters.weight[:, None, :, None].contiguous(memory_format=memory_format)

    def forward(self, traces: torch.Tensor) -> torch.Tensor:
        """As `DenseNetwork.forward`."""
        network = self.network
        lines = traces[:, None].contiguous(memory_format=self.memory_format)  # (B, 1, T, C)
        found = torch.relu(nn.functional.conv2d(lines, self.weight, network.filters.bias))  # (B, F, T', C)
        found = torch.relu(network.features(found.permute(0, 2, 3, 1)))  # (B, T', C, F)
        return network.head(network.hidden(found.flatten(2)))


def in_onnx(network: nn.Module, traces: torch.Tensor, folder: Path, *, int8: bool = False):
    """The network in ONNX Runtime on one thread, as a function of traces."""
    path = folder / "network.onnx"
    torch.onnx.export(network, (traces,), str(path), dynamo=True, verbose=False)
    if int8:
        quantised = folder / "network-int8.onnx"
        quantize_dynamic(path, quantised, weight_type=QuantType.QInt8)
        path = quantised
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    [name] = [one.name for one in session.get_inputs()]
    return lambda block: torch.from_numpy(session.run(None, {name: block.numpy()})[0])


def dense_variants(network: DenseNetwork, traces: torch.Tensor, folder: Path):
    """Yield (variant, whether it is used, function of traces)."""
    folded = network.folded()
    half = network.folded().to(torch.bfloat16)
    yield "batch norm apart", False, network
    yield "batch norm folded", True, folded
    yield "convolution of PyTorch", False, AsConvolution(folded, torch.contiguous_format)
    yield "the same, channels last", False, AsConvolution(folded, torch.channels_last)
    yield "bfloat16", False, lambda block: half(block.to(torch.bfloat16)).float()
    yield (
        "int8 weights, PyTorch",
        False,
        torch.ao.quantization.quantize_dynamic(folded, {"features", "mixing", "head"}),
    )
    yield "torch.compile", False, torch.compile(folded)
    yield "ONNX Runtime", False, in_onnx(folded, traces, folder)
    yield "ONNX Runtime, int8 weights", False, in_onnx(folded, traces, folder, int8=True)


def pursuit_variants(sorter: Sorter):
    """Yield (variant, whether it is used, function of traces) for the scores of a pursuit."""
    network, scorer = sorter.network, sorter.scorer
    step, taps = scorer.stride, scorer.bandpass.taps
    spread = np.zeros((len(scorer.filters), step * (scorer.filters.shape[1] - 1) + 1), dtype=np.float32)
    spread[:, ::step] = scorer.filters
    both = torch.from_numpy(np.stack([np.convolve(one, taps[::-1])[::-1] for one in spread]).copy())

    def one_filter(traces: torch.Tensor) -> torch.Tensor:
        lines = torch.from_numpy(scorer.resting_whitening()) @ traces[0].T  # at the recording's rate
        return nn.functional.conv1d(lines[:, None], both[:, None].float(), stride=step)

    yield "as it is defined, by PyTorch", False, network
    yield "whitening, then bank with the band-pass in it; no heads", False, one_filter
    yield (
        "compiled by numba",
        True,
        lambda traces: torch.from_numpy(scorer.outputs(traces[0].numpy()))[None],
    )


def costs(name, variants, blocks, seconds):
    """Rows of all variants of a network; the one that is used is the exact one."""
    rows, outputs = [], {}
    with one_thread_each(), torch.no_grad():
        for variant, used, function in variants:
            times = []
            for block in blocks:
                begin = thread_time()
                found = function(block)
                times.append(thread_time() - begin)
            outputs[variant] = found.float()
            rows.append({"network": name, "variant": variant, "used": used})
            rows[-1]["ms_per_s"] = 1000 * float(np.median(times[FIRST:])) / seconds
    exact = outputs[next(row["variant"] for row in rows if row["used"])]
    for row in rows:
        own = outputs[row["variant"]]
        same = own.shape == exact.shape
        row["off"] = float((own - exact).abs().max() / exact.abs().max()) if same else None
        off = "" if row["off"] is None else f"off by {row['off']:.1e}"
        print(f"{row['network']:<8} {row['variant']:<56} {row['ms_per_s']:8.1f} ms per s  {off}", flush=True)
    return rows


def sort_part(model, path, start, stop, workers, ready, results):
    """Sort a stretch in this process once all are ready; the seconds that it took."""
    sorter, recording = Sorter.load(model), open_file(*path)
    sorter.make_ready()
    sorter.sort(recording, start_sample=start, stop_sample=start + 32000, num_workers=workers)
    ready.wait()
    begin = perf_counter()
    sorter.sort(recording, start_sample=start, stop_sample=stop, num_workers=workers)
    results.put(perf_counter() - begin)


def by_the_clock(model, path, num_samples, processes, workers):
    """Seconds of so many processes with so many threads each for the whole recording."""
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(processes), context.Queue()
    edges = np.linspace(0, num_samples, processes + 1).astype(int)
    started = [
        context.Process(target=sort_part, args=(model, path, int(a), int(b), workers, ready, results))
        for a, b in pairwise(edges)
    ]
    for process in started:
        process.start()
    seconds = [results.get() for _ in started]
    for process in started:
        process.join()
    return max(seconds)


def page_table(content):
    """Lines of the tables for the page."""
    lines = ["| network | variant | ms of one thread per second | off |", "|---|---|---|---|"]
    for row in content["rows"]:
        bold = "**" if row["used"] else ""
        off = "" if row["off"] is None else f"{row['off']:.0e}"
        name = f"{bold}{row['variant']}{bold}"
        lines.append(f"| {row['network']} | {name} | {bold}{row['ms_per_s']:.1f}{bold} | {off} |")
    lines += ["", "| on two cores, the pursuit | seconds for 30 s |", "|---|---|"]
    lines += [f"| {name} | {seconds:.2f} |" for name, seconds in content["by_the_clock"].items()]
    return [*lines, "", f"`{content['command']}`"]


def main(arguments):
    options = read_options(arguments, DEFAULTS)
    if options["channels"] not in PROBES:
        sys.exit(f"expected channels={' or '.join(PROBES)}, got {options['channels']}")
    folder, probe, seconds = ROOT / options["folder"], PROBES[options["channels"]], float(options["seconds"])
    run_folder, path = learned_file(probe, seconds, folder)
    model = run_folder / "model.safetensors"
    sorter = Sorter.load(model)
    length = round(BLOCK_S * sorter.card.sampling_frequency)
    traces = sorter.prepare(open_file(*path)).traces(0, BLOCKS * length)
    blocks = [torch.from_numpy(traces[None, length * one : length * (one + 1)]) for one in range(BLOCKS)]
    torch.manual_seed(0)
    window = sorter.network.window_samples
    dense = DenseNetwork(
        num_channels=sorter.network.num_channels,
        num_units=sorter.network.num_units,
        window_samples=window,
        peak_offset_samples=window // 2,
    ).eval()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        rows = costs("dense", dense_variants(dense, blocks[0], Path(temporary)), blocks, BLOCK_S)
        rows += costs("pursuit", pursuit_variants(sorter), blocks, BLOCK_S)
    num_samples = open_file(*path).get_num_samples()
    clock = {
        name: min(by_the_clock(model, path, num_samples, *shape) for _ in range(3))
        for name, shape in (("one thread", (1, 1)), ("two threads", (1, 2)), ("two processes", (2, 1)))
    }
    print(clock)
    command = " ".join(["python benchmarks/runtimes.py", *arguments])
    content = {"command": command, "rows": rows, "by_the_clock": clock}
    write_json(ROOT / options["output"], content)
    if options["output"] == DEFAULTS["output"]:
        write_between(PAGE, BEGIN, END, page_table(content))


if __name__ == "__main__":
    main(sys.argv[1:])
