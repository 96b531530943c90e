"""The edges of the conflict graph are what the network itself says to a spike."""

import numpy as np
import pytest
from pursuit_data import FILTER_BEFORE, FOOTPRINT_SAMPLES, add_spike, footprints, make_network, planted

from esort.pursuit.overlaps import NUM_PHASES, conflict_table, doubt, phase_offsets


@pytest.fixture(scope="module")
def network():
    return make_network()


@pytest.fixture(scope="module")
def table(network):
    return conflict_table(network)


def kernel_of(table, accepted, lowered):
    """(P, 2 R + 1), or None where the two do not touch."""
    for neighbour, row in zip(table.neighbours[accepted], table.kernel_out[accepted], strict=True):
        if neighbour == lowered and row < len(table.kernels):
            return table.kernels[row]
    return None


def test_phases_lie_in_the_middle_of_their_part_of_a_row():
    np.testing.assert_allclose(phase_offsets(), (np.arange(8) - 3.5) / 8)


def test_a_spike_takes_its_whole_energy_away(network, table):
    energies = network.energies.numpy()
    for unit_index in range(4):
        kernel = kernel_of(table, unit_index, unit_index)
        assert kernel.shape == (NUM_PHASES, 2 * table.lag_samples + 1)
        # The two middle phases are a sixteenth of a row from the lag of 0.
        middle = kernel[NUM_PHASES // 2 - 1 : NUM_PHASES // 2 + 1, table.lag_samples]
        np.testing.assert_allclose(middle, energies[unit_index], rtol=0.01)
        assert kernel.max() <= energies[unit_index] * 1.0001


def test_kernels_of_a_unit_are_mirrored(table):
    """A spike early by a part of a row overlaps as one late by it does, the other way round."""
    kernel = kernel_of(table, 2, 2)
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=0.02 * kernel.max())


@pytest.mark.parametrize("accepted", range(4))
@pytest.mark.parametrize("phase", [0, 3, 7])
def test_kernels_are_what_a_spike_changes(network, table, accepted, phase):
    """The oracle: scores with a footprint in the traces, and without it."""
    traces = planted(network, num_rows=600)[0]
    row = 300
    before = network.scores(traces)
    add_spike(traces, network, accepted, row + float(phase_offsets()[phase]))
    changed = network.scores(traces) - before  # (U, T)
    first = row - FILTER_BEFORE - table.lag_samples
    part = changed[:, first : first + 2 * table.lag_samples + 1]
    for lowered in range(4):
        kernel = kernel_of(table, accepted, lowered)
        wanted = np.zeros_like(part[0]) if kernel is None else kernel[phase].copy()
        if lowered != accepted:
            wanted -= doubt(part[lowered : lowered + 1], float(network.energies[lowered]))[0]
        # What is smaller than the noise's energy may be left out.
        np.testing.assert_allclose(part[lowered], wanted, atol=0.52)
    changed[:, first : first + 2 * table.lag_samples + 1] = 0
    assert np.abs(changed).max() < 0.02


def test_doubt_grows_with_the_square_of_the_overlap_up_to_a_limit():
    kernel = np.array([[0, 0, 0, 100, 0, 0, -200, 0]], dtype=np.float32)
    found = doubt(kernel, 400.0)
    np.testing.assert_allclose(found[0, 3], 7.3 * (0.04 * 100) ** 2 / 400, rtol=1e-5)
    np.testing.assert_allclose(found[0, 6], 4 * found[0, 3], rtol=1e-5)
    assert (found[:, kernel[0] == 0] == 0).all()  # where a kernel was cut off
    # A unit of nothing: no more than a part of the overlap.
    np.testing.assert_allclose(doubt(kernel, 0.0), 0.3 * np.abs(kernel))


def test_doubt_takes_in_the_lags_beside():
    kernel = np.array([[10.0, 100.0, 10.0, 10.0]], dtype=np.float32)
    found = doubt(kernel, 100.0)[0]
    np.testing.assert_allclose(found[0], min(found[1], 0.3 * 100))
    np.testing.assert_allclose(found[2], found[1])
    assert found[3] < found[2]


def test_units_far_apart_do_not_touch():
    waveforms = np.zeros((2, 16, FOOTPRINT_SAMPLES), dtype=np.float32)
    waveforms[0, :4] = footprints(1, 4)[0]
    waveforms[1, 12:] = footprints(1, 4)[0]
    table = conflict_table(make_network(waveforms, num_members=4))
    assert kernel_of(table, 0, 1) is None
    assert kernel_of(table, 1, 0) is None
    assert kernel_of(table, 0, 0) is not None


def test_a_unit_alone():
    table = conflict_table(make_network(footprints(1)))
    assert table.num_units == 1
    assert kernel_of(table, 0, 0) is not None


def test_the_table_does_not_depend_on_the_order_of_units():
    waveforms = footprints(5)
    order = np.array([3, 1, 4, 0, 2])
    table = conflict_table(make_network(waveforms))
    shuffled = conflict_table(make_network(waveforms[order]))
    for a in range(5):
        for b in range(5):
            one, other = kernel_of(shuffled, a, b), kernel_of(table, order[a], order[b])
            assert (one is None) == (other is None)
            if one is not None:
                # Temporal banks of the same footprints span the same space.
                np.testing.assert_allclose(one, other, atol=0.01)


def test_units_of_which_nothing_is_left():
    """Silent ones touch nobody, not even themselves."""
    waveforms = footprints(3)
    waveforms[1] = 0
    table = conflict_table(make_network(waveforms))
    assert all(kernel_of(table, 1, unit_index) is None for unit_index in range(3))
    assert kernel_of(table, 0, 0) is not None
    nobody = conflict_table(make_network(np.zeros_like(waveforms)))
    assert nobody.num_units == 3
    assert len(nobody.kernels) == 0
