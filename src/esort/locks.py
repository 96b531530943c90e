"""One process at a time in a folder of results: the second is told who is there."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from esort.files import remove_leftovers

__all__ = ["LOCK", "FolderInUseError", "check_free", "hold_folder"]

LOCK = ".lock"
"""Name of the lock in the folder; gone when its holder has ended in order."""

_MAX_NOTE_BYTES = 4096
# What file systems answer that keep no locks; the holder's note has to do there.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


class FolderInUseError(OSError):
    """Another process works in the folder: one line that names it."""


@contextmanager
def hold_folder(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Keep other processes out of a folder of results while the block runs.

    The system drops the lock when its holder ends, however it ends; the note of a dead process of this host
    is taken over, and what that process left half-written is removed.

    Parameters
    ----------
    folder : path-like
        Made if it is missing.

    Raises
    ------
    FolderInUseError
        If another process holds the folder, or one on another host did and has not said that it is done.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    descriptor = _open_and_lock(path)
    try:
        note = {
            "pid": os.getpid(),
            "started": _start_of(os.getpid()),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(note).encode(), 0)
        remove_leftovers(folder)  # nobody else writes here: they are nobody's
        yield
    finally:
        # Removed while it is still held: whoever waits for this file finds that it is gone and starts over.
        with suppress(OSError):
            path.unlink(missing_ok=True)
        os.close(descriptor)


def check_free(folder: str | os.PathLike[str]) -> None:
    """Raise FolderInUseError if another process holds the folder; leave no trace."""
    path = Path(folder) / LOCK
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        _lock(descriptor, path)
    finally:
        os.close(descriptor)


def _open_and_lock(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(descriptor, path)
            # The last holder may have removed the file between our opening and our locking.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    note = _note(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _in_use(path, note) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        if _is_alive(note):
            raise _in_use(path, note) from None
    # A lock says nothing of other hosts where the file system keeps locks for each host alone.
    if note.get("host", socket.gethostname()) != socket.gethostname():
        raise _in_use(path, note)


def _in_use(path: Path, note: dict[str, Any]) -> FolderInUseError:
    who = f"process {note.get('pid', '?')} on {note.get('host', '?')} since {note.get('since', '?')}"
    elsewhere = note.get("host", socket.gethostname()) != socket.gethostname()
    hint = f", or remove {path} if that process is dead" if elsewhere else ""
    return FolderInUseError(f"{path.parent} is in use by {who}: choose another folder{hint}")


def _note(descriptor: int) -> dict[str, Any]:
    """What the last holder said of itself; empty if it was stopped before it could."""
    try:
        content = json.loads(os.pread(descriptor, _MAX_NOTE_BYTES, 0))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_alive(note: dict[str, Any]) -> bool:
    """Whether the process of a note still runs on this host, and is not another one with its number."""
    pid = note.get("pid")
    if note.get("host") != socket.gethostname() or not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    started = _start_of(pid)
    return started is None or note.get("started") in (None, started)


def _start_of(pid: int) -> str | None:
    """When a process began, in ticks since the host did; None where the system does not say."""
    try:
        # Its name, in brackets, may hold anything.
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
