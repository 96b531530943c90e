"""Which simulated neurons a recording sees, where they lie, and what each contact sees of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from esort.simulation.bank import TemplateBank
from esort.simulation.spec import SimulationSpec

__all__ = ["Population", "far_population", "place_population"]

_TRIALS_PER_TEMPLATE = 32
_PASSES = 4
_NEAREST_CONTACTS = 24
_UPSAMPLE = 10


@dataclass(frozen=True, eq=False)
class Population:
    """Neurons beside a probe, excitatory ones first.

    Parameters
    ----------
    template_index : np.ndarray of shape (U,)
        Into the template bank.
    position_um : np.ndarray of shape (U, 3)
        Soma at rest: across the probe, along it, distance from its plane.
    mirror : np.ndarray of shape (U,)
        1, or -1 where the cell is mirrored across the probe's long axis (which doubles the shapes).
    gain : np.ndarray of shape (U,)
        Factor on the template.
    peak_time_ms : np.ndarray of shape (U,)
        Time of the trough on the main contact, on the template's own clock.
    main_channel : np.ndarray of shape (U,)
        Contact with the deepest trough, at rest.
    amplitude_uv : np.ndarray of shape (U,)
        Depth of that trough.
    """

    template_index: np.ndarray
    position_um: np.ndarray
    mirror: np.ndarray
    gain: np.ndarray
    peak_time_ms: np.ndarray
    main_channel: np.ndarray
    amplitude_uv: np.ndarray

    def __len__(self) -> int:
        return len(self.template_index)

    def space_at(
        self,
        bank: TemplateBank,
        contacts_um: np.ndarray,
        units: np.ndarray,
        shift_um: float | np.ndarray = 0.0,
    ) -> np.ndarray:
        """Return what the contacts see of some units, the somata moved along the probe.

        Parameters
        ----------
        bank : TemplateBank
        contacts_um : np.ndarray of shape (C, 2)
        units : np.ndarray of shape (N,)
        shift_um : float or np.ndarray of shape (N,)

        Returns
        -------
        np.ndarray of float32, shape (N, C, R)
            Spatial factors in uV.
        """
        soma = self.position_um[units, :2].copy()  # (N, 2)
        soma[:, 1] += shift_um
        relative = contacts_um[None] - soma[:, None]  # (N, C, 2)
        relative[..., 0] *= self.mirror[units, None]
        space = bank.space_at(self.template_index[units], relative)  # (N, C, R)
        return space * self.gain[units, None, None].astype(np.float32)

    def course_at(
        self, bank: TemplateBank, units: np.ndarray, sampling_frequency: float, shift_samples: float = 0.0
    ) -> tuple[np.ndarray, int]:
        """Return time courses at a sampling frequency, the trough of the main contact on a sample.

        Parameters
        ----------
        bank : TemplateBank
        units : np.ndarray of shape (N,)
        sampling_frequency : float
        shift_samples : float, default 0
            The trough lies this much after its sample (jitter below one sample).

        Returns
        -------
        courses : np.ndarray of float32, shape (N, R, T)
        peak_sample : int
            Sample of the trough.
        """
        peak_sample, num_samples = course_shape(bank, sampling_frequency)
        times_ms = (np.arange(num_samples) - peak_sample - shift_samples) * 1000 / sampling_frequency  # (T,)
        times_ms = times_ms[None] + self.peak_time_ms[units, None]  # (N, T)
        return bank.course_at(self.template_index[units], times_ms), peak_sample


def course_shape(bank: TemplateBank, sampling_frequency: float) -> tuple[int, int]:
    """Return how many samples hold a template, with room for its alignment: before the trough, in all."""
    start_ms, stop_ms = bank.cut_out_ms
    room_ms = 0.5
    pre = int(np.ceil((room_ms - start_ms) * sampling_frequency / 1000))
    post = int(np.ceil((room_ms + stop_ms) * sampling_frequency / 1000))
    return pre, pre + post


def _troughs(bank: TemplateBank, template_index: np.ndarray, relative_um: np.ndarray) -> np.ndarray:
    """Return the depth (N, C) of the trough of every template at its contacts."""
    return -bank.sample(template_index, relative_um).min(axis=2)


def _peak_times_ms(bank: TemplateBank, template_index: np.ndarray, main_space: np.ndarray) -> np.ndarray:
    """Return the time (N,) of the trough on the main contact, finer than a sample; main_space is (N, R)."""
    native = np.matmul(main_space[:, None], bank.course[template_index])[:, 0]  # (N, T)
    step_ms = 1000 / bank.sampling_frequency
    coarse_ms = (native.argmin(axis=1) - bank.peak_sample) * step_ms  # (N,)
    around_ms = np.arange(-_UPSAMPLE, _UPSAMPLE + 1) / _UPSAMPLE * step_ms
    fine = bank.course_at(template_index, coarse_ms[:, None] + around_ms)  # (N, R, 2 * _UPSAMPLE + 1)
    return coarse_ms + around_ms[np.matmul(main_space[:, None], fine)[:, 0].argmin(axis=1)]


def _complete(
    bank: TemplateBank, contacts_um: np.ndarray, template_index: np.ndarray, position_um: np.ndarray,
    mirror: np.ndarray, gain: np.ndarray,
) -> Population:  # fmt: skip
    """Work out the main contact, the amplitude and the time of the trough of placed neurons."""
    num_units = len(template_index)
    relative = contacts_um[None] - position_um[:, None, :2]  # (U, C, 2)
    relative[..., 0] *= mirror[:, None]
    main_channel = np.empty(num_units, dtype=np.int64)
    amplitude_uv, peak_time_ms = np.empty(num_units), np.empty(num_units)
    for unit in range(num_units):  # one at a time: all at once would be gigabytes on long probes
        chosen = template_index[unit : unit + 1]
        troughs = _troughs(bank, chosen, relative[unit : unit + 1])[0]  # (C,)
        main_channel[unit] = troughs.argmax()
        amplitude_uv[unit] = gain[unit] * troughs.max()
        main_contact = relative[unit, main_channel[unit]]  # (2,)
        main_space = bank.space_at(chosen, main_contact[None, None])  # (1, 1, R)
        peak_time_ms[unit] = _peak_times_ms(bank, chosen, main_space[:, 0])[0]
    return Population(
        template_index=template_index, position_um=position_um, mirror=mirror, gain=gain,
        peak_time_ms=peak_time_ms, main_channel=main_channel, amplitude_uv=amplitude_uv,
    )  # fmt: skip


def place_population(
    spec: SimulationSpec, bank: TemplateBank, contacts_um: np.ndarray, rng: np.random.Generator
) -> Population:
    """Choose templates of the spec's split and places for them.

    Every template is used at most once. A place is taken if the trough on the strongest contact is within the
    spec's limits and no other soma is too near.

    Parameters
    ----------
    spec : SimulationSpec
    bank : TemplateBank
    contacts_um : np.ndarray of shape (C, 2)
    rng : np.random.Generator

    Returns
    -------
    Population

    Raises
    ------
    ValueError
        If too few templates of the split fit.
    """
    from scipy.spatial import cKDTree

    num_units = spec.resolved_num_units
    num_excitatory = round(spec.excitatory_fraction * num_units)
    pool = bank.split(spec.split, disjoint_cell_models=spec.disjoint_cell_models)
    low = contacts_um.min(axis=0) - spec.overhang_um
    high = contacts_um.max(axis=0) + spec.overhang_um
    tree = cKDTree(contacts_um)
    num_nearest = min(_NEAREST_CONTACTS, len(contacts_um))

    templates: list[int] = []
    places: list[np.ndarray] = []
    mirrors: list[float] = []
    for cell_type, wanted in (("E", num_excitatory), ("I", num_units - num_excitatory)):
        candidates = rng.permutation(pool[bank.cell_types[pool] == cell_type])
        num_placed = 0
        used: set[int] = set()
        # A template that found no place at once may find one at a later try.
        for template in np.tile(candidates, _PASSES):
            if num_placed == wanted:
                break
            if int(template) in used:
                continue
            somata = np.column_stack(
                [
                    rng.uniform(low, high, size=(_TRIALS_PER_TEMPLATE, 2)),
                    np.full(_TRIALS_PER_TEMPLATE, bank.distance_um[template]),
                ]
            )  # (trials, 3)
            mirror = rng.choice([-1.0, 1.0])
            far_enough = np.ones(len(somata), dtype=bool)
            if places:
                distance = np.linalg.norm(somata[:, None] - np.array(places)[None], axis=2)
                far_enough = distance.min(axis=1) >= spec.min_distance_um
            if not far_enough.any():
                continue
            somata = somata[far_enough]
            nearest = tree.query(somata[:, :2], k=num_nearest)[1].reshape(len(somata), num_nearest)
            relative = contacts_um[nearest] - somata[:, None, :2]  # (trials, nearest, 2)
            relative[..., 0] *= mirror
            trough = _troughs(bank, np.full(len(somata), template), relative).max(axis=1)
            fits = np.flatnonzero((trough >= spec.min_amplitude_uv) & (trough <= spec.max_amplitude_uv))
            if len(fits):
                used.add(int(template))
                templates.append(int(template))
                places.append(somata[fits[0]])
                mirrors.append(float(mirror))
                num_placed += 1
        if num_placed < wanted:
            kind = "excitatory" if cell_type == "E" else "inhibitory"
            raise ValueError(
                f"expected at most {num_placed} {kind} units for this probe, split {spec.split!r} "
                f"({len(candidates)} templates) and amplitudes {spec.min_amplitude_uv:g} to "
                f"{spec.max_amplitude_uv:g} uV, got {wanted} of num_units {num_units}"
            )
    return _complete(
        bank, contacts_um, np.array(templates), np.array(places), np.array(mirrors), np.ones(num_units)
    )


def far_population(
    spec: SimulationSpec, bank: TemplateBank, contacts_um: np.ndarray, rng: np.random.Generator
) -> Population:
    """Return the small neurons that make up far-neuron noise.

    Templates of the spec's split, more often the distant (blurred) ones, anywhere along the probe, scaled so
    that no trough is deeper than 10 uV (MEArec's limit for far neurons).

    Parameters
    ----------
    spec : SimulationSpec
    bank : TemplateBank
    contacts_um : np.ndarray of shape (C, 2)
    rng : np.random.Generator

    Returns
    -------
    Population
    """
    num_far = spec.noise.num_far_neurons
    pool = bank.split(spec.split, disjoint_cell_models=spec.disjoint_cell_models)
    weight = bank.distance_um[pool] ** 2
    template_index = rng.choice(pool, size=num_far, p=weight / weight.sum())
    low, high = contacts_um.min(axis=0) - 50.0, contacts_um.max(axis=0) + 50.0
    position_um = np.column_stack([rng.uniform(low, high, (num_far, 2)), bank.distance_um[template_index]])
    mirror = rng.choice([-1.0, 1.0], size=num_far)
    plain = _complete(bank, contacts_um, template_index, position_um, mirror, np.ones(num_far))
    gain = rng.uniform(2.0, 10.0, num_far) / np.maximum(plain.amplitude_uv, 1.0)
    return Population(
        template_index=template_index, position_um=position_um, mirror=mirror, gain=gain,
        peak_time_ms=plain.peak_time_ms, main_channel=plain.main_channel,
        amplitude_uv=plain.amplitude_uv * gain,
    )  # fmt: skip
