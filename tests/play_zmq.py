"""Play a recording over ZeroMQ in the layout of Open Ephys' ZMQ Interface, in real time; for the tests.

python tests/play_zmq.py traces.npy RATE PORT BLOCK_SAMPLES SKIP_START SKIP_STOP FIRST_SAMPLE

The traces are in µV. Samples [SKIP_START, SKIP_STOP) are not sent. Waits for a heartbeat.
"""

import json
import sys
import time

import numpy as np
import zmq


def main(path, *numbers):
    rate, port, length, skip_start, skip_stop, first = map(int, numbers)
    traces = np.load(path).astype(np.float32)
    context = zmq.Context()
    data, listen = context.socket(zmq.PUB), context.socket(zmq.REP)
    data.setsockopt(zmq.SNDHWM, 0)
    data.bind(f"tcp://127.0.0.1:{port}")
    listen.bind(f"tcp://127.0.0.1:{port + 1}")
    beat = listen.recv_json()
    assert beat["type"] == "heartbeat", beat
    assert {"application", "uuid"} <= set(beat), beat
    listen.send_string("heartbeat received")
    time.sleep(0.5)  # the subscription takes its time
    begin, number = time.perf_counter(), 0
    for start in range(0, len(traces), length):
        stop = min(start + length, len(traces))
        time.sleep(max(0.0, begin + stop / rate - time.perf_counter()))
        if skip_start <= start < skip_stop:
            continue
        data.send_multipart([b"EVENT\0", json.dumps({"type": "event", "content": {}}).encode()])
        for channel in range(traces.shape[1]):
            number += 1
            content = {
                "stream": "probe",
                "channel_num": channel,
                "num_samples": stop - start,
                "sample_num": start + first,
                "sample_rate": rate,
            }
            header = {
                "message_num": number,
                "type": "data",
                "content": content,
                "data_size": 4 * (stop - start),
            }
            samples = np.ascontiguousarray(traces[start:stop, channel])
            data.send_multipart([b"DATA\0", json.dumps(header).encode(), samples.tobytes()])
        if listen.poll(0):
            listen.recv()
            listen.send_string("heartbeat received")
    time.sleep(0.5)


if __name__ == "__main__":
    main(*sys.argv[1:])
