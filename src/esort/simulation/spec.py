"""What a simulated recording is to be: noise, drift, probe, neurons, and the digest of it all."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from esort.probes import ProbeSpec
from esort.simulation.bank import SPLITS, TemplateBank

__all__ = ["DRIFT_KINDS", "NOISE_KINDS", "DriftSpec", "NoiseSpec", "SimulationSpec"]

NOISE_KINDS = ("uncorrelated", "distance-correlated", "far-neurons")
DRIFT_KINDS = ("none", "slow", "fast", "nonrigid")

FORMAT_VERSION = 2
"""Raise it when the same spec makes other bytes than before: cached recordings are then made anew."""

_DEFAULT_NUM_UNITS = {"neuropixels": 264, "neuropixels128": 90, "neuronexus32": 20, "tetrode": 6}
_UNITS_PER_CHANNEL = 0.7
_MAX_DEFAULT_NUM_UNITS = 264


def _check_number(name: str, value: Any, low: float, high: float, unit: str = "") -> None:
    """Raise ValueError unless `value` is a finite number in [low, high]."""
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not number or not low <= value <= high:  # NaN fails the comparison
        raise ValueError(f"expected {name} between {low:g} and {high:g}{unit}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class NoiseSpec:
    """Noise of a simulated recording, before any filter.

    Parameters
    ----------
    level_uv : float
        Standard deviation on every channel, in uV.
    kind : str, default "uncorrelated"
        "uncorrelated" (white), "distance-correlated" (white in time; correlation 0.5 at
        `half_distance_um`) or "far-neurons" (the sum of many small neurons and a white floor).
    half_distance_um : float, default 30
        Distance at which the correlation has fallen to 0.5; "distance-correlated" only.
    num_far_neurons : int, default 300
        "far-neurons" only.
    """

    level_uv: float
    kind: str = "uncorrelated"
    half_distance_um: float = 30.0
    num_far_neurons: int = 300

    def __post_init__(self) -> None:
        _check_number("level_uv", self.level_uv, 0, 1000, " uV")
        _check_number("half_distance_um", self.half_distance_um, 1, 1000, " um")
        _check_number("num_far_neurons", self.num_far_neurons, 1, 10000)
        if self.kind not in NOISE_KINDS:
            raise ValueError(f"expected a noise kind among {', '.join(NOISE_KINDS)}, got {self.kind!r}")


@dataclass(frozen=True, kw_only=True)
class DriftSpec:
    """Movement of the tissue along the probe (y of the contact positions), by MEArec's drift signals.

    Parameters
    ----------
    kind : str, default "none"
        "slow": a triangle of `velocity_um_per_min` and `range_um`. "fast": jumps of 5 to `max_jump_um` every
        `period_s`. "nonrigid": as slow, but units at the one end of the probe move only
        `nonrigid_min_factor` as far as those at the other.
    range_um : float, default 40
        From the lowest to the highest position, in um.
    velocity_um_per_min : float, default 30
    period_s : float, default 10
    max_jump_um : float, default 20
    nonrigid_min_factor : float, default 0.5
    start_s : float, default 0
        Before this time nothing moves.
    """

    kind: str = "none"
    range_um: float = 40.0
    velocity_um_per_min: float = 30.0
    period_s: float = 10.0
    max_jump_um: float = 20.0
    nonrigid_min_factor: float = 0.5
    start_s: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in DRIFT_KINDS:
            raise ValueError(f"expected a drift kind among {', '.join(DRIFT_KINDS)}, got {self.kind!r}")
        _check_number("range_um", self.range_um, 2, 200, " um")
        _check_number("velocity_um_per_min", self.velocity_um_per_min, 0.01, 100000, " um/min")
        _check_number("period_s", self.period_s, 0.1, 100000, " s")
        highest_jump_um = self.range_um / 2 if self.kind == "fast" else 200
        _check_number("max_jump_um", self.max_jump_um, 5, highest_jump_um, " um")
        _check_number("nonrigid_min_factor", self.nonrigid_min_factor, 0, 0.99)
        _check_number("start_s", self.start_s, 0, 1e6, " s")


@dataclass(frozen=True, kw_only=True)
class SimulationSpec:
    """A simulated recording with its ground truth, completely described.

    Parameters
    ----------
    probe : ProbeSpec or sequence of (x, y)
        A probe, or contact positions in um.
    noise : NoiseSpec, default 10 uV, uncorrelated
    drift : DriftSpec, default none
    duration_s : float, default 60
    num_units : int, optional
        Default 264, 90, 20 and 6 for the named probes, else 0.7 per contact (at most 264).
    split : str, default "source"
        Half of the template bank to draw from: "source" or "target". No template is in both.
    disjoint_cell_models : bool, default False
        Whether the halves share no cell model either.
    seed : int, default 0
        Same spec, same bytes.
    sampling_frequency : float, default 32000
        In Hz.
    excitatory_fraction : float, default 0.7
        Part of the units that are pyramidal cells.
    rate_excitatory_hz, rate_inhibitory_hz : float, default 5 and 12
        Mean firing rates; units scatter by a fifth of it. Poisson with a refractory period of 2 ms.
    min_amplitude_uv, max_amplitude_uv : float, default 40 and 300
        Limits of the trough on the strongest contact.
    min_distance_um : float, default 25
        Between any two somata.
    overhang_um : float, default 30
        How far beyond the outermost contacts somata may lie.
    modulation_sd : float, default 0.05
        Standard deviation of the amplitude of single spikes, drawn for every contact; 0 for none.
    """

    probe: ProbeSpec | Sequence[Sequence[float]]
    noise: NoiseSpec = field(default_factory=lambda: NoiseSpec(level_uv=10.0))
    drift: DriftSpec = field(default_factory=DriftSpec)
    duration_s: float = 60.0
    num_units: int | None = None
    split: str = "source"
    disjoint_cell_models: bool = False
    seed: int = 0
    sampling_frequency: float = 32000.0
    excitatory_fraction: float = 0.7
    rate_excitatory_hz: float = 5.0
    rate_inhibitory_hz: float = 12.0
    min_amplitude_uv: float = 40.0
    max_amplitude_uv: float = 300.0
    min_distance_um: float = 25.0
    overhang_um: float = 30.0
    modulation_sd: float = 0.05

    def __post_init__(self) -> None:
        if not isinstance(self.probe, ProbeSpec):
            object.__setattr__(self, "probe", ProbeSpec(contact_positions_um=self.probe))
        for name, kind in (("noise", NoiseSpec), ("drift", DriftSpec)):
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"expected {name} to be a {kind.__name__}, got {getattr(self, name)!r}")
        _check_number("duration_s", self.duration_s, 0.1, 86400, " s")
        _check_number("sampling_frequency", self.sampling_frequency, 5000, 100000, " Hz")
        if self.split not in SPLITS:
            raise ValueError(f"expected a split among {', '.join(SPLITS)}, got {self.split!r}")
        for name, low in (("seed", 0), ("num_units", 1)):
            value = getattr(self, name)
            if value is None and name == "num_units":
                continue
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < low:
                raise ValueError(f"expected {name} to be an integer of at least {low}, got {value!r}")
        _check_number("excitatory_fraction", self.excitatory_fraction, 0, 1)
        for name in ("rate_excitatory_hz", "rate_inhibitory_hz"):
            _check_number(name, getattr(self, name), 0.01, 200, " Hz")
        _check_number("min_amplitude_uv", self.min_amplitude_uv, 5, 1000, " uV")
        _check_number("max_amplitude_uv", self.max_amplitude_uv, self.min_amplitude_uv, 5000, " uV")
        _check_number("min_distance_um", self.min_distance_um, 0, 1000, " um")
        _check_number("overhang_um", self.overhang_um, 0, 200, " um")
        _check_number("modulation_sd", self.modulation_sd, 0, 0.5)

    @property
    def probe_spec(self) -> ProbeSpec:
        """The probe as a ProbeSpec, however it was given."""
        assert isinstance(self.probe, ProbeSpec)
        return self.probe

    @property
    def resolved_num_units(self) -> int:
        """`num_units`, or the default for the probe."""
        if self.num_units is not None:
            return int(self.num_units)
        if self.probe_spec.name is not None:
            return _DEFAULT_NUM_UNITS[self.probe_spec.name]
        num_channels = self.probe_spec.build().get_contact_count()
        return min(_MAX_DEFAULT_NUM_UNITS, max(1, math.ceil(_UNITS_PER_CHANNEL * num_channels)))

    def to_dict(self) -> dict[str, Any]:
        """Return the full specification, defaults resolved, as plain JSON types."""
        content = asdict(self)
        content["probe"] = {
            "label": self.probe_spec.label,
            "contact_positions_um": np.round(self.probe_spec.build().contact_positions, 6).tolist(),
        }
        content["num_units"] = self.resolved_num_units
        return json.loads(json.dumps(content, default=lambda number: number.item()))

    def digest(self) -> str:
        """Return the sha256 (hex) of the specification, the template bank and the format version.

        The probe counts by its contact positions, not by its name or file: what is equal is shared.
        """
        content = self.to_dict()
        del content["probe"]["label"]
        content["bank"] = TemplateBank.load().digest
        content["format_version"] = FORMAT_VERSION
        return hashlib.sha256(json.dumps(_as_floats(content), sort_keys=True).encode()).hexdigest()


def _as_floats(value: Any) -> Any:
    """Return nested content with integers as floats, so that 10 and 10.0 are the same spec."""
    if isinstance(value, dict):
        return {key: _as_floats(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_as_floats(entry) for entry in value]
    if isinstance(value, int) and not isinstance(value, bool):
        # Large integers (seeds) do not fit a float exactly.
        return float(value) if abs(value) < 2**53 else str(value)
    return value
