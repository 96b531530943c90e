"""From nodes of a configuration to objects and checked values."""

from __future__ import annotations

from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from esort.recordings import RecordingPath
from esort.simulation import SimulationSpec

__all__ = ["make", "target_of", "threshold", "whole_number"]


def make(node: Any) -> Any:
    """Instantiate a node of the configuration; its values are plain containers."""
    return None if node is None else instantiate(node, _convert_="all")


def target_of(config: DictConfig) -> SimulationSpec | RecordingPath:
    """The recording to sort."""
    if OmegaConf.is_missing(config.recording, "path"):
        raise ValueError("recording=path needs a file or folder: give recording.path=PATH")
    target: SimulationSpec | RecordingPath = make(config.recording.target)
    return target


def threshold(value: Any) -> float | None:
    """Check a threshold for all units; None stands for the checkpoint's."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise ValueError(f"thresholds must be a number in (0, 1], got {value!r}")
    return float(value)


def whole_number(name: str, value: Any, *, least: int) -> int:
    """Check a number that the configuration gives."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return value
