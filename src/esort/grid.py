"""A study as data: axes whose values are overrides, seeds, other sorters; and the points of its grid."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from esort.peers import SORTERS

__all__ = ["FIGURES", "OURS", "GridPoint", "StudySpec"]

OURS = "esort"
"""Name of this sorter in a table with others."""
FIGURES = ("curve", "matrix", "bars")


@dataclass(frozen=True, kw_only=True)
class GridPoint:
    """One run of a study.

    Parameters
    ----------
    values : dict of str to str
        Value of each axis, by name.
    seed : int
    overrides : tuple of str
        What makes this run differ from the others, in Hydra's words.
    sorter : str
        `OURS`, or a name of `esort.peers.SORTERS`.
    """

    values: dict[str, str]
    seed: int
    overrides: tuple[str, ...]
    sorter: str = OURS

    @property
    def label(self) -> str:
        """A name for folders and logs."""
        parts = [] if self.sorter == OURS else [self.sorter]
        parts += [f"{axis}-{value}" for axis, value in self.values.items()]
        return re.sub(r"[^\w.-]+", "-", "_".join([*parts, f"seed-{self.seed}"]))


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """Runs that belong together, and how their results are shown.

    Parameters
    ----------
    name : str
        Letters, digits, ``_`` and ``-``.
    axes : mapping
        Axis -> its values: a mapping of a value's name to its overrides, or a list of options of the
        configuration's entry of that name. Every combination is run.
    seeds : sequence of int
        Each combination is run with each seed: other neurons, other noise, other draws of labels.
    peers : sequence of str
        Other sorters to run on the recordings that the grid learns and sorts.
    figure : {"curve", "matrix", "bars"}
        Accuracy against the labels, of one axis against another, or bars for each value.
    x : str
        Axis of the figure.
    by : str, optional
        Axis whose values are told apart in the figure: lines, rows or colours.
    baseline : str, optional
        Value of `by` that the others are compared with, seed by seed.
    only : mapping, optional
        Axis -> the values that shall be run; for a part of a study.
    redo : bool
        Whether what is there already is made anew.
    plan_only : bool
        Say what would be done and how long it would take, and stop.

    Raises
    ------
    ValueError
        If the parts do not fit each other; names, limits and the value are said.
    """

    name: str
    axes: Mapping[str, Any]
    seeds: Sequence[int] = (0, 1, 2)
    peers: Sequence[str] = ()
    figure: str = "bars"
    x: str
    by: str | None = None
    baseline: str | None = None
    only: Mapping[str, Sequence[Any]] | None = None
    redo: bool = False
    plan_only: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w-]*", self.name):
            raise ValueError(f"study.name must be of letters, digits, '_' and '-', got {self.name!r}")
        if not self.axes:
            raise ValueError("study.axes must have at least 1 axis, got none")
        for axis, values in self.values().items():
            if not values or axis in ("seed", "sorter"):
                raise ValueError(
                    f"study.axes must have values for each axis, and none called seed or sorter, got {axis!r}"
                )
        self._check_seeds()
        self._check_choice("figure", self.figure, FIGURES)
        self._check_choice("x", self.x, [*self.axes, "sorter"])
        if self.by is not None:
            self._check_choice("by", self.by, [*self.axes, "sorter"])
        if self.baseline is not None:
            if self.by is None:
                raise ValueError(
                    f"study.baseline is a value of the axis study.by, got {self.baseline!r} alone"
                )
            known = [OURS, *self.peers] if self.by == "sorter" else list(self.values()[self.by])
            self._check_choice("baseline", self.baseline, known)
        for sorter in self.peers:
            self._check_choice("peers", sorter, SORTERS)
        for axis, chosen in (self.only or {}).items():
            self._check_choice("only", axis, self.axes)
            for value in chosen if isinstance(chosen, (list, tuple)) else [chosen]:
                self._check_choice(f"only.{axis}", _name(value), self.values()[axis])

    def _check_seeds(self) -> None:
        whole = all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in self.seeds)
        if not self.seeds or not whole or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(
                f"study.seeds must be different whole numbers of at least 0, got {list(self.seeds)}"
            )

    def _check_choice(self, name: str, value: Any, known: Any) -> None:
        if value not in known:
            raise ValueError(f"study.{name} must be one of {', '.join(known)}, got {value!r}")

    def values(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """Axis -> name of a value -> its overrides."""
        axes: dict[str, dict[str, tuple[str, ...]]] = {}
        for axis, values in self.axes.items():
            if isinstance(values, Mapping):
                axes[axis] = {
                    _name(value): (overrides,) if isinstance(overrides, str) else tuple(overrides or ())
                    for value, overrides in values.items()
                }
            else:
                axes[axis] = {_name(value): (f"{axis}={_name(value)}",) for value in values}
        return axes

    def chosen_values(self) -> dict[str, list[str]]:
        """Axis -> the names of the values that are run, in order."""
        only = {}
        for axis, chosen in (self.only or {}).items():
            only[axis] = [
                _name(value) for value in (chosen if isinstance(chosen, (list, tuple)) else [chosen])
            ]
        return {
            axis: [value for value in values if axis not in only or value in only[axis]]
            for axis, values in self.values().items()
        }

    def overridden(self) -> set[str]:
        """Names that the points override: nobody else may."""
        overrides = [one for values in self.values().values() for value in values.values() for one in value]
        return {one.partition("=")[0].lstrip("+~") for one in overrides} | {"seed"}

    def points(self) -> list[GridPoint]:
        """Every combination with every seed, of this sorter; a whole seed first, then the next."""
        known = self.values()
        points = []
        for seed in self.seeds:
            for combination in itertools.product(*self.chosen_values().values()):
                values = dict(zip(known, combination, strict=True))
                overrides = [one for axis, value in values.items() for one in known[axis][value]]
                points.append(GridPoint(values=values, seed=seed, overrides=(*overrides, f"seed={seed}")))
        return points


def _name(value: Any) -> str:
    """Name of a value; YAML reads some as numbers."""
    return str(value)
