"""What sorting leaves: a sorting anyone can load, its record, honest scores, pictures."""

import json
import logging
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import spikeinterface

from esort import pictures
from esort.checkpoint import LabelSource, load_checkpoint, save_checkpoint
from esort.outcome import sort_subject, unlabelled_stretch
from esort.sorter import Sorter

FIELDS = {
    "recording",
    "recording_fingerprint",
    "checkpoint",
    "checkpoint_sha256",
    "start_sample",
    "stop_sample",
    "sampling_frequency",
    "num_channels",
    "num_units",
    "num_rivals",
    "num_spikes",
    "health",
    "motion_um",
    "seconds",
    "real_time_factor",
    "peak_rss_bytes",
    "predicted_peak_bytes",
    "cores",
    "platform",
    "versions",
    "executor",
    "defects",
}


@pytest.fixture(scope="module")
def subject(trained):
    return trained.subject()


@pytest.fixture(scope="module")
def made(trained, subject, tmp_path_factory):
    folder = tmp_path_factory.mktemp("outcome")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = sort_subject(trained.checkpoint, subject, folder, facts={"more": 1})
    assert not [warning for warning in caught if "serializable" in str(warning.message)]
    return found


def test_the_sorting_loads_with_its_probabilities_beside_it(made, trained, subject):
    sorting = spikeinterface.load(made.folder / "sorting")
    spikes = sorting.to_spike_vector()
    result = Sorter.load(trained.checkpoint).sort(subject.recording)
    np.testing.assert_array_equal(spikes["sample_index"], result.spikes.sample_index)
    np.testing.assert_array_equal(spikes["unit_index"], result.spikes.unit_index)
    probability = np.load(made.folder / "sorting" / "probability.npy")
    np.testing.assert_array_equal(probability, result.spikes.probability)
    assert spikes["sample_index"].dtype == np.int64
    assert sorting.sampling_frequency == subject.sampling_frequency
    assert not list(made.folder.glob(".*"))


def test_the_record(made, subject):
    run = json.loads((made.folder / "run.json").read_text())
    assert FIELDS | {"more"} == set(run)
    assert run["num_spikes"] == made.sorting.to_spike_vector().size
    assert set(run["seconds"]) == {"read_filter", "network", "postprocess", "total"}
    assert run["real_time_factor"] == pytest.approx(10 / run["seconds"]["total"])
    assert 1e7 < run["peak_rss_bytes"] < 1e11
    assert 1e7 < run["predicted_peak_bytes"] < 1e11
    assert run["recording_fingerprint"] == subject.fingerprint
    assert run["motion_um"] is None  # the dense network does not follow the tissue
    assert not (made.folder / "sorting" / "motion").exists()
    assert {"esort", "numpy", "torch", "spikeinterface"} <= set(run["versions"])


def test_only_time_without_labels_is_scored(made, trained, subject):
    card, _ = load_checkpoint(trained.checkpoint)
    assert (card.labels.start_sample, card.labels.stop_sample) == (0, 160_000)
    scores = json.loads((made.folder / "scores.json").read_text())
    assert (scores["start_sample"], scores["stop_sample"]) == (160_000, 320_000)
    for unit in scores["units"]:
        train = subject.ground_truth.get_unit_spike_train(unit["unit_id"])
        assert unit["num_spikes"] == (train >= 160_000).sum()


def with_labels(trained, path, **stretch):
    card, weights = load_checkpoint(trained.checkpoint, framework="torch")
    labels = None if not stretch else replace(card.labels, **stretch)
    save_checkpoint(path, weights, replace(card, labels=labels))
    return path


@pytest.mark.parametrize(
    ("stretch", "expected"),
    [
        ({"start_sample": 0, "stop_sample": 100}, (100, 320_000)),
        ({"start_sample": 300_000, "stop_sample": 320_000}, (0, 300_000)),
        ({"start_sample": 200_000, "stop_sample": 310_000}, (0, 200_000)),
        ({"start_sample": 0, "stop_sample": 320_000}, (320_000, 320_000)),
        ({"recording_fingerprint": "another"}, (0, 320_000)),
        ({}, (0, 320_000)),
    ],
)
def test_unlabelled_stretch(trained, subject, tmp_path, stretch, expected):
    sorter = Sorter.load(with_labels(trained, tmp_path / "model.safetensors", **stretch))
    assert isinstance(sorter.card.labels, LabelSource | None)
    assert unlabelled_stretch(sorter, subject) == expected


def test_labels_from_everywhere_leave_a_sorting_without_scores(trained, subject, tmp_path, caplog):
    checkpoint = with_labels(trained, tmp_path / "m.safetensors", start_sample=0, stop_sample=320_000)
    with caplog.at_level(logging.WARNING):
        found = sort_subject(checkpoint, subject, tmp_path / "out")
    assert found.scores is None
    assert not (tmp_path / "out" / "scores.json").exists()
    assert found.run["num_spikes"] > 100
    assert "no scores: the checkpoint's labels came from all that was sorted" in caplog.text


def test_old_results_stay_when_something_fails(trained, subject, made, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(made.folder, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError, match="sorting exists: choose another folder"):
        sort_subject(trained.checkpoint, subject, folder)
    with pytest.raises(FileNotFoundError):
        sort_subject(tmp_path / "nothing.safetensors", subject, folder, overwrite=True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_new_results_replace_all_of_the_old(trained, subject, made, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(made.folder, folder)
    found = sort_subject(
        trained.checkpoint, replace(subject, ground_truth=None), folder, thresholds=0.97, overwrite=True
    )
    assert found.run["num_spikes"] < made.run["num_spikes"]
    assert not (folder / "scores.json").exists()
    assert not (folder / "accuracy.png").exists()
    assert (folder / "traces.png").exists()


def test_pictures(made):
    assert {"traces.png", "probe.png", "accuracy.png"} <= {picture.name for picture in made.pictures}
    assert all(picture.stat().st_size > 5000 for picture in made.pictures)


def test_the_picture_shows_the_busiest_stretch():
    class Spikes:
        sample_index = np.array([100, 50_000, 50_010, 50_020, 90_000])

    class Result:
        spikes, sampling_frequency, num_samples = Spikes, 32_000.0, 100_000

    start = pictures._busy_sample(Result, 0)
    assert start < 50_000
    assert start + 0.04 * 32_000 > 50_020
    Spikes.sample_index = np.array([99_990])
    assert pictures._busy_sample(Result, 0) + 0.04 * 32_000 < 100_000
