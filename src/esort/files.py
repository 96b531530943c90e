"""Files that are either whole or absent: write beside, make durable, rename."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["new_folder_atomically", "plain", "sha256_of_file", "write_atomically", "write_json"]


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
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial-{os.getpid()}-{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield partial
        if not partial.is_file():
            raise RuntimeError(f"nothing was written for {path}")
        _sync(partial)
        os.replace(partial, path)
    except BaseException:
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
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"expected a folder that does not exist yet, got {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    partial.mkdir()
    try:
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
