"""Simulated recordings with ground truth: a shipped template bank, MEArec, and a cache.

>>> spec = SimulationSpec(probe=ProbeSpec(name="tetrode"), duration_s=2.0, split="target")  # doctest: +SKIP
>>> simulation = simulate(spec, "cache")  # doctest: +SKIP
>>> simulation.recording, simulation.sorting  # doctest: +SKIP
"""

from esort.simulation.bank import SPLITS, TemplateBank
from esort.simulation.simulate import GAIN_TO_UV, Simulation, simulate
from esort.simulation.spec import DRIFT_KINDS, NOISE_KINDS, DriftSpec, NoiseSpec, SimulationSpec

__all__ = [
    "DRIFT_KINDS",
    "GAIN_TO_UV",
    "NOISE_KINDS",
    "SPLITS",
    "DriftSpec",
    "NoiseSpec",
    "Simulation",
    "SimulationSpec",
    "TemplateBank",
    "simulate",
]
