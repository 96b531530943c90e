"""What a recording teaches the pursuit about others: temporal components, for any probe and rate."""

import numpy as np
import pytest
from learning_data import make_toy
from test_pursuit_sort import RATE, STOP, UNUSED, make_settings, make_subject

from esort.checkpoint import load_card, load_checkpoint, save_checkpoint
from esort.evaluation import score
from esort.network import NetworkSpec
from esort.pursuit.denoising import NUM_COMPONENTS
from esort.sorter import Sorter
from esort.training import train_backbone, train_units


@pytest.fixture(scope="module")
def source():
    return make_toy(num_units=5, num_channels=6, seconds=4.0, rate=RATE, firing_hz=10.0, seed=7)


@pytest.fixture(scope="module")
def backbone(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbone")
    path = folder / "backbone.safetensors"
    train_backbone(make_subject(source), source.labels(), UNUSED, make_settings(), path=path, folder=folder)
    return path


def fit(toy, labels, backbone, folder, settings=None):
    train_units(
        make_subject(toy),
        labels,
        UNUSED,
        settings or make_settings(),
        backbone=backbone,
        path=folder / "model.safetensors",
        folder=folder,
    )
    return Sorter.load(folder / "model.safetensors")


def test_it_knows_neither_units_nor_channels(backbone):
    card, weights = load_checkpoint(backbone)
    assert card.is_backbone
    assert sorted(weights) == ["basis", "filters"]
    for components in weights.values():
        np.testing.assert_allclose(components @ components.T, np.eye(len(components)), atol=1e-4)
    assert len(weights["basis"]) == NUM_COMPONENTS


@pytest.mark.parametrize("rate", [RATE, 30_000.0, 20_000.0])
def test_units_of_another_probe_start_from_it(backbone, rate, tmp_path):
    toy = make_toy(num_units=3, num_channels=4, seconds=6.0, rate=rate, noise=2.0)
    stop = int(3 * rate)
    sorter = fit(toy, toy.labels(per_unit=3, stop=stop), backbone, tmp_path)
    if rate == RATE:
        taken = load_checkpoint(backbone)[1]["filters"]
        np.testing.assert_array_equal(sorter.network.filters.numpy(), taken)
    subject = make_subject(toy)
    found = sorter.sort(subject.recording).sorting()
    scores = score(subject.ground_truth, found, start_sample=stop, stop_sample=subject.num_samples)
    assert scores.pooled_accuracy > 0.9


def test_it_is_the_same_each_time(source, backbone, tmp_path):
    path = tmp_path / "again.safetensors"
    train_backbone(make_subject(source), source.labels(), UNUSED, make_settings(), path=path, folder=tmp_path)
    assert load_card(path).weights_digest == load_card(backbone).weights_digest


def test_another_number_of_filters_is_refused(source, backbone, tmp_path):
    other = make_settings(network=NetworkSpec(name="pursuit", parameters={"num_filters": 4}))
    with pytest.raises(ValueError, match="a backbone with 6 filters, expected 4"):
        fit(source, source.labels(per_unit=5, stop=STOP), backbone, tmp_path, other)


def test_a_backbone_of_another_network_is_refused(source, backbone, tmp_path):
    card, weights = load_checkpoint(backbone)
    path = tmp_path / "dense.safetensors"
    values = card.to_dict() | {"network": "dense"}
    save_checkpoint(path, weights, type(card).from_dict(values))
    with pytest.raises(ValueError, match="a backbone of network dense, expected one of network pursuit"):
        fit(source, source.labels(per_unit=5, stop=STOP), path, tmp_path)


def test_other_weights_are_refused(source, backbone, tmp_path):
    card, weights = load_checkpoint(backbone)
    path = tmp_path / "half.safetensors"
    save_checkpoint(path, {"filters": weights["filters"]}, card)
    with pytest.raises(ValueError, match=r"expected the weights \['basis', 'filters'\], got \['filters'\]"):
        fit(source, source.labels(per_unit=5, stop=STOP), path, tmp_path)
