"""What a sweep searches: Hydra's words for ranges of values, and how a choice of them is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep

if TYPE_CHECKING:
    import optuna

__all__ = ["SearchSpec", "plain_choice", "search_space", "split_overrides"]


@dataclass(frozen=True, kw_only=True)
class SearchSpec:
    """What is searched, and for how long.

    Parameters
    ----------
    params : dict of str to str
        Name of a value of the configuration -> where it is looked for, in Hydra's words: ``choice(a, b)``,
        ``range(4, 9)``, ``interval(0.1, 1)``, ``tag(log, interval(1e-4, 1e-2))``.
    num_trials : int
        Trials in all, with those that failed and those of earlier starts; the first is the configuration
        as it is.
    seeds : list of int
        Each trial is tried on these, in this order.
    objective : str
        A number of a run's ``summary.json``.
    direction : {"maximize", "minimize"}
    num_parallel : int
        Trials at a time; of use with a launcher that runs jobs in parallel.
    num_startup_trials : int
        Trials that are drawn at random before anything is learned from them, and none of which is pruned.
    sampler_seed : int
    """

    params: Mapping[str, str]
    num_trials: int = 24
    seeds: Sequence[int] = field(default_factory=lambda: (0, 1, 2))
    objective: str = "pooled_accuracy"
    direction: Literal["maximize", "minimize"] = "maximize"
    num_parallel: int = 1
    num_startup_trials: int = 6
    sampler_seed: int = 0

    def __post_init__(self) -> None:
        if not self.params:
            raise ValueError("a search needs something to search: expected hydra.sweeper.params, got none")
        for name in ("num_trials", "num_parallel", "num_startup_trials"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if self.direction not in ("maximize", "minimize"):
            raise ValueError(f"direction must be maximize or minimize, got {self.direction!r}")
        seeds = list(self.seeds)
        if (
            not seeds
            or len(set(seeds)) != len(seeds)
            or any(type(seed) is not int or seed < 0 for seed in seeds)
        ):
            raise ValueError(f"seeds must be different whole numbers of at least 0, got {seeds}")


def search_space(params: Mapping[str, str]) -> dict[str, optuna.distributions.BaseDistribution]:
    """Translate Hydra's words for a range of values into Optuna's.

    Parameters
    ----------
    params : dict of str to str
        See `SearchSpec`.

    Raises
    ------
    ValueError
        If a text is none of these words.
    """
    from optuna import distributions

    space: dict[str, distributions.BaseDistribution] = {}
    for name, text in params.items():
        (override,) = OverridesParser.create().parse_overrides([f"{name}={text}"])
        value = override.value()
        if isinstance(value, ChoiceSweep):
            space[name] = distributions.CategoricalDistribution([plain_choice(one) for one in value.list])
        elif isinstance(value, IntervalSweep):
            low, high = float(value.start or 0), float(value.end or 0)
            space[name] = distributions.FloatDistribution(low, high, log="log" in value.tags)
        elif isinstance(value, RangeSweep):
            values = list(value.range())
            space[name] = distributions.CategoricalDistribution(values)
            if all(isinstance(one, int) for one in values):
                step = int(value.step)
                space[name] = distributions.IntDistribution(values[0], values[-1], step=step)
        else:
            raise ValueError(
                f"{name}: expected choice(...), range(...) or interval(...) of values to search, got {text!r}"
            )
    return space


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Tell overrides that hold for all jobs from those that name a range of values.

    Parameters
    ----------
    arguments : sequence of str
        Of the command line.

    Returns
    -------
    fixed : list of str
        Overrides.
    searched : dict of str to str
        As `SearchSpec` takes them.
    """
    fixed, given = [], {}
    parsed: list[Override] = OverridesParser.create().parse_overrides(list(arguments))
    for argument, override in zip(arguments, parsed, strict=True):
        if override.is_sweep_override():
            given[override.get_key_element()] = argument.partition("=")[2]
        else:
            fixed.append(argument)
    return fixed, given


def plain_choice(value: Any) -> Any:
    """Return a value without the quotes that Hydra remembers."""
    return getattr(value, "text", value)
