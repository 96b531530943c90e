"""A pursuit network of known footprints, and whitened traces with known spikes."""

import numpy as np
import torch

from esort.pursuit.bandpass import Bandpass
from esort.pursuit.network import PursuitNetwork
from esort.pursuit.recipe import Layout
from esort.pursuit.shifting import shifted

# The compiled loops and matrix products here are small: threads only wait for each other.
torch.set_num_threads(1)

RATE_HZ = 32_000.0
STEP = 2
FOOTPRINT_BEFORE, FOOTPRINT_SAMPLES = 20, 52
FILTER_BEFORE, FILTER_SAMPLES = 14, 36
POSITIONS_UM = np.column_stack([np.zeros(8), 20.0 * np.arange(8)])
LAYOUT = Layout(
    rate_hz=16_000.0,
    footprint_before=FOOTPRINT_BEFORE,
    footprint_samples=FOOTPRINT_SAMPLES,
    filter_before=FILTER_BEFORE,
    filter_samples=FILTER_SAMPLES,
    num_filters=5,
    num_footprint_channels=6,
    num_head_channels=4,
    exclusion_rows=16,
)


def footprints(num_units=4, num_channels=8, peak=9.0):
    """Smooth waveforms in units of the noise, strongest on one channel: float32 (U, C, L)."""
    rows = np.arange(FOOTPRINT_SAMPLES) - FOOTPRINT_BEFORE
    result = np.empty((num_units, num_channels, FOOTPRINT_SAMPLES), dtype=np.float32)
    for unit_index in range(num_units):
        width = 1.7 + 0.5 * (unit_index % 3)
        course = -np.exp(-0.5 * (rows / width) ** 2) + 0.45 * np.exp(-0.5 * ((rows - 7) / (2 * width)) ** 2)
        place = (unit_index + 0.5) * num_channels / num_units - 0.5
        space = np.exp(-0.5 * ((np.arange(num_channels) - place) / 1.1) ** 2)
        result[unit_index] = (peak + 2 * (unit_index % 3)) * np.outer(space, course)
    return result


def make_network(waveforms=None, *, num_members=6, num_heads=4, num_filters=5, rng=None):
    """The network that knows these footprints; detectors are what its temporal bank sees of them."""
    waveforms = footprints() if waveforms is None else waveforms
    num_units, num_channels = waveforms.shape[:2]
    bandpass = Bandpass.design(RATE_HZ, freq_min_hz=300, freq_max_hz=6000, step=STEP)
    network = PursuitNetwork(
        num_channels=num_channels,
        num_units=num_units,
        window_samples=bandpass.num_taps + STEP * (FILTER_SAMPLES - 1),
        peak_offset_samples=bandpass.num_taps // 2 + STEP * FILTER_BEFORE,
        step=STEP,
        lowpass_samples=len(bandpass.lowpass),
        highpass_samples=len(bandpass.highpass),
        num_filters=num_filters,
        filter_samples=FILTER_SAMPLES,
        filter_before=FILTER_BEFORE,
        footprint_before=FOOTPRINT_BEFORE,
        footprint_samples=FOOTPRINT_SAMPLES,
        num_footprint_channels=num_members,
        num_head_channels=num_heads,
    )
    rng = np.random.default_rng(0) if rng is None else rng
    whitening = np.eye(num_channels) + 0.1 * rng.standard_normal((num_channels, num_channels))
    first = FOOTPRINT_BEFORE - FILTER_BEFORE
    middle = waveforms[:, :, first : first + FILTER_SAMPLES]  # (U, C, Lb)
    bank = np.linalg.svd(middle.reshape(-1, FILTER_SAMPLES), full_matrices=False)[2][:num_filters]
    energy = np.square(waveforms).sum(axis=2)  # (U, C)
    members = np.sort(np.argsort(-energy, axis=1)[:, :num_members], axis=1)
    heads = np.sort(np.argsort(-energy, axis=1)[:, :num_heads], axis=1)
    network.bandpass = bandpass
    network.whitening.copy_(torch.from_numpy(whitening))
    network.filters.copy_(torch.from_numpy(bank.copy()))
    network.footprint_channels.copy_(torch.from_numpy(members))
    network.head_channels.copy_(torch.from_numpy(heads))
    for unit_index in range(num_units):
        network.footprints[unit_index] = torch.from_numpy(waveforms[unit_index, members[unit_index]])
        network.heads[unit_index] = torch.from_numpy(middle[unit_index, heads[unit_index]] @ bank.T)
    return network.eval()


def add_spike(traces, network, unit_index, time, amplitude=1.0):
    """Put a spike of a unit at a time in rows, between rows too, into traces (C, T)."""
    row = round(time)
    waveform = amplitude * shifted(network.footprints[unit_index], float(time - row)).numpy()
    start = row - network.footprint_before
    first, last = max(0, -start), min(waveform.shape[1], traces.shape[1] - start)
    channels = network.footprint_channels[unit_index].numpy()
    traces[channels, start + first : start + last] += waveform[:, first:last]


def planted(network, *, num_rows=4000, gap_rows=25.0, noise=1.0, seed=0):
    """Noise with spikes of all units in it: traces (C, T), times, unit_index, amplitudes."""
    rng = np.random.default_rng(seed)
    traces = noise * rng.standard_normal((network.num_channels, num_rows)).astype(np.float32)
    times = np.cumsum(gap_rows * (0.4 + rng.exponential(0.6, int(num_rows / gap_rows)))) + 40
    times = times[times < num_rows - 60]
    units = rng.integers(network.num_units, size=len(times))
    # Spikes of one unit are further apart than its exclusion.
    apart = [
        not any(units[before] == units[here] and times[here] - times[before] < 40 for before in range(here))
        for here in range(len(times))
    ]
    times, units = times[apart], units[apart]
    amplitudes = rng.uniform(0.85, 1.2, len(times))
    for time, unit_index, amplitude in zip(times, units, amplitudes, strict=True):
        add_spike(traces, network, unit_index, time, amplitude)
    return traces, times, units, amplitudes
