"""Curated sortings as labels: noise is never learned, groups are respected, whatever the format."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from pynwb import NWBHDF5IO, NWBFile
from spikeinterface.core import NumpyRecording, NumpySorting

from esort.curation import check_groups, curated, curation_groups
from esort.nwb import Session, write_nwb
from esort.sortings import open_sorting
from esort.teacher import Teacher

pytestmark = pytest.mark.filterwarnings("ignore:The extractor is not serializable")
RATE = 20_000.0
GROUPS = ["good", "noise", "mua", "unsorted"]


def sorting(unit_ids=(0, 1, 2, 3), num_spikes=12):
    samples = 100 * np.arange(1, num_spikes + 1)
    labels = np.asarray(unit_ids)[np.arange(num_spikes) % len(unit_ids)]
    return NumpySorting.from_samples_and_labels([samples], [labels], RATE, unit_ids=list(unit_ids))


def recording(seconds=1.0):
    made = NumpyRecording(np.zeros((round(seconds * RATE), 2), "int16"), RATE)
    made.set_dummy_probe_from_locations(np.array([[0.0, 0.0], [0.0, 20.0]]))
    return made


@pytest.fixture
def phy(tmp_path):
    folder = tmp_path / "phy"
    folder.mkdir()
    (folder / "params.py").write_text(f"sample_rate = {RATE}\ndtype = 'int16'\n")
    spikes = sorting().to_spike_vector()
    np.save(folder / "spike_times.npy", spikes["sample_index"])
    np.save(folder / "spike_clusters.npy", spikes["unit_index"])
    rows = [f"{cluster}\t{group}" for cluster, group in enumerate(GROUPS)]
    (folder / "cluster_group.tsv").write_text("\n".join(["cluster_id\tgroup", *rows]))
    return folder


@pytest.fixture(params=["phy", "nwb", "spikeinterface"])
def path(request, phy, tmp_path):
    """The same curation in each format."""
    if request.param == "phy":
        return phy
    if request.param == "nwb":
        made = tmp_path / "curated.nwb"
        write_nwb(sorting(), np.ones(12), recording(), made, session=Session(), source="here")
        with NWBHDF5IO(made, "a") as file:
            content = file.read()
            content.units.add_column("quality", "By hand.", data=GROUPS)
            file.write(content)
        return made
    ours = sorting()
    ours.set_property("quality", np.array(GROUPS))
    ours.save(folder=tmp_path / "saved")
    return tmp_path / "saved"


def test_noise_is_left_out(path, caplog):
    with caplog.at_level(logging.INFO):
        found = open_sorting(path)
    assert found.unit_ids.tolist() == [0, 2, 3]
    np.testing.assert_array_equal(found.get_unit_spike_train(2), [300, 700, 1100])
    assert "1 of 4 units are left out (1 good, 1 mua, 1 noise, 1 unsorted)" in caplog.text
    assert "1 units that nobody has judged are taken too" in caplog.text


@pytest.mark.parametrize(
    ("groups", "expected"), [(["good"], [0]), (["GOOD", "mua"], [0, 2]), (["unsorted"], [3])]
)
def test_groups_that_are_asked_for(path, groups, expected):
    assert open_sorting(path, groups=groups).unit_ids.tolist() == expected


def test_a_teacher_never_learns_noise(path, tmp_path):
    sample_index, _, unit_ids = Teacher(sorter="sorting", path=str(path)).spikes(recording(), tmp_path)
    assert unit_ids == (0, 2, 3)
    assert not set(sample_index) & {200, 600, 1000}
    only = Teacher(sorter="sorting", path=str(path), groups=["good"]).spikes(recording(), tmp_path)
    assert only[2] == (0,)


def test_a_group_that_is_not_there(path):
    message = "has no unit of best, got 1 good, 1 mua, 1 noise, 1 unsorted"
    with pytest.raises(ValueError, match=message):
        open_sorting(path, groups=["best"])


def test_nothing_but_noise(phy):
    (phy / "cluster_group.tsv").write_text("cluster_id\tgroup\n0\tnoise\n1\tnoise\n2\tnoise\n3\tnoise\n")
    with pytest.raises(ValueError, match="has no unit of any group but noise, got 4 noise"):
        open_sorting(phy)


def test_groups_of_a_sorting_that_nobody_curated(tmp_path):
    sorting().save(folder=tmp_path / "saved")
    assert open_sorting(tmp_path / "saved").get_num_units() == 4
    with pytest.raises(ValueError, match="has no curation, expected units of the groups good"):
        open_sorting(tmp_path / "saved", groups=["good"])


def test_clusters_that_a_table_does_not_mention_are_unsorted(phy):
    """As phylib writes groups: only of the clusters that were judged, beside a table of all."""
    (phy / "cluster_group.tsv").write_text("cluster_id\tgroup\n0\tgood\n1\tnoise\n")
    (phy / "cluster_KSLabel.tsv").write_text("cluster_id\tKSLabel\n0\tgood\n1\tmua\n2\tgood\n7\tgood\n")
    found = open_sorting(phy)
    assert found.unit_ids.tolist() == [0, 2, 3]
    assert curation_groups(found).tolist() == ["good", "unsorted", "unsorted"]
    np.testing.assert_array_equal(found.get_unit_spike_train(3), [400, 800, 1200])
    assert open_sorting(phy, groups=["good"]).unit_ids.tolist() == [0]


def test_names_of_an_export_by_spikeinterface(phy):
    """Its own reader takes no texts as names."""
    (phy / "cluster_si_unit_ids.tsv").write_text("cluster_id\tsi_unit_id\n0\ta\n1\tb\n2\tc\n3\td\n")
    assert open_sorting(phy).unit_ids.tolist() == ["a", "c", "d"]
    (phy / "cluster_si_unit_ids.tsv").write_text("cluster_id\tsi_unit_id\n0\t9\n1\t8\n2\t7\n3\t6\n")
    assert open_sorting(phy).unit_ids.tolist() == [9, 7, 6]


def test_phy_s_cluster_info_counts(phy):
    """What phy writes when it saves: all clusters, empty cells for those that nobody judged."""
    (phy / "cluster_info.tsv").write_text(
        "cluster_id\tgroup\tdepth\n0\tgood\t1\n1\tnoise\t1\n2\t\t2\n3\tmua\t3\n"
    )
    found = open_sorting(phy)
    assert found.unit_ids.tolist() == [0, 2, 3]
    assert curation_groups(found).tolist() == ["good", "unsorted", "mua"]


def test_names_of_units_through_a_curation(phy):
    """Two units were merged in phy: the new cluster has no name of its own."""
    np.save(phy / "spike_clusters.npy", np.array([0, 4, 4, 3] * 3))
    (phy / "cluster_info.tsv").write_text(
        "cluster_id\tgroup\tunit_name\n0\tgood\tu7\n3\tgood\tu9\n4\tgood\t\n"
    )
    found = open_sorting(phy)
    assert found.unit_ids.tolist() == ["u7", "u9", "phy4"]
    np.testing.assert_array_equal(found.get_unit_spike_train("u9"), [400, 800, 1200])
    assert found.get_unit_spike_train("phy4").size == 6


def test_phy_without_spikes(phy, tmp_path):
    for name in ("spike_times", "spike_clusters"):
        np.save(phy / f"{name}.npy", np.zeros(0, dtype=np.int64))
    with pytest.raises(ValueError, match="has no unit of 1 spikes or more in the first 0.5 s"):
        Teacher(sorter="sorting", path=str(phy)).spikes(recording(), tmp_path)


def test_nwb_without_units(tmp_path):
    from datetime import UTC, datetime

    file = NWBFile("nothing", "x", datetime(2024, 1, 1, tzinfo=UTC))
    with NWBHDF5IO(tmp_path / "empty.nwb", "w") as output:
        output.write(file)
    with pytest.raises(ValueError, match="cannot open .*empty.nwb as nwb") as raised:
        open_sorting(tmp_path / "empty.nwb", sampling_frequency=RATE)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("quality", ["good", "mine", "", "nan"], ["good", "mine", "unsorted", "unsorted"]),
        ("curation_label", ["SUA", "MUA", "noise", "unlabelled"], ["sua", "mua", "noise", "unsorted"]),
        ("group", ["good", "noise", "good", "good"], ["good", "noise", "good", "good"]),
        ("group", ["left", "left", "right", "right"], None),
        ("group", [0, 0, 1, 1], None),
        ("label", ["CA1", "CA1", "CA3", "CA3"], None),
    ],
)
def test_which_properties_are_a_curation(name, values, expected):
    ours = sorting()
    ours.set_property(name, np.array(values))
    found = curation_groups(ours)
    assert (None if found is None else found.tolist()) == expected


@pytest.mark.parametrize("groups", ["good", [], [1], None])
def test_groups_must_be_names(groups):
    with pytest.raises(ValueError, match="groups must be a list of at least one name such as"):
        check_groups(groups)


def test_noise_cannot_be_asked_for():
    message = r"groups must not name noise, which is never learned, got \['good', 'Noise'\]"
    with pytest.raises(ValueError, match=message):
        check_groups(["good", "Noise"])
    with pytest.raises(ValueError, match="noise, which is never learned"):
        Teacher(sorter="sorting", path="x", groups=["noise"])
    with pytest.raises(ValueError, match="teacher.groups is for teacher=sorting only, got teacher=lupin"):
        Teacher(sorter="lupin", groups=["good"])


def test_a_sorting_of_good_units_is_returned_as_it_is(tmp_path):
    ours = sorting()
    ours.set_property("quality", np.array(["good"] * 4))
    assert curated(ours, Path("here")) is ours
    assert json.dumps(curation_groups(ours).tolist()) == '["good", "good", "good", "good"]'
