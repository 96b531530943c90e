"""How long a run will take, before it is begun."""

from __future__ import annotations

from dataclasses import dataclass

from esort.learning import LearningSpec
from esort.simulation import SimulationSpec

__all__ = ["RunCost", "learning_cost_s", "simulation_cost_s", "sorting_cost_s"]

# Measured with model=dense on two cores at 32 and 128 channels. A study corrects them by its own first runs.
_STEP_S = 4e-3
_STEP_CHANNEL_S = 2.6e-4
_CHANNEL_SECOND_S = 0.003
_UNIT_S = 0.1
_START_S = 2.0
_SIMULATION_CHANNEL_SECOND_S = 0.0015
_SIMULATION_UNIT_SECOND_S = 0.0025
# Another sorter in SpikeInterface: a fixed part, and by the channel and second.
_PEER_S = 15.0
_PEER_CHANNEL_SECOND_S = 0.008


@dataclass(frozen=True, kw_only=True)
class RunCost:
    """Expected seconds of one run; what several runs share is named, so that it is counted once.

    Parameters
    ----------
    own_s : float
    shared : dict of str to float
        What is kept in the cache -> its seconds.
    """

    own_s: float
    shared: dict[str, float]


def simulation_cost_s(spec: SimulationSpec) -> float:
    """Expected seconds for making a recording."""
    num_channels = spec.probe_spec.build().get_contact_count()
    return spec.duration_s * (
        _SIMULATION_CHANNEL_SECOND_S * num_channels + _SIMULATION_UNIT_SECOND_S * spec.resolved_num_units
    )


def learning_cost_s(learning: LearningSpec, *, num_channels: int) -> float:
    """Expected seconds of a training, if it is not stopped early."""
    steps = learning.epochs * learning.batches_per_epoch
    return steps * (_STEP_S + _STEP_CHANNEL_S * num_channels * learning.batch_size / 256)


def sorting_cost_s(*, duration_s: float, num_channels: int, num_units: int, peer: bool) -> float:
    """Expected seconds for filtering, calibrating, sorting, scoring and pictures; or for another sorter."""
    if peer:
        return _PEER_S + _PEER_CHANNEL_SECOND_S * num_channels * duration_s
    return _START_S + _CHANNEL_SECOND_S * num_channels * duration_s + _UNIT_S * num_units
