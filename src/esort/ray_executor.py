"""Chunks of a long recording, sorted by the nodes of a Ray cluster."""

from __future__ import annotations

import importlib.util
import io
import logging
import math
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from esort.checkpoint import package_versions
from esort.executor import Parts, Stretch, check_seconds
from esort.inference import BLOCK_S
from esort.one_line import one_line
from esort.sort_result import SortResult
from esort.sorter import Sorter

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording

__all__ = ["RayExecutor"]

logger = logging.getLogger(__name__)

# How often the cluster is looked at while no chunk ends.
_LOOK_S = 2.0
_KNOCK_S = 10.0
# Addresses that name no host.
_FOUND_BY_RAY = ("auto", "local")
_RESUME = "the finished chunks are kept: go on with resume=true"


@dataclass(frozen=True, kw_only=True)
class RayExecutor:
    """Sorts chunks on a Ray cluster; the chunks of a node that dies are sorted by another.

    The recording must lie where every node sees it under the same path. The checkpoint is sent to the nodes,
    and the spikes come back: they need no other file in common.

    Parameters
    ----------
    address : str or None
        Of the cluster, ``host:port`` or ``ray://host:port``; ``auto`` finds the one that this machine belongs
        to, ``local`` starts one of this machine alone. None: what the environment variable RAY_ADDRESS says,
        else as ``auto``, else as ``local``.
    chunk_s : float
        So much of the recording is sorted by a node at a time, in seconds.
    attempts : int
        How often a chunk may be begun when the nodes that sort it die.
    patience_s : float
        How long to wait for a node while the cluster has none that could sort a chunk, in seconds.

    Raises
    ------
    ValueError
        If a value is outside its limits, or Ray is not installed.
    """

    address: str | None = None
    chunk_s: float = 60.0
    attempts: int = 4
    patience_s: float = 60.0

    name = "ray"

    def __post_init__(self) -> None:
        if self.address is not None and not _is_address(self.address):
            raise ValueError(
                f"executor.address must be host:port, ray://host:port, auto or local, got {self.address!r}"
            )
        for name in ("chunk_s", "patience_s"):
            check_seconds(name, getattr(self, name))
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int) or self.attempts < 1:
            raise ValueError(f"executor.attempts must be a whole number of at least 1, got {self.attempts!r}")
        found = importlib.util.find_spec("ray")
        if found is None or found.origin is None:  # a folder of that name has no origin
            raise ValueError("executor=ray needs Ray, which is not installed: pip install esort[ray]")

    def sort(
        self,
        sorter: Sorter,
        recording: BaseRecording,
        stretches: Sequence[Stretch],
        *,
        thresholds: float | None = None,
        num_workers: int | None = None,
        advance: Callable[[int], None] = lambda blocks: None,
    ) -> Parts:
        """See `Executor.sort`; `num_workers` are the cores that a chunk takes on its node, by default 1.

        Raises
        ------
        OSError
            If there is no cluster at the address, a node cannot open the recording, a chunk's nodes died
            `attempts` times, or no node with enough cores is there for `patience_s`.
        ValueError
            If the recording cannot be described to other processes, or a node has other packages.
        """
        if not recording.check_serializability("json"):
            raise ValueError(
                f"executor=ray needs a recording that lies in files, got {type(recording).__name__} in memory"
            )
        if not stretches:
            return
        import ray

        cores = num_workers or 1
        # A pickled recording would leave its marks behind, see `esort.handling`.
        described = recording.to_dict(include_annotations=True, include_properties=True, recursive=True)
        with self._cluster():
            common = ray.put((sorter, described, thresholds, cores, package_versions()))
            task = ray.remote(num_cpus=cores, max_retries=self.attempts - 1, scheduling_strategy="SPREAD")(
                _sort_stretch
            )
            waiting = {task.remote(common, start, stop): (start, stop) for start, stop in stretches}
            nodes: Counter[str] = Counter()
            try:
                for reference in self._finished(list(waiting), cores):
                    start, stop = waiting[reference]
                    result, node = self._fetch(reference, (start, stop), recording.sampling_frequency)
                    nodes[node] += 1
                    yield start, result
                    advance(math.ceil((stop - start) / (BLOCK_S * recording.sampling_frequency)))
            finally:
                # By force Ray sometimes ends this process, for a task may fail while it is cancelled.
                _, left = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
                for reference in left:
                    ray.cancel(reference, force=False)
        shown = ", ".join(f"{node}: {count}" for node, count in sorted(nodes.items()))
        logger.info("ray: %d chunks of %g s on %d nodes (%s)", len(waiting), self.chunk_s, len(nodes), shown)

    @contextmanager
    def _cluster(self) -> Iterator[None]:
        """Be connected to the cluster; a connection that was there before stays."""
        import ray

        if ray.is_initialized():
            yield
            return
        self._knock()
        try:
            # What a worker logs, and Ray's own greetings, are not for the user's terminal.
            with redirect_stderr(io.StringIO()):
                ray.init(address=self.address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            line = one_line(error)
            raise OSError(f"no Ray cluster at {self.address or 'this machine'}: {line}") from None
        try:
            yield
        finally:
            ray.shutdown()

    def _knock(self) -> None:
        """See whether anybody listens at the address: Ray itself would try for minutes."""
        if self.address is None or self.address in _FOUND_BY_RAY:
            return
        host, _, port = self.address.removeprefix("ray://").rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=_KNOCK_S).close()
        except OSError as error:
            reason = error.strerror or str(error)
            raise OSError(f"no Ray cluster at {self.address}: {reason}") from None

    def _finished(self, references: list[Any], cores: int) -> Iterator[Any]:
        """Yield the references whose tasks have ended, as they end."""
        import ray

        usable = monotonic()
        while references:
            done, references = ray.wait(references, num_returns=1, timeout=_LOOK_S)
            yield from done
            if done or any(_cores_of(node) >= cores for node in ray.nodes()):
                usable = monotonic()
            elif monotonic() - usable > self.patience_s:
                raise OSError(
                    f"no node of the Ray cluster with {cores} or more cores for {self.patience_s:g} s, "
                    f"{len(references)} chunks are left; {_RESUME}"
                )

    def _fetch(self, reference: Any, stretch: Stretch, rate: float) -> tuple[SortResult, str]:
        """Return what a task gave, or raise what it raised."""
        import ray

        try:
            result, node = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            raise cause from None
        except ray.exceptions.RayError as error:
            line = str(error).strip().splitlines()[0].rstrip(".")
            raise OSError(
                f"the chunk of {stretch[0] / rate:g} to {stretch[1] / rate:g} s was begun {self.attempts} "
                f"times and never finished ({type(error).__name__}: {line}); {_RESUME}"
            ) from None
        return result, node


def _is_address(address: Any) -> bool:
    if not isinstance(address, str):
        return False
    host, _, port = address.removeprefix("ray://").rpartition(":")
    return address in _FOUND_BY_RAY or (host != "" and port.isascii() and port.isdigit())


def _cores_of(node: dict[str, Any]) -> float:
    """Cores of a living node, as `ray.nodes` describes it."""
    return float(node["Resources"].get("CPU", 0)) if node["Alive"] else 0.0


def _sort_stretch(
    common: tuple[Sorter, dict[str, Any], float | None, int, dict[str, str]], start: int, stop: int
) -> tuple[SortResult, str]:
    """Sort a stretch on a node of the cluster; return the node's name as well."""
    from spikeinterface import load

    sorter, described, thresholds, num_workers, versions = common
    node = socket.gethostname()
    differing = {name for name, ours in package_versions().items() if versions.get(name) != ours}
    if differing:
        raise ValueError(
            f"node {node} has another {', '.join(sorted(differing))} than the machine that sort.py runs on: "
            "spikes are the same on every node only with the same packages"
        )
    try:
        recording = load(described)
    except Exception as error:  # noqa: BLE001 (readers raise whatever they like)
        raise _unseen(node, error) from None
    try:
        result = sorter.sort(
            recording,
            start_sample=start,
            stop_sample=stop,
            thresholds=thresholds,
            num_workers=num_workers,
        )
    except OSError as error:  # many readers open their files when the first traces are asked for
        raise _unseen(node, error) from None
    return result, node


def _unseen(node: str, error: Exception) -> OSError:
    line = one_line(error)
    return OSError(
        f"node {node} cannot open the recording ({line}): it must lie where every node sees it "
        "under the same path"
    )
