"""The card of a checkpoint on the terminal, from the header of the file alone."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from esort import inspect
from esort.checkpoint import Card, CheckpointError, LabelSource, load_checkpoint, save_checkpoint

WEIGHTS = {"head.weight": np.arange(6, dtype=np.float32).reshape(3, 2), "head.bias": np.zeros(3, np.float32)}
CARD = Card(
    network="dense",
    network_parameters={"num_channels": 2, "num_units": 3},
    sampling_frequency=30_000.0,
    contact_positions_um=[[0, 0], [16, 40]],
    channel_ids=["a", "b"],
    unit_ids=["u1", 2, "u3"],
    window_ms=2.0,
    window_samples=60,
    peak_offset_samples=24,
    preprocessing={"freq_min_hz": 300.0},
    noise_level_uv=[4.0, 6.0],
    thresholds=[0.5, 0.6, 0.7],
    labels=LabelSource(recording_fingerprint="f" * 64, start_sample=0, stop_sample=300_000, num_labels=30),
    seed=0,
)


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, WEIGHTS, CARD)
    return path


def test_the_lines_say_what_the_checkpoint_fits(checkpoint, capsys):
    assert inspect.main([str(checkpoint)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(checkpoint)
    texts = dict(line.strip().split(maxsplit=1) for line in lines[1:])
    assert texts["kind"] == "units of one recording"
    assert texts["network"].startswith("dense, 9 numbers in 2 arrays, ")
    assert texts["rate"] == "30000 Hz, window of 2 ms (60 samples), peak at 24"
    assert texts["channels"] == "2 (a, b); contacts span 16 × 40 µm"
    assert texts["units"] == "3 (u1, 2, u3)"
    assert texts["noise"] == "5 µV in the median, 4 to 6"
    assert texts["labels"] == f"30 spikes of 0 to 10 s of the recording {'f' * 16}…"
    assert texts["seed"] == "0"


def test_programs_get_all_of_the_card(checkpoint, capsys):
    assert inspect.main([str(checkpoint), "json=true"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content.pop("weights") == {"head.weight": [3, 2], "head.bias": [3]}
    assert Card.from_dict(content).unit_ids == CARD.unit_ids


def test_a_backbone_for_any_probe(tmp_path, capsys):
    backbone = replace(
        CARD,
        unit_ids=[],
        thresholds=[],
        labels=None,
        seed=None,
        channel_ids=[],
        contact_positions_um=[],
        noise_level_uv=[],
    )
    save_checkpoint(tmp_path / "b.safetensors", WEIGHTS, backbone)
    assert inspect.main([str(tmp_path / "b.safetensors")]) == 0
    out = capsys.readouterr().out
    assert "backbone, no units yet" in out
    assert "channels   any" in out
    assert "noise" not in out


def test_the_weights_are_not_read(checkpoint, capsys):
    content = bytearray(checkpoint.read_bytes())
    content[-4:] = b"\xff\xff\xff\x7f"
    checkpoint.write_bytes(content)
    with pytest.raises(CheckpointError):
        load_checkpoint(checkpoint)
    assert inspect.main([str(checkpoint)]) == 0
    assert "u3" in capsys.readouterr().out


def test_neither_torch_nor_spikeinterface_is_imported(checkpoint):
    program = (
        "import sys; from esort.inspect import main; code = main(sys.argv[1:]); "
        "sys.exit(code or bool({'torch', 'spikeinterface', 'hydra'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", program, checkpoint], check=True, stdout=subprocess.DEVNULL)
    module = [sys.executable, "-m", "esort.inspect", checkpoint]
    assert "dense" in subprocess.run(module, check=True, capture_output=True, text=True).stdout


def test_names_cannot_drive_the_terminal(tmp_path, capsys):
    save_checkpoint(tmp_path / "m.safetensors", WEIGHTS, replace(CARD, unit_ids=["\x1b[31mred", "b\nc", 3]))
    assert inspect.main([str(tmp_path / "m.safetensors")]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "units      3 (�[31mred, b�c, 3)" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected one checkpoint file, got 0: python -m esort.inspect FILE"),
        (["a", "b"], "expected one checkpoint file, got 2"),
        (["a", "json=yes"], "json must be true or false, got 'yes'"),
        (
            ["nothing.safetensors"],
            "expected a checkpoint file, got nothing.safetensors, which",
        ),
        (["."], ".: expected a file, got something else (a folder?)"),
        (["pyproject.toml"], "pyproject.toml: not one of our files: its header claims"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])
    assert inspect.main(arguments) == 1
    ended = capsys.readouterr()
    assert ended.out == ""
    assert ended.err.startswith(f"error: {message}")
    assert ended.err.count("\n") == 1


def test_the_backbone_that_ships(capsys):
    assert inspect.main(["pursuit"]) == 0
    out = capsys.readouterr().out
    assert "backbone, no units yet" in out
    assert "neurons of the bank's source half, neuropixels128" in out
    assert "python train.py training=pretrain model=pursuit" in out
    assert "with this backbone" in out
    assert inspect.main(["pursuit", "json=true"]) == 0
    assert '"network": "pursuit"' in capsys.readouterr().out
