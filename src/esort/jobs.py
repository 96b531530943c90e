"""What a study will do: one job for each point of its grid, found in seconds, with what it will cost."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from esort.cost import RunCost, learning_cost_s, simulation_cost_s, sorting_cost_s
from esort.files import plain
from esort.grid import OURS, GridPoint, StudySpec
from esort.peers import sorter_class
from esort.plan import TrainingPlan
from esort.recordings import RecordingPath
from esort.simulation import SimulationSpec
from esort.training import backbone_digest

__all__ = ["Job", "code_digest", "given_overrides", "plan_jobs", "study_command", "study_name"]

# What changes no result, only where it lies and how it is shown.
_NOT_OF_A_RESULT = ("study", "resume", "cache", "logger", "label_plan", "digest_recording")
# For a recording on disk nobody knows yet how large it is.
_GUESSED_CHANNELS, _GUESSED_S, _GUESSED_UNITS = 128, 60.0, 90


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """A point of the grid, ready to run.

    Parameters
    ----------
    point : GridPoint
    config : DictConfig
        As ``train.py`` would get it.
    choices : dict
        Group -> option.
    plan : TrainingPlan
    digest : str
        Of all that the result depends on, apart from the code.
    target : str
        Digest of the recording that is sorted.
    skipped : str
        Why it is not run; empty if it is.
    """

    point: GridPoint
    config: DictConfig
    choices: dict[str, Any]
    plan: TrainingPlan
    digest: str
    target: str
    skipped: str = ""

    @property
    def folder_name(self) -> str:
        """Where its files lie, below the study's."""
        return f"{self.point.label}_{self.digest[:8]}"

    def cost(self) -> RunCost:
        """Expected seconds."""
        target = self.plan.target
        is_peer = self.point.sorter != OURS
        shared: dict[str, float] = {}
        channels, duration_s, units = _GUESSED_CHANNELS, _GUESSED_S, _GUESSED_UNITS
        if isinstance(target, SimulationSpec):
            channels = target.probe_spec.build().get_contact_count()
            duration_s, units = target.duration_s, target.resolved_num_units
            shared[target.digest()] = simulation_cost_s(target)
        own_s = sorting_cost_s(duration_s=duration_s, num_channels=channels, num_units=units, peer=is_peer)
        if not is_peer and self.plan.finetuning is not None:
            own_s += learning_cost_s(self.plan.finetuning, num_channels=channels)
        source = self.plan.source
        if not is_peer and self.plan.mode == "finetune" and isinstance(source, SimulationSpec):
            number = source.probe_spec.build().get_contact_count()
            name = backbone_digest(source.to_dict(), self.plan.pretraining, self.plan.settings)
            shared[name] = learning_cost_s(self.plan.pretraining, num_channels=number)
            shared[source.digest()] = simulation_cost_s(source)
        return RunCost(own_s=own_s, shared=shared)


def study_name(spec: StudySpec) -> str:
    """Name of a study with its model, for titles and dashboards."""
    return f"{spec.name}-{HydraConfig.get().runtime.choices.get('model')}"


def study_command() -> str:
    """The command of this study, without where its files go."""
    hydra = HydraConfig.get()
    elsewhere = ("cache=", "hydra.run.dir=", "logger", "study.redo")
    given = [one for one in hydra.overrides.task if not one.startswith(elsewhere)]
    return shlex.join(["python", f"{hydra.job.config_name}.py", *given])


def given_overrides() -> list[str]:
    """What the command line asks of every run of a study."""
    task = HydraConfig.get().overrides.task
    return [one for one in task if one.lstrip("+~").partition("=")[0].split(".")[0] != "study"]


def plan_jobs(spec: StudySpec) -> list[Job]:
    """Compose the configuration of every point, and make all cheap objects.

    A point is this command line's configuration with the point's overrides and without the study: each job
    could be run by ``train.py`` alone.

    Raises
    ------
    ValueError
        If the command line overrides what the study varies, a point's configuration is wrong, or nobody knows
        the truth about its recording.
    """
    hydra = HydraConfig.get()
    given = given_overrides()
    for one in given:
        name = one.lstrip("+~").partition("=")[0]
        if name in spec.overridden():
            raise ValueError(
                f"the study {spec.name} varies {name}: choose among its values by study.only or study.seeds, "
                f"got {one}"
            )
    ours = [_job(point, hydra.job.config_name, given) for point in spec.points()]
    for target in {job.target: job.plan.target for job in ours}.values():
        if isinstance(target, RecordingPath) and target.open_ground_truth() is None:
            raise ValueError(
                f"a study scores against the truth: give recording.ground_truth=FOLDER for {target.path}"
            )
    return [*ours, *_peer_jobs(spec, ours)]


def _job(point: GridPoint, config_name: str | None, given: Sequence[str]) -> Job:
    config = compose(
        config_name, [*given, *point.overrides, "study=null", "resume=true"], return_hydra_config=True
    )
    choices = dict(config.hydra.runtime.choices)
    with_hydra = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    content = OmegaConf.to_container(with_hydra, resolve=True)
    assert isinstance(content, dict)
    relevant = {str(key): value for key, value in content.items() if key not in _NOT_OF_A_RESULT}
    plan = TrainingPlan.from_config(with_hydra)
    target = plan.target
    described = target.to_dict() if isinstance(target, SimulationSpec) else plain(target)
    return Job(
        point=point,
        config=with_hydra,
        choices=choices,
        plan=plan,
        digest=_digest(relevant),
        target=_digest(described),
    )


def _peer_jobs(spec: StudySpec, ours: Sequence[Job]) -> list[Job]:
    """Each other sorter once on each recording; axes that do not change the recording stay empty."""
    jobs = []
    for sorter in spec.peers:
        skipped = _why_skipped(sorter)
        for target in dict.fromkeys(job.target for job in ours):
            same = [job for job in ours if job.target == target]
            first = same[0]
            values = {
                axis: value if {job.point.values[axis] for job in same} == {value} else ""
                for axis, value in first.point.values.items()
            }
            point = GridPoint(values=values, seed=first.point.seed, overrides=(), sorter=sorter)
            stop = str(first.plan.teacher.seconds)
            jobs.append(
                Job(
                    point=point,
                    config=first.config,
                    choices=first.choices,
                    plan=first.plan,
                    digest=_digest([target, sorter, stop, point.seed]),
                    target=target,
                    skipped=skipped,
                )
            )
    return jobs


def _why_skipped(sorter: str) -> str:
    try:
        sorter_class(sorter)
    except ValueError as error:
        return str(error)
    return ""


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Digest of this package's source: runs of other code are found again, but never unnoticed."""
    digest = hashlib.sha256()
    for path in _sources():
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:8]


def _sources() -> Iterable[Path]:
    return sorted(Path(__file__).parent.rglob("*.py"))
