"""An exported model against the sorter that it was made of: whether the spikes are the same, and the time.

    python benchmarks/exported.py checkpoint=model.safetensors recording=FOLDER seconds=30

The recording is written as int16, exported and sorted by ``examples/sort_with_onnx.py``, and by the sorter
without the motion of the tissue, which a model does not follow. Times are of the processor, one thread each,
reading included, loading not.
"""

from __future__ import annotations

import json
import runpy
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
from spikeinterface.preprocessing import astype

from esort.export import export_onnx
from esort.recordings import RecordingPath
from esort.sorter import Sorter

ROOT = Path(__file__).parents[1]


class OneThread(onnxruntime.InferenceSession):
    """What the example opens, timed and on one thread."""

    begin_s = 0.0

    def __init__(self, model: str, providers: list[str]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        super().__init__(model, options, providers=providers)
        OneThread.begin_s = time.process_time()


def main(arguments: list[str]) -> None:
    """Print what differs, and the times."""
    chosen = {"seconds": "30"} | dict(argument.split("=", 1) for argument in arguments)
    recording = RecordingPath(path=chosen["recording"]).open()
    stop = min(recording.get_num_samples(), round(float(chosen["seconds"]) * recording.sampling_frequency))
    recording = recording.frame_slice(start_frame=0, end_frame=stop)
    sorter = Sorter.load(chosen["checkpoint"])
    recording = recording.select_channels(recording.channel_ids[sorter.channel_order(recording)])
    recording = astype(recording, "int16", round=True)
    gains = recording.get_channel_gains()
    original = onnxruntime.InferenceSession
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / name) for name in ("model.onnx", "traces.raw", "spikes.npz")]
        recording.get_traces().tofile(paths[1])
        rounds = int(chosen["rounds"]) if "rounds" in chosen else None
        exported = export_onnx(chosen["checkpoint"], paths[0], rounds=rounds)
        onnxruntime.InferenceSession = OneThread
        sys.argv = ["sort_with_onnx.py", *paths[:2], str(1.0 if gains is None else gains[0]), paths[2]]
        runpy.run_path(str(ROOT / "examples" / "sort_with_onnx.py"), run_name="__main__")
        model_s = time.process_time() - OneThread.begin_s
        found = dict(np.load(paths[2]))
    onnxruntime.InferenceSession = original
    if sorter.card.network == "pursuit":
        sorter.scorer.follows = False
    sorter.sort(recording, stop_sample=min(stop, 40_000), num_workers=1)  # compiles, and makes the tables
    begin_s = time.process_time()
    spikes = sorter.sort(recording, num_workers=1).spikes
    sorter_s = time.process_time() - begin_s
    names = {str(unit_id): index for index, unit_id in enumerate(sorter.card.unit_ids)}
    units = [names[str(unit_id)] for unit_id in found["unit_id"]]
    pairs = [
        set(zip(sample.tolist(), unit, strict=True))
        for sample, unit in (
            (found["sample_index"], units),
            (spikes.sample_index, spikes.unit_index.tolist()),
        )
    ]
    row = {
        "seconds": stop / recording.sampling_frequency,
        "channels": recording.get_num_channels(),
        "units": len(names),
        "megabytes": exported.num_bytes / 1e6,
        "spikes": len(spikes),
        "only_model": len(pairs[0] - pairs[1]),
        "only_sorter": len(pairs[1] - pairs[0]),
        "model_s": model_s,
        "sorter_s": sorter_s,
    }
    print(json.dumps(row, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
