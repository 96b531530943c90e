import json
import os
import struct
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from esort.checkpoint import (
    MAX_HEADER_BYTES,
    Card,
    CheckpointError,
    LabelSource,
    load_card,
    load_checkpoint,
    package_versions,
    save_checkpoint,
    weights_digest,
)

VERSIONS = package_versions()


def make_card(**changes):
    values = {
        "versions": VERSIONS,
        "created": "2026-01-01T00:00:00+00:00",
        "network": "DenseNetwork",
        "network_parameters": {"num_features": [8, 16], "dropout": 0.1},
        "sampling_frequency": 32000.0,
        "contact_positions_um": [[0, 0], [16, 0], [0, 20]],
        "channel_ids": ["a", "b", "c"],
        "unit_ids": ["#1", 7],
        "window_ms": 1.875,
        "window_samples": 60,
        "peak_offset_samples": 20,
        "preprocessing": {"freq_min_hz": 300.0, "freq_max_hz": 6000.0, "common_reference": "median"},
        "noise_level_uv": [9.5, 10.0, 10.5],
        "thresholds": [0.5, 0.625],
        "postprocess": {"smoothing_ms": 0.3},
        "labels": LabelSource(
            recording_fingerprint="f" * 64, start_sample=0, stop_sample=960000, num_labels=20
        ),
        "seed": 0,
    }
    return Card(**(values | changes))


def make_weights(rng=None):
    rng = np.random.default_rng(0) if rng is None else rng
    return {
        "temporal.weight": rng.standard_normal((4, 1, 5)).astype(np.float32),
        "norm.num_batches_tracked": np.array(3, dtype=np.int64),
        "head.bias": rng.standard_normal(2),
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a small valid checkpoint."""
    path = tmp_path_factory.mktemp("whole") / "model.safetensors"
    save_checkpoint(path, make_weights(), make_card())
    return path.read_bytes()


def with_card(path, content, weights=None):
    """Write a file whose card is the given text or object; its digest is right unless it has one."""
    if isinstance(content, dict):
        content = {"card_digest": digest_of(content), **content}
        content = json.dumps(content)
    path.write_bytes(save(make_weights() if weights is None else weights, metadata={"esort": content}))
    return path


def digest_of(content):
    import hashlib

    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def card_content(**changes):
    card = replace(make_card(), weights_digest=weights_digest(make_weights()))
    return card.to_dict() | changes


def refusal(path):
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    message = str(error.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


# What comes back


def test_round_trip(tmp_path):
    path = tmp_path / "model.safetensors"
    card, weights = make_card(), make_weights()
    written = save_checkpoint(path, weights, card)
    assert written == replace(card, weights_digest=weights_digest(weights))
    assert os.listdir(tmp_path) == ["model.safetensors"]
    assert load_card(path) == written
    loaded_card, loaded = load_checkpoint(path)
    assert loaded_card == written
    assert loaded_card.unit_ids == ("#1", 7)
    assert loaded.keys() == weights.keys()
    for name, array in weights.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array, strict=True)
        loaded[name][...] = 0  # writable


def test_torch_state_dict_round_trip(tmp_path):
    import torch

    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 5), torch.nn.BatchNorm1d(4))
    save_checkpoint(tmp_path / "a.safetensors", module.state_dict(), make_card())
    _, weights = load_checkpoint(tmp_path / "a.safetensors", framework="torch")
    other = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 5), torch.nn.BatchNorm1d(4))
    other.load_state_dict(weights, strict=True)
    for name, tensor in module.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)


def test_arrays_in_any_memory_order(tmp_path):
    weights = {"a": np.arange(12.0).reshape(3, 4).T, "b": np.arange(4, dtype=">i4"), "c": np.arange(9)[::2]}
    save_checkpoint(tmp_path / "a.safetensors", weights, make_card())
    _, loaded = load_checkpoint(tmp_path / "a.safetensors")
    for name, array in weights.items():
        np.testing.assert_array_equal(loaded[name], array)


def test_a_backbone_needs_no_units_and_no_channels(tmp_path):
    card = make_card(
        unit_ids=[], thresholds=[], labels=None, channel_ids=[], contact_positions_um=[], noise_level_uv=[]
    )
    save_checkpoint(tmp_path / "a.safetensors", make_weights(), card)
    loaded = load_card(tmp_path / "a.safetensors")
    assert loaded.is_backbone
    assert (loaded.num_units, loaded.num_channels) == (0, 0)


def test_cards_from_arrays_equal_cards_from_lists():
    card = make_card(
        contact_positions_um=np.array([[0, 0], [16, 0], [0, 20]], dtype=np.float32),
        channel_ids=np.array(["a", "b", "c"]),
        noise_level_uv=np.array([9.5, 10.0, 10.5]),
        thresholds=np.array([0.5, 0.625]),
    )
    assert card == make_card()
    assert Card.from_dict(card.to_dict()) == card
    assert make_card(unit_ids=np.array([3, 5])).unit_ids == (3, 5)


def test_the_digest_sees_values_names_and_shapes_but_not_the_order():
    weights = make_weights()
    digest = weights_digest(weights)
    assert weights_digest(dict(reversed(weights.items()))) == digest
    assert weights_digest(weights | {"head.bias": weights["head.bias"] + 1e-9}) != digest
    assert weights_digest(weights | {"head.bias": weights["head.bias"][:, None]}) != digest
    assert weights_digest(weights | {"head.bias": weights["head.bias"].view(np.int64)}) != digest


def test_reading_a_card_leaves_the_weights_alone(tmp_path, whole):
    path = tmp_path / "a.safetensors"
    damaged = bytearray(whole)
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    assert load_card(path).num_units == 2
    assert "do not match the digest" in refusal(path)


def test_checkpoints_need_no_torch(tmp_path, whole):
    (tmp_path / "a.safetensors").write_bytes(whole)
    program = (
        "import sys; from esort.checkpoint import load_checkpoint; load_checkpoint(sys.argv[1]); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "a.safetensors")], check=True)


def test_versions_are_recorded():
    values = make_card().to_dict() | {"labels": None}
    del values["versions"], values["created"]
    card = Card(**values)
    assert {"esort", "numpy"} <= card.versions.keys()
    assert card.created.endswith("+00:00")
    assert "no-such-package" not in package_versions(["no-such-package", "numpy"])


# What is refused when saving


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "expected at least one array of weights, got none"),
        ({"a": np.array([1.0, np.nan, np.inf])}, "weights 'a': expected finite numbers, got 2 that are not"),
        ({"a": np.array(["x"])}, "weights 'a': expected real numbers of at most 64 bits, got <U1"),
        ({"a": np.array([1j])}, "weights 'a': expected real numbers of at most 64 bits, got complex128"),
    ],
)
def test_saving_refuses_bad_weights_and_keeps_the_old_file(tmp_path, whole, weights, message):
    path = tmp_path / "a.safetensors"
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=message):
        save_checkpoint(path, weights, make_card())
    assert path.read_bytes() == whole
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_saving_refuses_bfloat16(tmp_path):
    import torch

    with pytest.raises(ValueError, match="expected a type that NumPy has, got torch.bfloat16"):
        save_checkpoint(tmp_path / "a", {"a": torch.zeros(2, dtype=torch.bfloat16)}, make_card())


def test_saving_refuses_a_card_that_could_not_be_read_again(tmp_path):
    card = make_card(postprocess={"text": "x" * (MAX_HEADER_BYTES + 1)})
    with pytest.raises(ValueError, match=f"expected a card of at most {MAX_HEADER_BYTES} bytes, got more"):
        save_checkpoint(tmp_path / "a", make_weights(), card)
    assert os.listdir(tmp_path) == []


BAD_FIELDS = [
    ("network", "", "network: expected a text, got ''"),
    ("network_parameters", {"a": float("nan")}, "network_parameters: expected what JSON can hold"),
    ("network_parameters", {"a": object()}, "object is no JSON type"),
    ("preprocessing", [1], r"preprocessing: expected an object, got \[1\]"),
    ("versions", {"numpy": 2}, "versions: expected texts, got {'numpy': 2}"),
    ("sampling_frequency", "32000", "sampling_frequency: expected a finite number, got '32000'"),
    ("sampling_frequency", True, "sampling_frequency: expected a finite number, got True"),
    ("sampling_frequency", float("inf"), "sampling_frequency: expected a finite number, got inf"),
    ("sampling_frequency", float("nan"), "sampling_frequency: expected a finite number, got nan"),
    ("sampling_frequency", 10**400, "sampling_frequency: expected a finite number, got 1000"),
    ("sampling_frequency", 0, r"sampling_frequency: expected a number from 1 to 1e\+06, got 0"),
    (
        "contact_positions_um",
        [[0, 0], [1, 1]],
        "contact_positions_um: expected 3, as many as channel_ids, got 2",
    ),
    ("contact_positions_um", [[0, 0, 0]] * 3, "contact_positions_um: expected 2 numbers each, got 3"),
    ("contact_positions_um", 3, "contact_positions_um: expected a list, got 3"),
    ("channel_ids", ["a", "b", "b"], "channel_ids: expected every name once, got 1 twice"),
    ("channel_ids", ["a", "b", 1.5], "channel_ids: expected texts or whole numbers, got 1.5"),
    ("unit_ids", [True, 1], "unit_ids: expected texts or whole numbers, got True"),
    ("noise_level_uv", [1, 2], "noise_level_uv: expected 3, as many as channel_ids, got 2"),
    ("noise_level_uv", [1, 2, 0], "noise_level_uv: expected numbers above 0, got 0"),
    ("thresholds", [0.5], "thresholds: expected 2, as many as unit_ids, got 1"),
    ("window_ms", -1, r"window_ms: expected a number from 0 to 10000, got -1"),
    ("window_samples", 90, r"window_samples: expected about 60.0 \(1.875 ms at 32000.0 Hz\), got 90"),
    ("window_samples", 60.0, "window_samples: expected a whole number from 1 to .*, got 60.0"),
    ("peak_offset_samples", 60, "peak_offset_samples: expected a whole number from 0 to 59, got 60"),
    ("labels", {"a": 1}, "labels: "),
    ("seed", -1, "seed: expected a whole number from 0 to .*, got -1"),
    ("created", "2026-01-01", "created: expected a time with its zone in ISO 8601, got '2026-01-01'"),
    ("created", 5, "created: expected a time with its zone in ISO 8601, got 5"),
    ("weights_digest", 5, "weights_digest: expected a text, got 5"),
]


@pytest.mark.parametrize(("name", "value", "message"), BAD_FIELDS)
def test_a_card_checks_its_fields(name, value, message):
    with pytest.raises(ValueError, match=message) as error:
        make_card(**{name: value})
    assert "\n" not in str(error.value)


def test_units_need_channels():
    with pytest.raises(ValueError, match="expected at least one channel where there are units, got none"):
        make_card(channel_ids=[], contact_positions_um=[], noise_level_uv=[])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recording_fingerprint": 5}, "recording_fingerprint: expected a text, got 5"),
        ({"start_sample": -1}, "start_sample: expected a whole number from 0"),
        ({"stop_sample": 5}, "stop_sample: expected a whole number from 10 to .*, got 5"),
        ({"num_labels": 1.5}, "num_labels: expected a whole number from 0 to .*, got 1.5"),
    ],
)
def test_a_label_source_checks_its_fields(changes, message):
    values = {"recording_fingerprint": "f", "start_sample": 10, "stop_sample": 20, "num_labels": 3}
    with pytest.raises(ValueError, match=message):
        LabelSource(**(values | changes))


# What is refused when loading


def test_no_such_file(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="expected a checkpoint file, got .*model, which does not exist"
    ):
        load_card(tmp_path / "model")


def test_unknown_framework(tmp_path):
    with pytest.raises(ValueError, match="expected framework 'numpy' or 'torch', got 'jax'"):
        load_checkpoint(tmp_path / "a", framework="jax")


def test_a_folder_is_refused(tmp_path):
    assert "expected a file, got something else" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a safetensors file: 0 bytes"),
        (b"\x80\x04}q\x00.", "not a safetensors file: 6 bytes"),
        (b"PK\x03\x04" + bytes(1000), "not one of our files: its header claims 67324752 bytes"),
        (struct.pack("<Q", 2**63) + b"{}", f"claims {2**63} bytes, the limit is {MAX_HEADER_BYTES}"),
        (struct.pack("<Q", 500) + b"{}", "truncated: its header claims 500 bytes, the file has 10"),
        (struct.pack("<Q", 2) + b"[]", "truncated, damaged or not"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert message in refusal(path)
    with pytest.raises(CheckpointError):
        load_card(path)


def test_every_truncation_is_refused(tmp_path, whole):
    path = tmp_path / "a.safetensors"
    for length in {*range(0, len(whole), 97), len(whole) - 1}:
        path.write_bytes(whole[:length])
        refusal(path)


def test_trailing_bytes_are_refused(tmp_path, whole):
    path = tmp_path / "a.safetensors"
    path.write_bytes(whole + b"\x00")
    refusal(path)


def test_safetensors_of_others_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(save(make_weights()))
    assert "no card: its metadata has no entry 'esort'" in refusal(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the card is not valid JSON"),
        ("[" * 100_000, "the card is not valid JSON"),
        ('{"schema_version": 1, "a": NaN}', "the card is not valid JSON (NaN is no JSON number)"),
        ('{"schema_version": 1' + "0" * 5000 + "}", "the card is not valid JSON"),
        ("[1]", "expected a card that is a JSON object, got list"),
        ("{}", "expected a card of schema version 1 to 1, got None"),
        ('{"schema_version": 2}', "expected a card of schema version 1 to 1, got 2"),
        ('{"schema_version": true}', "expected a card of schema version 1 to 1, got True"),
        ('{"schema_version": "1\\n"}', "expected a card of schema version 1 to 1, got '1\\n'"),
        ('{"schema_version": 1}', "the card does not match its own digest"),
    ],
)
def test_cards_that_are_none_are_refused(tmp_path, text, message):
    assert message in refusal(with_card(tmp_path / "a.safetensors", text))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (card_content(thresholds=[0.5]), "thresholds: expected 2, as many as unit_ids, got 1"),
        (card_content(contact_positions_um=[[0, 0]]), "contact_positions_um: expected 3"),
        (card_content(channel_ids="abc"), "channel_ids: expected a list, got 'abc'"),
        (card_content(sampling_frequency=[1]), "sampling_frequency: expected a finite number, got [1]"),
        (card_content(labels=[]), "labels: expected an object or null, got []"),
        (card_content(labels={}), "labels: missing fields ['num_labels'"),
        (card_content(_target_="os.system"), "card: unknown fields ['_target_']"),
        ({"schema_version": 1}, "card: missing fields ["),
        (card_content(weights_digest="0" * 64), "the weights do not match the digest"),
        (card_content(weights_digest=""), "the weights do not match the digest"),
    ],
)
def test_cards_with_a_right_digest_and_wrong_content_are_refused(tmp_path, content, message):
    assert message in refusal(with_card(tmp_path / "a.safetensors", content))


def test_weights_that_are_not_finite_are_refused(tmp_path):
    weights = make_weights()
    weights["head.bias"][0] = np.inf
    content = card_content(weights_digest=weights_digest(weights))
    path = with_card(tmp_path / "a.safetensors", content, weights)
    assert "weights 'head.bias': expected finite numbers, got 1 that are not" in refusal(path)


def test_weights_of_an_odd_type_are_refused(tmp_path):
    path = with_card(tmp_path / "a.safetensors", card_content(), {"a": np.zeros(1, dtype=np.complex64)})
    assert "weights 'a' have the unexpected type C64" in refusal(path)


def test_a_file_that_may_not_be_read_is_refused(tmp_path, whole):
    path = tmp_path / "loop"
    path.write_bytes(whole)
    path.chmod(0)
    if os.geteuid() == 0:  # root may read everything: nothing to refuse
        load_card(path)
    else:
        assert "cannot be read (Permission denied)" in refusal(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_fuzz_mutated_files_load_unharmed_or_are_refused(tmp_path, whole, data):
    mutated = bytearray(whole)
    (header_bytes,) = struct.unpack("<Q", whole[:8])
    regions = st.one_of(
        st.integers(0, 7), st.integers(8, 8 + header_bytes - 1), st.integers(8 + header_bytes, len(whole) - 1)
    )
    for position in data.draw(st.lists(regions, min_size=1, max_size=4)):
        mutated[position] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(mutated)), st.integers(0, len(mutated))))
    path = tmp_path / "a.safetensors"
    path.write_bytes(mutated[:cut])
    try:
        card, weights = load_checkpoint(path)
    except CheckpointError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    # Whatever was let through must be what was saved.
    assert card.to_dict() == card_content()
    assert weights_digest(weights) == weights_digest(make_weights())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(sorted(card_content())), value=json_values)
def test_fuzz_any_value_of_a_field_gives_a_card_or_one_line(name, value):
    try:
        card = Card.from_dict(card_content() | {name: value})
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert Card.from_dict(card.to_dict()) == card
