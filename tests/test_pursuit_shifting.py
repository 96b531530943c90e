"""Shifts by parts of a row."""

import numpy as np
import pytest
import torch

from esort.pursuit.shifting import shifted


def course(centre, width=2.0, length=40):
    """What the band holds: a smooth bump."""
    return torch.from_numpy(np.exp(-0.5 * ((np.arange(length) - centre) / width) ** 2)).float()


@pytest.mark.parametrize("rows", [0.0, 0.25, -0.4, 1.0, -3.5, 7.3])
def test_a_shift_is_a_delay(rows):
    torch.testing.assert_close(shifted(course(18), rows), course(18 + rows), atol=1e-4, rtol=0)


def test_there_and_back():
    waveforms = torch.stack([course(15), -2 * course(22, width=3.0)])
    torch.testing.assert_close(shifted(shifted(waveforms, 0.37), -0.37), waveforms, atol=1e-4, rtol=0)


def test_each_by_its_own_delay():
    waveforms = torch.stack([course(15), course(18)])[:, None].expand(2, 3, 40)
    delays = torch.tensor([[0.5], [-1.25]], dtype=torch.float64)
    found = shifted(waveforms, delays)
    for one, wanted in zip(found, (course(15.5), course(16.75)), strict=True):
        torch.testing.assert_close(one, wanted.expand(3, 40), atol=1e-4, rtol=0)


def test_what_leaves_at_one_end_does_not_come_in_at_the_other():
    moved = shifted(course(36), 8.0)
    assert moved[:20].abs().max() < 1e-4


def test_no_waveforms():
    assert shifted(torch.zeros(0, 4, 30), torch.zeros(0, 1)).shape == (0, 4, 30)
