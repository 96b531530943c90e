"""What a recording looks like before it is sorted: one function for each thing that can be wrong with it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from esort.excerpt import Excerpt
from esort.preprocessing import Preprocessing

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording

__all__ = [
    "Finding",
    "bad_channels",
    "channel_map",
    "clipping",
    "contacts",
    "duration",
    "gaps",
    "noise",
    "number_format",
    "spike_rate",
]

MIN_NOISE_UV, MAX_NOISE_UV = 1.0, 100.0
# In steps of the converter; below, rounding adds more than a tenth to the noise.
_MIN_STEPS = 0.6
GAP_ADVICE = "cut the recording there and sort the parts one by one: spikes and filter do not cross a gap"
_SHORT_S = 30.0
# Below, even a unit of 1 Hz has too few spikes to be learned.
LEARNABLE_S = 5.0
_GAP_MS = 1.0
# Peaks of this many noise levels count as spikes; Gaussian noise has that in this part of its samples.
_PEAK_LEVELS, _BY_CHANCE = 5.0, 2.9e-7
# SpikeInterface's coherence method compares a channel with its neighbours and wants a probe full of them.
_MIN_CHANNELS_COHERENCE = 24
_MAX_BAD = 1 / 3
_MIN_CHANNELS_MAP = 8


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the doctor.

    Parameters
    ----------
    check : str
        What was looked at.
    level : {"ok", "warning", "fatal"}
    text : str
        What was seen.
    advice : str
        What to change.
    """

    check: str
    level: Literal["ok", "warning", "fatal"]
    text: str
    advice: str = ""

    def __str__(self) -> str:
        line = f"{self.level:<8} {self.check:<11} {self.text}" + (f"; {self.advice}" if self.advice else "")
        return " ".join(line.splitlines())


def number_format(recording: BaseRecording) -> Finding:
    """Check the type of the samples; what is no number is refused by `esort.health.check_recording`."""
    dtype = np.dtype(recording.dtype)
    if dtype.itemsize > 4:
        advice = "int16 or float32 hold all that an amplifier gives, at a fraction of the size"
        return Finding(check="dtype", level="warning", text=str(dtype), advice=advice)
    return Finding(check="dtype", level="ok", text=str(dtype))


def duration(recording: BaseRecording, preprocessing: Preprocessing) -> Finding:
    """Check that the recording is long enough for the filter, and for units to be learned."""
    num_samples, seconds = int(recording.get_num_samples()), recording.get_total_duration()
    if num_samples < preprocessing.min_samples:
        text = f"{num_samples} samples, the filter needs {preprocessing.min_samples}"
        return Finding(check="length", level="fatal", text=text)
    text = f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} minutes"
    if seconds < LEARNABLE_S:
        advice = "too short to learn units from, which takes 5 s at the least; a checkpoint can sort it"
        return Finding(check="length", level="warning", text=f"{seconds:.1f} s", advice=advice)
    if seconds < _SHORT_S:
        advice = f"a unit of 1 Hz fires {seconds:.1f} times; learn from a longer recording of the same probe"
        return Finding(check="length", level="warning", text=f"{seconds:.1f} s", advice=advice)
    return Finding(check="length", level="ok", text=text)


def contacts(recording: BaseRecording) -> Finding:
    """Check how many contacts there are and how close; doubled ones `check_recording` refuses."""
    positions = np.asarray(recording.get_channel_locations(), dtype=float)
    if len(positions) == 1:
        advice = "units can only be told apart by their shape there: expect few, and check them"
        return Finding(check="contacts", level="warning", text="1 contact", advice=advice)
    nearest = float(np.median(_nearest(positions)[1]))
    text = f"{len(positions)} contacts, neighbours {nearest:.3g} µm apart"
    if not 1.0 <= nearest <= 1000.0:
        advice = "positions must be in µm: check the unit of the probe file"
        return Finding(check="contacts", level="warning", text=text, advice=advice)
    return Finding(check="contacts", level="ok", text=text)


def gaps(recording: BaseRecording, excerpt: Excerpt) -> Finding:
    """Look for jumps of the clock, and for stretches in which no channel changes."""
    rate = excerpt.sampling_frequency
    jumps = clock_jumps(recording)
    if jumps.size:
        text = f"the clock jumps {jumps.size} times, first after sample {jumps[0]}"
        return Finding(check="gaps", level="warning", text=text, advice=GAP_ADVICE)
    least = max(2, round(_GAP_MS * rate / 1000))
    flat = [_longest_run((traces[1:] == traces[:-1]).all(axis=1)) + 1 for traces in excerpt.raw]
    holes = [length for length in flat if length > least]
    if holes:
        text = (
            f"no channel changes for {max(holes) / rate * 1000:.0f} ms, at {len(holes)} of {len(flat)} places"
        )
        advice = "packets were lost or stretches blanked: labels should not come from there"
        return Finding(check="gaps", level="warning", text=text, advice=advice)
    return Finding(check="gaps", level="ok", text=f"none at {len(flat)} places")


def clock_jumps(recording: BaseRecording) -> np.ndarray:
    """Samples after which the clock jumps, int64; none where the recording has no time of each sample."""
    if not recording.has_time_vector(segment_index=0):
        return np.zeros(0, dtype=np.int64)
    steps, step = np.diff(recording.get_times(segment_index=0)), 1 / recording.sampling_frequency
    return np.flatnonzero(np.abs(steps - step) > 0.5 * step)


def noise(excerpt: Excerpt) -> Finding:
    """Check that the noise is as large as in tissue, and resolved by the converter."""
    alive = excerpt.noise[excerpt.noise > 0]
    if not alive.size:
        return Finding(check="noise", level="fatal", text="no channel has any noise: all traces are constant")
    level = float(np.median(alive))
    text = f"{level:.3g} µV in the median, {alive.min():.3g} to {alive.max():.3g}"
    if not excerpt.in_uv:
        text = text.replace(" µV", "")
        advice = "the gain is unknown, traces keep their own unit: give recording.gain_to_uv=µV per step"
        return Finding(check="noise", level="warning", text=text, advice=advice)
    if not MIN_NOISE_UV <= level <= MAX_NOISE_UV:
        factor = next((f for f in (1e6, 1e3, 1e-3) if MIN_NOISE_UV <= level * f <= MAX_NOISE_UV), None)
        guess = f"; {factor:g} times as much would be usual" if factor else ""
        advice = f"{MIN_NOISE_UV:g} to {MAX_NOISE_UV:g} µV are usual: check recording.gain_to_uv{guess}"
        return Finding(check="noise", level="warning", text=text, advice=advice)
    if np.dtype(excerpt.raw[0].dtype).kind in "iu":
        # Slow waves are as good as gone from the difference of neighbouring samples.
        jumps = [np.diff(traces.astype(np.float32), axis=0) for traces in excerpt.raw]
        steps = np.sqrt(np.mean([np.square(jump).mean(axis=0) for jump in jumps], axis=0) / 2)  # (C,)
        if float(np.median(steps)) < _MIN_STEPS:
            advice = "the converter hardly resolves it, small spikes are lost: record with a higher gain"
            return Finding(check="noise", level="warning", text=text, advice=advice)
    return Finding(check="noise", level="ok", text=text)


def clipping(excerpt: Excerpt) -> list[Finding]:
    """Look for channels that stand at an end of their range for several samples on end."""
    share = np.zeros(len(excerpt.channel_ids))
    low, high = (np.stack([bound(traces, axis=0) for traces in excerpt.raw]) for bound in (np.min, np.max))
    low, high = low.min(axis=0), high.max(axis=0)
    # Constant channels are dead, and the few steps of a quiet one are no saturation.
    steps = 16 if np.dtype(low.dtype).kind in "iu" else 0
    wide = high.astype(np.float64) - low > steps
    for traces in excerpt.raw:
        for end in (low, high):
            at_end = (traces == end) & wide
            held = at_end[2:] & at_end[1:-1] & at_end[:-2]
            share += held.sum(axis=0) / max(1, len(traces)) / len(excerpt.raw)
    clipped = np.flatnonzero(share > 1e-3)
    if not clipped.size:
        return [Finding(check="saturation", level="ok", text="no channel stands at an end of its range")]
    text = (
        f"{clipped.size} of {share.size} channels stand at an end of their range for up to "
        f"{share.max():.1%} of the time ({excerpt.names(clipped)})"
    )
    advice = "record with a lower gain or a shorter artefact; where many channels do so, sort.py cuts it out"
    return [Finding(check="saturation", level="warning", text=text, advice=advice)]


def bad_channels(recording: BaseRecording, excerpt: Excerpt, *, seed: int) -> list[Finding]:
    """Ask `spikeinterface.preprocessing.detect_bad_channels`, and look for what sort.py leaves out."""
    from spikeinterface.preprocessing import detect_bad_channels, unsigned_to_signed

    num_channels = len(excerpt.channel_ids)
    if np.dtype(recording.dtype).kind == "u":
        recording = unsigned_to_signed(recording)  # its filter takes no others
    labels = np.full(num_channels, "good", dtype="U5")
    length = len(excerpt.raw[0])

    def look(method: str, **keywords: Any) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return detect_bad_channels(
                recording,
                method=method,
                chunk_duration_s=min(0.3, length / excerpt.sampling_frequency),
                num_random_chunks=len(excerpt.raw),
                seed=seed,
                **keywords,
            )[1]

    if num_channels > 1 and length > 100:
        labels = look("mad")
        if num_channels >= _MIN_CHANNELS_COHERENCE and excerpt.in_uv:
            by_coherence = look("coherence+psd", job_kwargs={"n_jobs": 1, "progress_bar": False})
            # Where so many seem bad, its fixed limits do not suit the recording (wrong gain, white noise).
            if (by_coherence != "good").mean() <= _MAX_BAD:
                labels = by_coherence
    dead, noisy = excerpt.dead_and_noisy()
    labels = np.where(dead | excerpt.constant, "dead", np.where(noisy, "noise", labels))
    found = []
    for label, words in (("dead", "dead"), ("noise", "noisy"), ("out", "outside of the tissue")):
        channels = np.flatnonzero(labels == label)
        if channels.size:
            text = f"{channels.size} of {num_channels} channels look {words} ({excerpt.names(channels)})"
            advice = "sort.py leaves out those far too quiet or loud, recording.bad_channels=[...] others"
            found.append(Finding(check="channels", level="warning", text=text, advice=advice))
    ok = Finding(check="channels", level="ok", text=f"none of {num_channels} looks dead or noisy")
    return found or [ok]


def channel_map(excerpt: Excerpt) -> Finding:
    """Ask whether the channels that look most alike lie next to each other.

    Neighbouring contacts see the same background, more so the closer they are. Where channels resemble
    channels that are far away more than their neighbours, the wiring is probably not what the probe says.
    Channels that never change are left out: all that they have behind a common reference is the reference.
    """
    nothing = "the background does not tell: channels have too little in common"
    alive = np.flatnonzero(~excerpt.constant)
    num_channels = len(alive)
    if num_channels < _MIN_CHANNELS_MAP:
        return Finding(check="map", level="ok", text=f"not looked at below {_MIN_CHANNELS_MAP} channels")
    positions, noise_uv = excerpt.positions_um[alive], excerpt.noise[alive]
    traces = np.concatenate([one[:, alive] for one in excerpt.filtered])  # (N, C)
    traces = traces / np.where(noise_uv > 0, noise_uv, 1)
    # Beyond a few noise levels are spikes and artefacts, which a loud one would decide alone.
    traces = np.clip(traces[: 2**17], -6, 6)
    traces = traces - traces.mean(axis=0)
    scale = np.where(traces.std(axis=0) > 0, traces.std(axis=0), np.inf)
    alike = (traces / scale).T @ (traces / scale) / len(traces)  # (C, C)
    np.fill_diagonal(alike, -1)
    likest = alike.argmax(axis=1)
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=2)  # (C, C)
    # What the whole probe has in common says nothing of places.
    telling = alike.max(axis=1) > np.median(alike) + max(0.05, 5 / np.sqrt(len(traces)))
    if telling.sum() < _MIN_CHANNELS_MAP / 2:
        return Finding(check="map", level="ok", text=nothing)
    # Of all others, which part lies nearer than the likest one? Half of them if the map says nothing.
    nearer = (distances < distances[np.arange(num_channels), likest][:, None]).sum(axis=1) - 1
    rank = nearer[telling] / max(1, num_channels - 2)
    if np.median(rank) > 0.25:
        text = f"the channels most alike have {np.median(rank):.0%} of the others between them"
        advice = "the channel map looks shuffled: check the wiring (device channels) in the probe file"
        return Finding(check="map", level="warning", text=text, advice=advice)
    return Finding(check="map", level="ok", text="neighbours are the channels most alike")


def spike_rate(excerpt: Excerpt) -> Finding:
    """Count peaks of five noise levels, once for all the channels that see them."""
    from spikeinterface.core import NumpyRecording
    from spikeinterface.sortingcomponents.peak_detection import detect_peaks

    stretches = NumpyRecording(excerpt.filtered, excerpt.sampling_frequency)
    stretches.set_dummy_probe_from_locations(excerpt.positions_um)
    # A dead channel has no noise, and so no peaks.
    levels = np.where(excerpt.noise > 0, excerpt.noise, np.inf)
    peaks = detect_peaks(
        stretches,
        method="locally_exclusive",
        method_kwargs={"peak_sign": "neg", "detect_threshold": _PEAK_LEVELS, "noise_levels": levels},
        job_kwargs={"n_jobs": 1, "progress_bar": False},
    )
    minutes = excerpt.seconds / 60
    rate = len(peaks) / minutes
    by_chance = _BY_CHANCE * excerpt.sampling_frequency * 60 * len(excerpt.channel_ids)
    text = f"about {rate:.0f} peaks a minute ({len(peaks)} in {excerpt.seconds:.1f} s)"
    if rate < 60 + 3 * by_chance:
        advice = "hardly any spikes: there may be nothing to learn; check reference, filter and depth"
        return Finding(check="spikes", level="warning", text=text, advice=advice)
    if rate > 6000 * len(excerpt.channel_ids):
        advice = "more than 100 a second on each channel: look for artefacts or line noise"
        return Finding(check="spikes", level="warning", text=text, advice=advice)
    return Finding(check="spikes", level="ok", text=text)


def _nearest(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each contact's nearest other contact and how far away it is."""
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=2)  # (C, C)
    np.fill_diagonal(distances, np.inf)
    return distances.argmin(axis=1), distances.min(axis=1)


def _longest_run(values: np.ndarray) -> int:
    """Return the length of the longest run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], values, [False]]).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max(initial=0))
