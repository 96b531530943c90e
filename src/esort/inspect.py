"""What a checkpoint says of itself, read without its weights.

python -m esort.inspect FILE              a page to read
python -m esort.inspect FILE json=true    the whole card, for programs
python -m esort.inspect pursuit           the backbone that ships for a network
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from esort.card import Card
from esort.checkpoint import load_card
from esort.one_line import one_line
from esort.pretrained import Pretrained, pretrained_names, pretrained_path

__all__ = ["describe", "main", "weight_shapes"]

_USAGE = "python -m esort.inspect FILE [json=true]"
_NAMES_SHOWN = 6


def weight_shapes(path: str | os.PathLike[str]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array of a checkpoint, from its header alone.

    Parameters
    ----------
    path : path-like
        A file that `esort.checkpoint.load_card` has accepted.

    Returns
    -------
    dict of str to tuple of int
    """
    with safe_open(path, framework="numpy") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def describe(card: Card, shapes: dict[str, tuple[int, ...]], num_bytes: int) -> list[tuple[str, str]]:
    """Say in a few lines what a checkpoint fits and where it came from.

    Parameters
    ----------
    card : Card
    shapes : dict of str to tuple of int
        See `weight_shapes`.
    num_bytes : int
        Size of the file.

    Returns
    -------
    list of (str, str)
        Name and text of each line.
    """
    kind = "backbone, no units yet" if card.is_backbone else "units of one recording"
    parameters = sum(math.prod(shape) for shape in shapes.values())
    window = f"{card.window_ms:g} ms ({card.window_samples} samples), peak at {card.peak_offset_samples}"
    lines = [
        ("kind", kind),
        ("network", f"{card.network}, {parameters:,} numbers in {len(shapes)} arrays, {_size(num_bytes)}"),
        ("parameters", _pairs(card.network_parameters)),
        ("rate", f"{card.sampling_frequency:g} Hz, window of {window}"),
        ("channels", _channels(card)),
        ("units", _names(card.unit_ids)),
        ("rivals", _rivals(shapes)),
        ("thresholds", _range(card.thresholds, "")),
        ("noise", _range(card.noise_level_uv, " µV")),
        ("filter", _pairs(card.preprocessing)),
        ("spikes", _pairs(card.postprocess)),
        ("labels", _labels(card)),
        ("seed", "none" if card.seed is None else str(card.seed)),
        ("made", f"{card.created} with {_pairs(card.versions)}"),
        ("weights", f"SHA-256 {card.weights_digest}"),
    ]
    return [(name, text) for name, text in lines if text]


def _rivals(shapes: dict[str, tuple[int, ...]]) -> str:
    """Neurons that nobody labelled, see `esort.rivals`."""
    number = math.prod(shapes.get("rivals.thresholds", (0,)))
    return f"neurons that nobody labelled: {number}" if number else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    try:
        path, as_json = _parse(sys.argv[1:] if arguments is None else arguments)
        if not path.exists() and str(path) in pretrained_names():
            path = pretrained_path(str(path))
        card = load_card(path)
        shapes = weight_shapes(path)
    except (OSError, ValueError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    if as_json:
        content = card.to_dict() | {"weights": {name: list(shape) for name, shape in shapes.items()}}
        print(json.dumps(content, indent=2, ensure_ascii=False))
        return 0
    print(path)
    for name, text in [*describe(card, shapes, path.stat().st_size), *_story(path)]:
        print(f"  {name:<11}{_plain_text(text)}")
    return 0


def _story(path: Path) -> list[tuple[str, str]]:
    """What the JSON beside a shipped backbone says of its making."""
    if path.stem not in pretrained_names() or path.resolve() != pretrained_path(path.stem).resolve():
        return []
    story = Pretrained.load(path).story
    source = story["source"]
    seen = (
        f"{source['num_units']} neurons of the bank's {source['split']} half, {source['probe']['label']}, "
        f"{source['duration_s']:g} s, noise {source['noise']['level_uv']:g} µV, seed {source['seed']}"
    )
    kinds = {"scratch": "without", "shipped": "with this backbone", "own": "with one for that probe"}
    scores = [
        (
            "pooled",
            f"{row['recording']}: "
            + ", ".join(f"{row[kind]:.4f} {text}" for kind, text in kinds.items() if kind in row),
        )
        for row in story["scores"]
    ]
    return [("pretrained", seen), ("command", story["command"]), *scores]


def _parse(arguments: Sequence[str]) -> tuple[Path, bool]:
    options = [argument for argument in arguments if argument.startswith("json=")]
    files = [argument for argument in arguments if not argument.startswith("json=")]
    if len(files) != 1 or len(options) > 1:
        raise ValueError(f"expected one checkpoint file, got {len(files)}: {_USAGE}")
    value = options[0].removeprefix("json=") if options else "false"
    if value not in ("true", "false"):
        raise ValueError(f"json must be true or false, got {value!r}")
    return Path(files[0]).expanduser(), value == "true"


def _channels(card: Card) -> str:
    if not card.channel_ids:
        return "any"
    span = np.ptp(np.asarray(card.contact_positions_um), axis=0)
    return f"{_names(card.channel_ids)}; contacts span {span[0]:g} × {span[1]:g} µm"


def _labels(card: Card) -> str:
    labels = card.labels
    if labels is None:
        return "none"
    start, stop = (sample / card.sampling_frequency for sample in (labels.start_sample, labels.stop_sample))
    return (
        f"{labels.num_labels} spikes of {start:g} to {stop:g} s of the recording "
        f"{labels.recording_fingerprint[:16]}…"
    )


def _names(names: tuple[str | int, ...]) -> str:
    shown = ", ".join(map(str, names[:_NAMES_SHOWN])) + (", …" if len(names) > _NAMES_SHOWN else "")
    return f"{len(names)} ({shown})" if names else "none"


def _range(values: tuple[float, ...], unit: str) -> str:
    if not values:
        return ""
    low, middle, high = np.min(values), np.median(values), np.max(values)
    return f"{middle:.3g}{unit} in the median, {low:.3g} to {high:.3g}"


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={_short(value)}" for name, value in values.items())


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.2f} MB" if num_bytes >= 1e5 else f"{num_bytes / 1e3:.1f} kB"


def _plain_text(text: str) -> str:
    """Names come out of a file: none of them may move the cursor or colour the terminal."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)


if __name__ == "__main__":
    sys.exit(main())
