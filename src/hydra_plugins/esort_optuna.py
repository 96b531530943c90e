"""Hydra's door to `esort.optimise`: the sweeper of ``sweep=optuna``.

Hydra takes sweepers only from modules of the namespace package `hydra_plugins`, and imports all of them
whenever it starts: nothing heavy here, and no ``from __future__ import annotations``, with which a dataclass
looks for its module where Hydra has not put it yet.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


@dataclass
class OptunaConf:
    """See `esort.search.SearchSpec`."""

    _target_: str = "hydra_plugins.esort_optuna.OptunaSweeper"
    params: dict[str, str] = field(default_factory=dict)
    num_trials: int = 24
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    objective: str = "pooled_accuracy"
    direction: str = "maximize"
    num_parallel: int = 1
    num_startup_trials: int = 6
    sampler_seed: int = 0


class OptunaSweeper(Sweeper):
    """Lets Optuna choose what the next job is."""

    def __init__(self, **search: Any) -> None:
        self.search = {
            name: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for name, value in search.items()
        }
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None
        self.launcher: Any = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """See `hydra.plugins.sweeper.Sweeper`."""
        from hydra.core.plugins import Plugins

        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Mapping[str, Any] | None:
        """See `hydra.plugins.sweeper.Sweeper`; returns the best values."""
        from esort.optimise import optimise

        assert self.config is not None
        return optimise(self.search, arguments, self.config, self.launcher)


ConfigStore.instance().store(group="hydra/sweeper", name="esort_optuna", node=OptunaConf, provider="esort")
