"""Sort a recording with an exported pursuit: NumPy and onnxruntime, nothing else.

    python examples/sort_with_onnx.py model.onnx traces.raw 0.195 spikes.npz

traces.raw: int16, sample after sample, channels in the order of the card's channel_ids, at the card's rate.
0.195: µV to a step of the integers.
"""

import json
import sys

import numpy as np
import onnxruntime

model, traces_file, gain_uv, output = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
metadata = session.get_modelmeta().custom_metadata_map
card, reading = json.loads(metadata["esort"]), json.loads(metadata["esort_export"])
stored = np.memmap(traces_file, dtype=np.int16, mode="r").reshape(-1, len(card["channel_ids"]))  # (N, C)
before = card["peak_offset_samples"]  # of a window's samples; the peak lies here, the others after it
after = card["window_samples"] - before - 1

found = []
for start in range(0, len(stored), reading["chunk_samples"]):  # margins make the chunks equal to the whole
    stop = min(len(stored), start + reading["chunk_samples"])
    first = max(0, start - reading["before_samples"])  # the model looks at samples [first, last)
    last = min(len(stored), stop + reading["after_samples"])
    low, high = max(0, first - before), min(len(stored), last + after)  # traces that it needs
    beyond = ((low - first + before, last + after - high), (0, 0))  # the recording's ends
    traces = np.pad(stored[low:high] * float(gain_uv), beyond, mode="edge").astype(np.float32)
    stretch = np.array([first, start, stop])
    found.append(session.run(None, {"traces_uv": traces[None], "stretch": stretch}))
sample_index, unit_index, heights = (np.concatenate(column) for column in zip(*found, strict=True))
order = np.lexsort((unit_index, sample_index))
probability = np.interp(heights[order], *reading["reliability"])  # part of such spikes that is true
unit_id = np.array(card["unit_ids"])[unit_index[order]]
np.savez(output, sample_index=sample_index[order], unit_id=unit_id, probability=probability)
print(f"{output}: {len(unit_id)} spikes of {len(np.unique(unit_id))} units")
