"""The head start from labels."""

from functools import partial

import numpy as np
import pytest
import torch
from learning_data import make_toy

from esort.dense_network import DenseNetwork
from esort.examples import ExampleSpec, SpikeExamples
from esort.labels import LabelledSpikes
from esort.lightning import masked_loss
from esort.matched import start_from_labels
from esort.waveform_prior import WaveformPrior


def make_examples(toy, per_unit=10, **changes):
    spec = ExampleSpec(pool_size=600, rendered_spikes=0.0)
    return SpikeExamples(
        toy.traces,
        toy.labels(per_unit=per_unit),
        window=toy.window,
        spec=spec,
        rng=np.random.default_rng(0),
        **changes,
    )


def make_network(toy, hidden_features=16):
    torch.manual_seed(0)
    return DenseNetwork(
        num_channels=toy.traces.shape[1],
        num_units=len(toy.waveforms),
        window_samples=toy.window.samples,
        peak_offset_samples=toy.window.before_samples,
        hidden_features=hidden_features,
    )


@torch.no_grad()
def loss_of(network, examples):
    batch = examples.batch(np.random.default_rng(7), 200)
    traces, targets, known = (torch.from_numpy(values) for values in batch)
    return masked_loss(network.eval()(traces)[:, 0], targets, known).item()


@pytest.mark.parametrize(("per_unit", "factor"), [(1, 0.9), (10, 0.5)])
def test_the_first_loss_is_lower_than_from_random_weights(per_unit, factor):
    toy = make_toy(seconds=5.0)
    judge = make_examples(toy)
    network = make_network(toy)
    before = loss_of(network, judge)
    start_from_labels(network, make_examples(toy, per_unit), np.random.default_rng(0))
    assert loss_of(network, judge) < factor * before


def test_with_a_prior_one_label_gives_a_better_start():
    """What the labelled windows of a source say of waveforms, used on other units with one label each."""
    source = make_toy(num_units=6, num_channels=12, seed=5)
    toy = make_toy(num_units=4, num_channels=12, seconds=5.0, firing_hz=3.0)
    places = np.stack([np.zeros(12), 20.0 * np.arange(12)], axis=1)
    prior = WaveformPrior.of(source.waveforms, places, source.window.times_ms(source.rate))
    judge = make_examples(toy)
    losses = []
    for estimate in (None, partial(prior.estimate, contact_positions_um=places)):
        network = make_network(toy)
        examples = make_examples(toy, 1, prior=estimate)
        start_from_labels(network, examples, np.random.default_rng(0))
        losses.append(loss_of(network, judge))
    assert losses[1] < 0.8 * losses[0]


def test_a_matched_feature_is_one_at_its_unit_and_zero_in_the_background():
    toy = make_toy(seconds=5.0)
    examples = make_examples(toy)
    network = make_network(toy)
    start_from_labels(network, examples, np.random.default_rng(0))
    network.eval()
    # in front of the rectification and without the offset
    normalised = {}
    network.mixing_norm.register_forward_hook(lambda module, args, out: normalised.update(out=out + 0.2))
    for unit_index in range(3):
        of_unit = examples.labels.sample_index[examples.labels.unit_index == unit_index]
        windows = np.stack(
            [toy.traces[s - toy.window.before_samples :][: toy.window.samples] for s in of_unit]
        )
        network(torch.from_numpy(windows))
        assert normalised["out"][:, unit_index].mean().item() == pytest.approx(1, abs=1e-3)
    places = examples.background_places(np.random.default_rng(0), 6000)
    windows = np.stack([toy.traces[s - toy.window.before_samples :][: toy.window.samples] for s in places])
    network(torch.from_numpy(windows))
    assert normalised["out"][:, :3].mean(0).abs().max().item() < 1e-3


def test_more_units_than_hidden_features():
    toy = make_toy(num_units=6, num_channels=12, seconds=4.0)
    network = make_network(toy, hidden_features=4)
    examples = make_examples(toy)
    before = loss_of(network, examples)
    start_from_labels(network, examples, np.random.default_rng(0))
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())
    assert loss_of(network, examples) < before


def test_one_unit_one_channel_one_label():
    toy = make_toy(num_units=1, num_channels=1, seconds=2.0)
    network = make_network(toy)
    start_from_labels(network, make_examples(toy, 1), np.random.default_rng(0))
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())


def test_silent_traces_give_finite_weights():
    toy = make_toy(num_units=1, seconds=1.0)
    toy.traces[:] = 0
    network = make_network(toy)
    start_from_labels(network, make_examples(toy, 2), np.random.default_rng(0))
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())


def test_training_begins_where_the_head_start_ends():
    """With the statistics of its own batches the network says what it says with the running ones."""
    toy = make_toy(seconds=5.0)
    examples = make_examples(toy)
    network = make_network(toy).train()
    filters_norm = (network.filters_norm, network.features_norm)
    start_from_labels(network, examples, np.random.default_rng(0))
    traces = torch.from_numpy(examples.batch(np.random.default_rng(1), 400).traces)
    with torch.no_grad():
        in_evaluation = network.eval()(traces)
        network.train()
        for norm in filters_norm:  # a backbone's are as its batches were
            norm.eval()
        in_training = network(traces)
    assert (in_training - in_evaluation).abs().mean() < 0.1 * in_evaluation.std()


@pytest.mark.parametrize("training", [True, False])
def test_it_is_reproducible_and_leaves_the_mode_and_the_filters(training):
    toy = make_toy(seconds=2.0)
    examples = make_examples(toy)
    states = []
    for _ in range(2):
        network = make_network(toy).train(training)
        filters = network.filters.weight.clone()
        start_from_labels(network, examples, np.random.default_rng(3))
        assert network.training is training
        assert all(module.training is training for module in network.modules())
        assert torch.equal(network.filters.weight, filters)
        states.append(network.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_unit_without_labels_is_named():
    toy = make_toy(num_units=2, seconds=2.0)
    waveforms = make_examples(toy).waveforms
    labels = LabelledSpikes(
        sample_index=np.array([500]),
        unit_index=np.array([1]),
        unit_ids=("a", "b"),
        sampling_frequency=toy.rate,
        start_sample=0,
        stop_sample=len(toy.traces),
        complete=False,
    )
    examples = SpikeExamples(
        toy.traces,
        labels,
        window=toy.window,
        spec=ExampleSpec(pool_size=50),
        rng=np.random.default_rng(0),
        waveforms=waveforms,
    )
    with pytest.raises(ValueError, match="a labelled spike of each unit, got none of: a"):
        start_from_labels(make_network(toy), examples, np.random.default_rng(0))
