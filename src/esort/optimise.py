"""Hyper-parameters chosen by Optuna: trials are jobs of Hydra, their record is an SQLite file.

A trial is one choice of values, tried on several recordings (seeds) one after another. After each the mean so
far is reported, and a trial that is worse than the others at that point is pruned: the recordings that are
left are not spent on it. A sweep that was stopped goes on where it stopped (``resume=true``).
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from esort.files import write_atomically
from esort.runs import complain, full_errors
from esort.search import SearchSpec, plain_choice, search_space, split_overrides

if TYPE_CHECKING:
    import optuna

__all__ = ["BEST", "STUDY_DB", "TRIALS", "optimise"]

STUDY_DB, TRIALS, BEST = "study.db", "trials.csv", "best.yaml"
"""Optuna's own record; a row for each trial; the best values, as overrides."""

logger = logging.getLogger(__name__)


def optimise(
    search: Mapping[str, Any], arguments: Sequence[str], config: DictConfig, launcher: Any
) -> Mapping[str, Any] | None:
    """Run the trials that are left, and leave their table and the best values.

    In the sweep's folder: ``study.db`` (Optuna's), ``trials.csv``, ``best.yaml``; each job in a folder of its
    own.

    Parameters
    ----------
    search : mapping
        Fields of `SearchSpec`.
    arguments : sequence of str
        Overrides of the command line; those that name a range of values add to what is searched.
    config : DictConfig
        Of the sweep.
    launcher : hydra.plugins.launcher.Launcher

    Returns
    -------
    dict or None
        Name -> best value; None if no trial was completed.
    """
    try:
        if find_spec("optuna") is None:
            raise ValueError("sweep=optuna needs optuna: pip install 'esort[sweep]'")
        fixed, given = split_overrides(arguments)
        spec = SearchSpec(**{**search, "params": {**search.get("params", {}), **given}})
        space = search_space(spec.params)
        if any(one.startswith("seed=") for one in fixed):
            raise ValueError("the search sets the seed: expected hydra.sweeper.seeds=[...], got seed=")
        study = _open_study(spec, space, config)
    except ValueError as error:
        if full_errors():
            raise
        complain(str(error).splitlines()[0])
        sys.exit(1)
    folder = Path(config.hydra.sweep.dir)
    OmegaConf.save(config, folder / "multirun.yaml")
    jobs = _Jobs(launcher, fixed, folder)
    while (left := spec.num_trials - _num_done(study)) > 0:
        trials = [study.ask(space) for _ in range(min(left, spec.num_parallel))]
        _try_out(study, trials, spec, jobs)
        _write_table(study, spec, folder)
    return _conclude(study, folder)


class _Jobs:
    """Hydra's jobs of a sweep, numbered on from those that are there."""

    def __init__(self, launcher: Any, fixed: Sequence[str], folder: Path) -> None:
        self.launcher, self.fixed = launcher, list(fixed)
        numbers = [int(path.name) for path in folder.glob("*/") if path.name.isdigit()]
        self.next = 1 + max(numbers, default=-1)

    def run(self, overrides: Sequence[Sequence[str]]) -> list[Path]:
        """Run a batch; return the folder of each job."""
        batch = [[*self.fixed, *one] for one in overrides]
        ended = self.launcher.launch(batch, initial_job_idx=self.next)
        self.next += len(batch)
        for job in ended:
            _ = job.return_value  # raises what the job raised
        return [Path(job.hydra_cfg.hydra.runtime.output_dir) for job in ended]


def _try_out(study: optuna.Study, trials: Sequence[optuna.Trial], spec: SearchSpec, jobs: _Jobs) -> None:
    """Run trials on one seed after another, until they are pruned."""
    from optuna.trial import TrialState

    values: dict[int, list[float]] = {trial.number: [] for trial in trials}
    alive = list(trials)
    for step, seed in enumerate(spec.seeds):
        overrides = [[*_overrides(trial.params), f"seed={seed}"] for trial in alive]
        still = []
        for trial, folder in zip(list(alive), jobs.run(overrides), strict=True):
            value = _objective(folder, spec.objective)
            values[trial.number].append(value)
            trial.set_user_attr(f"seed{seed}", None if math.isnan(value) else value)
            if math.isnan(value):
                study.tell(trial, state=TrialState.FAIL)
                continue
            mean = sum(values[trial.number]) / (step + 1)
            trial.report(mean, step)
            if step + 1 == len(spec.seeds):
                study.tell(trial, mean)
            elif trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
            else:
                still.append(trial)
            logger.info("trial %d, seed %d: %s %.4f", trial.number, seed, spec.objective, mean)
        alive = still
        if not alive:
            return


def _open_study(
    spec: SearchSpec, space: Mapping[str, optuna.distributions.BaseDistribution], config: DictConfig
) -> optuna.Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = Path(config.hydra.sweep.dir)
    folder.mkdir(parents=True, exist_ok=True)
    storage = f"sqlite:///{(folder / STUDY_DB).absolute()}"
    sampler = optuna.samplers.TPESampler(n_startup_trials=spec.num_startup_trials, seed=spec.sampler_seed)
    study = optuna.create_study(
        storage=storage,
        study_name="esort",
        direction=spec.direction,
        sampler=sampler,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=spec.num_startup_trials),
        load_if_exists=True,
    )
    asked = {"params": dict(spec.params), "seeds": list(spec.seeds), "objective": spec.objective}
    before = study.user_attrs.get("search")
    if before is not None and before != asked:
        raise ValueError(f"{folder} holds a sweep of something else: expected {before}, got {asked}")
    study.set_user_attr("search", asked)
    state = optuna.trial.TrialState
    for trial in study.get_trials(deepcopy=False, states=(state.RUNNING,)):
        study.tell(trial.number, state=state.FAIL)  # the process that ran it is gone
    if not study.trials:
        usual = {name: plain_choice(OmegaConf.select(config, name)) for name in space}
        if all(_fits(space[name], value) for name, value in usual.items()):
            study.enqueue_trial(usual)
    else:
        # The same seed would draw the same values again.
        sampler.reseed_rng()
    return study


def _fits(distribution: optuna.distributions.BaseDistribution, value: Any) -> bool:
    """Whether a value is one of those that are searched."""
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except (ValueError, TypeError):
        return False


def _num_done(study: optuna.Study) -> int:
    """Trials that need not be made again: all but those that were interrupted."""
    ended = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    return sum(trial.state.name != "FAIL" or None in trial.user_attrs.values() for trial in ended)


def _any_worked(study: optuna.Study) -> bool:
    return any(trial.state.name == "COMPLETE" for trial in study.get_trials(deepcopy=False))


def _objective(folder: Path, name: str) -> float:
    """The number that a run is judged by; NaN where it failed."""
    path = folder / "summary.json"
    if not path.is_file():
        return math.nan
    value = json.loads(path.read_text(encoding="utf-8")).get(name)
    return math.nan if value is None else float(value)


def _overrides(values: Mapping[str, Any]) -> list[str]:
    """Values as Hydra's overrides."""
    return [f"{name}={'null' if value is None else value}" for name, value in values.items()]


def _write_table(study: optuna.Study, spec: SearchSpec, folder: Path) -> pd.DataFrame:
    rows = []
    for trial in study.get_trials(deepcopy=False):
        if trial.state.name in ("RUNNING", "WAITING"):
            continue
        seconds = trial.duration.total_seconds() if trial.duration else math.nan
        value = (
            trial.value
            if trial.value is not None
            else trial.intermediate_values.get(max(trial.intermediate_values, default=-1))
        )
        row = {"trial": trial.number, "state": trial.state.name.lower(), spec.objective: value}
        row |= trial.params
        row |= {f"seed{seed}": trial.user_attrs.get(f"seed{seed}") for seed in spec.seeds}
        rows.append(row | {"seconds": round(seconds, 1)})
    table = pd.DataFrame(rows)
    with write_atomically(folder / TRIALS) as partial:
        table.to_csv(partial, index=False)
    return table


def _conclude(study: optuna.Study, folder: Path) -> Mapping[str, Any] | None:
    if not _any_worked(study):
        complain(f"no trial was completed: see error.txt in the folders of {folder}")
        sys.exit(1)
    best = study.best_trial
    with write_atomically(folder / BEST) as partial:
        OmegaConf.save(OmegaConf.create({"value": best.value, "overrides": _overrides(best.params)}), partial)
    print(f"best:     trial {best.number}, {best.value:.4f}: {' '.join(_overrides(best.params))}")
    print(f"trials:   {folder / TRIALS}")
    return dict(best.params)
