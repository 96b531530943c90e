"""Mutated files of our own formats: what was saved, or one documented line; nothing crashes, nothing runs."""

import json
import struct
import time
import zipfile

import numpy as np
import pytest

from esort.admission import check_plain_python
from esort.checkpoint import CheckpointError, load_checkpoint, weights_digest
from esort.chunks import ChunkFolder
from esort.manifest import Manifest
from esort.postprocess import Spikes
from esort.sorter import Sorter

NASTY = [
    *(None, True, -1, 0, 1, 2**31, 2**63, 10**400, -(10**18), 0.5, 1e-300, 1e300),
    *("", "x", "\x00", "ß" * 1000, "../../etc/passwd", "__import__"),
    *([], {}, [[]], [None], {"": None}, ["a", 1], {"_target_": "os.system"}),
]


def mutated(content, rng):
    """A few bytes changed, cut out, doubled or put in; the first bytes, which say sizes, more often."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        if not content:
            break
        where = int(rng.integers(0, min(len(content), 16 if rng.random() < 0.2 else len(content))))
        length = int(rng.integers(1, 17))
        match rng.integers(0, 5):
            case 0:
                content[where] ^= 1 << int(rng.integers(0, 8))
            case 1:
                content[where : where + length] = rng.bytes(length)
            case 2:
                del content[where : where + length]
            case 3:
                content[where:where] = content[where : where + length]
            case 4:
                del content[where:]
    return bytes(content)


def one_line(error):
    assert "\n" not in str(error)
    assert len(str(error)) < 1500


def fuzz_checkpoint(whole, path, rng, count):
    """Whatever gets through is what was saved."""
    path.write_bytes(whole)
    card, weights = load_checkpoint(path)
    wanted, digest = card.to_dict(), weights_digest(weights)
    refused = 0
    for _ in range(count):
        path.write_bytes(mutated(whole, rng))
        try:
            card, weights = load_checkpoint(path)
        except CheckpointError as error:
            one_line(error)
            refused += 1
            continue
        assert card.to_dict() == wanted
        assert weights_digest(weights) == digest
    return refused


@pytest.fixture(scope="module")
def checkpoints(trained, trained_pursuit):
    return {"dense": trained.checkpoint.read_bytes(), "pursuit": trained_pursuit.checkpoint.read_bytes()}


def test_mutated_checkpoints(checkpoints, tmp_path):
    rng = np.random.default_rng(0)
    for whole in checkpoints.values():
        assert fuzz_checkpoint(whole, tmp_path / "a.safetensors", rng, 150) > 100


@pytest.mark.slow
def test_a_hundred_thousand_mutated_checkpoints(checkpoints, tmp_path):
    begin = time.perf_counter()
    refused = fuzz_checkpoint(
        checkpoints["pursuit"], tmp_path / "a.safetensors", np.random.default_rng(1), 100_000
    )
    print(f"{refused} of 100000 refused in {time.perf_counter() - begin:.0f} s")
    assert refused > 90_000


def with_card(whole, change, tensors=None):
    """A file with another card, whose digests are right: all that is left to refuse it is what it says."""
    from hashlib import sha256

    (length,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + length])
    card = json.loads(header["__metadata__"]["esort"])
    card.pop("card_digest")
    change(card)
    text = json.dumps(card, sort_keys=True, separators=(",", ":"))
    header["__metadata__"]["esort"] = json.dumps(card | {"card_digest": sha256(text.encode()).hexdigest()})
    content = json.dumps(header).encode()
    content += b" " * (-len(content) % 8)
    return struct.pack("<Q", len(content)) + content + whole[8 + length :]


def places(value, path=()):
    yield path
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, child in list(children)[:4]:
        yield from places(child, (*path, key))


def change_one(card, rng):
    """Put something else into one place of a card."""
    where = list(places(card))[1:]
    path = where[rng.integers(0, len(where))]
    holder = card
    for key in path[:-1]:
        holder = holder[key]
    value = NASTY[rng.integers(0, len(NASTY))]
    if rng.random() < 0.3 and isinstance(holder[path[-1]], (int, float)):
        value = holder[path[-1]] * int(rng.integers(-2, 10**6))
    holder[path[-1]] = value


def fuzz_cards(whole, path, rng, count):
    refused = 0
    for _ in range(count):
        try:
            path.write_bytes(with_card(whole, lambda card: change_one(card, rng)))
        except ValueError:
            continue  # a number that JSON cannot hold
        try:
            Sorter.load(path)
        except CheckpointError as error:
            one_line(error)
            refused += 1
    return refused


@pytest.mark.parametrize("name", ["dense", "pursuit"])
def test_cards_with_right_digests_and_wrong_content(checkpoints, tmp_path, name):
    assert fuzz_cards(checkpoints[name], tmp_path / "a.safetensors", np.random.default_rng(2), 150) > 50


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dense", "pursuit"])
def test_many_cards_with_right_digests_and_wrong_content(checkpoints, tmp_path, name):
    assert fuzz_cards(checkpoints[name], tmp_path / "a.safetensors", np.random.default_rng(3), 5_000) > 1000


def test_mutated_manifests(trained, tmp_path):
    rng = np.random.default_rng(4)
    whole = (trained.folder / "manifest.json").read_bytes()
    wanted = Manifest.load(trained.folder)
    for _ in range(300):
        (tmp_path / "manifest.json").write_bytes(mutated(whole, rng))
        try:
            assert Manifest.load(tmp_path) == wanted
        except ValueError as error:
            one_line(error)


def test_mutated_chunks(tmp_path):
    rng = np.random.default_rng(5)
    chunks = ChunkFolder(tmp_path, {})
    spikes = Spikes(np.arange(50), np.arange(50) % 3, np.linspace(0, 1, 50, dtype=np.float32))
    chunks.save(0, spikes)
    (path,) = tmp_path.glob("*.npz")
    whole = path.read_bytes()
    for _ in range(300):
        path.write_bytes(mutated(whole, rng))
        try:
            chunks.load(0)
        except ValueError as error:
            one_line(error)
            assert "start anew with resume=false" in str(error)  # noqa: PT017
    # A pickle in the place of an array is not opened.
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("sample_index.npy", b"\x93NUMPY\x01\x00\x76\x00" + header + b"cos\nsystem\n(S'x'\ntR.")
    with pytest.raises(ValueError, match="start anew with resume=false"):
        chunks.load(0)


def test_mutated_python_is_never_run(tmp_path):
    rng = np.random.default_rng(6)
    path = tmp_path / "probe.prb"
    text = b"channel_groups = {0: {'channels': list(range(4)), 'geometry': {0: (0, -1.5), 1: [2, 3 * 20]}}}\n"
    for _ in range(300):
        path.write_bytes(mutated(text, rng))
        try:
            check_plain_python(path)
        except ValueError as error:
            one_line(error)
