"""Make a simulated recording with its ground truth, or find it in the cache."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from spikeinterface.core import BaseRecording, BaseSorting, BinaryRecordingExtractor, NumpySorting, load

from esort.files import new_folder_atomically, read_json, write_json
from esort.one_line import one_line
from esort.simulation import mearec
from esort.simulation.bank import TemplateBank
from esort.simulation.population import Population, place_population
from esort.simulation.render import Renderer, to_samples
from esort.simulation.spec import DriftSpec, NoiseSpec, SimulationSpec

__all__ = ["GAIN_TO_UV", "Simulation", "simulate"]

logger = logging.getLogger(__name__)

GAIN_TO_UV = 0.1
"""uV per bit of the stored traces: their range is +-3.2 mV, far above any template."""

_LAST_FILE = "spec.json"  # written last: a folder without it is not whole
# Measured on one core: seconds per second of recording, per channel and per unit, for the expectation logged.
_SECONDS_PER_CHANNEL_SECOND = 0.003
_SECONDS_PER_UNIT_SECOND = 0.005


@dataclass(frozen=True, eq=False)
class Simulation:
    """A simulated recording in its folder.

    Parameters
    ----------
    folder : Path
        Holds ``recording/`` and ``sorting/`` (both load with ``spikeinterface.load``), ``units.json``,
        ``motion.npz`` and ``spec.json``.
    recording : BaseRecording
        int16, unfiltered, with gain, probe and channel locations.
    sorting : BaseSorting
        Ground truth. A spike's sample is that of the trough of its template on the unit's main channel (with
        drift: as seen from the soma's position at rest).
    units : list of dict
        For each unit: unit_id, cell_model, cell_type, template_index, position_um (x, y, distance from the
        plane), main_channel, amplitude_uv, snr (amplitude over the noise level), num_spikes.
    """

    folder: Path
    recording: BaseRecording
    sorting: BaseSorting
    units: list[dict]

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Simulation:
        """Open a folder that `simulate` made.

        Raises
        ------
        FileNotFoundError
            If the folder holds no complete simulation.
        ValueError
            If what it holds is damaged.
        """
        folder = Path(folder)
        if not _is_complete(folder):
            raise FileNotFoundError(f"expected a folder with a complete simulation, found none at {folder}")
        try:
            units = json.loads((folder / "units.json").read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{folder} is damaged: remove it, it is made anew ({error})") from None
        return cls(folder, load(folder / "recording"), load(folder / "sorting"), units)

    def motion(self) -> mearec.Motion:
        """Return the true motion of the tissue.

        Raises
        ------
        ValueError
            If its file is damaged.
        """
        try:
            with np.load(self.folder / "motion.npz", allow_pickle=False) as stored:
                return mearec.Motion(
                    stored["times_s"], stored["displacement_um"], stored["factor"], int(stored["num_steps"])
                )
        except Exception as error:  # noqa: BLE001 (zip, zlib and NumPy have errors of many kinds)
            reason = one_line(error, 100)
            raise ValueError(f"{self.folder} is damaged: remove it, it is made anew ({reason})") from None


def simulate(spec: SimulationSpec, cache_folder: str | os.PathLike[str]) -> Simulation:
    """Make the recording of a spec, or find it in the cache.

    The same spec makes the same bytes. Several processes may ask for the same spec at once: one makes it, the
    others wait for it. What a killed process left behind is never used.

    Parameters
    ----------
    spec : SimulationSpec
    cache_folder : path-like
        Holds one folder per digest of a spec; made if absent.

    Returns
    -------
    Simulation

    Raises
    ------
    ValueError
        If too few templates fit the spec.
    """
    cache_folder = Path(cache_folder)
    folder = cache_folder / f"{spec.probe_spec.label}-{spec.split}-{spec.digest()[:16]}"
    if not _is_complete(folder):
        cache_folder.mkdir(parents=True, exist_ok=True)
        with _locked(cache_folder / f".{folder.name}.lock"):
            # Holding the lock, nobody else is making this folder: leftovers are nobody's.
            for leftover in cache_folder.glob(f".{folder.name}.partial-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            if not _is_complete(folder):
                mearec.check_installed()
                if folder.exists():
                    logger.warning("%s is not whole and is made anew", folder)
                    shutil.rmtree(folder)
                with new_folder_atomically(folder) as partial:
                    _make(spec, partial)
    return Simulation.load(folder)


def _is_complete(folder: Path) -> bool:
    """Whether a folder holds a whole simulation."""
    if not (folder / _LAST_FILE).is_file():
        return False
    traces = folder / "recording" / "traces_cached_seg0.raw"
    try:
        expected = read_json(folder / _LAST_FILE).get("traces_bytes")
    except ValueError:
        return False  # it is made anew
    return traces.is_file() and traces.stat().st_size == expected


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; the system drops it when the process ends, however it ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("waiting for another process that makes %s", path.stem.lstrip("."))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _without_warnings(text: str) -> Iterator[None]:
    """Drop warnings that contain a text."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=f".*{text}.*")
        yield


def _make(spec: SimulationSpec, folder: Path) -> None:
    """Make a simulation in an empty folder."""
    began = time.perf_counter()
    bank = TemplateBank.load()
    probe = spec.probe_spec.build()
    contacts_um = np.asarray(probe.contact_positions, float)
    num_samples = round(spec.duration_s * spec.sampling_frequency)
    # Neurons and their spikes do not depend on noise and drift: recordings that differ in these only can be
    # compared, and a network that learned one can sort the other.
    still = replace(spec, noise=NoiseSpec(level_uv=0.0), drift=DriftSpec())
    seeds = np.random.SeedSequence([spec.seed, *bytes.fromhex(still.digest())[:8]]).spawn(3)
    rng = np.random.default_rng(seeds[0])
    population = place_population(spec, bank, contacts_um, rng)

    num_excitatory = int(np.sum(bank.cell_types[population.template_index] == "E"))
    trains = mearec.make_spike_trains(
        spec, num_excitatory=num_excitatory, num_inhibitory=len(population) - num_excitatory,
        duration_s=spec.duration_s, seed=mearec.new_seed(rng),
    )  # fmt: skip
    spike_samples = [to_samples(train, spec.sampling_frequency, num_samples) for train in trains]
    motion = mearec.make_motion(
        spec.drift, soma_along_um=population.position_um[:, 1], duration_s=spec.duration_s,
        seed=mearec.new_seed(rng),
    )  # fmt: skip
    expected_s = spec.duration_s * (
        _SECONDS_PER_CHANNEL_SECOND * len(contacts_um) + _SECONDS_PER_UNIT_SECOND * len(population)
    )
    logger.info(
        "simulating %g s, %d channels, %d units (%s, %s), drift %s: about %.0f s",
        spec.duration_s, len(contacts_um), len(population), spec.probe_spec.label, spec.split,
        spec.drift.kind, max(expected_s, 1),
    )  # fmt: skip
    renderer = Renderer(
        spec=spec, bank=bank, contacts_um=contacts_um, population=population, spike_samples=spike_samples,
        motion=motion, num_samples=num_samples, rng_seed=seeds[1],
    )  # fmt: skip

    raw_file = folder / "traces.raw"
    num_saturated, num_done, reported = 0, 0, time.perf_counter()
    with raw_file.open("wb") as file:
        for traces in renderer.segments():
            bits = np.rint(traces / GAIN_TO_UV)
            num_saturated += int(np.count_nonzero(np.abs(bits) > 32767))
            file.write(np.clip(bits, -32768, 32767).astype("<i2").tobytes())
            num_done += len(traces)
            if time.perf_counter() - reported > 10:
                reported = time.perf_counter()
                logger.info("simulated %.0f of %g s", num_done / spec.sampling_frequency, spec.duration_s)
    if num_saturated:
        logger.warning("%d samples of the simulation are beyond the range of its 16 bits", num_saturated)
    traces_bytes = raw_file.stat().st_size

    recording = BinaryRecordingExtractor(
        file_paths=[raw_file], sampling_frequency=spec.sampling_frequency, dtype="int16",
        num_channels=len(contacts_um), gain_to_uV=GAIN_TO_UV, offset_to_uV=0.0, is_filtered=False,
    )  # fmt: skip
    recording.set_probe(probe)
    with _without_warnings("not serializable"):  # of the raw file, which is about to go
        recording.save(
            format="binary",
            folder=folder / "recording",
            n_jobs=1,
            chunk_memory="256M",
            progress_bar=False,
            verbose=False,
        )
    raw_file.unlink()
    _save_sorting(spec, population, spike_samples, folder)
    np.savez(folder / "motion.npz", times_s=motion.times_s, displacement_um=motion.displacement_um,
             factor=motion.factor, num_steps=motion.num_steps)  # fmt: skip
    write_json(folder / "units.json", describe_units(spec, bank, population, spike_samples))
    write_json(
        folder / _LAST_FILE,
        {**spec.to_dict(), "digest": spec.digest(), "bank_digest": bank.digest, "traces_bytes": traces_bytes},
    )
    logger.info("simulated %g s in %.0f s", spec.duration_s, time.perf_counter() - began)


def _save_sorting(
    spec: SimulationSpec, population: Population, spike_samples: list[np.ndarray], folder: Path
) -> None:
    """Save the ground truth."""
    unit_ids = [str(unit) for unit in range(len(population))]
    sorting = NumpySorting.from_unit_dict(
        dict(zip(unit_ids, spike_samples, strict=True)), sampling_frequency=spec.sampling_frequency
    )
    sorting.set_property("gt_unit_locations", population.position_um)
    sorting.set_property("main_channel_index", population.main_channel)
    sorting.set_property("amplitude_uv", population.amplitude_uv)
    with _without_warnings("not serializable"):
        sorting.save(format="numpy_folder", folder=folder / "sorting")


def describe_units(
    spec: SimulationSpec, bank: TemplateBank, population: Population, spike_samples: list[np.ndarray]
) -> list[dict]:
    """Return what is known of every unit, as plain types."""
    level_uv = spec.noise.level_uv
    return [
        {
            "unit_id": str(unit),
            "cell_model": str(bank.cell_models[template]),
            "cell_type": str(bank.cell_types[template]),
            "template_index": int(template),
            "position_um": [round(float(value), 3) for value in population.position_um[unit]],
            "main_channel": int(population.main_channel[unit]),
            "amplitude_uv": round(float(population.amplitude_uv[unit]), 3),
            "snr": round(float(population.amplitude_uv[unit]) / level_uv, 3) if level_uv > 0 else None,
            "num_spikes": len(spike_samples[unit]),
        }
        for unit, template in enumerate(population.template_index)
    ]
