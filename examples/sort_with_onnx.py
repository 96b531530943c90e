"""Sort a recording with an exported network: NumPy, SciPy's filter and onnxruntime, nothing else.

    python examples/sort_with_onnx.py model.onnx traces.raw 0.195 spikes.npz

traces.raw: int16, sample after sample, channels in the order of the card's channel_ids, at the card's rate.
0.195: µV to a step of the integers.
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
rate, chosen = card["sampling_frequency"], card["preprocessing"]
band_hz = (chosen["freq_min_hz"], chosen["freq_max_hz"])
sos = butter(chosen["filter_order"], band_hz, btype="bandpass", output="sos", fs=rate)
before = card["peak_offset_samples"]  # of a window's samples; the peak lies here, the others after it
after = card["window_samples"] - before - 1
margin, filter_margin = reading["margin_samples"], int(6 * rate / band_hz[0])
stored = np.memmap(traces_file, dtype=np.int16, mode="r").reshape(-1, len(card["channel_ids"]))  # (N, C)

found = []
for start in range(0, len(stored), int(rate)):  # one second at a time; margins make it equal to the whole
    stop = min(len(stored), start + int(rate))
    first, last = max(0, start - margin), min(len(stored), stop + margin)  # rows of probabilities
    low, high = max(0, first - before), min(len(stored), last + after)  # traces that they need
    begin = max(0, low - filter_margin)
    traces = sosfiltfilt(sos, stored[begin : high + filter_margin], axis=0)[low - begin : high - begin]
    traces = traces * float(gain_uv)
    if chosen["common_reference"] == "median":
        traces -= np.median(traces, axis=1, keepdims=True)
    traces = np.pad(traces, ((low - first + before, last + after - high), (0, 0)))  # silence beyond the ends
    _, accepted, heights = session.run(None, {"traces_uv": traces[None].astype(np.float32)})  # (rows, U)
    sample, unit = np.nonzero(accepted[start - first : stop - first])
    found.append((sample + start, unit, heights[sample + start - first, unit]))
sample_index, unit_index, probability = (np.concatenate(column) for column in zip(*found, strict=True))
probability = np.interp(probability, *reading["reliability"])  # calibrated: part of such spikes that is true
unit_id = np.array(card["unit_ids"])[unit_index]
np.savez(output, sample_index=sample_index, unit_id=unit_id, probability=probability)
print(f"{output}: {len(unit_id)} spikes of {len(np.unique(unit_id))} units in {len(stored) / rate:.1f} s")
