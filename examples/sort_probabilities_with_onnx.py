"""Sort a recording with an exported dense or convrecurrent network: NumPy, SciPy's filter and onnxruntime.

    python examples/sort_probabilities_with_onnx.py model.onnx traces.raw 0.195 spikes.npz

traces.raw and 0.195 as in sort_with_onnx.py, which is for the pursuit.
"""

import json
import sys

import numpy as np
import onnxruntime
from scipy.signal import butter, sosfiltfilt

model, traces_file, gain_uv, output = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
metadata = session.get_modelmeta().custom_metadata_map
card, reading = json.loads(metadata["esort"]), json.loads(metadata["esort_export"])
stored = np.memmap(traces_file, dtype=np.int16, mode="r").reshape(-1, len(card["channel_ids"]))  # (N, C)
before = card["peak_offset_samples"]  # of a window's samples; the peak lies here, the others after it
after = card["window_samples"] - before - 1
rate, chosen = card["sampling_frequency"], card["preprocessing"]
band_hz = (chosen["freq_min_hz"], chosen["freq_max_hz"])
sos = butter(chosen["filter_order"], band_hz, btype="bandpass", output="sos", fs=rate)
filter_margin = int(6 * rate / chosen["freq_min_hz"])

found = []
for start in range(0, len(stored), reading["chunk_samples"]):  # margins make the chunks equal to the whole
    stop = min(len(stored), start + reading["chunk_samples"])
    first = max(0, start - reading["before_samples"])  # rows of the network's outputs: [first, last)
    last = min(len(stored), stop + reading["after_samples"])
    low, high = max(0, first - before), min(len(stored), last + after)  # traces that they need
    begin = max(0, low - filter_margin)
    traces = sosfiltfilt(sos, stored[begin : high + filter_margin] * float(gain_uv), axis=0)
    if chosen["common_reference"] == "median":
        traces -= np.median(traces, axis=1, keepdims=True)
    beyond = ((low - first + before, last + after - high), (0, 0))  # zeros beyond the recording's ends
    traces = np.pad(traces[low - begin : high - begin], beyond).astype(np.float32)
    _, accepted, heights = session.run(None, {"traces_uv": traces[None]})  # (rows, U)
    sample, unit = np.nonzero(accepted[start - first : stop - first])
    found.append((sample + start, unit, heights[sample + start - first, unit]))
sample_index, unit_index, heights = (np.concatenate(column) for column in zip(*found, strict=True))
probability = np.interp(heights, *reading["reliability"])  # part of such spikes that is true
unit_id = np.array(card["unit_ids"])[unit_index]
np.savez(output, sample_index=sample_index, unit_id=unit_id, probability=probability)
print(f"{output}: {len(unit_id)} spikes of {len(np.unique(unit_id))} units")
