"""A search of hyper-parameters: what Hydra's words mean, what is tried, pruned, resumed and left behind."""

import json
import sys
from types import SimpleNamespace

import optuna
import pandas as pd
import pytest
import yaml
from entries import ROOT, SMALL_TARGET, run
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from esort.optimise import BEST, STUDY_DB, TRIALS, optimise
from esort.plan import TrainingPlan
from esort.search import SearchSpec, search_space

PARAMS = {"x": "interval(-1.0, 1.0)", "n": "range(1, 5)"}


class Launcher:
    """Hydra's side of a job: leaves what a run with these overrides leaves."""

    def __init__(self, folder, value):
        self.folder, self.value = folder, value
        self.jobs = []

    def launch(self, batch, initial_job_idx):
        ended = []
        for number, overrides in enumerate(batch, initial_job_idx):
            given = dict(one.split("=", 1) for one in overrides)
            self.jobs.append(given)
            job = self.folder / str(number)
            job.mkdir()
            value = self.value({name: float(text) for name, text in given.items()})
            if value is not None:
                (job / "summary.json").write_text(json.dumps({"pooled_accuracy": value}))
            hydra = SimpleNamespace(runtime=SimpleNamespace(output_dir=str(job)))
            ended.append(SimpleNamespace(return_value=0.0, hydra_cfg=SimpleNamespace(hydra=hydra)))
        return ended


def search(folder, value, *arguments, **changes):
    launcher = Launcher(folder, value)
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}, "x": 0.9, "n": 4})
    spec = {"params": PARAMS, "num_trials": 12, "seeds": [1, 2]} | changes
    return optimise(spec, list(arguments), config, launcher), launcher


def quality(given):
    return 1 - (given["x"] - 0.2) ** 2 - 0.01 * given["n"] + 0.001 * given["seed"]


def test_hydra_s_words_are_optuna_s():
    space = search_space(
        {
            "a": "interval(0.5, 2)",
            "b": "tag(log, interval(1e-4, 1e-2))",
            "c": "range(4, 9)",
            "d": "range(4, 17, step=4)",
            "e": "choice(auto, none, 3)",
            "f": "interval(1, 3)",
            "g": "range(0.0, 1.0, 0.5)",
        }
    )
    assert space == {
        "a": FloatDistribution(0.5, 2.0),
        "b": FloatDistribution(1e-4, 1e-2, log=True),
        "c": IntDistribution(4, 8),
        "d": IntDistribution(4, 16, step=4),
        "e": CategoricalDistribution(["auto", "none", 3]),
        "f": FloatDistribution(1.0, 3.0),
        "g": CategoricalDistribution([0.0, 0.5]),
    }


def test_another_word_is_refused():
    with pytest.raises(ValueError, match=r"x: expected choice\(...\), range\(...\) or interval\(...\).*'3'"):
        search_space({"x": "3"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"params": {}}, "needs something to search: expected hydra.sweeper.params, got none"),
        ({"num_trials": 0}, "num_trials must be a whole number of at least 1, got 0"),
        ({"num_parallel": True}, "num_parallel must be a whole number of at least 1, got True"),
        ({"num_startup_trials": 1.5}, "num_startup_trials must be a whole number of at least 1, got 1.5"),
        ({"direction": "up"}, "direction must be maximize or minimize, got 'up'"),
        ({"seeds": []}, r"seeds must be different whole numbers of at least 0, got \[\]"),
        ({"seeds": [1, 1]}, r"seeds must be different whole numbers of at least 0, got \[1, 1\]"),
    ],
)
def test_limits(changes, message):
    with pytest.raises(ValueError, match=message):
        SearchSpec(**({"params": PARAMS} | changes))


def test_the_first_trial_is_the_configuration_as_it_is(tmp_path):
    _, launcher = search(tmp_path, quality, num_trials=1)
    assert [(job["x"], job["n"], job["seed"]) for job in launcher.jobs] == [
        ("0.9", "4", "1"),
        ("0.9", "4", "2"),
    ]


def test_it_finds_what_is_better_and_says_so(tmp_path, capsys):
    best, launcher = search(tmp_path, quality, num_trials=16)
    assert abs(best["x"] - 0.2) < 0.5
    table = pd.read_csv(tmp_path / TRIALS)
    assert len(table) == 16
    assert set(table["state"]) == {"complete", "pruned"}
    done = table[table["state"] == "complete"]
    row = done.loc[done["pooled_accuracy"].idxmax()]
    assert row["pooled_accuracy"] == pytest.approx((row["seed1"] + row["seed2"]) / 2)
    pruned = table[table["state"] == "pruned"]
    assert pruned["seed2"].isna().all()
    assert pruned["pooled_accuracy"].max() < done["pooled_accuracy"].max()
    assert len(launcher.jobs) == 2 * len(done) + len(pruned)
    left = yaml.safe_load((tmp_path / BEST).read_text())
    assert left["overrides"] == [f"x={best['x']}", f"n={best['n']}"]
    assert f"best:     trial {row['trial']:.0f}" in capsys.readouterr().out


def test_a_stopped_search_goes_on(tmp_path):
    class StoppedError(Exception):
        pass

    def stops(given):
        if len(list(tmp_path.glob("*/summary.json"))) == 5:
            raise StoppedError
        return quality(given)

    with pytest.raises(StoppedError):
        search(tmp_path, stops)
    _, launcher = search(tmp_path, quality)
    table = pd.read_csv(tmp_path / TRIALS)
    assert list(table["state"]).count("fail") == 1  # the one that was under way
    assert (table["state"] != "fail").sum() == 12
    assert len({(job["x"], job["n"]) for job in launcher.jobs}) >= 9  # no draw is repeated
    study = optuna.load_study(study_name="esort", storage=f"sqlite:///{tmp_path / STUDY_DB}")
    assert len(study.trials) == 13
    _, launcher = search(tmp_path, quality)
    assert launcher.jobs == []


def test_trials_at_a_time(tmp_path):
    _, launcher = search(tmp_path, quality, num_parallel=4, num_trials=8, num_startup_trials=8)
    assert [job["seed"] for job in launcher.jobs] == [*"11112222"] * 2


def test_a_trial_that_fails_is_left_out(tmp_path):
    best, _ = search(tmp_path, lambda given: None if given["n"] > 2 else quality(given))
    assert best["n"] <= 2
    table = pd.read_csv(tmp_path / TRIALS)
    assert len(table) == 12
    assert (table.loc[table["n"] > 2, "state"] == "fail").all()


def test_nothing_worked(tmp_path, capsys):
    with pytest.raises(SystemExit):
        search(tmp_path, lambda given: None, num_trials=3)
    assert "error: no trial was completed: see error.txt in the folders of" in capsys.readouterr().err
    assert len(pd.read_csv(tmp_path / TRIALS)) == 3


def test_a_range_on_the_command_line_is_searched_too(tmp_path):
    _, launcher = search(tmp_path, quality, "n=choice(1, 2)", "y=7", num_trials=4)
    assert {job["y"] for job in launcher.jobs} == {"7"}
    assert {job["n"] for job in launcher.jobs} <= {"1", "2"}


@pytest.mark.parametrize(
    ("arguments", "changes", "message"),
    [
        (["seed=3"], {}, r"error: the search sets the seed: expected hydra.sweeper.seeds=[...], got seed="),
        ([], {"params": {"x": "1"}}, "error: x: expected choice(...), range(...) or interval(...)"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, arguments, changes, message):
    with pytest.raises(SystemExit):
        search(tmp_path, quality, *arguments, **changes)
    assert capsys.readouterr().err.startswith(message)


def test_a_folder_with_another_search_is_refused(tmp_path, capsys):
    search(tmp_path, quality, num_trials=1)
    with pytest.raises(SystemExit):
        search(tmp_path, quality, num_trials=1, seeds=[3])
    assert "holds a sweep of something else: expected" in capsys.readouterr().err


def test_without_optuna_it_says_how_to_install_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SystemExit):
        search(tmp_path, quality)
    assert capsys.readouterr().err == "error: sweep=optuna needs optuna: pip install 'esort[sweep]'\n"


def config_of(*overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", overrides=list(overrides), return_hydra_config=True)


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "sweep").glob("*.yaml")), ids=lambda path: path.stem)
def test_our_sweeps_fit_the_configuration(path):
    config = config_of(f"sweep={path.stem}")
    assert config.hydra.sweeper._target_ == "hydra_plugins.esort_optuna.OptunaSweeper"
    params = dict(config.hydra.sweeper.params)
    space = search_space(params)
    drawn = optuna.create_study().ask(space).params
    TrainingPlan.from_config(
        OmegaConf.masked_copy(
            config_of(f"sweep={path.stem}", *(f"{name}={value}" for name, value in drawn.items())),
            [name for name in config if name != "hydra"],
        )
    )
    for name, distribution in space.items():  # the first trial is the configuration as it is
        assert distribution._contains(distribution.to_internal_repr(OmegaConf.select(config, name))), name


WANDB_SWEEPS = sorted((ROOT / "conf" / "wandb_sweep").glob("*.yaml"))


@pytest.mark.parametrize("path", WANDB_SWEEPS, ids=lambda path: path.stem)
def test_sweeps_of_wandb_fit_the_configuration(path):
    text = path.read_text()
    assert text.splitlines()[0] == (
        f"# wandb sweep conf/wandb_sweep/{path.name}, then wandb agent with the name that it prints"
    )
    sweep = yaml.safe_load(text)
    assert set(sweep) <= {"program", "name", "method", "metric", "run_cap", "parameters", "command"}
    assert sweep["method"] in ("grid", "random", "bayes")
    assert (ROOT / sweep["program"]).is_file()
    overrides = []
    for name, values in sweep["parameters"].items():
        assert (set(values) <= {"value", "values"}) or set(values) == {"min", "max"}
        value = values.get("value", values.get("min"))
        overrides.append(f"{name}={values['values'][0] if 'values' in values else value}")
    config = config_of(*overrides)
    TrainingPlan.from_config(OmegaConf.masked_copy(config, [name for name in config if name != "hydra"]))


@pytest.mark.slow
def test_a_search_as_a_user_starts_it(tmp_path):
    command = ("-m", "sweep=optuna", "hydra.sweeper.seeds=[1]", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    small = (*SMALL_TARGET, f"cache={tmp_path / 'cache'}")
    for trials, more in ((1, ()), (2, ("resume=true",))):
        ended = run("train.py", *command, f"hydra.sweeper.num_trials={trials}", *small, *more)
        assert ended.code == 0, ended.out + ended.err
        assert "best:     trial " in ended.out
        assert len(pd.read_csv(tmp_path / "sweep" / TRIALS)) == trials
    assert (tmp_path / "sweep" / "table.csv").is_file()
    refused = run("train.py", *command, "hydra.sweeper.num_trials=3", *small)
    assert "resume=true to go on" in refused.error_line()
