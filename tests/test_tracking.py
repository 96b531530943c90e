import csv
import hashlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from esort.tracking import Tracker, TrackerSpec, WandbTracker, read_metrics

WARNING = "W&B is not available"


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    """Hide the account of whoever runs the tests; keep W&B's own files in the test's folder."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-home"))


def record_everything(tracker, folder):
    """Do what a run does, and return the checkpoint that it recorded."""
    import matplotlib.pyplot as plt
    import torch

    tracker.config({"probe": "tetrode", "noise": {"level_uv": np.float32(10)}})
    for phase in ("pretrain", "finetune"):
        for step in range(3):
            tracker.metrics({f"{phase}/loss": torch.tensor(1.0 / (step + 1)), f"{phase}/rate": 1}, step)
    tracker.table("units", ["unit_id", "accuracy"], [["#1", np.float64(0.5)], [2, None]])
    figure, _ = plt.subplots(figsize=(1, 1))
    figure.savefig(folder / "traces.png")
    plt.close(figure)
    tracker.image(folder / "traces.png", "traces")
    rows = [["#1", 3.0, 0.5, "a"], ["#2", np.float32(9.0), 1.0, "b"]]
    for kind in ("line", "scatter", "bar"):
        tracker.panel(
            f"{kind}_panel",
            ["unit", "snr", "accuracy", "kind"],
            rows,
            kind=kind,
            x="snr",
            y="accuracy",
            group="kind",
        )
    (folder / "report.html").write_text("<p>units</p>")
    tracker.page(folder / "report.html", "report")
    (folder / "backbone.safetensors").write_bytes(b"filters")
    tracker.used(folder / "backbone.safetensors", "backbone", "model")
    checkpoint = folder / "model.safetensors"
    checkpoint.write_bytes(b"weights")
    tracker.artifact(checkpoint, "model of a run", "model")
    tracker.summary({"pooled_accuracy": 0.5})
    tracker.summary({"mean_accuracy": np.float32(0.25)})


def check_local_files(folder):
    assert json.loads((folder / "config.json").read_text()) == {
        "probe": "tetrode",
        "noise": {"level_uv": 10.0},
    }
    curves = read_metrics(folder / "metrics.csv")
    assert set(curves) == {"pretrain/loss", "pretrain/rate", "finetune/loss", "finetune/rate"}
    steps, values = curves["finetune/loss"]
    assert steps == [0, 1, 2]
    assert values == pytest.approx([1, 1 / 2, 1 / 3])
    with open(folder / "tables" / "units.csv", newline="") as file:
        assert list(csv.reader(file)) == [["unit_id", "accuracy"], ["#1", "0.5"], ["2", ""]]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary == {"pooled_accuracy": 0.5, "mean_accuracy": 0.25}
    picture, page, backbone, model = json.loads((folder / "artifacts.json").read_text())
    assert picture | {"sha256": 0} == {
        "name": "traces",
        "type": "image",
        "role": "output",
        "path": "traces.png",
        "sha256": 0,
    }
    assert (page["name"], page["type"]) == ("report", "page")
    assert [entry["role"] for entry in (page, backbone, model)] == ["output", "input", "output"]
    panels = json.loads((folder / "panels.json").read_text())
    assert panels["bar_panel"] == {
        "kind": "bar",
        "x": "snr",
        "y": "accuracy",
        "group": "kind",
        "title": "bar_panel",
    }
    with open(folder / "tables" / "line_panel.csv", newline="") as file:
        assert list(csv.reader(file))[1:] == [["#1", "3.0", "0.5", "a"], ["#2", "9.0", "1.0", "b"]]
    assert model["path"] == "model.safetensors"
    assert model["sha256"] == hashlib.sha256(b"weights").hexdigest()


def test_local_files_hold_the_run(tmp_path):
    folder = tmp_path / "run"
    with TrackerSpec().open(folder) as tracker:
        assert type(tracker) is Tracker
        record_everything(tracker, folder)
    check_local_files(folder)


def test_wandb_offline_without_key_and_network(tmp_path, caplog):
    folder = tmp_path / "run"
    with TrackerSpec(kind="wandb").open(folder, name="tetrode labels=10", tags=["test"]) as tracker:
        assert isinstance(tracker, WandbTracker)
        assert not tracker.is_online
        record_everything(tracker, folder)
        assert tracker._run is not None  # W&B has taken everything
    check_local_files(folder)
    (offline,) = (folder / "wandb").glob("offline-run-*")
    (record,) = offline.glob("run-*.wandb")
    digest = hashlib.sha256(b"filters").hexdigest().encode()
    panels = [f"panels/{kind}_panel".encode() for kind in ("line", "scatter", "bar")]
    names = (b"tetrode labels=10", b"finetune/loss", b"pooled_accuracy", b"model-of-a-run", digest, *panels)
    # W&B's service, a process of its own, writes a little later on a busy machine.
    for _ in range(100):
        content = record.read_bytes()
        if all(name in content for name in names):
            break
        time.sleep(0.1)
    for name in names:
        assert name in content
    assert list((offline / "files" / "media" / "images").glob("traces_*.png"))
    assert list((offline / "files" / "media" / "table").glob("units_*.json"))
    assert list((offline / "files" / "media" / "html").glob("report_*.html"))
    assert len(list((offline / "files" / "media" / "table" / "panels").glob("*_panel_table_*.json"))) == 2
    (bars,) = (offline / "files" / "media" / "plotly" / "panels").glob("bar_panel_*.plotly.json")
    figure = json.loads(bars.read_text())
    assert figure["layout"]["barmode"] == "group"
    assert [(bar["name"], bar["x"], bar["y"]) for bar in figure["data"]] == [
        ("a", ["3.0"], [0.5]),
        ("b", ["9.0"], [1.0]),
    ]
    assert WARNING not in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "pie"}, "panel 'p': expected a kind among line, scatter, bar, got 'pie'"),
        ({"x": "b"}, "panel 'p': expected one of a, y, got 'b'"),
        ({"group": "c"}, "panel 'p': expected one of a, y, got 'c'"),
    ],
)
def test_a_panel_that_cannot_be_drawn_is_refused(tmp_path, changes, message):
    with Tracker(tmp_path) as tracker, pytest.raises(ValueError, match=message):
        tracker.panel("p", ["a", "y"], [[1, 2]], **({"kind": "bar", "x": "a", "y": "y"} | changes))


def test_two_wandb_runs_after_each_other(tmp_path):
    for name in ("a", "b"):
        with TrackerSpec(kind="wandb", mode="offline").open(tmp_path / name) as tracker:
            tracker.metrics({"train/loss": 1.0}, 0)
        assert len(list((tmp_path / name / "wandb").glob("offline-run-*"))) == 1


def test_online_without_a_key_is_said_once_and_goes_on_offline(tmp_path, caplog):
    with TrackerSpec(kind="wandb", mode="online").open(tmp_path) as tracker:
        tracker.metrics({"train/loss": 1.0}, 0)
        assert not tracker.is_online
    assert caplog.text.count(WARNING) == 1
    assert "no API key is known" in caplog.text
    assert list((tmp_path / "wandb").glob("offline-run-*"))


def test_wandb_mode_disabled_means_local_files(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    tracker = TrackerSpec(kind="wandb").open(tmp_path)
    assert type(tracker) is Tracker
    tracker.close()


@pytest.fixture
def refusing_server():
    """Serve W&B's address on this machine, and refuse every key."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(401)
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


PROGRAM = """
import logging, sys
from esort.tracking import TrackerSpec
logging.basicConfig(level="WARNING")
with TrackerSpec(kind="wandb", timeout_s=2).open(sys.argv[1]) as tracker:
    tracker.metrics({"train/loss": 1.0}, 0)
    print("online" if tracker.is_online else "offline")
"""


@pytest.mark.parametrize("server", ["unreachable", "refusing"])
def test_a_server_that_is_away_or_refuses_the_key_is_said_once(tmp_path, server, refusing_server):
    url = "http://127.0.0.1:9" if server == "unreachable" else refusing_server
    environment = os.environ | {"WANDB_BASE_URL": url, "WANDB_API_KEY": "0" * 40}
    # A process of its own, because W&B reads its environment once.
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "run")],
        env=environment, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    assert run.stdout.strip() == "offline"
    assert run.stderr.count(WARNING) == 1
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert read_metrics(tmp_path / "run" / "metrics.csv") == {"train/loss": ([0], [1.0])}


def test_wandb_failing_in_the_middle_is_said_once_and_the_run_goes_on(tmp_path, caplog):
    with TrackerSpec(kind="wandb", mode="offline").open(tmp_path) as tracker:
        tracker._run.finish()  # as if the W&B service had died
        for step in range(3):
            tracker.metrics({"train/loss": 1.0}, step)
    assert caplog.text.count(WARNING) == 1
    assert read_metrics(tmp_path / "metrics.csv")["train/loss"][0] == [0, 1, 2]


def test_importing_the_module_does_not_import_wandb():
    program = "import sys, esort.tracking; sys.exit('wandb' in sys.modules or 'torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_resumed_run_goes_on_in_the_same_metrics_even_after_a_kill(tmp_path):
    with Tracker(tmp_path) as tracker:
        tracker.metrics({"train/loss": 1.0}, 0)
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write("1700000000.0,1,train/lo")
    with Tracker(tmp_path) as tracker:
        tracker.metrics({"train/loss": float("nan")}, 1)
    steps, values = read_metrics(tmp_path / "metrics.csv")["train/loss"]
    assert steps == [0, 1]
    np.testing.assert_array_equal(values, [1.0, np.nan])


def test_metrics_can_be_read_while_they_are_written(tmp_path):
    with Tracker(tmp_path) as tracker:
        tracker.metrics({"a/b": 2}, 5)
        assert read_metrics(tmp_path / "metrics.csv") == {"a/b": ([5], [2.0])}


def test_lightning_logs_into_the_tracker(tmp_path):
    import pytorch_lightning
    import torch

    class Module(pytorch_lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def training_step(self, batch, _):
            loss = self.layer(batch).square().mean()
            self.log("train/loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    logging.getLogger("pytorch_lightning").setLevel("ERROR")
    with Tracker(tmp_path / "run") as tracker:
        trainer = pytorch_lightning.Trainer(
            max_epochs=2,
            accelerator="cpu",
            logger=tracker.lightning_logger(),
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Module(), torch.utils.data.DataLoader(torch.ones(6, 2), batch_size=2))
        steps, values = read_metrics(tmp_path / "run" / "metrics.csv")["train/loss"]
    assert steps == [0, 1, 2, 3, 4, 5]
    assert values[-1] < values[0]
    # Checkpoints lie directly in the run's folder.
    assert list((tmp_path / "run" / "checkpoints").glob("*.ckpt"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "tensorboard"}, "logger kind: expected one of csv, wandb, got 'tensorboard'"),
        ({"mode": "sometimes"}, "logger mode: expected one of auto, online, offline, got 'sometimes'"),
        ({"timeout_s": 0}, "logger timeout_s: expected a number above 0, got 0"),
    ],
)
def test_a_wrong_choice_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        TrackerSpec(**values)


def test_wrong_records_are_refused(tmp_path):
    with Tracker(tmp_path) as tracker:
        with pytest.raises(ValueError, match="table 'units': expected rows of 2 entries, got 1"):
            tracker.table("units", ["a", "b"], [[1]])
        with pytest.raises(ValueError, match=r"expected a name of letters, digits, .* got '\.\./units'"):
            tracker.table("../units", ["a"], [[1]])
        with pytest.raises(ValueError, match="expected a number to record, got 'low'"):
            tracker.metrics({"train/loss": "low"}, 0)
        with pytest.raises(
            FileNotFoundError, match=r"image 'traces': expected a file, got .*which does not exist"
        ):
            tracker.image(tmp_path / "no.png", "traces")


def test_reading_other_files_is_refused(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,loss\n1,2\n")
    with pytest.raises(ValueError, match=r"metrics.csv: expected the columns time, step, name, value, got"):
        read_metrics(tmp_path / "metrics.csv")
