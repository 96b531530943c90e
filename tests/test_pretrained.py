"""Backbones that ship: whole, made as their story says, fair, and taken where they fit."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
from entries import ROOT, SMALL_TARGET, run
from hydra import compose, initialize_config_dir

from esort.backbones import find_or_make_backbone
from esort.bootstrap import Bootstrap
from esort.checkpoint import load_card, load_checkpoint
from esort.fairness import check_apart
from esort.files import sha256_of_file
from esort.plan import TrainingPlan
from esort.pretrained import Pretrained, find_pretrained, pretrained_names, pretrained_path
from esort.simulation import DriftSpec, NoiseSpec, SimulationSpec, TemplateBank


def plan_of(*overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return TrainingPlan.from_config(compose("train", overrides=list(overrides)))


@pytest.mark.parametrize("name", pretrained_names())
def test_files_belong_together(name):
    shipped = Pretrained.open(name)
    assert shipped.card.is_backbone
    assert shipped.card.network == name
    card, weights = load_checkpoint(shipped.path)
    assert all(np.isfinite(value).all() for value in weights.values())
    story = shipped.story
    assert story["weights_digest"] == card.weights_digest
    assert story["file_digest"] == sha256_of_file(shipped.path)
    assert story["template_bank"] == TemplateBank.load().digest
    assert story["seed"] == card.seed
    assert shipped.path.stat().st_size < 4e6
    assert len(story["scores"]) >= 4
    assert all(set(row) == {"recording", "scratch", "shipped", "own"} for row in story["scores"])


@pytest.mark.parametrize("name", pretrained_names())
def test_the_story_s_command_makes_it(name):
    """The same configuration, to the digest of the recording that it was pretrained on."""
    story = Pretrained.open(name).story
    python, script, *overrides = story["command"].split()
    assert (python, script) == ("python", "train.py")
    plan = plan_of(*overrides)
    assert plan.mode == "pretrain"
    assert plan.source.to_dict() == story["source"]
    assert plan.source.digest() == story["source_digest"]


@pytest.mark.parametrize("name", pretrained_names())
def test_it_knows_no_neuron_that_is_learned_later(name):
    story = Pretrained.open(name).story["source"]
    plan = plan_of(f"model={name}")
    source = replace(plan.source, split=story["split"], disjoint_cell_models=story["disjoint_cell_models"])
    check_apart(source, plan.target)


@pytest.mark.parametrize("probe", ["tetrode", "neuronexus32", "neuropixels128"])
@pytest.mark.parametrize("rate", [32000.0, 30000.0, 20000.0])
def test_the_pursuit_s_is_for_any_probe_and_rate(probe, rate):
    plan = plan_of(f"probe={probe}")
    source = replace(plan.source, sampling_frequency=rate)
    assert plan.shipped
    assert find_pretrained(source, plan.pretraining, plan.settings) == pretrained_path("pursuit")


def misfit(plan, **changes):
    source = replace(plan.source, **changes)
    return Pretrained.open(plan.settings.network.name).misfit(source, plan.pretraining, plan.settings)


def test_where_the_pursuit_s_does_not_fit():
    plan = plan_of()
    assert misfit(plan) == ""
    assert misfit(plan, disjoint_cell_models=True) == "its templates may be those that are to be learned"
    assert misfit(plan, split="target") == "its templates may be those that are to be learned"
    assert misfit(plan_of("preprocessing.freq_min_hz=250")) == "its band-pass is 175 to 4300 Hz"
    assert misfit(plan_of("model.parameters.num_filters=5")) == "it has num_filters=6, not 5"
    assert misfit(plan_of("model.parameters.num_head_channels=20")) == ""


@pytest.mark.parametrize("model", ["dense", "convrecurrent"])
@pytest.mark.parametrize("probe", ["tetrode", "neuronexus32", "neuropixels"])
@pytest.mark.parametrize("rate", [32000.0, 30000.0, 20000.0])
def test_the_dense_network_s_is_for_any_probe_and_rate(model, probe, rate):
    plan = plan_of(f"model={model}", f"probe={probe}")
    source = replace(plan.source, sampling_frequency=rate)
    assert find_pretrained(source, plan.pretraining, plan.settings) == pretrained_path("dense")


def test_where_the_dense_network_s_does_not_fit():
    plan = plan_of("model=dense")
    assert misfit(plan) == ""
    assert misfit(plan, split="target") == "its templates may be those that are to be learned"
    assert misfit(plan, sampling_frequency=100_000.0) == "its rate is 32000 Hz"
    assert misfit(plan_of("model=dense", "model.window_ms=2")) == "it has window_samples=60, not 64"
    assert misfit(plan_of("model=dense", "training.pretrain.epochs=2")) == "it was trained in another way"
    recurrent = plan_of("model=convrecurrent", "model.window_ms=4")
    dense = Pretrained.open("dense")
    assert dense.misfit(recurrent.source, recurrent.pretraining, recurrent.settings).startswith("it has ")


def test_it_is_said_why_another_one_is_made(caplog):
    plan = plan_of("preprocessing.freq_min_hz=250")
    with caplog.at_level(logging.INFO):
        assert find_pretrained(plan.source, plan.pretraining, plan.settings) is None
    assert "the backbone that ships with esort is not used: its band-pass is 175 to 4300 Hz" in caplog.text


def test_a_name_that_does_not_ship():
    with pytest.raises(ValueError, match="expected a backbone among dense, pursuit, got 'convrecurrent'"):
        pretrained_path("convrecurrent")


@pytest.mark.parametrize(
    ("overrides", "shipped"),
    [
        ([], True),
        (["noise=high", "drift=slow", "seed=4", "labels=0.3"], True),
        (["recording.target.num_units=4"], True),
        (["recording=path", "recording.path=somewhere"], True),
        (["recording=path", "recording.path=somewhere", "noise=high"], False),
        (["recording.source.duration_s=10"], False),
        (["recording.source.num_units=4"], False),
        (["recording.source.noise={_target_: esort.simulation.NoiseSpec, level_uv: 20}"], False),
        (["+recording.source.min_amplitude_uv=60"], False),
        (["training.backbone=make"], False),
        (["training.backbone=null"], True),
        (["training=scratch"], False),
        (["training=pretrain"], False),
        (["experiment=label_efficiency"], False),
    ],
)
def test_who_asks_for_a_certain_source_gets_it(overrides, shipped):
    plan = plan_of(*overrides)
    assert plan.shipped is shipped
    assert plan.backbone is None


def test_the_cache_is_not_touched(tmp_path):
    plan = plan_of()
    path, metrics = find_or_make_backbone(
        plan.source, plan.pretraining, plan.settings, cache=tmp_path, folder=tmp_path, shipped=True
    )
    assert (path, metrics) == (pretrained_path("pursuit"), {})
    assert list(tmp_path.iterdir()) == []


def test_without_hydra_it_is_the_same(trained, tmp_path):
    subject = trained.subject()
    ours = Bootstrap(cache=str(tmp_path))
    assert ours._backbone(subject, tmp_path) == pretrained_path("pursuit")
    assert Bootstrap(backbone="make").backbone == "make"
    other = Bootstrap(freq_min_hz=400.0)
    assert Pretrained.open("pursuit").misfit(ours.source(subject), other.pretraining, other.settings)


def test_a_training_takes_it(tmp_path):
    folder = tmp_path / "run"
    ended = run(
        "train.py",
        *SMALL_TARGET,
        "recording.target.duration_s=3",  # too short for the units to tell their own
        "label_budget=per_unit",
        "labels=2",
        f"cache={tmp_path / 'cache'}",
        f"hydra.run.dir={folder}",
    )
    assert ended.code == 0, ended.out + ended.err
    assert not (tmp_path / "cache" / "backbones").exists()
    assert json.loads((folder / "run.json").read_text())["backbone"] == str(pretrained_path("pursuit"))
    ours, theirs = (
        load_checkpoint(path)[1]["filters"]
        for path in (folder / "model.safetensors", pretrained_path("pursuit"))
    )
    np.testing.assert_array_equal(ours, theirs)
    assert load_card(folder / "model.safetensors").num_units == 4


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    for name in ("pursuit.safetensors", "pursuit.json"):
        (tmp_path / name).write_bytes(pretrained_path("pursuit").with_name(name).read_bytes())
    story = json.loads((tmp_path / "pursuit.json").read_text())
    (tmp_path / "pursuit.json").write_text(json.dumps(story | {"weights_digest": "0" * 64}))
    with pytest.raises(ValueError, match="expected the weights 0000000000000000 of its .json, got"):
        Pretrained.load(tmp_path / "pursuit.safetensors")


def test_settings_other_than_the_filter_do_not_matter():
    plan = plan_of()
    filters = replace(plan.settings.preprocessing, common_reference="none")
    settings = replace(plan.settings, preprocessing=filters, seed=9)
    source = replace(plan.source, noise=NoiseSpec(level_uv=20), drift=DriftSpec(kind="slow"))
    assert isinstance(source, SimulationSpec)
    assert find_pretrained(source, plan.pretraining, settings) == pretrained_path("pursuit")
