import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esort.simulation import TemplateBank


@pytest.fixture(scope="module")
def bank():
    return TemplateBank.load()


def test_interpolation_returns_the_grid_values(bank):
    # Away from the border, where nothing is tapered.
    along = bank.along_um[np.abs(bank.along_um) < 250]
    across = bank.across_um[np.abs(bank.across_um) < 90]
    grid = np.stack(np.meshgrid(across, along), axis=-1).reshape(-1, 2)
    for template in (0, len(bank) // 2, len(bank) - 1):
        space = bank.space_at(np.array([template]), grid[None])[0]  # (P, R)
        inside_l, inside_a = np.isin(bank.along_um, along), np.isin(bank.across_um, across)
        expected = bank.space[template][:, inside_l][:, :, inside_a].reshape(space.shape[1], -1).T
        np.testing.assert_allclose(space, expected, atol=1e-3)


def test_border_is_zero_and_beyond(bank):
    edge_x, edge_y = bank.across_um[-1], bank.along_um[-1]
    positions = np.array([[[edge_x, 0], [0, edge_y], [0, 2 * edge_y], [-edge_x - 50, 0]]])
    np.testing.assert_array_equal(bank.sample(np.array([0]), positions), 0)


@settings(max_examples=15, deadline=None)
@given(st.floats(-110, 110), st.floats(-300, 300), st.integers(0, 10**6))
def test_field_is_continuous(x, y, template):
    bank = TemplateBank.load()
    template = template % len(bank)
    step = bank.sample(np.array([template]), np.array([[[x, y], [x + 0.01, y + 0.01]]]))[0]
    assert np.abs(step[1] - step[0]).max() < 0.005 * bank.amplitude_uv[template]


def test_troughs_lie_on_the_peak_sample(bank):
    centre = np.stack(np.meshgrid(bank.across_um, bank.along_um), axis=-1).reshape(-1, 2)
    for template in range(0, len(bank), 50):
        field = bank.sample(np.array([template]), centre[None])[0]
        assert abs(np.unravel_index(field.argmin(), field.shape)[1] - bank.peak_sample) <= 1


def test_courses_at_the_own_samples_are_the_stored_ones(bank):
    start_ms, stop_ms = bank.cut_out_ms
    times_ms = np.linspace(start_ms, stop_ms, bank.course.shape[2])
    course = bank.course_at(np.array([3]), times_ms[None])[0]
    middle = (times_ms > start_ms + 0.6) & (times_ms < stop_ms - 1.6)  # outside them, faded
    np.testing.assert_allclose(course[:, middle], bank.course[3][:, middle], atol=1e-4)
    np.testing.assert_allclose(course[:, [0, -1]], 0, atol=1e-6)
    np.testing.assert_array_equal(bank.course_at(np.array([3]), np.array([[start_ms - 1, stop_ms + 1]])), 0)


@pytest.mark.parametrize("disjoint_cell_models", [False, True])
def test_halves_are_disjoint_and_alike(bank, disjoint_cell_models):
    source, target = (bank.split(n, disjoint_cell_models=disjoint_cell_models) for n in ("source", "target"))
    assert not set(source) & set(target)
    assert len(source) + len(target) == len(bank)
    for half in (source, target):
        assert set(bank.cell_types[half]) == {"E", "I"}
    shared = set(bank.cell_models[source]) & set(bank.cell_models[target])
    assert len(shared) == (0 if disjoint_cell_models else len(set(bank.cell_models)))


def test_bank_holds_all_thirteen_cell_models(bank):
    assert len(set(bank.cell_models)) == 13
    assert len(bank.digest) == 64


def test_unknown_split(bank):
    with pytest.raises(ValueError, match="expected a split among source, target, got 'test'"):
        bank.split("test")


def test_missing_bank(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a template bank, found no file at"):
        TemplateBank.load(tmp_path / "none.npz")


def test_file_that_is_no_bank(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="expected a template bank at .*, could not read it"):
        TemplateBank.load(tmp_path / "other.npz")


def test_bank_of_another_format(tmp_path):
    header = np.frombuffer(json.dumps({"format": 2}).encode(), np.uint8)
    np.savez(tmp_path / "newer.npz", header=header)
    with pytest.raises(ValueError, match="expected a template bank of format 1, got format 2"):
        TemplateBank.load(tmp_path / "newer.npz")
