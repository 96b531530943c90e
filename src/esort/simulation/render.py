"""Traces of a population, segment by segment, so that memory does not grow with the duration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from esort.simulation import mearec
from esort.simulation.bank import TemplateBank
from esort.simulation.population import Population, course_shape, far_population
from esort.simulation.spec import SimulationSpec

__all__ = ["Renderer"]

_SEGMENT_BYTES = 128 * 2**20
_MAX_SEGMENT_S = 10.0
_GROUP_BYTES = 192 * 2**20
_NUM_JITTERS = 8
_FLOOR = 0.5  # white floor of far-neuron noise, relative to the far neurons (MEArec's default)


@dataclass(frozen=True, eq=False)
class Renderer:
    """Make the traces of a recording in segments.

    Parameters
    ----------
    spec : SimulationSpec
    bank : TemplateBank
    contacts_um : np.ndarray of shape (C, 2)
    population : Population
    spike_samples : list of np.ndarray of int64
        Of every unit.
    motion : mearec.Motion
    num_samples : int
        Of the whole recording.
    rng_seed : np.random.SeedSequence
    """

    spec: SimulationSpec
    bank: TemplateBank
    contacts_um: np.ndarray
    population: Population
    spike_samples: list[np.ndarray]
    motion: mearec.Motion
    num_samples: int
    rng_seed: np.random.SeedSequence

    @property
    def segment_samples(self) -> int:
        """Length of a segment; it depends on the number of channels only, as the bytes made must not vary."""
        by_memory = _SEGMENT_BYTES // (4 * len(self.contacts_um))
        return int(min(by_memory, _MAX_SEGMENT_S * self.spec.sampling_frequency, self.num_samples))

    def segments(self) -> Iterator[np.ndarray]:
        """Yield the traces (float32, uV) of consecutive segments, each of shape (n, C)."""
        seed_far, seed_segments = self.rng_seed.spawn(2)
        far = None
        if self.spec.noise.kind == "far-neurons":
            far = self._far_neurons(np.random.default_rng(seed_far))
        starts = range(0, self.num_samples, self.segment_samples)
        for start, seed in zip(starts, seed_segments.spawn(len(starts)), strict=True):
            stop = min(start + self.segment_samples, self.num_samples)
            rng = np.random.default_rng(seed)
            traces = self._noise(start, stop, far, rng)
            self._add_units(
                traces, start, stop, self.population, self.spike_samples, self.motion,
                modulation_sd=self.spec.modulation_sd, rng=rng,
            )  # fmt: skip
            yield traces

    def _noise(
        self, start: int, stop: int, far: tuple[Population, list[np.ndarray], np.ndarray] | None,
        rng: np.random.Generator,
    ) -> np.ndarray:  # fmt: skip
        noise = self.spec.noise
        if far is None:
            return mearec.make_noise(
                noise, contacts_um=self.contacts_um, num_samples=stop - start,
                sampling_frequency=self.spec.sampling_frequency, seed=mearec.new_seed(rng),
            )  # fmt: skip
        population, spike_samples, deviation = far
        traces = np.zeros((stop - start, len(self.contacts_um)), dtype=np.float32)
        # Far neurons do not drift, as in MEArec: what is far is blurred anyway.
        still = mearec.Motion(np.zeros(1), np.zeros(1), np.ones(len(population)), 1)
        self._add_units(traces, start, stop, population, spike_samples, still, modulation_sd=0.0, rng=rng)
        floor = rng.standard_normal(traces.shape, dtype=np.float32)
        traces += floor * (_FLOOR * deviation).astype(np.float32)
        # Far neurons and floor are independent: their variances add.
        traces *= (noise.level_uv / (deviation * np.sqrt(1 + _FLOOR**2))).astype(np.float32)
        return traces

    def _far_neurons(self, rng: np.random.Generator) -> tuple[Population, list[np.ndarray], np.ndarray]:
        """Return far neurons, their spikes, and the standard deviation (C,) of their sum.

        The variance is that of shot noise (Campbell's theorem): rate times the energy of the waveform,
        summed over neurons. It needs no pass over the recording.
        """
        spec = self.spec
        population = far_population(spec, self.bank, self.contacts_um, rng)
        num_excitatory = round(0.8 * len(population))
        trains = mearec.make_spike_trains(
            spec, num_excitatory=num_excitatory, num_inhibitory=len(population) - num_excitatory,
            duration_s=self.num_samples / spec.sampling_frequency, seed=mearec.new_seed(rng),
        )  # fmt: skip
        spike_samples = [to_samples(train, spec.sampling_frequency, self.num_samples) for train in trains]
        rates = np.array([len(samples) for samples in spike_samples]) / self.num_samples  # spikes per sample
        energy = np.zeros(len(self.contacts_um))
        for unit, rate in enumerate(rates):
            chosen = np.array([unit])
            space = population.space_at(self.bank, self.contacts_um, chosen)[0]  # (C, R)
            course = population.course_at(self.bank, chosen, spec.sampling_frequency)[0][0]  # (R, T)
            energy += rate * np.einsum("cr,rs,cs->c", space, course @ course.T, space)
        return population, spike_samples, np.sqrt(np.maximum(energy, 1e-6))

    def _add_units(
        self, traces: np.ndarray, start: int, stop: int, population: Population,
        spike_samples: list[np.ndarray], motion: mearec.Motion, *, modulation_sd: float,
        rng: np.random.Generator,
    ) -> None:  # fmt: skip
        """Add the spikes of a population to the traces of [start, stop), by groups of units."""
        sampling_frequency = self.spec.sampling_frequency
        margin = course_shape(self.bank, sampling_frequency)[1]
        num_local = stop - start + 2 * margin
        # A spike just outside reaches in; its few samples differ in jitter and modulation from those of the
        # neighbouring segment, where it is drawn again.
        local = [samples - start + margin for samples in spike_samples]
        local = [samples[(samples >= 0) & (samples < num_local)] for samples in local]
        active = np.array([unit for unit, samples in enumerate(local) if len(samples)], dtype=np.int64)
        step_index, first_step, num_steps = None, 0, 1
        if motion.num_steps > 1:
            num_times = int(np.ceil(num_local / sampling_frequency * mearec.DRIFT_SAMPLING_FREQUENCY)) + 1
            times_s = np.arange(num_times) / mearec.DRIFT_SAMPLING_FREQUENCY
            step_index = motion.step_index(times_s + (start - margin) / sampling_frequency)
            first_step, num_steps = int(step_index.min()), int(np.ptp(step_index)) + 1
            step_index = step_index - first_step
        offsets_um = motion.step_offsets_um[first_step : first_step + num_steps]  # (D,)

        for units, channels in self._groups(population, active, offsets_um):
            templates, peak_sample = self._templates(population, units, channels, motion, offsets_um)
            made = mearec.convolve(
                templates if step_index is not None else templates[:, 0],
                [local[unit] for unit in units],
                peak_sample=peak_sample, num_samples=num_local, sampling_frequency=sampling_frequency,
                step_index=step_index, modulation_sd=modulation_sd, seed=mearec.new_seed(rng),
            )  # fmt: skip
            # Run by run of neighbouring channels: adding through slices is several times faster.
            for run in np.split(np.arange(len(channels)), np.flatnonzero(np.diff(channels) != 1) + 1):
                own = slice(channels[run[0]], channels[run[-1]] + 1)
                traces[:, own] += made[margin : margin + stop - start, run[0] : run[-1] + 1]

    def _groups(
        self, population: Population, units: np.ndarray, offsets_um: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield units by depth with the channels that see them, as many at a time as memory allows."""
        length = course_shape(self.bank, self.spec.sampling_frequency)[1]
        reach_um = self.bank.along_um[-1] + np.abs(offsets_um).max()
        bytes_per_channel = 4 * length * len(offsets_um) * _NUM_JITTERS
        along = population.position_um[:, 1]
        ordered = units[np.argsort(along[units], kind="stable")]

        def seen(group: np.ndarray) -> np.ndarray:
            contacts_along = self.contacts_um[:, 1]
            low, high = along[group].min() - reach_um, along[group].max() + reach_um
            return np.flatnonzero((contacts_along >= low) & (contacts_along <= high))

        first = 0
        while first < len(ordered):
            last = first + 1
            # Up to 100 um of the probe together: more units share a call, but more contacts see only some.
            while last < len(ordered) and along[ordered[last]] - along[ordered[first]] <= 100.0:
                larger = ordered[first : last + 1]
                if len(larger) * len(seen(larger)) * bytes_per_channel > _GROUP_BYTES:
                    break
                last += 1
            group = np.sort(ordered[first:last])
            channels = seen(group)
            if len(channels):
                yield group, channels
            first = last

    def _templates(
        self, population: Population, units: np.ndarray, channels: np.ndarray, motion: mearec.Motion,
        offsets_um: np.ndarray,
    ) -> tuple[np.ndarray, int]:  # fmt: skip
        """Return templates (N, D, J, C, T) at every position and with every jitter, and the peak's sample."""
        contacts = self.contacts_um[channels]
        shifts = (np.arange(_NUM_JITTERS) + 0.5) / _NUM_JITTERS - 0.5
        courses, peak_sample = [], 0
        for shift in shifts:
            course, peak_sample = population.course_at(self.bank, units, self.spec.sampling_frequency, shift)
            courses.append(course)
        by_jitter = np.stack(courses, axis=1)  # (N, J, R, T)
        templates = np.empty(
            (len(units), len(offsets_um), _NUM_JITTERS, len(channels), by_jitter.shape[-1]), dtype=np.float32
        )
        for step, offset_um in enumerate(offsets_um):
            shift_um = offset_um * motion.factor[units]
            space = population.space_at(self.bank, contacts, units, shift_um)  # (N, C, R)
            np.matmul(space[:, None], by_jitter, out=templates[:, step])  # (N, J, C, T)
        return templates, peak_sample


def to_samples(times_s: np.ndarray, sampling_frequency: float, num_samples: int) -> np.ndarray:
    """Return spike times as sorted, distinct sample indices within the recording."""
    samples = np.unique(np.round(times_s * sampling_frequency).astype(np.int64))
    return samples[(samples >= 0) & (samples < num_samples)]
