"""Names and columns of runs."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from esort.plan import TrainingPlan
from esort.runs import Run

CONF = str(Path(__file__).parents[1] / "conf")


def composed(*overrides):
    with initialize_config_dir(CONF, version_base="1.3"):
        config = compose("train", overrides=list(overrides), return_hydra_config=True)
    return config, dict(config.hydra.runtime.choices)


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "neuronexus32-medium-pursuit-finetune-proportional0.56-seed0"),
        (["drift=slow", "seed=3"], "neuronexus32-medium-slow-pursuit-finetune-proportional0.56-seed3"),
        (
            ["teacher=lupin", "label_budget=teacher"],
            "neuronexus32-medium-pursuit-finetune-lupin-teacher-seed0",
        ),
        (["recording=path", "recording.path=/a/day1"], "day1-pursuit-finetune-proportional0.56-seed0"),
    ],
)
def test_a_run_is_named_after_its_choices(tmp_path, overrides, name):
    config, choices = composed(*overrides)
    run = Run.of(config, choices, tmp_path)
    assert run.name == name
    assert run.columns["name"] == name
    assert run.columns["seed"] == config.seed
    assert not any(group.startswith("hydra") for group in run.columns)


def test_a_name_can_be_given(tmp_path):
    config, choices = composed()
    run = Run.of(config, choices, tmp_path, name="mine")
    assert (run.name, run.folder) == ("mine", tmp_path)


def test_a_teacher_s_budget_is_all_that_it_found():
    config, _ = composed("teacher=lupin", "label_budget=teacher", "labels=3")
    budget = TrainingPlan.from_config(config).budget
    assert (budget.kind, budget.amount) == ("proportional", 1.0)


def test_cell_models_are_kept_apart_in_both_recordings():
    config, _ = composed("disjoint_cell_models=true")
    plan = TrainingPlan.from_config(config)
    assert plan.source.disjoint_cell_models
    assert plan.target.disjoint_cell_models
    with pytest.raises(ValueError, match="source and target must share no template"):
        TrainingPlan.from_config(composed("recording.source.disjoint_cell_models=true")[0])
