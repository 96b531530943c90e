"""Rivals in a checkpoint: they compete, are not told, and can be named."""

from dataclasses import replace

import numpy as np
import pytest
from learning_data import make_toy
from test_pursuit_sort import RATE, STOP, arrays, assert_same, fit_units, make_subject

from esort import rivals as command
from esort.checkpoint import load_card, load_checkpoint, save_checkpoint
from esort.onnx_pursuit import PursuitExport
from esort.rivals import Rivals, name_rivals
from esort.sorter import Sorter
from esort.stream import StreamingSorter

UNLABELLED = 1


@pytest.fixture(scope="module")
def toy():
    return make_toy(num_units=4, seconds=8.0, rate=RATE, firing_hz=10.0, noise=2.0)


@pytest.fixture(scope="module")
def some_labels(toy):
    labels = toy.labels(per_unit=10, stop=STOP)
    return labels.of_units(np.arange(4) != UNLABELLED)


@pytest.fixture(scope="module")
def path(toy, some_labels, tmp_path_factory):
    return fit_units(toy, tmp_path_factory.mktemp("rivals"), some_labels)


@pytest.fixture(scope="module")
def recording(toy):
    return make_subject(toy).recording


@pytest.fixture(scope="module")
def named(path):
    output = path.parent / "named.safetensors"
    assert command.main([f"checkpoint={path}", f"output={output}"]) == 0
    return Sorter.load(output)


def found_of(times, train, tolerance=16):
    return np.mean([len(times) > 0 and np.abs(times - sample).min() <= tolerance for sample in train])


def test_it_competes_and_is_not_told(toy, path, recording):
    sorter = Sorter.load(path)
    assert len(sorter.tables.rivals) == 1
    assert sorter.scorer.num_units == 4
    assert sorter.card.unit_ids == ("u0", "u2", "u3")
    result = sorter.sort(recording)
    assert set(np.unique(result.spikes.unit_index)) == {0, 1, 2}
    train = toy.sample_index[toy.unit_index == UNLABELLED]
    assert found_of(result.spikes.sample_index, train) < 0.2  # chance alone
    assert len(result.unknown) <= 3  # nor are they unknown
    assert len(sorter.tables.baseline.rates_hz) == 3


def test_named_it_is_a_unit(toy, path, recording, named):
    assert named.card.unit_ids == ("u0", "u2", "u3", "rival-0")
    assert not len(named.tables.rivals)
    both = Sorter.load(path).sort(recording).spikes, named.sort(recording).spikes
    told = both[1].unit_index < 3
    assert_same(type(both[1])(*(column[told] for column in arrays(both[1]))), both[0])
    train = toy.sample_index[toy.unit_index == UNLABELLED]
    assert found_of(both[1].sample_index[~told], train) > 0.95
    assert (~told).sum() <= len(train) + 3
    rates_hz = named.tables.baseline.rates_hz
    assert rates_hz[3] == pytest.approx((train < STOP).sum() / (STOP / RATE), rel=0.1)


def test_a_stream_tells_the_same(path, recording):
    expected = Sorter.load(path).sort(recording).spikes
    stream = StreamingSorter.like(path, recording)
    traces = recording.get_traces()
    found = [stream.push(traces[start : start + 3200]) for start in range(0, len(traces), 3200)]
    found.append(stream.finish())
    columns = [np.concatenate(parts) for parts in zip(*map(arrays, found), strict=True)]
    order = np.lexsort((columns[1], columns[0]))
    assert_same(type(expected)(*(column[order] for column in columns)), expected)


def test_the_exported_model_tells_the_same(path):
    """`check` compares its spikes with the solver's."""
    sorter = Sorter.load(path)
    export = PursuitExport(sorter)
    export.check(export.model().SerializeToString())


def test_without_a_channel_all_of_it_stays(path, recording):
    sorter = Sorter.load(path).without_channels([0])
    assert len(sorter.tables.rivals) == 1
    assert len(sorter.sort(recording).spikes) > 50


def test_where_all_have_labels_there_is_none(toy, tmp_path):
    path = fit_units(toy, tmp_path, toy.labels(per_unit=10, stop=STOP))
    assert not len(Sorter.load(path).tables.rivals)
    with pytest.raises(ValueError, match="has no rivals: each neuron that was found has a label"):
        name_rivals(path, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_numbers_stay_numbers(path, tmp_path):
    card, weights = load_checkpoint(path)
    save_checkpoint(tmp_path / "numbers", weights, replace(card, unit_ids=(4, 0, 9)))
    assert name_rivals(tmp_path / "numbers", tmp_path / "named") == (10,)
    assert load_card(tmp_path / "named").unit_ids == (4, 0, 9, 10)


def test_a_name_is_new(path, tmp_path):
    card, weights = load_checkpoint(path)
    save_checkpoint(tmp_path / "taken", weights, replace(card, unit_ids=("rival-0", "a", "b")))
    assert name_rivals(tmp_path / "taken", tmp_path / "named") == ("another-rival-0",)


def test_what_is_there_is_not_written_over(path, capsys):
    before = path.read_bytes()
    assert command.main([f"checkpoint={path}", f"output={path}"]) == 1
    assert "exists: give another output" in capsys.readouterr().err
    assert path.read_bytes() == before


@pytest.mark.parametrize("arguments", [[], ["checkpoint=a"], ["checkpoint=a", "output="], ["a", "b=c"]])
def test_the_command_says_what_it_wants(arguments, capsys):
    assert command.main(arguments) == 1
    assert "expected: python -m esort.rivals checkpoint=FILE output=FILE" in capsys.readouterr().err


def test_rivals_are_two_lists_of_one_length():
    with pytest.raises(
        ValueError, match=r"a threshold and a rate of each rival, got shapes \(\(2,\), \(1,\)\)"
    ):
        Rivals(thresholds=np.ones(2), rates_hz=np.ones(1))
    with pytest.raises(ValueError, match=r"expected both rivals.thresholds and rivals.rates_hz"):
        Rivals.from_weights({"rivals.rates_hz": np.ones(2)})
    assert Rivals().to_weights() == {}
    weights = Rivals(thresholds=np.arange(3.0), rates_hz=np.ones(3)).to_weights()
    again = Rivals.from_weights(weights)
    np.testing.assert_array_equal(again.thresholds, [0, 1, 2])
    assert weights == {}


def test_a_checkpoint_whose_rivals_do_not_fit_is_refused(path, tmp_path):
    card, weights = load_checkpoint(path)
    weights["rivals.thresholds"] = weights["rivals.rates_hz"] = np.ones(2)
    save_checkpoint(tmp_path / "wrong", weights, card)
    with pytest.raises(ValueError, match="network and card differ in channels, units, window"):
        Sorter.load(tmp_path / "wrong")
