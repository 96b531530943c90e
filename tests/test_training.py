"""From a recording and labels to a checkpoint; what a backbone must fit; its name in the cache."""

import functools
import logging
from dataclasses import replace

import numpy as np
import pytest
import pytorch_lightning as pl
from learning_data import make_toy
from spikeinterface.core import NumpyRecording, NumpySorting

from esort.checkpoint import load_checkpoint
from esort.detector import Postprocessing
from esort.examples import ExampleSpec
from esort.health import fingerprint
from esort.learning import LearningSpec
from esort.network import NetworkSpec
from esort.preprocessing import Preprocessing
from esort.subject import Subject
from esort.training import TrainingSettings, backbone_digest, train_backbone, train_units

SPEC = LearningSpec(
    epochs=2,
    batches_per_epoch=15,
    batch_size=48,
    validation_batches=2,
    learning_rate=5e-3,
    matched_start=True,
    examples=ExampleSpec(pool_size=400),
)
NETWORK = NetworkSpec(parameters={"temporal_features": [4, 6], "hidden_features": 16})


def make_settings(**changes):
    values = {
        "network": NETWORK,
        "preprocessing": Preprocessing(common_reference="none"),
        "postprocessing": Postprocessing(),
        "make_trainer": functools.partial(
            pl.Trainer,
            accelerator="cpu",
            devices=1,
            deterministic=True,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
        ),
    }
    return TrainingSettings(**(values | changes))


def make_subject(toy, dtype="float32"):
    num_channels = toy.traces.shape[1]
    recording = NumpyRecording((10 * toy.traces).astype(dtype), toy.rate)
    recording.set_dummy_probe_from_locations(
        np.column_stack([np.zeros(num_channels), 20.0 * np.arange(num_channels)])
    )
    recording.set_channel_gains(1.0)
    recording.set_channel_offsets(0.0)
    truth = NumpySorting.from_samples_and_labels(toy.sample_index, toy.unit_index, toy.rate)
    return Subject(recording=recording, ground_truth=truth, source="toy", fingerprint=fingerprint(recording))


@pytest.fixture(scope="module")
def toy():
    return make_toy(seconds=4.0)


@pytest.fixture(scope="module")
def backbone(toy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbone")
    path = folder / "cache" / "backbone.safetensors"
    spec = replace(SPEC, matched_start=False, examples=ExampleSpec(rendered_spikes=0.0, pool_size=400))
    metrics = train_backbone(
        make_subject(toy), toy.labels(complete=True), spec, make_settings(), path=path, folder=folder
    )
    assert set(metrics) >= {"val/loss", "val/f1", "epochs"}
    assert not (folder / "scratch").exists()
    return path


def fit_units(toy, folder, *, subject=None, labels=None, settings=None, backbone=None, spec=SPEC):
    path = folder / "model.safetensors"
    metrics = train_units(
        make_subject(toy) if subject is None else subject,
        toy.labels(per_unit=10, stop=50_000) if labels is None else labels,
        spec,
        make_settings() if settings is None else settings,
        backbone=backbone,
        path=path,
        folder=folder,
    )
    return (metrics, *load_checkpoint(path))


def test_a_backbone_knows_no_unit(backbone):
    card, weights = load_checkpoint(backbone)
    assert card.is_backbone
    assert card.labels is None
    assert not any(name.startswith("head.") for name in weights)


def test_units_from_a_backbone(toy, tmp_path, backbone, caplog):
    caplog.set_level(logging.INFO)
    metrics, card, weights = fit_units(toy, tmp_path, backbone=backbone)
    assert metrics["val/f1"] > 0.5
    assert card.unit_ids == ("u0", "u1", "u2")
    assert len(card.thresholds) == 3
    assert card.labels.stop_sample == 50_000
    assert card.labels.num_labels == 30
    assert card.labels.recording_fingerprint == make_subject(toy).fingerprint
    assert (card.window_samples, card.peak_offset_samples) == (38, 15)
    assert card.sampling_frequency == toy.rate
    assert len(card.noise_level_uv) == card.num_channels == 8
    assert card.preprocessing["common_reference"] == "none"
    assert weights["head.weight"].shape == (3, 16)
    assert not (tmp_path / "scratch").exists()
    assert "finetune: 3 units, 30 labelled spikes, 8 channels, 2.5 s" in caplog.text
    assert "from the backbone without" not in caplog.text


def test_nothing_behind_the_labelled_time_is_looked_at(toy, tmp_path):
    """Not by the filter's margin, not for the noise, not for thresholds."""
    stop = 50_000
    labels = toy.labels(per_unit=10, stop=stop)
    poisoned = make_toy(seconds=4.0)
    poisoned.traces[stop:] = np.nan
    found = [
        fit_units(toy, tmp_path / name, labels=labels, subject=make_subject(one))
        for name, one in (("clean", toy), ("poisoned", poisoned))
    ]
    (metrics, card, weights), (same_metrics, same_card, same_weights) = found
    assert same_metrics == metrics
    assert same_card.noise_level_uv == card.noise_level_uv
    assert same_card.thresholds == card.thresholds
    for name, value in weights.items():
        np.testing.assert_array_equal(same_weights[name], value)


def test_a_nan_in_the_labelled_time_is_located_and_nothing_is_left(tmp_path):
    bad = make_toy(seconds=4.0)
    bad.traces[12_345, 3] = np.nan
    with pytest.raises(ValueError, match="traces must be finite, got nan at sample 12345, channel 3"):
        fit_units(bad, tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    assert not (tmp_path / "scratch").exists()


def test_resumed_after_the_end_gives_the_same_checkpoint(toy, tmp_path):
    first = fit_units(toy, tmp_path)
    again = fit_units(toy, tmp_path, settings=make_settings(resume=True))
    assert again[0] == first[0]
    for name, value in first[2].items():
        np.testing.assert_array_equal(again[2][name], value)


def test_a_backbone_of_another_probe_gives_its_filters(tmp_path, backbone, caplog):
    caplog.set_level(logging.INFO)
    other = make_toy(num_channels=5, seconds=4.0)
    fit_units(other, tmp_path, backbone=backbone)
    (line,) = [r.getMessage() for r in caplog.records if "from the backbone without" in r.getMessage()]
    assert "mixing.weight" in line
    assert "mixing_norm.running_var" in line
    assert "filters" not in line


def test_a_backbone_of_another_rate_is_resampled(tmp_path, backbone):
    other = make_toy(rate=30_000.0, seconds=3.0)
    _, card, weights = fit_units(other, tmp_path, backbone=backbone)
    assert card.sampling_frequency == 30_000.0
    assert weights["filters.weight"].shape == (4, 56)


def test_a_backbone_of_a_rate_far_away_is_refused(tmp_path, backbone):
    other = make_toy(rate=80_000.0, seconds=3.0)
    message = "backbone for 20000 Hz, expected one within a factor of 3 of the recording's 80000 Hz"
    with pytest.raises(ValueError, match=message):
        fit_units(other, tmp_path, backbone=backbone)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window_ms": 2.5}, "window_samples=38, expected one with window_samples=50"),
        ({"peak_ms": 1.0}, "peak_offset_samples=15, expected one with peak_offset_samples=20"),
        (
            {"parameters": {"temporal_features": [4, 8], "hidden_features": 16}},
            r"temporal_features=.4, 6., expected one with temporal_features=.4, 8.",
        ),
    ],
)
def test_a_backbone_of_another_network_is_refused(toy, tmp_path, backbone, changes, message):
    settings = make_settings(network=replace(NETWORK, **changes))
    with pytest.raises(ValueError, match=f"a backbone with {message}"):
        fit_units(toy, tmp_path, backbone=backbone, settings=settings)


def test_a_checkpoint_that_is_missing_or_no_checkpoint(toy, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        fit_units(toy, tmp_path, backbone=tmp_path / "nowhere.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(ValueError, match="text.safetensors"):
        fit_units(toy, tmp_path, backbone=tmp_path / "text.safetensors")


def test_labels_without_room(toy, tmp_path):
    labels = toy.labels(per_unit=1, stop=50_000)
    rim = replace(labels, sample_index=np.array([1, 2, 3]), unit_index=np.array([0, 1, 2]))
    with pytest.raises(ValueError, match=r"samples before and .* after them in \[0, 50000\), got none"):
        fit_units(toy, tmp_path, labels=rim)


def test_a_unit_without_room_is_left_out_and_named(toy, tmp_path, caplog):
    labels = toy.labels(per_unit=10, stop=50_000)
    sample_index = np.concatenate([[1], labels.sample_index])
    with_rim = replace(
        labels,
        sample_index=sample_index,
        unit_index=np.concatenate([[3], labels.unit_index]),
        unit_ids=(*labels.unit_ids, "rim"),
    )
    _, card, weights = fit_units(toy, tmp_path, labels=with_rim)
    assert "rim" not in card.unit_ids
    assert "units left out" in caplog.text
    assert weights["head.bias"].shape == (len(card.unit_ids),)


def test_one_label_of_one_unit_on_one_channel(tmp_path):
    one = make_toy(num_units=1, num_channels=1, seconds=3.0)
    metrics, card, _ = fit_units(
        one, tmp_path, labels=one.labels(per_unit=1), subject=make_subject(one, "int16")
    )
    assert np.isfinite(metrics["val/loss"])
    assert card.unit_ids == ("u0",)


SOURCE = {"probe": "tetrode", "seed": 0}


def test_the_digest_changes_with_every_setting():
    base = backbone_digest(SOURCE, SPEC, make_settings())
    assert base == backbone_digest(dict(SOURCE), replace(SPEC), make_settings())
    learning = {
        "epochs": 3,
        "batches_per_epoch": 16,
        "batch_size": 64,
        "validation_batches": 3,
        "learning_rate": 1e-3,
        "head_learning_rate": 1e-3,
        "weight_decay": 0.0,
        "patience": 4,
        "validation_fraction": 0.1,
        "matched_start": False,
    }
    examples = {
        "jitter_ms": 0.1,
        "guard_ms": 0.3,
        "real_fraction": 0.4,
        "rendered_spikes": 0.0,
        "amplitude_spread": 0.0,
        "match_ratio": 0.5,
        "pool_size": 401,
    }
    network = {"window_ms": 2.0, "peak_ms": 0.8, "parameters": {"hidden_features": 17}}
    filters = {"freq_min_hz": 250, "freq_max_hz": 5000, "common_reference": "median", "filter_order": 3}
    filters["inside_network"] = True
    assert set(learning) | {"examples"} == set(LearningSpec.__dataclass_fields__)
    assert set(examples) == set(ExampleSpec.__dataclass_fields__)
    assert set(network) | {"name"} == set(NetworkSpec.__dataclass_fields__)
    assert set(filters) == set(Preprocessing.__dataclass_fields__)
    settings = make_settings()
    others = [
        backbone_digest(SOURCE | {"seed": 1}, SPEC, settings),
        backbone_digest(SOURCE, SPEC, make_settings(seed=1)),
        *(backbone_digest(SOURCE, replace(SPEC, **{name: v}), settings) for name, v in learning.items()),
        *(
            backbone_digest(SOURCE, replace(SPEC, examples=replace(SPEC.examples, **{name: v})), settings)
            for name, v in examples.items()
        ),
        *(
            backbone_digest(SOURCE, SPEC, make_settings(network=replace(NETWORK, **{name: v})))
            for name, v in network.items()
        ),
        *(
            backbone_digest(
                SOURCE, SPEC, make_settings(preprocessing=replace(settings.preprocessing, **{name: v}))
            )
            for name, v in filters.items()
        ),
    ]
    assert len({base, *others}) == 1 + len(others)


def test_what_changes_no_backbone_keeps_its_name():
    base = backbone_digest(SOURCE, SPEC, make_settings())
    for changes in ({"resume": True}, {"postprocessing": Postprocessing(smoothing_ms=0.2)}):
        assert backbone_digest(SOURCE, SPEC, make_settings(**changes)) == base
