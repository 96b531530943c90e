"""One safe file for a trained network: its weights and a JSON card that says what they fit.

The file is a safetensors file whose metadata holds the card as JSON text under the key ``esort``. Nothing in
it is ever executed, imported or instantiated; everything in it is checked before it is believed.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as safetensors_bytes

from esort.card import SCHEMA_VERSION, Card, LabelSource, package_versions
from esort.files import write_atomically
from esort.one_line import one_line

if TYPE_CHECKING:
    import torch

__all__ = [
    "MAX_FILE_BYTES",
    "MAX_HEADER_BYTES",
    "Card",
    "CheckpointError",
    "LabelSource",
    "load_card",
    "load_checkpoint",
    "package_versions",
    "save_checkpoint",
    "weights_digest",
]

CARD_KEY = "esort"
MAX_HEADER_BYTES = 8 * 2**20
"""A header of thousands of tensors and units stays far below this; a larger one is not ours."""
MAX_FILE_BYTES = 2**32
"""Ten thousand units on five thousand channels stay below this."""

_DTYPES = {"F16", "F32", "F64", "I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64", "BOOL"}


class CheckpointError(ValueError):
    """A file that cannot be believed: one line with its name and the reason."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(f"{os.fspath(path)}: {reason}")


def save_checkpoint(
    path: str | os.PathLike[str], weights: Mapping[str, np.ndarray | torch.Tensor], card: Card
) -> Card:
    """Write weights and card as one file, atomically.

    Parameters
    ----------
    path : path-like
        The file to make or replace, by custom with the suffix ``.safetensors``.
    weights : mapping of str to numpy.ndarray or torch.Tensor
        For example a module's ``state_dict()``; tensors of any device.
    card : Card
        Its `weights_digest` is filled in here.

    Returns
    -------
    Card
        The card as written.

    Raises
    ------
    ValueError
        If there are no weights, or some are not finite or of a type that the format lacks.
    """
    arrays = {name: _as_array(name, value) for name, value in weights.items()}
    _check_weights(arrays)
    card = replace(card, weights_digest=weights_digest(arrays))
    content = card.to_dict()
    content["card_digest"] = _card_digest(content)
    data = safetensors_bytes(arrays, metadata={CARD_KEY: json.dumps(content, allow_nan=False)})
    if struct.unpack("<Q", data[:8])[0] > MAX_HEADER_BYTES:
        raise ValueError(f"expected a card of at most {MAX_HEADER_BYTES} bytes, got more")
    with write_atomically(path) as partial:
        partial.write_bytes(data)
    return card


def load_card(path: str | os.PathLike[str]) -> Card:
    """Read and check the card of a checkpoint without reading its weights.

    Parameters
    ----------
    path : path-like
        A file written by `save_checkpoint`.

    Returns
    -------
    Card

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If it is no checkpoint, is damaged, or has a newer schema.
    """
    with _open(path) as file:
        return _card_of(path, file)


def load_checkpoint(path: str | os.PathLike[str], *, framework: str = "numpy") -> tuple[Card, dict[str, Any]]:
    """Read and check a checkpoint.

    Parameters
    ----------
    path : path-like
        A file written by `save_checkpoint`.
    framework : {"numpy", "torch"}
        What the weights are returned as.

    Returns
    -------
    card : Card
    weights : dict of str to numpy.ndarray or torch.Tensor
        In memory of their own, writable.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If it is no checkpoint, is damaged, has a newer schema, or holds numbers that are not finite.
    """
    if framework not in ("numpy", "torch"):
        raise ValueError(f"expected framework 'numpy' or 'torch', got {framework!r}")
    with _open(path) as file:
        card = _card_of(path, file)
        names = list(file.keys())
        for name in names:
            dtype = file.get_slice(name).get_dtype()
            if dtype not in _DTYPES:
                raise CheckpointError(path, f"weights {_short(name)} have the unexpected type {dtype}")
        try:
            weights = {name: np.array(file.get_tensor(name)) for name in names}
        except (SafetensorError, ValueError, TypeError, OSError) as error:
            raise CheckpointError(path, f"unreadable weights ({_short(error)})") from error
    # The digest comes first: that weights are damaged says more than that they are not finite.
    if weights_digest(weights) != card.weights_digest:
        raise CheckpointError(path, "the weights do not match the digest in the card; the file is damaged")
    try:
        _check_weights(weights)
    except ValueError as error:
        raise CheckpointError(path, str(error)) from error
    if framework == "torch":
        import torch

        return card, {name: torch.from_numpy(array) for name, array in weights.items()}
    return card, weights


def weights_digest(weights: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 over names, types, shapes and values, in hexadecimal; the order does not matter."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = np.asarray(weights[name], dtype=weights[name].dtype.newbyteorder("<"), order="C")
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _open(path: str | os.PathLike[str]) -> Any:
    """Open a safetensors file once its stated header length is known to be sane."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"expected a checkpoint file, got {path}, which does not exist")
    if not path.is_file():
        raise CheckpointError(path, "expected a file, got something else (a folder?)")
    try:
        with open(path, "rb") as file:
            start = file.read(8)
        size = path.stat().st_size
    except OSError as error:
        raise CheckpointError(path, f"cannot be read ({error.strerror})") from error
    if len(start) < 8:
        raise CheckpointError(path, f"not a safetensors file: {size} bytes are fewer than its first field")
    (header_bytes,) = struct.unpack("<Q", start)
    if header_bytes > MAX_HEADER_BYTES:
        raise CheckpointError(
            path,
            f"not one of our files: its header claims {header_bytes} bytes, the limit is {MAX_HEADER_BYTES}",
        )
    if size > MAX_FILE_BYTES:
        raise CheckpointError(path, f"expected at most {MAX_FILE_BYTES} bytes, the file has {size}")
    if header_bytes > size - 8:
        raise CheckpointError(path, f"truncated: its header claims {header_bytes} bytes, the file has {size}")
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, ValueError, TypeError, OSError) as error:
        raise CheckpointError(
            path, f"truncated, damaged or not a safetensors file ({_short(error)})"
        ) from error


def _card_of(path: str | os.PathLike[str], file: Any) -> Card:
    """Return the checked card of an open safetensors file."""
    text = (file.metadata() or {}).get(CARD_KEY)
    if text is None:
        raise CheckpointError(
            path, f"no card: its metadata has no entry {CARD_KEY!r}, so esort did not write it"
        )
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, f"the card is not valid JSON ({_short(error)})") from error
    if not isinstance(content, dict):
        raise CheckpointError(path, f"expected a card that is a JSON object, got {type(content).__name__}")
    # Before anything else, because a newer schema may mean something else by every other field.
    version = content.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= SCHEMA_VERSION:
        raise CheckpointError(
            path, f"expected a card of schema version 1 to {SCHEMA_VERSION}, got {_short(version)}"
        )
    try:
        stated = content.pop("card_digest", None)
        if stated != _card_digest(content):
            raise ValueError("the card does not match its own digest; the file is damaged or was edited")
        return Card.from_dict(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, str(error)) from error


def _card_digest(content: dict[str, Any]) -> str:
    """Return the SHA-256 of a card's canonical JSON text."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _as_array(name: str, value: Any) -> np.ndarray:
    """Return weights as a contiguous little-endian array."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if "bfloat16" in str(value.dtype):
            raise ValueError(f"weights {name!r}: expected a type that NumPy has, got {value.dtype}")
        value = value.numpy()
    array = np.asarray(value)
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        raise ValueError(f"weights {name!r}: expected real numbers of at most 64 bits, got {array.dtype}")
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def _check_weights(weights: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError if there are no weights or some are not finite."""
    if not weights:
        raise ValueError("expected at least one array of weights, got none")
    for name, array in weights.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            count = int(np.count_nonzero(~np.isfinite(array)))
            raise ValueError(f"weights {_short(name)}: expected finite numbers, got {count} that are not")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _short(value: object) -> str:
    """Return a value as one short line; it may come from a hostile file."""
    return one_line(value if isinstance(value, Exception) else repr(value), 120)
