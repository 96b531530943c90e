"""Training by several processes of this machine: this one is the first, the others only train along.

Lightning would start the whole program again for each of them, which would then draw labels, sort and write
files again. Here the others are started for one training, get what it needs, and end with it: whatever
happens before and after is done once, and only the first process writes.
"""

from __future__ import annotations

import logging
import mmap
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy

__all__ = ["Ranks", "SharedTraces", "check_trainer", "training_along"]

logger = logging.getLogger(__name__)

# How often the others are looked at while they start, and how long they have to end.
_LOOK_S, _END_S = 0.5, 60.0
# What Lightning and torch leave in the environment.
_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS", "WORLD_SIZE")


class Ranks(LightningEnvironment):
    """Processes of this machine that know each other already.

    Parameters
    ----------
    rank : int
        0 for the first process, which writes.
    port : int, optional
        Where the first one listens; by default a free one.
    """

    def __init__(self, rank: int = 0, port: int = -1) -> None:
        super().__init__()
        self.rank = rank
        self._main_port = port

    @property
    def creates_processes_externally(self) -> bool:
        """Lightning has none to start."""
        return True

    @property
    def main_address(self) -> str:
        """All are on one machine."""
        return "127.0.0.1"

    def local_rank(self) -> int:
        """Rank of this process."""
        return self.rank

    def node_rank(self) -> int:
        """There is one machine."""
        return 0


class SharedTraces:
    """Traces on their way to another process: a memory map goes as its path, and is mapped there."""

    def __init__(self, traces: np.ndarray) -> None:
        name = str(getattr(traces, "filename", ""))
        is_whole = isinstance(traces.base, mmap.mmap) and name.endswith(".npy")  # and no part of a map
        self._content: Path | np.ndarray = Path(name).absolute() if is_whole else np.asarray(traces)

    def open(self) -> np.ndarray:
        """Return the traces."""
        if isinstance(self._content, Path):
            return np.load(self._content, mmap_mode="r")
        return self._content


def check_trainer(trainer: Trainer, batch_size: int) -> None:
    """Refuse what this module cannot do.

    Raises
    ------
    ValueError
        If there are several machines, another strategy than DDP, or a batch cannot be shared out evenly.
    """
    count = trainer.world_size
    if trainer.num_nodes != 1:
        raise ValueError(f"trainer.num_nodes must be 1: one machine trains, got {trainer.num_nodes}")
    if count == 1:
        return
    strategy = trainer.strategy
    if not (isinstance(strategy, DDPStrategy) and strategy._start_method == "popen"):
        raise ValueError(
            f"trainer.strategy must be ddp with {count} devices, got {type(strategy).__name__}"
            f"{f' by {strategy._start_method}' if isinstance(strategy, DDPStrategy) else ''}"
        )
    if batch_size % count or batch_size // count < 2:  # batch normalisation needs two windows
        raise ValueError(
            f"batch_size must be a multiple of trainer.devices={count} and give each two windows, "
            f"got {batch_size}"
        )


@contextmanager
def training_along(count: int, port: int, train: Callable[..., Any], *arguments: Any) -> Iterator[None]:
    """Have other processes call a function while the block trains.

    Parameters
    ----------
    count : int
        Processes, with this one; 1 starts none.
    port : int
        Where this one listens.
    train : callable
        Is called as ``train(environment, ready, *arguments)`` by each of the others, calls ``ready()`` when
        it is about to train, and returns when the block does. A function of a module.
    arguments
        Go by pickle.

    Raises
    ------
    OSError
        If another process ended too soon.
    """
    if count == 1:
        yield
        return
    context = multiprocessing.get_context("spawn")
    ready = context.Semaphore(0)
    others: list[BaseProcess] = [
        context.Process(target=_begin, args=(train, rank, port, ready, arguments), daemon=True)
        for rank in range(1, count)
    ]
    variables = {name: os.environ.get(name) for name in _VARIABLES}
    threads = torch.get_num_threads()
    try:
        for other in others:
            other.start()
        for _ in others:
            while not ready.acquire(timeout=_LOOK_S):
                _check_alive(others)
        logger.info("%d processes train together", count)
        try:
            yield
        except RuntimeError:
            _check_alive(others)  # that one of them is gone says more than that the line to it is
            raise
        for other in others:
            other.join(_END_S)
    finally:
        for other in others:
            if other.is_alive():
                other.kill()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        torch.set_num_threads(threads)
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _begin(train: Callable[..., Any], rank: int, port: int, ready: Any, arguments: tuple) -> None:
    """Where another process starts."""
    train(Ranks(rank, port), ready.release, *arguments)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _check_alive(others: list[BaseProcess]) -> None:
    for rank, other in enumerate(others, start=1):
        other.join(0.2)
        if other.exitcode is not None:
            raise OSError(
                f"process {rank} of {len(others) + 1} that train together ended with code {other.exitcode}: "
                "resume=true goes on after the last whole epoch"
            ) from None
