"""A network without some of its channels: as if they had not been there when it learned."""

import numpy as np
import pytest
import torch
from pursuit_data import make_network

from esort.pursuit.missing import without_channels


@pytest.fixture(scope="module")
def network():
    return make_network(num_members=8)


def test_noise_stays_white_on_the_channels_that_are_left(network):
    changed = without_channels(network, np.array([2, 5]))
    coloring = np.linalg.inv(network.whitening.numpy().astype(float))
    whitening = changed.whitening.numpy()
    left = [0, 1, 3, 4, 6, 7]
    covariance = whitening @ coloring @ coloring.T @ whitening.T
    np.testing.assert_allclose(covariance[np.ix_(left, left)], np.eye(6), atol=1e-4)
    assert (whitening[:, [2, 5]] == 0).all()
    assert (whitening[[2, 5]] == 0).all()
    np.testing.assert_allclose(network.scorer().noise_uv, np.linalg.norm(coloring, axis=1), rtol=1e-5)


def test_footprints_are_what_the_channels_that_are_left_show(network):
    changed = without_channels(network, np.array([2]))
    for unit_index, members in enumerate(network.footprint_channels.numpy()):
        seen = np.zeros((8, network.footprints.shape[2]))
        seen[members] = network.footprints[unit_index].numpy()
        stored = np.linalg.solve(network.whitening.numpy().astype(float), seen)  # in µV
        stored[2] = 1e6  # whatever it shows now
        np.testing.assert_allclose(
            changed.footprints[unit_index].numpy(), (changed.whitening.numpy() @ stored)[members], atol=1e-3
        )
    assert (changed.heads[changed.head_channels == 2] == 0).all()
    assert (changed.energies <= network.energies * 1.5).all()


def test_nothing_changes_without_bad_channels(network):
    assert without_channels(network, np.array([], dtype=int)) is network
    again = without_channels(network, np.array([7]))
    assert again is not network
    assert torch.equal(network.whitening, make_network(num_members=8).whitening)


def test_no_channel_is_left(network):
    with pytest.raises(ValueError, match="all 8 channels are bad: expected at least 1 good one"):
        without_channels(network, np.arange(8))
