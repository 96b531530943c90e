"""Sort what Open Ephys records, while it records.

    python examples/realtime_zmq.py model.safetensors address=tcp://127.0.0.1:5556

In Open Ephys put the plugin "ZMQ Interface" behind the source, with all channels of the probe that the units
were learned on, in the order of the checkpoint. Each spike is printed as a line of JSON: its sample in the
stream, its unit, its probability. Reports (time dropped, gaps, how long spikes took) go to stderr. Install
pyzmq first: pip install 'esort[realtime]'.

For a closed loop put your own reaction into `react`.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from esort.openephys import BlockBuilder, OpenEphysReceiver
from esort.stream import StreamingSorter

DEFAULTS = {
    "address": "tcp://127.0.0.1:5556",
    "most_blocks": "200",  # that may wait before some are dropped
    "quiet_s": "5",  # the stream is over when nothing has come for so long
    "slow_ms": "0",  # pretend that the reaction to a block takes so long
}
FIRST_WAIT_S = 60.0
REPORT_S = 10.0


def react(spikes, unit_ids):
    """What is done with the spikes that became certain."""
    columns = (spikes.sample_index, spikes.unit_index, spikes.probability)
    for sample, unit, probability in zip(*columns, strict=True):
        name = unit_ids[unit]
        line = {"sample": int(sample), "unit": name, "probability": round(float(probability), 3)}
        print(json.dumps(line), flush=True)


def say(report):
    """Report as a line of JSON."""
    print(json.dumps(report), file=sys.stderr, flush=True)


def report_of(stream, receiver, delays_ms):
    """What was lost so far, and how long blocks took from their arrival to their spikes."""
    delays = np.percentile(delays_ms, [50, 99, 100]).round(2).tolist() if delays_ms else None
    return {
        "blocks": len(delays_ms),
        "gaps": stream.gaps,
        "missing_samples": stream.missing_samples,
        "dropped_blocks": receiver.dropped_blocks,
        "dropped_s": receiver.dropped_samples / stream.sampling_frequency,
        "incomplete_buffers": receiver.builder.incomplete,
        "waiting_blocks": receiver.waiting,
        "delay_ms_p50_p99_max": delays,
    }


def main(arguments):
    """Sort until nothing comes any more."""
    checkpoint, *rest = arguments or [""]
    options = DEFAULTS | dict(argument.split("=", 1) for argument in rest)
    if not checkpoint or set(options) != set(DEFAULTS):
        sys.exit(f"expected a checkpoint and {', '.join(DEFAULTS)}, got {arguments}")
    stream = StreamingSorter(checkpoint)
    unit_ids = stream.sorter.card.unit_ids
    # The first block would wait for what is compiled or loaded at first use.
    stream.push(np.zeros((round(0.5 * stream.sampling_frequency), stream.num_channels), dtype=np.float32))
    stream.finish()
    say({"latency": str(stream.latency)})
    builder = BlockBuilder(stream.num_channels, stream.sampling_frequency)
    most_blocks = int(options["most_blocks"])
    delays_ms, reported, said_drops = [], time.perf_counter(), 0
    with OpenEphysReceiver(builder, options["address"], most_blocks=most_blocks) as receiver:
        wait_s = FIRST_WAIT_S
        while (block := receiver.next_block(wait_s)) is not None:
            wait_s = float(options["quiet_s"])
            if delays_ms and block.start_sample < stream.next_sample:
                say({"restarted": block.start_sample})  # somebody started the acquisition anew
                react(stream.finish(), unit_ids)
            react(stream.push(block.traces, block.start_sample), unit_ids)
            delays_ms.append((time.perf_counter() - block.arrived) * 1000)
            time.sleep(float(options["slow_ms"]) / 1000)
            if receiver.dropped_blocks > said_drops or time.perf_counter() - reported > REPORT_S:
                said_drops, reported = receiver.dropped_blocks, time.perf_counter()
                say(report_of(stream, receiver, delays_ms[-1000:]))
        react(stream.finish(), unit_ids)
        say({"end": True} | report_of(stream, receiver, delays_ms))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
