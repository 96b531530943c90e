"""The dashboard of a W&B project: panels of what runs really log, and one line for whatever goes wrong."""

import csv
import json
import os
import subprocess
import sys

import pytest

from esort.workspace import WorkspaceSpec, main, make_workspace


@pytest.fixture(scope="module")
def sections():
    # In the words that the server gets.
    view = make_workspace(WorkspaceSpec(entity="lab"))._to_model()
    found = json.loads(view.model_dump_json())["spec"]["section"]["panel_bank_config"]["sections"]
    return {section["name"]: section["panels"] for section in found}


def test_every_section_has_panels(sections):
    assert list(sections)[:2] == ["Accuracy over conditions", "Label efficiency"]
    assert all(sections.values())


def test_conditions_are_grouped_by_what_a_run_s_configuration_names(sections, trained):
    config = json.loads((trained.folder / "config.json").read_text())
    summary = json.loads((trained.folder / "summary.json").read_text())
    bars = [panel["config"] for panel in sections["Accuracy over conditions"]]
    assert {bar["group_by"].removesuffix(".value") for bar in bars} <= set(config)
    for bar in bars:
        assert set(bar["metrics"]) <= set(summary)
        assert (bar["group_agg"], bar["group_area"]) == ("mean", "stddev")
    for panel in sections["Label efficiency"]:
        assert panel["config"]["x_axis"] == "config:labels.value"
        assert panel["config"]["y_axis"].removeprefix("summary:") in summary
    (speed,) = sections["Speed"]
    assert set(speed["config"]["metrics"]) <= set(summary)


def test_curves_tables_and_pictures_are_those_that_a_run_logs(sections, trained):
    with open(trained.folder / "metrics.csv", newline="") as file:
        logged = {row["name"] for row in csv.DictReader(file)}
    shown = {name for panel in sections["Learning"] for name in panel["config"]["metrics"]}
    assert shown == logged
    pictures = {name for panel in sections["Pictures and reports"] for name in panel["config"]["media_keys"]}
    artifacts = json.loads((trained.folder / "artifacts.json").read_text())
    assert {entry["name"] for entry in artifacts if entry["type"] in ("image", "page")} <= pictures
    tables = {path.stem for path in (trained.folder / "tables").glob("*.csv")}
    text = json.dumps(sections["Units"])
    assert all(f'"{name}"' in text and name in tables for name in ("units", "label_plan"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected entity=NAME, a W&B user or team: python -m esort.workspace"),
        (["lab"], "expected entity=, project= or name=, got 'lab'"),
        (["colour=red"], "expected entity=, project= or name=, got 'colour=red'"),
        (["entity= "], "entity must be a text of at least one character"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys):
    assert main(arguments) == 1
    ended = capsys.readouterr()
    assert ended.err.startswith(f"error: {message}")
    assert ended.err.count("\n") == 1


def test_without_a_key_it_is_said(tmp_path):
    bare = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    bare |= {"NETRC": str(tmp_path / "none"), "WANDB_CONFIG_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "esort.workspace", "entity=lab"], env=bare, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "error: a W&B workspace lives on a server and no API key is known: wandb login first"
    )


def test_without_the_extra_it_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    assert main(["entity=lab"]) == 1
    message = "error: a W&B workspace needs wandb-workspaces: pip install 'esort[dashboard]'\n"
    assert capsys.readouterr().err == message
