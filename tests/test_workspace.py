"""The dashboard of a W&B project: panels of what runs really log, and one line for whatever goes wrong."""

import csv
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

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
    assert "label_curve" in tables  # a panel of its own


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


def save(tmp_path, **variables):
    """Run the command with nobody's account; what it says, without W&B's own lines."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    bare |= {"NETRC": str(tmp_path / "none")} | variables
    bare |= {f"WANDB_{name}_DIR": str(tmp_path) for name in ("CONFIG", "CACHE", "DATA")}
    command = [sys.executable, "-m", "esort.workspace", "entity=lab", "project=spikes"]
    return subprocess.run(command, env=bare, capture_output=True, text=True, timeout=120)


def test_without_a_key_it_is_said(tmp_path):
    done = save(tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "error: a W&B workspace lives on a server and no API key is known: wandb login first"
    )


@pytest.fixture
def server():
    """Speaks as much of W&B's GraphQL as W&B's client asks for, on this machine; keeps what is saved."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer = self.server.answer(json.loads(body)) if self.path == "/graphql" else {}
            content = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    def answer(asked):
        if "upsertView" not in asked["query"]:
            teams = {"edges": []}
            person = {
                "id": "1",
                "entity": "lab",
                "username": "lab",
                "email": "",
                "flags": "{}",
                "teams": teams,
            }
            return {"data": {"viewer": person if found.is_known else None}}
        if found.refusal:
            return {"data": None, "errors": [{"message": found.refusal}]}
        found.saved.append(asked["variables"])
        view = {"id": "view-1", "name": asked["variables"]["name"]}
        return {"data": {"upsertView": {"view": view, "inserted": True}}}

    found = HTTPServer(("127.0.0.1", 0), Handler)
    found.answer, found.saved, found.is_known, found.refusal = answer, [], True, ""
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


def account(server):
    return {"WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}", "WANDB_API_KEY": "0" * 40}


def test_what_a_server_gets_is_read_back_as_the_same_dashboard(tmp_path, server):
    from wandb_workspaces.workspaces import Workspace
    from wandb_workspaces.workspaces.internal import View, WorkspaceViewspec

    done = save(tmp_path, **account(server))
    assert done.returncode == 0, done.stderr
    (sent,) = server.saved
    assert (sent["entityName"], sent["projectName"], sent["type"]) == ("lab", "spikes", "project-view")
    short = sent["name"].removeprefix("nw-").removesuffix("-v")
    assert done.stdout.strip() == f"{account(server)['WANDB_BASE_URL']}/lab/spikes?nw={short}"
    view = View(
        entity="lab", project="spikes", display_name=sent["displayName"], name=sent["name"], id="view-1",
        spec=WorkspaceViewspec.model_validate_json(sent["spec"]),
    )  # fmt: skip
    read = Workspace._from_model(view)
    meant = make_workspace(WorkspaceSpec(entity="lab", project="spikes"))
    assert [section.name for section in read.sections] == [section.name for section in meant.sections]
    for one, other in zip(read.sections, meant.sections, strict=True):
        # Each panel is told apart by a number that W&B's client draws.
        panels = [[panel._to_model().model_dump(exclude={"id"}) for panel in s.panels] for s in (one, other)]
        assert panels[0] == panels[1], one.name


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("nobody knows the key", "error: Failed to verify credentials with"),
        ("the project is not there", "error: input: project spikes not found"),
        ("away", "error: W&B's server http://127.0.0.1:9 does not answer: <urlopen error [Errno 111]"),
    ],
)
def test_a_server_that_refuses_or_is_away_is_one_line(tmp_path, server, trouble, message):
    server.is_known = trouble != "nobody knows the key"
    server.refusal = "project spikes not found"
    at = {"WANDB_BASE_URL": "http://127.0.0.1:9"} if trouble == "away" else {}
    done = save(tmp_path, **account(server) | at)
    assert done.returncode == 1
    assert done.stdout == ""
    assert server.saved == []
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


def test_without_the_extra_it_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    assert main(["entity=lab"]) == 1
    message = "error: a W&B workspace needs wandb-workspaces: pip install 'esort[dashboard]'\n"
    assert capsys.readouterr().err == message
