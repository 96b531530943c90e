"""Real templates in noise as it was measured on a real probe: ours against other sorters on the same seconds.

    python benchmarks/hybrid.py templates=FOLDER noise=RECORDING stream=imec0.ap
    python benchmarks/hybrid.py templates=FOLDER noise=RECORDING conditions=measured seeds=0 peers=lupin

``templates`` holds npz files of units that were recorded somewhere: for unit 00 ``w00`` (samples, sites) in
uV and ``xy00`` (sites, 2) in um, ..., with ``n`` and ``fs``. ``noise`` is any recording that
`esort.recordings` opens: its correlation between channels as a function of distance, its spectrum and its
level in the band of spikes are measured, large samples clipped, and noise of the same kind is made for the
target probe. Templates of the target's own lattice are put onto it, others are interpolated; no part of a
template that the target's contacts do not see. Spikes vary in size by 10 %.

*measured*: amplitudes as they were recorded; *half*: half of that. Ours learns from 10 labelled spikes of
each unit in the first half of 60 s; all are scored on the second half at 0.4 ms.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from options import read_options  # beside this file
from rows import Rows
from same_seconds import (
    TEN,
    command_of,
    learn,
    listed,
    overrides_of,
    peers_on,
    show,
)  # beside this
from scipy.linalg import solve_toeplitz

from esort.probes import ProbeSpec
from esort.recordings import RecordingPath

ROOT = Path(__file__).parents[1]
DEFAULTS = {
    "templates": "",
    "noise": "",
    "stream": "null",
    "conditions": "measured,half",
    "seeds": "0,1,2",
    "peers": "lupin,tridesclous2",
    "seconds": "60",
    "channels": "64",
    "output": "benchmarks/results/hybrid.json",
}
SCALES = {"measured": 1.0, "half": 0.5}
BAND_HZ = (300.0, 6000.0)
CLIP = 4.0  # noise levels; what is beyond is a spike's
DISTANCES_UM = np.array([0.0, 8.0, 14.0, 22.0, 32.0, 45.0, 65.0, 90.0, 130.0, 180.0])
AR_ORDER = 40
WHITE = 1e-3  # part of the noise that is white: beyond the band there is not nothing
SAME_PLACE_UM = 1.0
MOST = 0.7
SIZE_VARIES = 0.1


def measure_noise(recording):
    """Level, correlation by distance, and lag correlation of a recording's noise.

    Returns
    -------
    level_uv : float
        Median over the channels.
    distances_um, correlation : float arrays, shape (D,)
        Mean distance and mean correlation of pairs of channels, by classes of distance.
    lags : float array, shape (AR_ORDER + 1,)
        Correlation of a channel with itself, mean over the channels.
    """
    from spikeinterface.preprocessing import bandpass_filter, scale_to_uV

    filtered = bandpass_filter(scale_to_uV(recording), *BAND_HZ, dtype="float32")
    traces = filtered.get_traces().astype(float)  # (N, C)
    traces -= np.median(traces, axis=0)
    levels = np.median(np.abs(traces), axis=0) / 0.6745
    white = np.clip(traces / levels, -CLIP, CLIP)
    white /= white.std(axis=0)
    correlation = white.T @ white / len(white)  # (C, C)
    places = filtered.get_channel_locations()
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    classes = np.digitize(apart, DISTANCES_UM)
    known = [one for one in range(1, len(DISTANCES_UM) + 1) if (apart[classes == one] > 0).any()]
    pairs = [(classes == one) & (apart > 0) for one in known]
    # Sums over all there is, divided by one number: correlations that some process has.
    lags = [
        float((white[lag:] * white[: len(white) - lag]).sum() / white.size) for lag in range(AR_ORDER + 1)
    ]
    return (
        float(np.median(levels)),
        np.array([apart[pair].mean() for pair in pairs]),
        np.array([correlation[pair].mean() for pair in pairs]),
        np.array(lags),
    )


def noise_recording(probe, measured, seconds, rate, seed):
    """Noise of that kind on another probe: correlated channels, then an autoregressive filter over time."""
    from spikeinterface.generation import NoiseGeneratorRecording
    from spikeinterface.preprocessing import filter as filtered

    level_uv, distances_um, correlation, lags = measured
    places = probe.contact_positions
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    wanted = np.interp(apart, np.r_[0.0, distances_um], np.r_[1.0, correlation])
    values, vectors = np.linalg.eigh(wanted)
    covariance = (vectors * np.maximum(values, 1e-3)) @ vectors.T  # the nearest that is possible
    # Yule and Walker: the filter whose output has these lag correlations, and a variance of 1.
    taps = solve_toeplitz(np.r_[lags[0] * (1 + WHITE), lags[1:-1]], lags[1:])
    gain = np.sqrt(1.0 - taps @ lags[1:])
    size = np.sqrt(np.diag(covariance))
    white = NoiseGeneratorRecording(
        num_channels=len(places),
        sampling_frequency=rate,
        durations=[seconds],
        cov_matrix=covariance / np.outer(size, size) * level_uv**2,
        seed=seed,
        strategy="on_the_fly",
    )
    return filtered(
        white,
        btype=None,
        filter_mode="ba",
        coeff=(np.array([gain]), np.r_[1.0, -taps]),
        direction="forward",
        margin_ms=20.0,
    )


def read_templates(folder):
    """Waveforms (samples, sites) in uV, sites (sites, 2) in um, and rate of each unit in a folder's files."""
    found = []
    for path in sorted(Path(folder).glob("*.npz")):
        content = np.load(path)
        for number in range(int(content["n"])):
            found.append((content[f"w{number:02d}"], content[f"xy{number:02d}"], float(content["fs"])))
    if not found:
        sys.exit(f"expected npz files of templates in {folder}, found none")
    return found


def place(waveform, sites, contacts, rng):
    """Put a unit somewhere along the probe; return what each contact sees, (samples, channels)."""
    from spikeinterface.generation import interpolate_templates

    peak = sites[np.argmax(np.ptp(waveform, axis=0))]
    low, high = contacts.min(axis=0), contacts.max(axis=0)
    # Where most sites come to lie on contacts, if the target's lattice is the template's own.
    fits = [shift for shift in contacts - peak if _on_contacts(sites + shift, contacts)]
    shift = fits[rng.integers(len(fits))] if fits else rng.uniform(low, high) - peak
    moved = sites + shift
    seen = interpolate_templates(waveform[None], moved, contacts)[0]
    apart = np.linalg.norm(moved[:, None] - contacts[None], axis=-1)  # (sites, C)
    same = apart.min(axis=0) < SAME_PLACE_UM
    seen[:, same] = waveform[:, apart.argmin(axis=0)[same]]
    return seen


def _on_contacts(sites, contacts):
    """Whether most of the sites that lie along the contacts lie on one of them."""
    low, high = contacts.min(axis=0) - SAME_PLACE_UM, contacts.max(axis=0) + SAME_PLACE_UM
    along = sites[((sites >= low) & (sites <= high)).all(axis=1)]
    apart = np.linalg.norm(along[:, None] - contacts[None], axis=-1)
    return len(along) > 0 and (apart.min(axis=1) < SAME_PLACE_UM).mean() >= MOST


def make(options, measured, templates, condition, seed, folder):
    """Make a recording; return its folder."""
    from spikeinterface.core import generate_sorting
    from spikeinterface.generation import InjectTemplatesRecording

    rng = np.random.default_rng(seed)
    rate, seconds = templates[0][2], float(options["seconds"])
    probe = ProbeSpec(name="neuropixels128").build().get_slice(np.arange(int(options["channels"])))
    probe.set_device_channel_indices(np.arange(int(options["channels"])))
    seen = np.stack([place(*unit[:2], probe.contact_positions, rng) for unit in templates])  # (U, T, C)
    sorting = generate_sorting(
        num_units=len(seen),
        sampling_frequency=rate,
        durations=[seconds],
        firing_rates=rng.uniform(2, 12, len(seen)),
        refractory_period_ms=4.0,
        seed=seed,
    )
    recording = InjectTemplatesRecording(
        sorting,
        (seen * SCALES[condition]).astype("float32"),
        nbefore=int(np.median([np.abs(one).max(axis=1).argmax() for one in seen])),
        amplitude_factor=rng.normal(1.0, SIZE_VARIES, len(sorting.to_spike_vector())).clip(0.5),
        parent_recording=noise_recording(probe, measured, seconds, rate, seed),
    )
    path = folder / f"{condition}-{seed}"
    recording.set_probe(probe, in_place=True)
    recording.save(folder=path / "recording", dtype="float32", n_jobs=1, progress_bar=False)
    sorting.save(folder=path / "sorting")
    return path


def main(arguments):
    options = read_options(arguments, DEFAULTS)
    if not options["templates"] or not options["noise"]:
        sys.exit("expected templates=FOLDER and noise=RECORDING")
    if not set(listed(options["conditions"])) <= set(SCALES):
        sys.exit(f"expected conditions of {', '.join(SCALES)}, got {options['conditions']}")
    stream = None if options["stream"] == "null" else options["stream"]
    templates = read_templates(options["templates"])
    measured = measure_noise(RecordingPath(path=options["noise"], stream_id=stream).open())
    level_uv, distances_um, correlation, lags = measured
    noise = {
        "level_uv": level_uv,
        "distances_um": distances_um.round(1).tolist(),
        "correlation": correlation.round(3).tolist(),
        "lags": lags[1:4].round(3).tolist(),
    }
    print(noise)
    rows = Rows(ROOT / options["output"], options)
    with tempfile.TemporaryDirectory() as temporary:
        for condition, seed in rows.missing(listed(options["conditions"]), listed(options["seeds"])):
            path = make(options, measured, templates, condition, seed, Path(temporary))
            facts, scores, seconds = learn([*TEN, *overrides_of(path)], seed, path / "run")
            row = {"condition": condition, "seed": seed, "true_units": len(templates)}
            row |= {
                "units": facts["num_units"],
                "ours_pooled": scores["pooled_accuracy"],
                "ours_mean": scores["mean_accuracy"],
                "ours_s": seconds,
            }
            rows.add(row | peers_on(facts, listed(options["peers"]), seed, path))
            show(rows.rows[-1])
    # Where the files lie is nobody's business.
    said = options | {"templates": "FOLDER", "noise": "RECORDING"}
    rows.finish(command_of("hybrid", said), noise=noise)


if __name__ == "__main__":
    main(sys.argv[1:])
