"""Files that would run a program, fill the memory or lead elsewhere: refused in one line, before they can."""

import json
import os
import pickle
import struct
import time

import h5py
import numpy as np
import pytest
from entries import run
from safetensors.numpy import load_file, save
from test_fuzz import with_card

from esort.admission import check_extractor, check_hdf5, check_plain_python, check_plain_yaml
from esort.checkpoint import MAX_FILE_BYTES, CheckpointError, load_checkpoint, weights_digest
from esort.contacts import read_probe
from esort.recordings import RecordingPath
from esort.sorter import Sorter
from esort.sortings import open_sorting


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.fixture
def pwned(tmp_path):
    """A path that no test may bring into being."""
    path = tmp_path / "pwned"
    yield path
    assert not path.exists()


def refusal(action, *arguments):
    begin = time.perf_counter()
    with pytest.raises(ValueError) as error:
        action(*arguments)
    assert time.perf_counter() - begin < 10
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1500
    return str(error.value)


# Checkpoints


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def test_a_pickle_in_the_place_of_a_checkpoint_or_a_backbone(path, pwned, tmp_path):
    path.write_bytes(pickle.dumps(Bomb(pwned)))
    assert "not one of our files" in refusal(Sorter.load, path)
    line = run("train.py", f"training.backbone={path}", f"hydra.run.dir={tmp_path / 'run'}").error_line()
    assert "not one of our files" in line
    path.write_bytes(struct.pack("<Q", 60) + pickle.dumps(Bomb(pwned)).ljust(80))
    assert "truncated, damaged or not a safetensors file" in refusal(Sorter.load, path)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**40, 2**24])
def test_a_huge_header(path, length):
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    assert f"its header claims {length} bytes" in refusal(Sorter.load, path)


def test_a_huge_file_without_content(path, trained_pursuit):
    path.write_bytes(trained_pursuit.checkpoint.read_bytes())
    os.truncate(path, MAX_FILE_BYTES + 1)
    assert f"expected at most {MAX_FILE_BYTES} bytes" in refusal(Sorter.load, path)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2**40, 2**30], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**40]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]},
    ],
)
def test_weights_that_claim_another_size(path, entry):
    header = json.dumps({"../../a": entry, "__metadata__": {"esort": "{}"}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    refusal(load_checkpoint, path)


CARDS = [
    ({"_target_": "os.system"}, "unknown fields ['_target_']"),
    ({"schema_version": 2}, "expected a card of schema version 1 to 1, got 2"),
    ({"network": "os.system"}, "network must be one of dense"),
    ({"network": "esort.sorter:Sorter"}, "network must be one of dense"),
    (
        {"network_parameters": {"_target_": "os.system", "args": ["x"]}},
        "does not take these hyper-parameters",
    ),
    ({"network_parameters": {"num_channels": 10**12}}, "does not take these hyper-parameters"),
    ({"preprocessing": {"_target_": "os.system"}}, "preprocessing has no _target_"),
    ({"postprocess": {"_target_": "os.system"}}, "_target_"),
]


@pytest.mark.parametrize(("changes", "message"), CARDS)
def test_cards_name_no_code_and_no_network_but_ours(path, trained, changes, message):
    path.write_bytes(with_card(trained.checkpoint.read_bytes(), lambda card: card.update(changes)))
    assert message in refusal(Sorter.load, path)


@pytest.mark.parametrize(
    ("name", "value"), [("hidden_features", 10**12), ("num_units", 10**15), ("window_samples", 10**9)]
)
def test_a_card_of_a_network_that_fits_no_memory(path, trained, name, value):
    whole = trained.checkpoint.read_bytes()
    path.write_bytes(with_card(whole, lambda card: card["network_parameters"].update({name: value})))
    refusal(Sorter.load, path)  # within seconds, and without the terabytes


def other_weights(whole, path, change):
    """A checkpoint with other weights, whose digests are right."""
    path.write_bytes(whole)
    weights = load_file(path)
    change(weights)
    (length,) = struct.unpack("<Q", whole[:8])
    metadata = json.loads(whole[8 : 8 + length])["__metadata__"]
    digest = weights_digest(weights)
    content = with_card(save(weights, metadata=metadata), lambda card: card.update(weights_digest=digest))
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w["footprints"].__setitem__(0, np.nan), "expected finite numbers"),
        (lambda w: w["footprints"].__setitem__(0, np.inf), "expected finite numbers"),
        (lambda w: w.pop("heads"), "missing weights ['heads']"),
        (lambda w: w.update(extra=np.zeros(3)), "unknown weights ['extra']"),
        (lambda w: w.update(heads=w["heads"][:, :1].copy()), "weights 'heads': the card describes the shape"),
        (lambda w: w["head_channels"].__setitem__(0, 10**9), "expected channels 0 to 3, got"),
        (lambda w: w["footprint_channels"].__setitem__(0, -5), "expected channels 0 to 3, got -5"),
    ],
)
def test_weights_that_do_not_fit_their_card(path, trained_pursuit, change, message):
    other_weights(trained_pursuit.checkpoint.read_bytes(), path, change)
    assert message in refusal(Sorter.load, path)


def test_a_digest_that_does_not_match(path, trained):
    content = bytearray(trained.checkpoint.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="do not match the digest in the card; the file is damaged"):
        Sorter.load(path)


@pytest.mark.parametrize(
    "damage", [lambda bomb: bomb, lambda bomb: b"", lambda bomb: b"PK\x03\x04" + bytes(50)]
)
def test_what_a_training_goes_on_from_runs_nothing(tmp_path, pwned, damage):
    from esort.lightning import WholeFiles

    path = tmp_path / "last.ckpt"
    path.write_bytes(damage(pickle.dumps(Bomb(pwned))))
    assert "is damaged or no checkpoint of a training" in refusal(WholeFiles().load_checkpoint, path)


# Probes


@pytest.mark.parametrize(
    "text",
    [
        "import os\nos.mkdir({!r})",
        "__import__('os').mkdir({!r})",
        "channel_groups = {{0: __import__('os').mkdir({!r})}}",
        "channel_groups = [os for os in [__import__('os')]][0].mkdir({!r})",
        "channel_groups = (lambda: open({!r}, 'w'))()",
        "x = list(map(__import__, ['os']))",
        "x = [0] * 10**10",
        "x = 9 ** 9 ** 9",
        "x = list(range(10**12))",
        "x = list(range(1000000000))",
        "x = list.__class__",
        "x = f'{{open({!r})}}'",
        "x = ((((((",
        "x = " + "[" * 100_000,
        "del x",
        "x += 1",
        "x.y = 1",
    ],
)
def test_probe_files_in_python_are_values_or_refused(tmp_path, pwned, text):
    path = tmp_path / "probe.prb"
    path.write_text(text.format(str(pwned)))
    assert str(path) in refusal(read_probe, str(path))


def test_probe_files_of_plain_values_are_read(tmp_path):
    path = tmp_path / "probe.prb"
    path.write_text(
        "'''a probe'''\n"
        "total_nb_channels = 4\n"
        "channel_groups = {0: {'channels': list(range(4)), 'geometry': "
        "{0: (0.0, -1.5), 1: [0, 10 * 2], 2: (0, 40), 3: (0, 60)}, 'graph': []}}\n"
    )
    assert read_probe(str(path)).get_contact_count() == 4


@pytest.fixture
def raw(tmp_path):
    path = tmp_path / "a.raw"
    np.random.default_rng(0).normal(0, 100, (2000, 3)).astype("int16").tofile(path)
    return {"path": str(path), "sampling_frequency": 30_000.0, "num_channels": 3, "dtype": "int16"}


def opened_with(probe, raw):
    from esort.health import check_recording

    check_recording(RecordingPath(**raw, probe=str(probe)).open())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,0\n0,nan\n0,40\n", "no finite position"),
        ("0,0\n0,inf\n0,40\n", "no finite position"),
        ("0,0\n0,0\n0,40\n", "Contact positions must be unique"),
        ("0,0\n0\n", "cannot read"),
        ("", "cannot read"),
        ("".join(f"0,{row}\n" for row in range(10_000)), "10000 connected contacts"),
    ],
)
def test_contacts_that_are_none(tmp_path, raw, text, message):
    path = tmp_path / "probe.csv"
    path.write_text(text)
    assert message in refusal(opened_with, path, raw)


@pytest.mark.parametrize("suffix", [".csv", ".json", ".prb"])
def test_a_probe_of_a_thousand_million_contacts_is_not_read(tmp_path, raw, suffix):
    path = tmp_path / f"probe{suffix}"
    path.touch()
    os.truncate(path, 8 * 10**9)
    assert "expected a probe of at most 67108864 bytes, got 8000000000" in refusal(opened_with, path, raw)


@pytest.mark.parametrize("text", ["{", "[]", '{"probes": [1]}', '{"probes": []}', "[" * 100_000])
def test_probe_files_in_json_that_are_none(tmp_path, raw, text):
    path = tmp_path / "probe.json"
    path.write_text(text)
    refusal(opened_with, path, raw)


# Recordings and sortings


def extractor(class_name, **kwargs):
    return {"class": class_name, "module": class_name.split(".")[0], "version": "0", "kwargs": kwargs} | {
        "annotations": {},
        "properties": {},
        "relative_paths": False,
    }


@pytest.mark.parametrize(
    "class_name", ["os.mkdir", "subprocess.Popen", "spikeinterface.core.base.json.loads"]
)
def test_json_names_no_class_but_recordings_and_sortings(tmp_path, pwned, class_name):
    evil = extractor(class_name, path=str(pwned))
    inside = extractor("spikeinterface.core.channelslice.ChannelSliceRecording", parent_recording=evil)
    for content in (evil, inside):
        file = tmp_path / "recording.json"
        file.write_text(json.dumps(content))
        folder = tmp_path / "folder"
        folder.mkdir(exist_ok=True)
        (folder / "si_folder.json").write_text(json.dumps(content))
        for path in (file, folder):
            line = refusal(RecordingPath(path=str(path)).open)
            assert f"names the class '{class_name}', which is no recording or sorting" in line
            assert "names the class" in refusal(open_sorting, path)


def test_pickles_are_not_opened(tmp_path, pwned):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "cached.pkl").write_bytes(pickle.dumps(Bomb(pwned)))
    (folder / "cached.json").write_text("{}")
    (folder / "binary.json").write_text("{}")
    assert "cached.pkl is a pickle, which may hold any program" in refusal(
        RecordingPath(path=str(folder)).open
    )
    file = tmp_path / "x.pkl"
    file.write_bytes(pickle.dumps(Bomb(pwned)))
    assert "is a pickle" in refusal(RecordingPath(path=str(file), format="spikeinterface").open)
    named = tmp_path / "recording.json"
    named.write_text(json.dumps({"kwargs": {"file_path": str(file)}}))
    assert "names the pickle" in refusal(check_extractor, named)
    zarr = tmp_path / "a.zarr"
    zarr.mkdir()
    (zarr / ".zarray").write_text(json.dumps({"filters": [{"id": "pickle", "protocol": 5}]}))
    assert "holds a pickle" in refusal(RecordingPath(path=str(zarr), format="spikeinterface").open)


def test_a_phy_folder_runs_nothing(tmp_path, pwned):
    for name in ("spike_times", "spike_clusters", "spike_templates"):
        np.save(tmp_path / f"{name}.npy", np.arange(3))
    (tmp_path / "params.py").write_text(f"sample_rate = 30000.\n__import__('os').mkdir({str(pwned)!r})\n")
    for name in ("auto", "phy", "kilosort"):
        assert "params.py: line 2: expected names and plain values only" in refusal(
            lambda: open_sorting(tmp_path, format=name)  # noqa: B023
        )
    (tmp_path / "params.py").write_text("dat_path = r'C:\\a.dat'\nn_channels_dat = 3\nsample_rate = 30000.\n")
    check_plain_python(tmp_path / "params.py")


def test_hdf5_that_leads_elsewhere(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = np.arange(5)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["recordings"] = np.zeros(3)
        file["loop"] = h5py.SoftLink("/")
        file["group/channel_positions"] = np.zeros(3)
    check_hdf5(path)
    with h5py.File(path, "a") as file:
        file["group/link"] = h5py.ExternalLink("/etc/passwd", "/secret")
    message = "/group/link lies in another file, '/etc/passwd': not followed"
    assert message in refusal(check_hdf5, path)
    path.rename(tmp_path / "a.nwb")
    assert message in refusal(RecordingPath(path=str(tmp_path / "a.nwb")).open)
    assert message in refusal(open_sorting, tmp_path / "a.nwb")
    with h5py.File(path, "w") as file:
        file.create_dataset("traces", (4,), dtype="u1", external=[("/etc/passwd", 0, 4)])
    assert "the data of /traces lie in other files: not followed" in refusal(check_hdf5, path)
    with h5py.File(path, "w") as file:
        layout = h5py.VirtualLayout((5,), dtype="i8")
        layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "secret", (5,))
        file.create_virtual_dataset("traces", layout)
    assert "the data of /traces lie in other files" in refusal(check_hdf5, path)


def test_a_description_that_is_no_json(tmp_path):
    path = tmp_path / "recording.json"
    for text in ("{", "[" * 100_000):
        path.write_text(text)
        assert "is no JSON" in refusal(RecordingPath(path=str(path)).open)


# YAML


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "line 2: expected no alias, got one"),
        ("- &a [*a]\n", "line 1: expected no alias"),
        ("[" * 60 + "]" * 60, "expected at most 50 levels, got more"),
        ("[" * 100_000, "expected at most 50 levels, got more"),
        ("x" * (2**20 + 1), "expected a list of choices of at most 1048576 bytes, got 1048577"),
        ("a: b: c", "is no YAML"),
        ("\x00", "is no YAML"),
    ],
)
def test_yaml_bombs(tmp_path, text, message):
    path = tmp_path / "overrides.yaml"
    path.write_text(text)
    assert message in refusal(check_plain_yaml, path)


def test_yaml_of_a_run_is_read_and_names_no_python(tmp_path, pwned):
    path = tmp_path / "overrides.yaml"
    path.write_text("- probe=tetrode\n- labels=5\n")
    check_plain_yaml(path)
    from omegaconf import OmegaConf
    from yaml import YAMLError

    path.write_text(f"!!python/object/apply:os.mkdir [{pwned}]\n")
    with pytest.raises(YAMLError):
        OmegaConf.load(path)
