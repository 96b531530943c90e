"""The pursuit finds what was planted, and what it leaves is the noise."""

import numpy as np
import pytest
from pursuit_data import add_spike, footprints, make_network, planted

from esort.pursuit.explain import Events, exclusion_rows, explain, residual
from esort.pursuit.overlaps import AMPLITUDE_LIMITS, NUM_PHASES, conflict_table

EXCLUSION = 16


@pytest.fixture(scope="module")
def network():
    return make_network()


@pytest.fixture(scope="module")
def table(network):
    return conflict_table(network)


@pytest.fixture(scope="module")
def long(network):
    """More than two of the chunks that the pursuit works on."""
    return planted(network, num_rows=36_500, seed=3)


@pytest.fixture(scope="module")
def found(network, table, long):
    return find(network, table, long[0])


def find(network, table, traces, least_amplitude=0.65):
    thresholds = (least_amplitude - 0.5) * network.energies.numpy()
    return explain(network, table, traces, thresholds, exclusion_rows=EXCLUSION)


def matched(events, times, units, tolerance=1.0):
    """Position of the event of each planted spike, -1 where there is none."""
    result = np.full(len(times), -1)
    for here, (time, unit_index) in enumerate(zip(times, units, strict=True)):
        own = events.of_unit(unit_index)
        if len(own):
            nearest = own[np.abs(events.time[own] - time).argmin()]
            if abs(events.time[nearest] - time) <= tolerance:
                result[here] = nearest
    return result


def test_planted_spikes_are_found(found, long):
    _, times, units, _ = long
    events = matched(found, times, units)
    assert len(times) > 1000
    assert (events >= 0).mean() > 0.98
    assert len(found.time) < 1.01 * len(times)
    assert (np.diff(found.time) >= 0).all()


def test_time_is_told_between_rows(found, long):
    _, times, units, _ = long
    events = matched(found, times, units)
    error = found.time[events[events >= 0]] - times[events >= 0]
    assert abs(error.mean()) < 0.02
    assert error.std() < 0.2  # a row without parts would have 0.29


def test_amplitude(found, long):
    _, times, units, amplitudes = long
    events = matched(found, times, units)
    error = found.amplitude[events[events >= 0]] - amplitudes[events >= 0]
    assert abs(error.mean()) < 0.03
    assert np.abs(error).std() < 0.08
    assert found.amplitude.dtype == np.float32
    assert AMPLITUDE_LIMITS[0] <= found.amplitude.min() <= found.amplitude.max() <= AMPLITUDE_LIMITS[1]


def test_what_is_left_is_noise(network, found, long):
    left = residual(network, long[0], found)
    assert left.dtype == np.float32
    np.testing.assert_allclose(left.std(axis=1), 1, atol=0.06)
    assert long[0].std(axis=1).max() > 1.3


@pytest.mark.parametrize("phase", range(NUM_PHASES))
def test_residual_is_the_traces_without_the_planted(network, phase):
    """Exactly, where spikes lie in the middle of a phase."""
    noise = np.random.default_rng(0).standard_normal((8, 900)).astype(np.float32)
    offset = (phase + 0.5) / NUM_PHASES - 0.5
    # The first and the last reach beyond the ends.
    time = np.array([3, 210, 222, 500, 880]) + offset
    units = np.array([0, 1, 2, 3, 1])
    amplitude = np.array([1, 0.8, 1.3, 1.1, 1], dtype=np.float32)
    traces = noise.copy()
    for one in zip(units, time, amplitude, strict=True):
        add_spike(traces, network, *one)
    kept = traces.copy()
    events = Events(time=time, unit_index=units, score=amplitude, amplitude=amplitude)
    np.testing.assert_allclose(residual(network, traces, events), noise, atol=1e-4)
    np.testing.assert_array_equal(traces, kept)


def test_residual_without_events(network):
    noise = np.random.default_rng(0).standard_normal((8, 100)).astype(np.float32)
    nothing = np.zeros(0)
    events = Events(time=nothing, unit_index=nothing.astype(int), score=nothing, amplitude=nothing)
    np.testing.assert_array_equal(residual(network, noise, events), noise)


@pytest.mark.parametrize(("start", "stop"), [(0, 9000), (5003, 27_001), (15_990, 36_500), (20_000, 20_900)])
def test_a_stretch_has_the_events_of_the_whole(network, table, found, long, start, stop):
    """Wherever the chunks lie; what is near an end may be explained by what lies beyond it."""
    part = find(network, table, long[0][:, start:stop])
    margin = 300
    low = start + margin if start else 0
    high = stop - margin if stop < long[0].shape[1] else stop
    of_part = (part.time + start >= low) & (part.time + start < high)
    of_whole = (found.time >= low) & (found.time < high)
    np.testing.assert_array_equal(part.unit_index[of_part], found.unit_index[of_whole])
    np.testing.assert_allclose(part.time[of_part] + start, found.time[of_whole], atol=1 / 32)
    np.testing.assert_allclose(part.score[of_part], found.score[of_whole], atol=0.05)
    assert start + 2 * margin > stop or of_part.sum() > 5


def test_two_at_once(network, table):
    """Spikes of neighbours that overlap are told apart."""
    traces = 0.5 * np.random.default_rng(0).standard_normal((8, 400)).astype(np.float32)
    for unit_index, time in ((1, 200.0), (2, 203.25)):
        add_spike(traces, network, unit_index, time)
    events = find(network, table, traces)
    assert events.unit_index.tolist() == [1, 2]
    np.testing.assert_allclose(events.time, [200, 203.25], atol=1)


def test_noise_holds_no_spikes(network, table):
    traces = np.random.default_rng(0).standard_normal((8, 20_000)).astype(np.float32)
    assert len(find(network, table, traces).time) == 0


@pytest.mark.parametrize("time", [2.0, 5.5, 392.0, 397.0])
def test_spikes_at_the_ends(network, table, time):
    """Half of a spike is beyond the traces; what is there is enough."""
    traces = np.zeros((8, 400), dtype=np.float32)
    add_spike(traces, network, 3, time)
    events = find(network, table, traces, least_amplitude=0.52)
    assert events.unit_index.tolist() == [3]
    assert abs(events.time[0] - time) < 1.5


def test_units_of_which_nothing_is_left(long):
    """They find nothing, and are in nobody's way."""
    waveforms = footprints()
    waveforms[2] = 0
    for silent in (waveforms, np.zeros_like(waveforms)):
        network = make_network(silent)
        traces = long[0][:, :3000]
        thresholds = np.maximum(0.15 * network.energies.numpy(), 7)
        events = explain(network, conflict_table(network), traces, thresholds, exclusion_rows=EXCLUSION)
        assert np.isfinite(events.amplitude).all()
        found = set(events.unit_index.tolist())
        assert found == ({0, 1, 3} if silent is waveforms else set())


def test_traces_shorter_than_a_spike(network, table):
    traces = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)
    assert len(find(network, table, traces).time) == 0


def test_a_unit_does_not_fire_twice_within_its_exclusion(network, table, long):
    dense = planted(network, num_rows=6000, gap_rows=8.0, seed=5)[0]
    for events in (find(network, table, dense), find(network, table, long[0])):
        for unit_index in range(4):
            # Rows are that far apart; the parts of a row that the times tell are not.
            assert np.diff(events.time[events.of_unit(unit_index)]).min() > EXCLUSION - 1


@pytest.mark.parametrize(
    ("rate_hz", "refractory_ms", "rows"), [(16_000, 1.0, 16), (15_000, 0.5, 8), (16_000, 0, 1)]
)
def test_exclusion(rate_hz, refractory_ms, rows):
    assert exclusion_rows(rate_hz, refractory_ms) == rows
