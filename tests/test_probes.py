import numpy as np
import pytest
from probeinterface import generate_linear_probe, generate_multi_columns_probe, write_probeinterface

from esort.probes import PROBES, ProbeSpec


@pytest.mark.parametrize(
    ("name", "num_channels"),
    [("neuropixels", 384), ("neuropixels128", 128), ("neuronexus32", 32), ("tetrode", 4)],
)
def test_named_probes_are_wired_in_order(name, num_channels):
    probe = ProbeSpec(name=name).build()
    assert probe.get_contact_count() == num_channels
    assert probe.contact_positions.shape == (num_channels, 2)
    assert probe.si_units == "um"
    np.testing.assert_array_equal(probe.device_channel_indices, np.arange(num_channels))
    assert len(np.unique(probe.contact_positions, axis=0)) == num_channels


def test_every_name_is_listed():
    assert PROBES == ("neuropixels", "neuropixels128", "neuronexus32", "tetrode")


def test_neuropixels128_is_the_tip_of_neuropixels():
    whole, tip = (
        ProbeSpec(name=name).build().contact_positions for name in ("neuropixels", "neuropixels128")
    )
    np.testing.assert_array_equal(whole[:128], tip)
    assert np.ptp(whole[:, 1]) == 3820.0  # 192 rows, 20 um apart


def test_neuronexus32_has_three_columns():
    positions = ProbeSpec(name="neuronexus32").build().contact_positions
    columns, counts = np.unique(positions[:, 0], return_counts=True)
    np.testing.assert_array_equal(columns, [-18, 0, 18])
    np.testing.assert_array_equal(counts, [10, 12, 10])


def test_contact_positions_make_a_probe():
    spec = ProbeSpec(contact_positions_um=np.array([[0, 0], [0, 25.0], [0, 50]]))
    np.testing.assert_array_equal(spec.build().contact_positions, [[0, 0], [0, 25], [0, 50]])
    assert spec == ProbeSpec(contact_positions_um=[(0, 0), (0, 25), (0, 50)])
    assert hash(spec) == hash(ProbeSpec(contact_positions_um=[(0, 0), (0, 25), (0, 50)]))
    assert spec.label == "custom"


def test_probeinterface_file_in_the_order_of_its_wiring(tmp_path):
    probe = generate_linear_probe(num_elec=4, ypitch=30)
    probe.set_device_channel_indices([3, 2, 1, 0])
    write_probeinterface(tmp_path / "shank.json", probe)
    spec = ProbeSpec(path=str(tmp_path / "shank.json"))
    built = spec.build()
    np.testing.assert_array_equal(built.contact_positions[:, 1], [90, 60, 30, 0])
    np.testing.assert_array_equal(built.device_channel_indices, np.arange(4))
    assert spec.label == "shank"


def test_unwired_contacts_are_left_out(tmp_path):
    probe = generate_linear_probe(num_elec=4, ypitch=30)
    probe.set_device_channel_indices([1, -1, 0, -1])
    write_probeinterface(tmp_path / "shank.json", probe)
    built = ProbeSpec(path=str(tmp_path / "shank.json")).build()
    np.testing.assert_array_equal(built.contact_positions[:, 1], [60, 0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "neuropixel"},
            "expected a probe name among neuropixels, neuropixels128, neuronexus32, tetrode",
        ),
        ({}, "expected exactly one of name, path and contact_positions_um for a probe, got 0"),
        ({"name": "tetrode", "contact_positions_um": [(0, 0)]}, "expected exactly one of .* got 2"),
        ({"contact_positions_um": [(0, 0, 0)]}, r"expected finite contact positions .* got shape \(1, 3\)"),
        ({"contact_positions_um": []}, "expected finite contact positions"),
        ({"contact_positions_um": [(0, float("nan"))]}, "expected finite contact positions"),
        ({"contact_positions_um": [(0, 0), (0, 0)]}, "expected 2 distinct contact positions, got some twice"),
        ({"contact_positions_um": "abc"}, r"expected contact positions as \(x, y\) in um, got 'abc'"),
    ],
)
def test_bad_specs(arguments, message):
    with pytest.raises(ValueError, match=message):
        ProbeSpec(**arguments)


def test_missing_file():
    with pytest.raises(
        FileNotFoundError, match="expected a probeinterface JSON file, found no file at nowhere"
    ):
        ProbeSpec(path="nowhere.json")


def test_file_that_is_no_probe(tmp_path):
    (tmp_path / "other.json").write_text('{"probes": [{}]}')
    with pytest.raises(ValueError, match="expected a probeinterface JSON file, got"):
        ProbeSpec(path=str(tmp_path / "other.json")).build()


def test_file_with_two_probes(tmp_path):
    from probeinterface import ProbeGroup

    group = ProbeGroup()
    for shift in (0, 1000):
        probe = generate_multi_columns_probe(num_columns=1, num_contact_per_column=2)
        probe.move([shift, 0])
        group.add_probe(probe)
    write_probeinterface(tmp_path / "two.json", group)
    with pytest.raises(ValueError, match="expected one probe in two dimensions in .*, got 2 probes"):
        ProbeSpec(path=str(tmp_path / "two.json")).build()
