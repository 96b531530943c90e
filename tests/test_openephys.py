"""Messages of Open Ephys' ZMQ Interface, and the real-time example with a second process that plays."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from esort.openephys import BlockBuilder, OpenEphysReceiver, parse_message
from esort.stream import StreamingSorter

ROOT = Path(__file__).parents[1]
FIRST = 2**31 + 7


def message(channel=0, samples=(1, 2, 3), start=10, rate=32000, stream="probe"):
    content = {
        "stream": stream,
        "channel_num": channel,
        "num_samples": len(samples),
        "sample_num": start,
        "sample_rate": rate,
    }
    header = json.dumps({"message_num": 1, "type": "data", "content": content})
    return [b"DATA\0", header.encode(), np.asarray(samples, dtype=np.float32).tobytes()]


def test_channels_are_put_together_in_any_order():
    builder = BlockBuilder(2, 32000.0)
    assert builder.add(message(1, [4, 5, 6])) is None
    assert builder.add([b"EVENT\0", b"{}"]) is None
    assert builder.add(message(0, [7, 8], stream="other")) is None
    block = builder.add(message(0, [1, 2, 3]))
    assert block.start_sample == 10
    np.testing.assert_array_equal(block.traces, [[1, 4], [2, 5], [3, 6]])


def test_a_buffer_without_one_of_its_channels_is_counted():
    builder = BlockBuilder(2, 32000.0)
    assert builder.add(message(0)) is None
    assert builder.add(message(0, start=13)) is None
    assert builder.add(message(1, start=13)).start_sample == 13
    assert builder.incomplete == 1


def test_messages_that_do_not_fit():
    builder = BlockBuilder(2, 32000.0)
    with pytest.raises(ValueError, match="expected a stream at 32000 Hz, got 30000 Hz"):
        builder.add(message(rate=30000))
    with pytest.raises(ValueError, match="expected channels 0 to 1, got channel 2"):
        builder.add(message(2))
    envelope, header, data = message()
    with pytest.raises(ValueError, match="expected 3 float32 samples, got 8 bytes of channel 0"):
        parse_message([envelope, header, data[:8]])
    with pytest.raises(ValueError, match="expected a header of Open Ephys' ZMQ Interface, got"):
        parse_message([envelope, b'{"content": {}}', data])
    with pytest.raises(ValueError, match=r"expected an address such as tcp://127.0.0.1:5556, got 'nowhere'"):
        OpenEphysReceiver(builder, "nowhere")
    with pytest.raises(ValueError, match="most_blocks must be at least 1, got 0"):
        OpenEphysReceiver(builder, most_blocks=0)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def play(checkpoint, path, *options, skip=(0, 0)):
    """Spikes and reports of the example while another process plays a file in real time."""
    pytest.importorskip("zmq")
    port = free_port()
    numbers = map(str, (32000, port, 320, *skip, FIRST))
    player = subprocess.Popen([sys.executable, ROOT / "tests" / "play_zmq.py", path, *numbers])
    try:
        done = subprocess.run(
            [
                sys.executable,
                ROOT / "examples" / "realtime_zmq.py",
                checkpoint,
                f"address=tcp://127.0.0.1:{port}",
                "quiet_s=2",
                *options,
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
    finally:
        player.kill()
        player.wait()
    assert done.returncode == 0, done.stderr
    spikes = [json.loads(line) for line in done.stdout.splitlines()]
    reports = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    return sorted((spike["sample"], spike["unit"]) for spike in spikes), reports


@pytest.fixture(scope="module")
def played(trained_pursuit, tmp_path_factory):
    """Two seconds in µV as a file."""
    recording = trained_pursuit.subject().recording
    traces = recording.get_traces(end_frame=64_000).astype(np.float32)
    traces = traces * recording.get_channel_gains().astype(np.float32)
    path = tmp_path_factory.mktemp("played") / "traces.npy"
    np.save(path, traces)
    return path, traces


def expected(checkpoint, parts):
    stream = StreamingSorter(checkpoint)
    found = [stream.push(traces, start) for start, traces in parts] + [stream.finish()]
    names = stream.sorter.card.unit_ids
    return sorted(
        (int(sample), names[unit])
        for spikes in found
        for sample, unit in zip(spikes.sample_index, spikes.unit_index, strict=True)
    )


def test_a_second_process_plays_with_a_gap_and_all_spikes_come(trained_pursuit, played):
    path, traces = played
    found, reports = play(trained_pursuit.checkpoint, path, skip=(32_000, 40_000))
    wanted = expected(
        trained_pursuit.checkpoint, [(FIRST, traces[:32_000]), (FIRST + 40_000, traces[40_000:])]
    )
    assert found == wanted
    assert len(found) > 10
    assert reports[0]["latency"].startswith("a spike is certain at most ")
    end = reports[-1]
    assert (end["gaps"], end["missing_samples"], end["dropped_blocks"]) == (1, 8_000, 0)
    assert len(end["delay_ms_p50_p99_max"]) == 3


@pytest.mark.slow
def test_a_slow_reaction_loses_blocks_and_says_so(trained_pursuit, played):
    _, reports = play(trained_pursuit.checkpoint, played[0], "most_blocks=4", "slow_ms=60")
    end = reports[-1]
    assert end["dropped_blocks"] > 20
    assert end["gaps"] > 0
    assert end["dropped_s"] == pytest.approx(end["dropped_blocks"] * 0.01)
    # Behind the last block that was taken nobody sees a gap.
    assert 0.5 * end["dropped_blocks"] * 320 < end["missing_samples"] <= end["dropped_blocks"] * 320
    assert end["blocks"] + end["dropped_blocks"] == 200


def test_what_finds_no_room_is_dropped_and_counted():
    zmq = pytest.importorskip("zmq")
    publisher = zmq.Context.instance().socket(zmq.PUB)
    port = publisher.bind_to_random_port("tcp://127.0.0.1")
    receiver = OpenEphysReceiver(BlockBuilder(1, 32000.0), f"tcp://127.0.0.1:{port}", most_blocks=2)
    with receiver:
        deadline = time.monotonic() + 10
        start = 0
        while receiver.dropped_blocks < 5 and time.monotonic() < deadline:
            publisher.send_multipart(message(start=start))
            start += 3
            time.sleep(0.01)
        assert receiver.dropped_blocks >= 5
        assert receiver.dropped_samples == 3 * receiver.dropped_blocks
        assert receiver.waiting == 2
        first, second = receiver.next_block(1), receiver.next_block(1)
        assert second.start_sample == first.start_sample + 3
        assert receiver.next_block(0.05) is None
        publisher.send_multipart(message(rate=1000))
        with pytest.raises(ValueError, match="expected a stream at 32000 Hz, got 1000 Hz"):
            while True:
                receiver.next_block(0.2)
    publisher.close(linger=0)
