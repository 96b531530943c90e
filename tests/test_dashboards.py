"""What a dashboard gets of a run and of a study."""

import csv
import json

import pandas as pd
import pytest

from esort.dashboards import show_lineage, show_study, show_units
from esort.files import sha256_of_file
from esort.grid import StudySpec
from esort.simulation import TemplateBank
from esort.tracker import Tracker

UNITS = [
    {
        "unit_id": name,
        "accuracy": accuracy,
        "precision": 1.0,
        "recall": accuracy,
        "num_spikes": 10,
        "matched_unit_id": name,
    }
    for name, accuracy in ((1, 0.5), ("b", 0.9))
]


@pytest.fixture
def tracker(tmp_path):
    with Tracker(tmp_path) as opened:
        yield opened


def rows_of(tracker, name):
    with open(tracker.folder / "tables" / f"{name}.csv", newline="") as file:
        return list(csv.reader(file))


def panels_of(tracker):
    return json.loads((tracker.folder / "panels.json").read_text())


def test_units_against_their_noise(tracker):
    show_units(tracker, UNITS, {"1": 4.0, "b": 8.0, "c": 2.0})
    assert rows_of(tracker, "accuracy_of_units")[1:] == [["1", "4.0", "0.5"], ["b", "8.0", "0.9"]]
    assert panels_of(tracker)["accuracy_of_units"]["kind"] == "scatter"
    assert len(rows_of(tracker, "units")) == 3


def test_where_nobody_knows_the_noise_there_is_a_table(tracker):
    show_units(tracker, UNITS, {})
    assert len(rows_of(tracker, "units")) == 3
    assert not (tracker.folder / "panels.json").exists()


def summary_of(spec, points):
    rows = [
        {"sorter": sorter, **values, "n": n, "pooled_accuracy": score, "mean_accuracy": score}
        for sorter, values, n, score in points
    ]
    return pd.DataFrame(rows).assign(name=spec.name)


def study(figure, x, by):
    return StudySpec(
        name="s", axes={x: ["5", "10"], by: ["p", "q"]}, figure=figure, x=x, by=by, baseline="p", seeds=[0]
    )


def test_a_curve_is_a_line_for_each_training(tracker):
    spec = study("curve", "labels", "training")
    points = [
        ("esort", {"labels": labels, "labels_per_unit": per_unit, "training": training}, n, score)
        for labels, per_unit, training, n, score in (
            ("10", 10.0, "p", 3, 0.9),
            ("5", 5.0, "p", 3, 0.8),
            ("5", 5.0, "q", 0, float("nan")),
        )
    ]
    show_study(tracker, summary_of(spec, points), spec, title="s-pursuit")
    (panel,) = panels_of(tracker).values()
    assert panel == {
        "kind": "line",
        "x": "labels_per_unit",
        "y": "pooled_accuracy",
        "group": "training",
        "title": "s-pursuit",
    }
    assert [row[:2] for row in rows_of(tracker, "panel_s")[1:]] == [["5.0", "p"], ["10.0", "p"]]


def test_conditions_are_grouped_bars(tracker):
    spec = study("bars", "noise", "kind")
    points = [("esort", {"noise": "5", "kind": kind}, 1, 0.9) for kind in ("p", "q")]
    show_study(tracker, summary_of(spec, points), spec, title="t")
    panel = panels_of(tracker)["panel_s"]
    assert (panel["kind"], panel["x"], panel["group"]) == ("bar", "noise", "kind")


def test_lineage(tracker, trained):
    subject = trained.subject()
    show_lineage(tracker, subject, trained.checkpoint)
    (backbone,) = json.loads((tracker.folder / "artifacts.json").read_text())
    assert (backbone["name"], backbone["role"]) == ("backbone", "input")
    assert backbone["sha256"] == sha256_of_file(trained.checkpoint)
    # The run itself sorted a simulation: it knows the bank too.
    used = {
        entry["name"]: entry["sha256"]
        for entry in json.loads((trained.folder / "artifacts.json").read_text())
        if entry["role"] == "input"
    }
    assert used["template-bank"] == sha256_of_file(TemplateBank.shipped_path())
    assert set(used) == {"template-bank", "backbone"}
