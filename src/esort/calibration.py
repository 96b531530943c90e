"""Thresholds from labelled data: spikes put where it is known into the recording's own background."""

from __future__ import annotations

import numpy as np

from esort.examples import ExampleSpec
from esort.labels import LabelledSpikes
from esort.sorter import Sorter

__all__ = ["calibrate_thresholds"]


def calibrate_thresholds(
    sorter: Sorter,
    traces: np.ndarray,
    labels: LabelledSpikes,
    spec: ExampleSpec,
    *,
    rng: np.random.Generator,
) -> tuple[list[float], dict[str, float]]:
    """Choose a threshold for each unit."""
    return [0.5] * labels.num_units, {}
