"""Mutated files of our own formats: what was saved, or one documented line; nothing crashes, nothing runs.

Each format is tiny, is mutated in memory and given to its own loader: by default some dozens of times each,
100 000 times in all in the slow test, which spends them where there is most to get wrong.
"""

import json
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from mutations import (
    another_card,
    another_header,
    another_manifest,
    bytes_or_arrays,
    bytes_or_json,
    mutated,
    npz,
    other_weights,
    parts_of,
    with_card,
)
from safetensors.numpy import save

from esort.admission import check_extractor, check_plain_python, check_plain_yaml
from esort.checkpoint import CheckpointError, load_card, load_checkpoint, weights_digest
from esort.chunks import ChunkFolder
from esort.locks import LOCK, FolderInUseError, hold_folder
from esort.manifest import MANIFEST, Manifest
from esort.motion import FollowedMotion
from esort.openephys import parse_message
from esort.postprocess import Spikes
from esort.resume import TrainingFiles
from esort.simulation import Simulation, TemplateBank
from esort.sorter import Sorter
from esort.verify import verify

# What is mutated, and who reads it


@dataclass(frozen=True)
class Format:
    """A whole file, what is done to it, who loads it (what comes back is compared), what he may raise."""

    whole: bytes
    mutate: Callable
    load: Callable
    errors: tuple = (ValueError,)
    kept: bool = True  # whatever gets through is what was saved


def at(path, load):
    """A loader of bytes by way of a file."""

    def loading(content):
        path.write_bytes(content)
        return load(path)

    return loading


def card_and_digest(path):
    card, weights = load_checkpoint(path)
    return card.to_dict(), weights_digest(weights)


def saved_chunk(folder):
    spikes = Spikes(np.arange(9), np.arange(9) % 3, np.linspace(0, 1, 9, dtype=np.float32))
    motion = FollowedMotion(
        times_s=np.arange(2.0), depths_um=np.arange(3.0), shift_um=np.zeros((2, 3), dtype=np.int64)
    )
    ChunkFolder(folder, {}).save(0, spikes, np.array([[1, 2]]), motion)
    return (folder / f"{0:015d}.npz").read_bytes()


def chunk_parts(path):
    chunks = ChunkFolder(path.parent, {})
    spikes, blanked, motion = chunks.load(0), chunks.blanked([0]), chunks.motion([0])
    columns = (spikes.sample_index, spikes.unit_index, spikes.probability, blanked)
    assert motion is None or motion.shift_um.shape == (len(motion.times_s), len(motion.depths_um))
    return [column.tolist() for column in columns]


def tiny_bank():
    header = {"format": 1, "sampling_frequency": 32000.0, "peak_sample": 1, "space_step_uv": 0.1}
    header |= {"course_step": 0.01, "cell_models": ["a", "b"], "cell_types": ["E", "I"]}
    return npz(
        {
            "header": np.frombuffer(json.dumps(header).encode(), dtype=np.uint8),
            "rank": np.array([1, 2], dtype=np.uint8),
            "space_bytes": np.zeros((2, 3, 6), dtype=np.uint8),
            "course_bytes": np.zeros((2, 3, 4), dtype=np.uint8),
            "along_um": np.arange(3.0),
            "across_um": np.arange(2.0),
            "model_index": np.array([0, 1]),
            "distance_um": np.ones(2),
            "amplitude_uv": np.ones(2),
            "rotation_rad": np.zeros((2, 3)),
        }
    )


def bank_of(path):
    """A bank is read once per process, so each needs a name of its own."""
    path = path.rename(path.with_name(f"{time.monotonic_ns()}.npz"))
    try:
        TemplateBank.load(path)
    finally:
        path.unlink()


def motion_of(path):
    Simulation(path.parent, None, None, []).motion()


def message(content):
    parse_message([b"DATA", content, b"\0" * 16])


def lock_of(path):
    with hold_folder(path.parent):
        pass


TO_HOLD = {"pid": 1, "started": "1", "host": "here", "since": "2026-01-01T00:00:00+00:00"}
BUFFER = {"content": {"channel_num": 0, "num_samples": 4, "sample_num": 9, "sample_rate": 3e4, "stream": "a"}}
PLAIN = b"channel_groups = {0: {'channels': list(range(4)), 'geometry': {0: (0, -1.5), 1: [2, 3 * 20]}}}\n"
EXTRACTOR = {
    "class": "spikeinterface.core.numpyextractors.NumpyRecording",
    "module": "spikeinterface",
    "version": "0.105.0",
    "kwargs": {"traces_list": ["a.npy"], "sampling_frequency": 3e4, "parent": {"class": "x", "list": [1]}},
}
# How many of 100 000 each gets.
SHARES = {
    "checkpoint": 39_500,
    "header": 12_000,
    "card": 12_000,
    "dense_card": 1_500,
    "pursuit_card": 1_500,
    "dense_weights": 1_500,
    "pursuit_weights": 1_500,
    "manifest": 8_000,
    "verified": 500,
    "chunk": 7_000,
    "chunk_note": 2_000,
    "training_note": 2_000,
    "simulation_note": 1_000,
    "simulation_motion": 500,
    "bank": 1_500,
    "open_ephys": 3_500,
    "python": 3_000,
    "yaml": 500,
    "extractor": 500,
    "lock": 500,
}


@pytest.fixture(scope="module")
def formats(trained, trained_pursuit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    dense, pursuit = trained.checkpoint.read_bytes(), trained_pursuit.checkpoint.read_bytes()
    header, _ = parts_of(pursuit)
    few = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(3), "c": np.zeros(2)}
    small = save(few, metadata=header["__metadata__"])
    small = with_card(small, lambda card: card.update(weights_digest=weights_digest(few)))
    model, note, chunk = folder / "a.safetensors", folder / "training.json", saved_chunk(folder / "chunks")
    training = {"digest": "d", "metrics": {"val/loss": 0.5}}
    manifest = (trained.folder / MANIFEST).read_bytes()
    refused = (CheckpointError,)
    sorted_folder = folder / "result"
    sorted_folder.mkdir()
    for name in ("run.json", "sorting"):
        (sorted_folder / name).symlink_to(trained_pursuit.folder / name)
    identity = {"checkpoint": "a", "stretch": [0, 10]}
    (folder / "note").mkdir()
    (folder / "locked").mkdir()
    chunk_note = at(
        folder / "note" / "note.json", lambda path: ChunkFolder(path.parent, identity).begin(resume=True)
    )
    training_note = at(note, lambda path: TrainingFiles(folder, "d").begin())
    simulation = folder / "simulation"
    simulation.mkdir()
    motion = {"times_s": np.arange(3.0), "displacement_um": np.zeros((3, 1)), "factor": np.ones(2)}
    return {
        "checkpoint": Format(small, mutated, at(model, card_and_digest), refused),
        "header": Format(small, another_header, at(model, card_and_digest), refused),
        "card": Format(small, another_card, at(model, load_card), refused, kept=False),
        "dense_card": Format(dense, another_card, at(model, Sorter.load), refused, kept=False),
        "pursuit_card": Format(pursuit, another_card, at(model, Sorter.load), refused, kept=False),
        "dense_weights": Format(dense, other_weights, at(model, Sorter.load), refused, kept=False),
        "pursuit_weights": Format(pursuit, other_weights, at(model, Sorter.load), refused, kept=False),
        "manifest": Format(
            manifest, mutated, at(folder / MANIFEST, lambda path: Manifest.load(path.parent)), (ValueError,)
        ),
        "verified": Format(
            (trained_pursuit.folder / MANIFEST).read_bytes(),
            another_manifest,
            at(sorted_folder / MANIFEST, lambda path: verify(path.parent)),
            (ValueError,),
            kept=False,
        ),
        "chunk": Format(
            chunk, bytes_or_arrays, at(folder / "chunks" / f"{0:015d}.npz", chunk_parts), kept=False
        ),
        "chunk_note": Format(json.dumps(identity).encode(), bytes_or_json, chunk_note),
        "training_note": Format(json.dumps(training).encode(), bytes_or_json, training_note, kept=False),
        "simulation_note": Format(
            json.dumps({"traces_bytes": 3, "spec": {"a": 1}}).encode(),
            bytes_or_json,
            at(simulation / "spec.json", lambda path: Simulation.load(path.parent)),
            (FileNotFoundError,),
            kept=False,
        ),
        "simulation_motion": Format(
            npz(motion | {"num_steps": np.array(3)}),
            bytes_or_arrays,
            at(simulation / "motion.npz", motion_of),
            kept=False,
        ),
        "bank": Format(tiny_bank(), bytes_or_arrays, at(folder / "bank.npz", bank_of), kept=False),
        "open_ephys": Format(json.dumps(BUFFER).encode(), bytes_or_json, message, kept=False),
        "python": Format(PLAIN, mutated, at(folder / "probe.prb", check_plain_python), kept=False),
        "yaml": Format(
            b"- labels=5\n- a: [1, {b: 2}]\n", mutated, at(folder / "a.yaml", check_plain_yaml), kept=False
        ),
        "extractor": Format(
            json.dumps(EXTRACTOR).encode(), bytes_or_json, at(folder / "a.json", check_extractor), kept=False
        ),
        "lock": Format(
            json.dumps(TO_HOLD).encode(),
            bytes_or_json,
            at(folder / "locked" / LOCK, lock_of),
            (FolderInUseError,),
            kept=False,
        ),
    }


def one_line(error):
    assert "\n" not in str(error)
    assert len(str(error)) < 1500


def fuzz(case, rng, count):
    """How many of so many mutations are refused; each in one line."""
    wanted = case.load(case.whole) if case.kept else None
    refused = 0
    for _ in range(count):
        try:
            content = case.mutate(case.whole, rng)
        except (ValueError, KeyError):
            continue  # a number that JSON cannot hold, or a card that is not there
        try:
            found = case.load(content)
        except case.errors as error:
            one_line(error)
            refused += 1
        except Exception:
            print(f"raised by: {content[:3000]!r}", file=sys.stderr)
            raise
        else:
            assert not case.kept or found == wanted
    return refused


@pytest.mark.parametrize("name", SHARES)
def test_mutated_files(formats, name):
    count = max(20, SHARES[name] // 200)
    assert fuzz(formats[name], np.random.default_rng(0), count) > 0


@pytest.mark.slow
def test_a_hundred_thousand_mutated_files(formats):
    assert sum(SHARES.values()) == 100_000
    begin = time.perf_counter()
    total = 0
    for number, (name, count) in enumerate(SHARES.items()):
        start = time.perf_counter()
        refused = fuzz(formats[name], np.random.default_rng([1, number]), count)
        total += refused
        print(f"{name}: {refused} of {count} refused, {time.perf_counter() - start:.1f} s")
    print(f"{total} of 100000 refused in {time.perf_counter() - begin:.0f} s")
    assert total > 60_000


def test_a_pickle_in_the_place_of_an_array_is_not_opened(tmp_path):
    saved_chunk(tmp_path)
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / f"{0:015d}.npz", "w") as file:
        file.writestr("sample_index.npy", b"\x93NUMPY\x01\x00\x76\x00" + header + b"cos\nsystem\n(S'x'\ntR.")
    with pytest.raises(ValueError, match="start anew with resume=false"):
        ChunkFolder(tmp_path, {}).load(0)
