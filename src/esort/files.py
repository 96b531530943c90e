"""Files that are either whole or absent: write beside, make durable, rename."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from esort.one_line import one_line

__all__ = [
    "check_writable",
    "new_folder_atomically",
    "new_memory_map",
    "plain",
    "remove_leftovers",
    "saying_where",
    "sha256_of_file",
    "write_atomically",
    "write_json",
]

# Full, over quota, larger than a file may be, read-only, not allowed.
_NOT_WRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
_TRIAL_BYTES = 4096
_TOLD = " bytes were written"
_LEFTOVER = re.compile(r"\..+\.partial-\d+-[0-9a-f]{8}(\..*)?")
# NumPy writes with C functions that tell how much was written, and not why it was less.
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")


@contextmanager
def write_atomically(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path beside `path`; move it onto `path` once the block has ended without an error.

    Readers see the old file or the new one, never a part of it, whatever stops the process. Missing parent
    folders are made. The yielded name keeps the suffix, because some writers choose the format by it.

    Parameters
    ----------
    path : path-like
        The file to make or replace.

    Yields
    ------
    pathlib.Path
        A name in the same folder, which does not exist yet; the block writes to it.

    Raises
    ------
    RuntimeError
        If the block ends without having written the file.
    OSError
        If it cannot be written; where the disk is full or read-only one line names path and bytes.
    """
    path = Path(path)
    partial = path.with_name(f".{path.stem}.partial-{os.getpid()}-{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        with saying_where(path, partial):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            if not partial.is_file():
                raise RuntimeError(f"nothing was written for {path}")
            _sync(partial)
            os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    _sync(path.parent)


@contextmanager
def new_folder_atomically(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty folder beside `path`; give it the name `path` once the block has ended without an error.

    Parameters
    ----------
    path : path-like
        The folder to make; it must not exist. Missing parent folders are made.

    Yields
    ------
    pathlib.Path
        An empty folder named ``.<name>.partial-<process id>-<token>``, removed with all it holds on an error.

    Raises
    ------
    FileExistsError
        If `path` exists, at the start or by the time the block has ended (another process was faster).
    OSError
        As `write_atomically`.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"expected a folder that does not exist yet, got {path}")
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        with saying_where(path, partial):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.mkdir()
            yield partial
            for parent, _, names in os.walk(partial):
                for name in names:
                    _sync(Path(parent, name))
                _sync(Path(parent))
            # A rename onto an *empty* folder would succeed and hide that somebody else had begun there.
            if path.exists():
                raise FileExistsError(f"{path} was made by another process in the meantime")
            os.rename(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _sync(path.parent)


def new_memory_map(path: str | os.PathLike[str], dtype: np.dtype | type, shape: tuple[int, ...]) -> np.memmap:
    """Make a file in NumPy's format, all of whose bytes have their place on the disk, and map it for writing.

    Writing to a map for which the disk has no room would end the process without a word.

    Parameters
    ----------
    path : path-like
        Replaced; its folder must be there.
    dtype : dtype
    shape : tuple of int

    Returns
    -------
    np.memmap
        Zeros.

    Raises
    ------
    OSError
        If there is no room; one line names path and bytes.
    """
    path = Path(path)
    dtype = np.dtype(dtype)
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with saying_where(path, path), open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        num_bytes = file.tell() + math.prod(shape) * dtype.itemsize
        file.flush()
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, num_bytes)
        else:
            file.truncate(num_bytes)
    mapped: np.memmap = np.load(path, mmap_mode="r+")
    return mapped


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Refuse a folder into which nothing can be written, before anything is; leave no trace.

    Parameters
    ----------
    folder : path-like
        It, or the first of its parents that exists, is tried.

    Raises
    ------
    OSError
        One line names path and bytes.
    """
    folder = Path(folder).absolute()
    there = next(place for place in (folder, *folder.parents) if place.is_dir())
    trial = there / f".writable-{uuid.uuid4().hex[:8]}"
    try:
        with saying_where(folder, trial):
            trial.write_bytes(bytes(_TRIAL_BYTES))
    finally:
        with suppress(OSError):
            trial.unlink(missing_ok=True)


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Remove what killed processes left half-written in a folder that nobody else writes to."""
    for path in Path(folder).glob(".*.partial-*"):
        if _LEFTOVER.fullmatch(path.name):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write `content` as indented JSON, atomically.

    Parameters
    ----------
    path : path-like
        The file to make or replace.
    content : Any
        Whatever `plain` takes.
    """
    text = json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False)
    with write_atomically(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read an object that `write_json` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged; one line names it.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: no JSON ({one_line(error, 100)})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: expected a JSON object, got {type(content).__name__}")
    return content


def plain(content: Any) -> Any:
    """Return `content` in terms of dict, list, str, int, float, bool and None only.

    Parameters
    ----------
    content : Any
        Nested mappings, sequences, sets, dataclasses, NumPy scalars and arrays, paths and plain values.
        Not-a-number and infinity become None, because JSON has no word for them.

    Returns
    -------
    Any
        The same content, ready for `json`.

    Raises
    ------
    TypeError
        If something in it is of any other type.
    """
    if isinstance(content, (np.generic, np.ndarray)):
        content = content.tolist()
    if content is None or isinstance(content, (bool, int, str)):
        return content
    if isinstance(content, float):
        return content if np.isfinite(content) else None
    if isinstance(content, os.PathLike):
        return os.fspath(content)
    if is_dataclass(content) and not isinstance(content, type):
        content = asdict(content)
    if isinstance(content, dict):
        return {_key(key): plain(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [plain(value) for value in content]
    if isinstance(content, (set, frozenset)):
        return [plain(value) for value in sorted(content)]
    raise TypeError(f"expected something that JSON can hold, got {type(content).__name__}")


def sha256_of_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of the bytes of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def saying_where(path: Path, partial: Path) -> Iterator[None]:
    """Let the error of a disk that takes no more name the file, what was written of it and what is free.

    Parameters
    ----------
    path : Path
        What the user knows it by.
    partial : Path
        Where it is written.

    Raises
    ------
    OSError
        With the number of the one that ended the block.
    """
    try:
        yield
    except OSError as error:
        if _TOLD in str(error):
            # By what wrote a part of it, which knows it only by the name that is gone after the error.
            message = (error.strerror or str(error)).replace(str(partial), str(path))
            raise OSError(error.errno, message) from error
        if error.errno not in _NOT_WRITABLE and not _SHORT_WRITE.search(str(error)):
            raise
        reason = os.strerror(error.errno) if error.errno else str(error)
        message = f"{reason}: cannot write {path} ({_bytes_in(partial)}{_TOLD}{_free(path)})"
        raise OSError(error.errno or errno.EIO, message) from error


def _bytes_in(path: Path) -> int:
    """Size of a file, or of all files in a folder; 0 where nothing is."""
    with suppress(OSError):
        if path.is_file():
            return path.stat().st_size
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return 0


def _free(path: Path) -> str:
    with suppress(OSError, StopIteration):
        there = next(place for place in path.absolute().parents if place.is_dir())
        return f", {shutil.disk_usage(there).free} are free"
    return ""


def _key(key: Any) -> str:
    """Return the name of a mapping entry; unit ids may be integers, which JSON only takes as text."""
    if isinstance(key, np.generic):
        key = key.item()
    if isinstance(key, (str, int)) and not isinstance(key, bool):
        return str(key)
    raise TypeError(f"expected keys of type str or int, got {type(key).__name__}")


def _sync(path: Path) -> None:
    """Ask the system to put a file or the entries of a folder onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
