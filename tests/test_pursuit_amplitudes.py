"""How large a unit's spikes are, and how many events are none of its spikes."""

import numpy as np
import pytest

from esort.pursuit.amplitudes import fit_amplitudes


def own_spikes(number, typical, energy, least, seed=0):
    """Amplitudes of a unit's spikes that reach the least one."""
    rng = np.random.default_rng(seed)
    amplitudes = rng.normal(typical, np.sqrt(1 / energy + 0.05**2), number)
    return amplitudes[amplitudes >= least]


def far_spikes(number, scale, least, seed=1):
    return least + np.random.default_rng(seed).exponential(scale, number)


@pytest.mark.parametrize("typical", [0.8, 0.95, 1.1])
def test_spikes_that_were_cut_off(typical):
    energy, least = 20.0, 0.95
    seen = own_spikes(1000, typical, energy, least)
    assert seen.mean() > typical + 0.05
    # The labels say more than is true.
    fitted = fit_amplitudes(seen, least, typical + 0.2, energy)
    assert fitted.typical == pytest.approx(typical, abs=0.06)


def test_without_events_the_labels_tell():
    assert fit_amplitudes(np.zeros(0), 0.6, 0.9, 100.0).typical == pytest.approx(0.9, abs=0.06)
    # Labels that were not found, or of something else.
    assert 0.5 <= fit_amplitudes(np.zeros(0), 0.6, 0.0, 100.0).typical <= 0.7
    assert fit_amplitudes(np.array([5.0]), 0.6, 3.0, 100.0).typical <= 1.3
    assert fit_amplitudes(np.zeros(0), 0.6, 0.9, 100.0).num_far == 0


@pytest.mark.parametrize("number", [300, 3000])
@pytest.mark.parametrize("scale", [0.06, 0.15])
def test_spikes_of_far_neurons_are_told_from_its_own(number, scale):
    energy, least = 150.0, 0.6
    seen = np.concatenate([own_spikes(200, 1.0, energy, least), far_spikes(number, scale, least)])
    fitted = fit_amplitudes(seen, least, 1.0, energy)
    assert fitted.typical == pytest.approx(1.0, abs=0.05)
    assert fitted.num_far == pytest.approx(number, rel=0.1)
    for amplitude in (0.6, 0.7, 0.9):
        assert fitted.far_above(np.array(amplitude)) == pytest.approx(
            number * np.exp(-(amplitude - least) / scale), rel=0.25, abs=15
        )


@pytest.mark.parametrize("energy", [60.0, 150.0, 500.0])
def test_where_all_are_its_own_few_are_taken_for_others(energy):
    seen = own_spikes(400, 1.0, energy, 0.6)
    fitted = fit_amplitudes(seen, 0.6, 1.0, energy)
    assert fitted.far_above(np.array(0.7)) < 10


def test_a_large_unit_has_no_far_neurons():
    """Its own amplitudes differ by more than noise."""
    seen = np.concatenate([own_spikes(200, 1.0, 1e4, 0.6), far_spikes(300, 0.15, 0.6)])
    assert fit_amplitudes(seen, 0.6, 1.0, 1e4).num_far == 0


def test_where_the_tissue_moved_or_most_are_its_own_none_is_far():
    seen = np.concatenate([own_spikes(200, 1.0, 150.0, 0.6), far_spikes(300, 0.1, 0.6)])
    assert fit_amplitudes(seen, 0.6, 1.0, 150.0).num_far > 250
    assert fit_amplitudes(seen, 0.6, 1.0, 150.0, moved=True).num_far == 0
    fewer = np.concatenate([own_spikes(400, 1.0, 150.0, 0.6), far_spikes(200, 0.1, 0.6)])
    assert fit_amplitudes(fewer, 0.6, 1.0, 150.0).num_far == 0
