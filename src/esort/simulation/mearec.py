"""The seam to MEArec: spike trains, drift signals, convolution and noise. Nothing else imports MEArec.

MEArec draws from NumPy's global random state and prints. Every call here seeds that state from its own
argument and puts it back, and what is printed is dropped.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from esort.simulation.spec import DriftSpec, NoiseSpec, SimulationSpec

__all__ = ["DRIFT_SAMPLING_FREQUENCY", "Motion", "convolve", "make_motion", "make_noise", "make_spike_trains"]

_REFRACTORY_MS = 2.0
DRIFT_SAMPLING_FREQUENCY = 100.0
"""Of drift signals, in Hz."""
_DRIFT_STEP_UM = 1.0


@contextlib.contextmanager
def _quiet_and_seeded(seed: int) -> Iterator[None]:
    """Seed NumPy's global state for the block; restore it, and swallow what is printed, afterwards."""
    state = np.random.get_state()  # noqa: NPY002 (MEArec has no generator argument)
    np.random.seed(seed)  # noqa: NPY002
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def check_installed() -> None:
    """Find out before long work whether anything can be simulated.

    Raises
    ------
    ValueError
        If MEArec is missing; ``pip install 'esort[simulate]'``.
    """
    if find_spec("MEArec") is None:
        raise ValueError("a simulated recording needs MEArec: pip install 'esort[simulate]'")


def new_seed(rng: np.random.Generator) -> int:
    """Draw a seed in the range that NumPy's global state takes."""
    return int(rng.integers(2**32))


@dataclass(frozen=True, eq=False)
class Motion:
    """Displacement of the tissue along the probe.

    Parameters
    ----------
    times_s : np.ndarray of shape (K,)
    displacement_um : np.ndarray of shape (K,)
        In steps of 1 um; it holds from its time to the next.
    factor : np.ndarray of shape (U,)
        How much of it every unit follows.
    num_steps : int
        Number of positions that the templates are made at; 1 without drift.
    """

    times_s: np.ndarray
    displacement_um: np.ndarray
    factor: np.ndarray
    num_steps: int

    @property
    def step_offsets_um(self) -> np.ndarray:
        """Displacement (num_steps,) of each position that templates are made at."""
        return (np.arange(self.num_steps) - self.num_steps // 2 + (self.num_steps > 1) * 0.5) * _DRIFT_STEP_UM

    def step_index(self, times_s: np.ndarray) -> np.ndarray:
        """Return which position holds at each time."""
        if self.num_steps == 1:
            return np.zeros(len(times_s), dtype=np.int64)
        at = np.clip(np.searchsorted(self.times_s, times_s, side="right") - 1, 0, len(self.times_s) - 1)
        steps = np.round(self.displacement_um[at] / _DRIFT_STEP_UM - 0.5).astype(np.int64)
        return steps + self.num_steps // 2


def make_spike_trains(
    spec: SimulationSpec, *, num_excitatory: int, num_inhibitory: int, duration_s: float, seed: int
) -> list[np.ndarray]:
    """Draw Poisson spike trains with a refractory period by MEArec's SpikeTrainGenerator.

    Parameters
    ----------
    spec : SimulationSpec
        For the rates.
    num_excitatory, num_inhibitory : int
    duration_s : float
    seed : int

    Returns
    -------
    list of np.ndarray of float
        Spike times in s, sorted, the excitatory units first.
    """
    from MEArec.generators import SpikeTrainGenerator

    params = {
        "n_exc": num_excitatory,
        "n_inh": num_inhibitory,
        "f_exc": spec.rate_excitatory_hz,
        "f_inh": spec.rate_inhibitory_hz,
        "st_exc": 0.2 * spec.rate_excitatory_hz,
        "st_inh": 0.2 * spec.rate_inhibitory_hz,
        "min_rate": 0.2 * min(spec.rate_excitatory_hz, spec.rate_inhibitory_hz),
        "ref_per": _REFRACTORY_MS,
        "process": "poisson",
        "t_start": 0,
        "duration": duration_s,
        "seed": seed,
    }
    with _quiet_and_seeded(seed):
        generator = SpikeTrainGenerator(params=params)
        generator.generate_spikes()
    return [np.sort(np.asarray(train.times.rescale("s").magnitude, float)) for train in generator.spiketrains]


def make_motion(drift: DriftSpec, *, soma_along_um: np.ndarray, duration_s: float, seed: int) -> Motion:
    """Make the drift signal by MEArec's drift tools.

    Parameters
    ----------
    drift : DriftSpec
    soma_along_um : np.ndarray of shape (U,)
        Position of the somata along the probe; a non-rigid drift depends on it.
    duration_s : float
    seed : int

    Returns
    -------
    Motion
    """
    from MEArec.drift_tools import generate_drift_dict_from_params

    num_units = len(soma_along_um)
    if drift.kind == "none" or drift.start_s >= duration_s:
        return Motion(np.zeros(1), np.zeros(1), np.ones(num_units), 1)
    # An even number of steps: MEArec floors displacements to steps and counts them from the middle one.
    num_steps = 2 * int(np.ceil(drift.range_um / 2 / _DRIFT_STEP_UM))
    span_um = num_steps * _DRIFT_STEP_UM
    locations = np.zeros((num_units, num_steps, 3))
    locations[:, :, 2] = soma_along_um[:, None] + np.linspace(-span_um / 2, span_um / 2, num_steps)
    # MEArec's linear gradient divides by the extent of the units.
    rigid = drift.kind != "nonrigid" or np.ptp(soma_along_um) == 0
    with _quiet_and_seeded(seed):
        signal = generate_drift_dict_from_params(
            drift_fs=DRIFT_SAMPLING_FREQUENCY,
            duration=duration_s,
            template_locations=locations,
            t_start_drift=drift.start_s,
            drift_mode_probe="rigid" if rigid else "non-rigid",
            drift_mode_speed="fast" if drift.kind == "fast" else "slow",
            non_rigid_linear_min_factor=drift.nonrigid_min_factor,
            slow_drift_velocity=drift.velocity_um_per_min,
            slow_drift_amplitude=drift.range_um,
            fast_drift_period=drift.period_s,
            fast_drift_max_jump=drift.max_jump_um,
        )
    steps = signal["drift_vector_idxs"].astype(float)
    return Motion(
        times_s=np.arange(len(steps)) / DRIFT_SAMPLING_FREQUENCY,
        displacement_um=(steps + 0.5) * _DRIFT_STEP_UM,
        factor=np.asarray(signal["drift_factors"], float),
        num_steps=num_steps,
    )


def convolve(
    templates: np.ndarray, spike_samples: list[np.ndarray], *, peak_sample: int, num_samples: int,
    sampling_frequency: float, step_index: np.ndarray | None, modulation_sd: float, seed: int,
) -> np.ndarray:  # fmt: skip
    """Put templates at spikes by MEArec's RecordingGenerator, without noise and filter.

    Every spike takes one of the jittered copies at random and, with `modulation_sd`, an amplitude drawn for
    each contact.

    Parameters
    ----------
    templates : np.ndarray of shape (N, J, C, T), or (N, D, J, C, T) with drift
        J copies with jitter below a sample; D positions.
    spike_samples : list of N np.ndarray of int
        At least one spike each, within [0, num_samples).
    peak_sample : int
        Sample of the templates that falls on the spike.
    num_samples : int
    sampling_frequency : float
    step_index : np.ndarray of int, shape (K,), or None
        Position (of D) that holds in every hundredth of a second; None without drift.
    modulation_sd : float
    seed : int

    Returns
    -------
    np.ndarray of float32, shape (num_samples, C)
        In uV.
    """
    import neo
    from MEArec.generators import RecordingGenerator

    num_units, num_channels, length = len(templates), templates.shape[-2], templates.shape[-1]
    drifting = step_index is not None
    duration_s = num_samples / sampling_frequency
    # Half a sample later than the sample's time: MEArec rounds down.
    spike_trains = [
        neo.SpikeTrain((samples + 0.5) / sampling_frequency, t_stop=duration_s, units="s")
        for samples in spike_samples
    ]
    drift_list = None
    if step_index is not None:
        num_steps = templates.shape[1]
        drift_list = [
            {
                "drift_vector_idxs": np.asarray(step_index) - num_steps // 2,
                "drift_fs": DRIFT_SAMPLING_FREQUENCY,
                "drift_times": None,
                "drift_factors": np.ones(num_units),
                "drift_steps": num_steps,
            }
        ]
    at_rest = templates[:, templates.shape[1] // 2] if drifting else templates
    generated = RecordingGenerator(
        rec_dict={
            "spiketrains": spike_trains,
            "templates": templates,
            "template_locations": np.zeros((num_units, 3)),
            "template_rotations": np.zeros((num_units, 3)),
            "template_celltypes": np.array(["PC"] * num_units),
            "voltage_peaks": -at_rest[:, 0].min(axis=2),
            "drift_list": drift_list,
        },
        info={
            "n_jitters": 0,  # read only to check the number of dimensions, which is with jitter here
            "electrodes": _electrodes(num_channels),
            "spiketrains": {"duration": duration_s},
            "cell_types": {"excitatory": ["PC"], "inhibitory": ["IN"]},
            "seeds": {"templates": seed, "convolution": seed, "noise": seed},
            # MEArec takes the peak's sample from the ratio, rounded down: hence the quarters.
            "templates": {"cut_out": [peak_sample + 0.25, length - peak_sample - 0.25], "pad_len": [0, 0]},
            "recordings": {
                "fs": sampling_frequency,
                "dtype": "float32",
                "chunk_duration": 0,
                "noise_level": 0,
                "filter": False,
                "modulation": "electrode" if modulation_sd > 0 else "none",
                "sdrand": modulation_sd,
                "drifting": drifting,
                "preferred_dir": [0, 0, 1],
                "angle_tol": 15,
                "n_drifting": None,
            },
        },
    )
    with _quiet_and_seeded(seed):
        # The drift signal is given above; an empty list only keeps MEArec from looking for its parameters.
        generated.generate_recordings(drift_dicts=[] if drifting else None, verbose=False)
    return np.asarray(generated.recordings, dtype=np.float32)


def _electrodes(num_channels: int) -> dict:
    """Return the probe as MEAutility describes one; the convolution only counts its contacts."""
    return {
        "electrode_name": "contacts",
        "pos": [[0.0, float(channel)] for channel in range(num_channels)],
        "center": False,
        "plane": "yz",
        "shape": "square",
        "size": 5,
        "type": "mea",
        "description": "",
        "sortlist": None,
    }


def make_noise(
    noise: NoiseSpec, *, contacts_um: np.ndarray, num_samples: int, sampling_frequency: float, seed: int
) -> np.ndarray:
    """Make independent noise by MEArec's noise steps.

    The steps are called directly, not through RecordingGenerator, because that one draws the seed of every
    chunk from only 1000 values: long recordings would repeat their noise.

    Parameters
    ----------
    noise : NoiseSpec
        Kind "uncorrelated" or "distance-correlated".
    contacts_um : np.ndarray of shape (C, 2)
    num_samples : int
    sampling_frequency : float
    seed : int

    Returns
    -------
    np.ndarray of float32, shape (num_samples, C)
        In uV.
    """
    from MEArec.generators import recgensteps

    num_channels = len(contacts_um)
    if noise.level_uv == 0:
        return np.zeros((num_samples, num_channels), dtype=np.float32)
    chunk = (0, 0, num_samples, sampling_frequency, None)
    uncoloured = (False, None, None, None, "float32", [seed])
    with _quiet_and_seeded(seed):
        if noise.kind == "uncorrelated":
            made = recgensteps.chunk_uncorrelated_noise_(*chunk, num_channels, noise.level_uv, *uncoloured)
        else:
            # Exponential decay: unlike MEArec's half distance over distance it is a covariance for any probe.
            distance_um = np.linalg.norm(contacts_um[:, None] - contacts_um[None], axis=2)
            covariance = 0.5 ** (distance_um / noise.half_distance_um)
            made = recgensteps.chunk_distance_correlated_noise_(
                *chunk, noise.level_uv, covariance, num_channels, *uncoloured
            )
    return made["additive_noise"]
