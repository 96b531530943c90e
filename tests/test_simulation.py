import dataclasses
import json
import logging
import subprocess
import sys
import time

import numpy as np
import pytest

from esort.probes import ProbeSpec
from esort.simulation import DriftSpec, NoiseSpec, Simulation, SimulationSpec, TemplateBank, simulate

SHANK = [(0.0, 20.0 * row) for row in range(8)]
QUIET = NoiseSpec(level_uv=0.0)


def tetrode(**changes):
    arguments = {
        "probe": ProbeSpec(name="tetrode"),
        "duration_s": 2.0,
        "num_units": 4,
        "excitatory_fraction": 0.5,
    }
    return SimulationSpec(**(arguments | changes))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def quiet(cache):
    return simulate(tetrode(noise=QUIET, duration_s=6.0), cache)


def traces_of(simulation):
    return simulation.recording.get_traces(return_in_uV=True)


def test_recording_and_sorting_are_what_the_spec_says(cache):
    spec = tetrode()
    simulation = simulate(spec, cache)
    assert simulation.recording.get_num_samples() == 64000
    assert simulation.recording.get_dtype() == "int16"
    assert (
        simulation.recording.get_sampling_frequency() == simulation.sorting.get_sampling_frequency() == 32000
    )
    np.testing.assert_allclose(
        simulation.recording.get_channel_locations(), spec.probe_spec.build().contact_positions
    )
    assert simulation.sorting.get_num_units() == len(simulation.units) == 4
    assert [unit["cell_type"] for unit in simulation.units] == ["E", "E", "I", "I"]
    for unit in simulation.units:
        train = simulation.sorting.get_unit_spike_train(unit["unit_id"])
        assert len(train) == unit["num_spikes"]
        assert np.all(np.diff(train) >= 0.002 * 32000 - 1)  # refractory
        assert spec.min_amplitude_uv <= unit["amplitude_uv"] <= spec.max_amplitude_uv
        assert unit["snr"] == pytest.approx(unit["amplitude_uv"] / 10, rel=1e-3)
    somata = np.array([unit["position_um"] for unit in simulation.units])
    distance = np.linalg.norm(somata[:, None] - somata[None], axis=2)
    assert distance[~np.eye(4, dtype=bool)].min() >= spec.min_distance_um


@pytest.mark.parametrize("sampling_frequency", [32000.0, 24414.0625])
def test_spikes_lie_on_the_trough_of_the_main_channel(cache, sampling_frequency):
    spec = tetrode(noise=QUIET, duration_s=6.0, sampling_frequency=sampling_frequency)
    simulation = simulate(spec, cache)
    traces = traces_of(simulation)
    for unit in simulation.units:
        train = simulation.sorting.get_unit_spike_train(unit["unit_id"])
        train = train[(train > 20) & (train < len(traces) - 20)]
        snippets = traces[train[:, None] + np.arange(-10, 11), unit["main_channel"]]  # (spikes, 21)
        mean = np.median(snippets, axis=0)
        assert abs(mean.argmin() - 10) <= 1
        assert -mean.min() == pytest.approx(unit["amplitude_uv"], rel=0.1)
        # Single spikes too, but for the few that another spike lies on.
        assert np.mean(np.abs(snippets.argmin(axis=1) - 10) <= 1) > 0.9


def test_spikes_vary_in_amplitude_unless_told_otherwise(cache, quiet):
    def spread(simulation):
        traces, unit = traces_of(simulation), simulation.units[0]
        train = simulation.sorting.get_unit_spike_train(unit["unit_id"])
        troughs = traces[train[train < len(traces)], unit["main_channel"]]
        low, high = np.percentile(troughs, [25, 75])
        return (high - low) / abs(np.median(troughs))

    steady = simulate(tetrode(noise=QUIET, duration_s=6.0, modulation_sd=0.0), cache)
    assert spread(quiet) > 0.03
    assert spread(steady) < 0.025


@pytest.mark.parametrize("kind", ["uncorrelated", "distance-correlated", "far-neurons"])
def test_noise_has_its_level(cache, kind):
    noise = NoiseSpec(level_uv=15.0, kind=kind, num_far_neurons=60)
    spec = SimulationSpec(
        probe=SHANK, noise=noise, duration_s=4.0, num_units=1, excitatory_fraction=0.0,
        rate_inhibitory_hz=0.3,
    )  # fmt: skip
    traces = traces_of(simulate(spec, cache))
    deviation = traces.std(axis=0)
    np.testing.assert_allclose(deviation, 15.0, rtol=0.25 if kind == "far-neurons" else 0.03)
    correlation = np.corrcoef(traces.T)
    if kind == "uncorrelated":
        assert np.abs(correlation - np.eye(8)).max() < 0.05
    if kind == "distance-correlated":
        assert correlation[0, 1] == pytest.approx(0.5 ** (20 / 30), abs=0.03)
        assert correlation[0, 7] < 0.1


def test_noise_does_not_repeat(cache):
    spec = tetrode(duration_s=21.0, num_units=1, excitatory_fraction=1.0)
    traces = simulate(spec, cache).recording.get_traces()
    seconds = traces.reshape(21, -1)[:, :4000].astype(float)
    correlation = np.corrcoef(seconds)
    assert np.abs(correlation - np.eye(21)).max() < 0.3


def test_drift_moves_the_units(cache):
    drift = DriftSpec(kind="slow", range_um=60, velocity_um_per_min=600)
    spec = SimulationSpec(
        probe=[(0.0, 15.0 * row) for row in range(12)], noise=QUIET, drift=drift, duration_s=3.0, num_units=2,
        excitatory_fraction=0.5, rate_excitatory_hz=40, rate_inhibitory_hz=40, modulation_sd=0.0,
        overhang_um=0, seed=4,
    )  # fmt: skip
    simulation = simulate(spec, cache)
    motion = simulation.motion()
    assert np.ptp(motion.displacement_um) >= 29  # 3 s at 10 um/s, within the range
    traces = traces_of(simulation)
    contacts = simulation.recording.get_channel_locations()[:, 1]
    trains = [simulation.sorting.get_unit_spike_train(unit["unit_id"]) for unit in simulation.units]
    for train, other in (trains, trains[::-1]):
        train = train[np.abs(train[:, None] - other).min(axis=1) > 100]  # spikes that are seen alone
        energy = np.array([np.ptp(traces[max(t - 5, 0) : t + 6], axis=0) for t in train]) ** 4  # (spikes, C)
        centre_um = energy @ contacts / energy.sum(axis=1)
        expected_um = np.interp(train / 32000, motion.times_s, motion.displacement_um)
        assert np.corrcoef(centre_um, expected_um)[0, 1] > 0.95
        slope = np.polyfit(expected_um, centre_um, 1)[0]
        assert 0.5 < slope < 1.5  # in the same direction and about as far


def test_nonrigid_drift_differs_along_the_probe(cache):
    spec = SimulationSpec(
        probe=SHANK, drift=DriftSpec(kind="nonrigid", nonrigid_min_factor=0.3), duration_s=1.0, num_units=3,
        excitatory_fraction=0.0,
    )  # fmt: skip
    factor = simulate(spec, cache).motion().factor
    assert factor.min() == pytest.approx(0.3)
    assert factor.max() == pytest.approx(1.0)


def test_fast_drift_jumps(cache):
    drift = DriftSpec(kind="fast", period_s=0.5, range_um=60)
    motion = simulate(tetrode(drift=drift, duration_s=3.0), cache).motion()
    jumps = np.diff(motion.displacement_um)
    assert 4 <= np.count_nonzero(jumps) <= 6
    assert np.abs(jumps[jumps != 0]).min() >= 4
    assert np.abs(motion.displacement_um).max() <= 30


def test_source_and_target_share_no_template(cache):
    drawn = {
        split: {unit["template_index"] for unit in simulate(tetrode(split=split), cache).units}
        for split in ("source", "target")
    }
    bank = TemplateBank.load()
    for split, templates in drawn.items():
        assert templates <= set(bank.split(split).tolist())
    assert not drawn["source"] & drawn["target"]


def test_same_spec_same_bytes(tmp_path, cache):
    first, second = simulate(tetrode(), cache), simulate(tetrode(), tmp_path)
    names = (
        "recording/traces_cached_seg0.raw",
        "sorting/spikes.npy",
        "units.json",
        "motion.npz",
        "spec.json",
    )
    for name in names:
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()


def test_making_leaves_the_global_random_state_alone(tmp_path):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    simulate(tetrode(duration_s=0.5), tmp_path)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_cache_is_used(cache):
    simulation = simulate(tetrode(), cache)
    made = (simulation.folder / "recording" / "traces_cached_seg0.raw").stat().st_mtime_ns
    again = simulate(tetrode(), cache)
    assert again.folder == simulation.folder
    assert (again.folder / "recording" / "traces_cached_seg0.raw").stat().st_mtime_ns == made


CHANGES = {
    "probe": ProbeSpec(name="neuronexus32"),
    "noise": NoiseSpec(level_uv=5.0),
    "drift": DriftSpec(kind="slow"),
    "duration_s": 3.0,
    "num_units": 5,
    "split": "target",
    "disjoint_cell_models": True,
    "seed": 1,
    "sampling_frequency": 30000.0,
    "excitatory_fraction": 0.25,
    "rate_excitatory_hz": 6.0,
    "rate_inhibitory_hz": 6.0,
    "min_amplitude_uv": 50.0,
    "max_amplitude_uv": 200.0,
    "min_distance_um": 10.0,
    "overhang_um": 20.0,
    "modulation_sd": 0.1,
}


def test_digest_changes_with_every_field():
    assert set(CHANGES) == {field.name for field in dataclasses.fields(SimulationSpec)}
    digests = {tetrode().digest()} | {tetrode(**{name: value}).digest() for name, value in CHANGES.items()}
    nested = {"noise": NoiseSpec(level_uv=10.0), "drift": DriftSpec()}
    changes = {
        "noise": {"level_uv": 11.0, "kind": "far-neurons", "half_distance_um": 31.0, "num_far_neurons": 3},
        "drift": {"kind": "fast", "range_um": 41.0, "velocity_um_per_min": 3.0, "period_s": 3.0,
                  "max_jump_um": 15.0, "nonrigid_min_factor": 0.1, "start_s": 1.0},
    }  # fmt: skip
    for name, spec in nested.items():
        assert set(changes[name]) == {field.name for field in dataclasses.fields(spec)}
        digests |= {
            tetrode(**{name: dataclasses.replace(spec, **{field: value})}).digest()
            for field, value in changes[name].items()
        }
    assert len(digests) == 1 + len(CHANGES) + 4 + 7


def test_digest_does_not_depend_on_how_the_same_thing_is_said():
    spec = tetrode(duration_s=2)
    positions = ProbeSpec(name="tetrode").build().contact_positions
    assert spec.digest() == tetrode(duration_s=2.0, probe=positions).digest()
    assert spec.digest() == tetrode(seed=np.int64(0)).digest()


def test_default_number_of_units():
    assert tetrode(num_units=None).resolved_num_units == 6
    assert SimulationSpec(probe=SHANK).resolved_num_units == 6
    assert SimulationSpec(probe=ProbeSpec(name="neuropixels")).resolved_num_units == 264


def test_half_written_folder_is_made_anew(tmp_path, caplog):
    simulation = simulate(tetrode(), tmp_path)
    whole = (simulation.folder / "recording" / "traces_cached_seg0.raw").read_bytes()
    (simulation.folder / "recording" / "traces_cached_seg0.raw").write_bytes(whole[:1000])
    with pytest.raises(
        FileNotFoundError, match="expected a folder with a complete simulation, found none at"
    ):
        Simulation.load(simulation.folder)
    with caplog.at_level(logging.WARNING):
        again = simulate(tetrode(), tmp_path)
    assert "is not whole and is made anew" in caplog.text
    assert (again.folder / "recording" / "traces_cached_seg0.raw").read_bytes() == whole


SCRIPT = """
import sys
from esort.probes import ProbeSpec
from esort.simulation import SimulationSpec, simulate
spec = SimulationSpec(probe=ProbeSpec(name="tetrode"), duration_s=float(sys.argv[2]), num_units=4,
                      excitatory_fraction=0.5)
print(simulate(spec, sys.argv[1]).recording.get_traces(end_frame=1000).sum())
"""


def run_script(folder, duration_s):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), str(duration_s)], stdout=subprocess.PIPE, text=True
    )


def test_two_processes_at_once_make_one_folder(tmp_path, cache):
    processes = [run_script(tmp_path, 2.0) for _ in range(2)]
    printed = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert printed[0] == printed[1]
    (folder,) = (entry for entry in tmp_path.iterdir() if entry.is_dir())
    reference = simulate(tetrode(), cache).folder
    traces = "recording/traces_cached_seg0.raw"
    assert (folder / traces).read_bytes() == (reference / traces).read_bytes()


def test_what_a_killed_process_left_is_not_used(tmp_path):
    process = run_script(tmp_path, 20.0)
    try:
        for _ in range(600):
            if list(tmp_path.glob(".*.partial-*/traces.raw")):
                break
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    assert list(tmp_path.glob(".*.partial-*"))
    assert not [entry for entry in tmp_path.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    simulation = simulate(tetrode(duration_s=20.0), tmp_path)
    assert simulation.recording.get_num_samples() == 20 * 32000
    assert not list(tmp_path.glob(".*.partial-*"))


def test_spec_is_kept_beside_the_recording(cache):
    spec = tetrode()
    kept = json.loads((simulate(spec, cache).folder / "spec.json").read_text())
    assert kept["digest"] == spec.digest()
    assert kept["noise"]["level_uv"] == 10.0
    assert kept["bank_digest"] == TemplateBank.load().digest


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoiseSpec(level_uv=-1), "expected level_uv between 0 and 1000 uV, got -1"),
        (lambda: NoiseSpec(level_uv="low"), "expected level_uv between 0 and 1000 uV, got 'low'"),
        (lambda: NoiseSpec(level_uv=float("nan")), "expected level_uv between .* got nan"),
        (
            lambda: NoiseSpec(level_uv=5, kind="pink"),
            "expected a noise kind among uncorrelated, .*, got 'pink'",
        ),
        (lambda: DriftSpec(kind="zigzag"), "expected a drift kind among none, slow, fast, nonrigid, got"),
        (lambda: DriftSpec(kind="slow", range_um=0), "expected range_um between 2 and 200 um, got 0"),
        (lambda: DriftSpec(kind="fast", range_um=30), "expected max_jump_um between 5 and 15 um, got 20.0"),
        (lambda: tetrode(duration_s=0), "expected duration_s between 0.1 and 86400 s, got 0"),
        (lambda: tetrode(duration_s=True), "expected duration_s between 0.1 and 86400 s, got True"),
        (lambda: tetrode(num_units=0), "expected num_units to be an integer of at least 1, got 0"),
        (lambda: tetrode(num_units=2.5), "expected num_units to be an integer of at least 1, got 2.5"),
        (lambda: tetrode(seed=-1), "expected seed to be an integer of at least 0, got -1"),
        (lambda: tetrode(split="test"), "expected a split among source, target, got 'test'"),
        (lambda: tetrode(noise=10), "expected noise to be a NoiseSpec, got 10"),
        (lambda: tetrode(drift="slow"), "expected drift to be a DriftSpec, got 'slow'"),
        (lambda: tetrode(sampling_frequency=100), "expected sampling_frequency between 5000 and 100000 Hz"),
        (lambda: tetrode(max_amplitude_uv=20), "expected max_amplitude_uv between 40 and 5000 uV, got 20"),
        (lambda: tetrode(probe=[(0, 0, 0)]), "expected finite contact positions"),
    ],
)
def test_bad_specs(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_too_few_templates(tmp_path):
    spec = tetrode(num_units=300, min_distance_um=0)
    with pytest.raises(ValueError, match="expected at most .* units for this probe, split 'source'"):
        simulate(spec, tmp_path)
    assert not [entry for entry in tmp_path.iterdir() if entry.is_dir()]


def test_noise_and_drift_leave_the_neurons_and_their_spikes_alone(cache, quiet):
    drifting = simulate(
        tetrode(noise=NoiseSpec(level_uv=5.0), drift=DriftSpec(kind="fast"), duration_s=6.0),
        cache,
    )
    assert drifting.folder != quiet.folder
    assert [unit["template_index"] for unit in drifting.units] == [
        unit["template_index"] for unit in quiet.units
    ]
    for unit in quiet.units:
        np.testing.assert_array_equal(
            drifting.sorting.get_unit_spike_train(unit["unit_id"]),
            quiet.sorting.get_unit_spike_train(unit["unit_id"]),
        )


def test_without_mearec_it_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "MEArec", None)
    with pytest.raises(ValueError, match=r"needs MEArec: pip install 'esort\[simulate\]'"):
        simulate(tetrode(), tmp_path)
