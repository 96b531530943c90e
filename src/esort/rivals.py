"""Rivals: neurons that nobody labelled and that a checkpoint knows all the same, see `esort.pursuit.rivals`.

    python -m esort.rivals checkpoint=FILE output=FILE

They compete with the units for spikes and are not told. The command makes a checkpoint of them that tells
them too, as units of their own: what sorts, streams or exports need not know of it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from esort.baseline import Baseline
from esort.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from esort.one_line import one_line

__all__ = ["Rivals", "main", "name_rivals"]

_USAGE = "python -m esort.rivals checkpoint=FILE output=FILE"
_THRESHOLDS, _RATES = "rivals.thresholds", "rivals.rates_hz"


def _none() -> np.ndarray:
    return np.zeros(0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Rivals:
    """What a network knows behind its units.

    Parameters
    ----------
    thresholds : float array, shape (R,)
        As those of units.
    rates_hz : float array, shape (R,)
        Spikes that sorting found of each in a second of the labelled time.

    Raises
    ------
    ValueError
        If these are no two lists of one length.
    """

    thresholds: np.ndarray = field(default_factory=_none)
    rates_hz: np.ndarray = field(default_factory=_none)

    def __post_init__(self) -> None:
        shapes = np.shape(self.thresholds), np.shape(self.rates_hz)
        if len(shapes[0]) != 1 or shapes[0] != shapes[1]:
            raise ValueError(f"expected a threshold and a rate of each rival, got shapes {shapes}")

    def __len__(self) -> int:
        return len(self.thresholds)

    def to_weights(self) -> dict[str, np.ndarray]:
        """Arrays for a checkpoint; none where there are no rivals."""
        return {_THRESHOLDS: self.thresholds, _RATES: self.rates_hz} if len(self) else {}

    @classmethod
    def from_weights(cls, weights: dict[str, Any]) -> Rivals:
        """Take the rivals out of a checkpoint's arrays.

        Raises
        ------
        ValueError
            If only half of them is there, or they are no rivals.
        """
        found = [weights.pop(name) for name in (_THRESHOLDS, _RATES) if name in weights]
        if not found:
            return cls()
        if len(found) == 1:
            raise ValueError(f"expected both {_THRESHOLDS} and {_RATES}, got one of them")
        thresholds, rates_hz = (np.asarray(array, dtype=np.float64) for array in found)
        return cls(thresholds=thresholds, rates_hz=rates_hz)


def name_rivals(
    path: str | os.PathLike[str], output: str | os.PathLike[str]
) -> tuple[str, ...] | tuple[int, ...]:
    """Make a checkpoint that tells its rivals too.

    Parameters
    ----------
    path : path-like
        A checkpoint with rivals.
    output : path-like
        The file to write.

    Returns
    -------
    tuple of str or int
        The rivals' names: the next numbers where all units have numbers, otherwise ``rival-0`` and so on.

    Raises
    ------
    FileNotFoundError, FileExistsError
        If there is no checkpoint, or there is a file at `output`.
    CheckpointError
        If the checkpoint cannot be believed.
    ValueError
        If it has no rivals.
    """
    if Path(output).exists():
        raise FileExistsError(f"{output} exists: give another output")
    card, weights = load_checkpoint(path)
    try:
        rivals, baseline = Rivals.from_weights(weights), Baseline.from_weights(weights)
    except ValueError as error:
        raise CheckpointError(path, str(error)) from None
    if not len(rivals):
        raise ValueError(f"{path} has no rivals: each neuron that was found has a label")
    names = _new_names(card.unit_ids, len(rivals))
    if baseline is not None:
        rates_hz = np.concatenate([baseline.rates_hz, rivals.rates_hz])
        weights |= replace(baseline, rates_hz=rates_hz).to_weights()
    thresholds = (*card.thresholds, *rivals.thresholds.tolist())
    save_checkpoint(output, weights, replace(card, unit_ids=(*card.unit_ids, *names), thresholds=thresholds))
    return names


def _new_names(unit_ids: Sequence[str | int], number: int) -> Any:
    """Names of a kind with those that there are, and none of them."""
    if all(isinstance(unit_id, int) for unit_id in unit_ids):
        first = max((int(unit_id) for unit_id in unit_ids), default=-1) + 1
        return tuple(range(first, first + number))
    prefix = "rival-"
    while any(str(unit_id).startswith(prefix) for unit_id in unit_ids):
        prefix = "another-" + prefix
    return tuple(f"{prefix}{rival}" for rival in range(number))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    given = dict(one.partition("=")[::2] for one in (sys.argv[1:] if arguments is None else arguments))
    try:
        if set(given) != {"checkpoint", "output"} or not all(given.values()):
            raise ValueError(f"expected: {_USAGE}")
        names = name_rivals(given["checkpoint"], given["output"])
    except (OSError, ValueError) as error:
        print(f"esort.rivals: {one_line(error)}", file=sys.stderr)
        return 1
    print(f"{given['output']}: {len(names)} rivals are units now: {', '.join(map(str, names))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
