"""Samples from Open Ephys while it records: the messages of its ZMQ Interface plugin, put together to blocks.

The plugin publishes one message per channel and buffer: an envelope (``DATA``, ``EVENT`` or ``SPIKE``), a
header in JSON, and the samples of one channel as float32 in µV. A client tells that it listens by heartbeats
to the port above. Ref.: Open Ephys' user manual, "ZMQ Interface".
"""

from __future__ import annotations

import json
import queue
import threading
import time
import uuid
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["BlockBuilder", "OpenEphysReceiver", "StreamBlock", "parse_message"]

_HEARTBEAT_S = 2.0
_POLL_MS = 100


@dataclass(frozen=True, kw_only=True, eq=False)
class StreamBlock:
    """All channels of one buffer.

    Parameters
    ----------
    start_sample : int
        Of the stream.
    traces : float32 array, shape (n, C)
        In µV.
    arrived : float
        When its last channel came, on the clock of `time.perf_counter`.
    """

    start_sample: int
    traces: np.ndarray
    arrived: float


def parse_message(parts: list[bytes]) -> tuple[dict[str, Any], np.ndarray] | None:
    """Take a message apart.

    Parameters
    ----------
    parts : list of bytes
        Envelope, header, data.

    Returns
    -------
    (dict, float32 array) or None
        The header's content and the samples of a channel; None for events, spikes and anything else that is
        no data.

    Raises
    ------
    ValueError
        If it claims to be data and is damaged.
    """
    if len(parts) < 3 or not parts[0].upper().startswith(b"DATA"):
        return None
    try:
        header = json.loads(parts[1])
        content = header["content"]
        wanted = {name: int(content[name]) for name in ("channel_num", "num_samples", "sample_num")}
        rate = float(content["sample_rate"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"expected a header of Open Ephys' ZMQ Interface, got {parts[1][:80]!r}") from error
    if len(parts[2]) != 4 * wanted["num_samples"]:
        raise ValueError(
            f"expected {wanted['num_samples']} float32 samples, got {len(parts[2])} bytes "
            f"of channel {wanted['channel_num']}"
        )
    content = wanted | {"sample_rate": rate, "stream": str(content.get("stream", ""))}
    return content, np.frombuffer(parts[2], dtype=np.float32)


class BlockBuilder:
    """Puts the messages of single channels together to blocks of all.

    Parameters
    ----------
    num_channels : int
        The stream's channels are numbered from 0.
    sampling_frequency : float
        In Hz.
    stream : str, optional
        Name of the stream; by default that of the first message.
    """

    def __init__(self, num_channels: int, sampling_frequency: float, *, stream: str | None = None) -> None:
        self.num_channels = num_channels
        self.sampling_frequency = sampling_frequency
        self.stream = stream
        self.incomplete = 0
        """Buffers of which a channel never came."""
        self._start: int | None = None
        self._traces = np.zeros((0, num_channels), dtype=np.float32)
        self._seen: set[int] = set()

    def add(self, parts: list[bytes]) -> StreamBlock | None:
        """Take a message; return a block when its last channel has come.

        Raises
        ------
        ValueError
            If the message is damaged, or of another rate or number of channels.
        """
        message = parse_message(parts)
        if message is None:
            return None
        content, samples = message
        if self.stream is None:
            self.stream = content["stream"]
        if content["stream"] != self.stream:
            return None
        if abs(content["sample_rate"] - self.sampling_frequency) > 1e-3 * self.sampling_frequency:
            raise ValueError(
                f"expected a stream at {self.sampling_frequency:g} Hz, got {content['sample_rate']:g} Hz"
            )
        channel = content["channel_num"]
        if not 0 <= channel < self.num_channels:
            raise ValueError(f"expected channels 0 to {self.num_channels - 1}, got channel {channel}")
        if content["sample_num"] != self._start or len(samples) != len(self._traces):
            self.incomplete += self._start is not None
            self._start, self._seen = content["sample_num"], set()
            self._traces = np.empty((len(samples), self.num_channels), dtype=np.float32)
        self._traces[:, channel] = samples
        self._seen.add(channel)
        if len(self._seen) < self.num_channels:
            return None
        assert self._start is not None
        block = StreamBlock(start_sample=self._start, traces=self._traces, arrived=time.perf_counter())
        self._start = None
        return block


class OpenEphysReceiver:
    """Receives in a thread of its own and keeps blocks until they are asked for, but not too many.

    A block that finds no room is dropped and counted: who asks sees the gap in the sample numbers. A thread
    that sends heartbeats comes with it.

    Parameters
    ----------
    builder : BlockBuilder
    address : str
        ``tcp://host:port`` of the plugin's data port; heartbeats go to the port above.
    most_blocks : int
        Blocks that may wait.

    Raises
    ------
    ValueError
        If the address has no port, or `most_blocks` is below 1.
    ImportError
        If pyzmq is missing; ``pip install 'esort[realtime]'``.
    """

    def __init__(
        self, builder: BlockBuilder, address: str = "tcp://127.0.0.1:5556", *, most_blocks: int = 200
    ) -> None:
        host, _, port = address.rpartition(":")
        if not host.startswith("tcp://") or not port.isdigit():
            raise ValueError(f"expected an address such as tcp://127.0.0.1:5556, got {address!r}")
        if most_blocks < 1:
            raise ValueError(f"most_blocks must be at least 1, got {most_blocks}")
        self.builder = builder
        self.dropped_blocks = self.dropped_samples = 0
        self.error: str | None = None
        """Why receiving has stopped, if it has."""
        self._addresses = address, f"{host}:{int(port) + 1}"
        self._blocks: queue.Queue[StreamBlock] = queue.Queue(most_blocks)
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=run, daemon=True) for run in (self._receive, self._send_heartbeats)
        ]

    def __enter__(self) -> OpenEphysReceiver:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def waiting(self) -> int:
        """Blocks that wait."""
        return self._blocks.qsize()

    def next_block(self, timeout_s: float) -> StreamBlock | None:
        """Return the next block, or None if none came in time.

        Raises
        ------
        ValueError
            If a message did not fit and all blocks before it have been taken.
        """
        try:
            return self._blocks.get(timeout=0.0 if self.error else timeout_s)
        except queue.Empty:
            if self.error:
                raise ValueError(self.error) from None
            return None

    def _receive(self) -> None:
        import zmq

        socket: Any = zmq.Context.instance().socket(zmq.SUB)
        socket.setsockopt(zmq.RCVHWM, 0)  # what waits is counted and bounded here, in blocks
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        socket.connect(self._addresses[0])
        try:
            while not self._stop.is_set():
                if socket.poll(_POLL_MS):
                    self._take(socket.recv_multipart())
        except ValueError as error:
            self.error = str(error)
        finally:
            socket.close(linger=0)

    def _take(self, parts: list[bytes]) -> None:
        block = self.builder.add(parts)
        if block is None:
            return
        try:
            self._blocks.put_nowait(block)
        except queue.Full:
            self.dropped_blocks += 1
            self.dropped_samples += len(block.traces)

    def _send_heartbeats(self) -> None:
        import zmq

        beat = {"application": "esort", "uuid": str(uuid.uuid4()), "type": "heartbeat"}
        while not self._stop.is_set():
            # A new socket each time: one that got no answer may not ask again.
            socket: Any = zmq.Context.instance().socket(zmq.REQ)
            socket.connect(self._addresses[1])
            socket.send_json(beat)
            if socket.poll(_POLL_MS):
                socket.recv()
            socket.close(linger=0)
            self._stop.wait(_HEARTBEAT_S)
