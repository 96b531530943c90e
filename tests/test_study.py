"""Studies end to end: planned, run, found again, compared, refused."""

import csv
import json
import shutil

import pytest
from entries import SHORT_TRAINING, SMALL, SMALL_SOURCE, SMALL_TARGET, run

SIZES = (*SMALL_TARGET, *SMALL_SOURCE, *SHORT_TRAINING)
ONLY = "study.only={labels:[5]}"


def study(folder, cache, *overrides, name="label_efficiency"):
    return run("train.py", f"experiment={name}", *overrides, f"cache={cache}", f"hydra.run.dir={folder}")


def rows_of(path):
    with open(path) as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def done(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "done"
    overrides = [*SIZES, ONLY, "study.seeds=[0]", "study.peers=[mountainsort5]"]
    ended = study(folder, trained.cache, *overrides)
    assert ended.code == 0, ended.out + ended.err
    return folder, overrides, ended


def test_one_table_one_figure(done):
    folder, _, ended = done
    rows = rows_of(folder / "table.csv")
    assert [(row["labels"], row["training"]) for row in rows[:2]] == [("5", "scratch"), ("5", "transfer")]
    assert all(row["status"] == "done" and float(row["pooled_accuracy"]) > 0.5 for row in rows[:2])
    assert [float(row["labels_per_unit"]) for row in rows[:2]] == [5, 5]
    summary = rows_of(folder / "summary.csv")
    assert [bool(row["gain"]) for row in summary] == [False, True, False]
    for name in ("figure.png", "tables/summary.csv", "tables/table.csv"):
        assert (folder / name).is_file(), name
    artifacts = json.loads((folder / "artifacts.json").read_text())
    assert [artifact["name"] for artifact in artifacts] == ["figure"]
    assert ended.err == ""
    assert "epoch" not in ended.out
    assert "[1/3] labels-5_training-scratch_seed-0: pooled accuracy" in ended.out


def test_sorters_that_are_not_installed_are_named(done):
    folder, _, ended = done
    last = rows_of(folder / "table.csv")[-1]
    assert (last["sorter"], last["training"], last["status"]) == ("mountainsort5", "", "skipped")
    assert "mountainsort5 is not installed" in last["error"]
    assert "skipped: the sorter mountainsort5 is not installed" in ended.out


def test_each_run_is_a_normal_run(done):
    folder = done[0]
    (one,) = (folder / "runs").glob("labels-5_training-transfer_seed-0_*")
    names = {path.name for path in one.iterdir()}
    assert {"model.safetensors", "sorting", "scores.json", "run.json", "run.log", "config.json"} <= names
    assert not names & {"pretrain", "finetune", "scratch"}
    assert json.loads((one / "config.json").read_text())["labels"] == 5
    needs = rows_of(one / "tables" / "label_plan.csv")
    assert len(needs) == 4
    assert all(row["advice"] for row in needs)


def test_the_command_is_noted_without_where_it_ran(done):
    content = json.loads((done[0] / "study.json").read_text())
    assert content["command"].startswith("python train.py experiment=label_efficiency probe=tetrode")
    assert "hydra.run.dir" not in content["command"]
    assert "cache=" not in content["command"]
    assert content["runs"] == {"done": 2, "skipped": 1}


@pytest.mark.slow
def test_what_is_done_is_found_again_and_only_the_rest_is_run(done, trained, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(done[0], folder)
    (one,) = (folder / "runs").glob("labels-5_training-scratch_*")
    (one / "point.json").unlink()  # as if the study had been stopped in it
    before = rows_of(folder / "table.csv")
    ended = study(folder, trained.cache, *done[1])
    assert ended.code == 0, ended.out + ended.err
    assert "3 runs, 1 to do" in ended.out
    assert ended.out.count("pooled accuracy 0.") + ended.out.count("pooled accuracy 1.") == 1
    after = rows_of(folder / "table.csv")
    for old, new in zip(before, after, strict=True):
        for key in set(old) - {"seconds", "real_time_factor"}:
            assert old[key] == new[key], key


@pytest.mark.slow
def test_half_a_run_of_other_code_is_not_gone_on_with(done, trained, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(done[0], folder)
    for path in (folder / "runs").glob("*/begun.json"):
        path.write_text('{"code": "old"}')
    (one,) = (folder / "runs").glob("labels-5_training-scratch_*")
    (one / "point.json").unlink()
    (one / "sorting" / "mine.txt").write_text("of the old code")
    (two,) = (folder / "runs").glob("labels-5_training-transfer_*")
    content = json.loads((two / "point.json").read_text())
    content["row"]["code"] = "old"
    (two / "point.json").write_text(json.dumps(content))
    ended = study(folder, trained.cache, *done[1])
    assert ended.code == 0, ended.out + ended.err
    assert not (one / "sorting" / "mine.txt").exists()
    assert "1 of 3 runs were made by other code: study.redo=true makes all anew" in ended.out + ended.err


def test_a_run_that_cannot_learn_counts_as_nothing(trained, tmp_path):
    # So short that nobody spikes in the first half.
    overrides = [*SIZES, "study.only={labels:[5],training:[scratch]}", "study.seeds=[1]"]
    overrides[overrides.index("recording.target.duration_s=10")] = "recording.target.duration_s=0.1"
    ended = study(tmp_path / "study", tmp_path, *overrides)
    assert ended.code == 0, ended.out + ended.err
    (row,) = rows_of(tmp_path / "study" / "table.csv")
    assert (row["status"], row["pooled_accuracy"]) == ("failed", "0.0")
    assert "no labelled spike of 4 units" in row["error"]
    assert f"failed: {row['folder']}: {row['error']}" in ended.out


@pytest.mark.slow
def test_curves_and_needs_of_label_efficiency(trained, tmp_path):
    overrides = [*SIZES, "study.only={labels:[1,5,20]}", "study.seeds=[0]", "model=convrecurrent"]
    ended = study(tmp_path / "study", trained.cache, *overrides)
    assert ended.code == 0, ended.out + ended.err
    curves = json.loads((tmp_path / "study" / "curve.json").read_text())
    assert set(curves) == {"scratch", "transfer"}
    needs = rows_of(tmp_path / "study" / "label_plan.csv")
    assert len(needs) == 8
    assert {row["training"] for row in needs} == {"scratch", "transfer"}
    curve = f"label_plan.curve={tmp_path / 'study' / 'curve.json'}"
    ended = run("train.py", *SMALL, curve, f"cache={trained.cache}", f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.code == 0, ended.out + ended.err
    assert len(rows_of(tmp_path / "run" / "tables" / "label_plan.csv")) == 4


@pytest.mark.parametrize(
    ("name", "model", "only", "num_runs"),
    [
        ("label_efficiency", "dense", "labels:[1,all]", 4),
        ("label_efficiency", "convrecurrent", "labels:[10]", 2),
        ("geometry", "dense", "probe:[tetrode]", 4),
        ("noise", "dense", "noise_uv:[20]", 3),
        ("drift", "dense", "drift:[nonrigid]", 4),
        ("peers", "dense", "condition:[static,slow drift]", 16),
        ("paper", "dense", "labels:[0.56]", 4),
    ],
)
def test_experiments_compose_for_any_model(tmp_path, name, model, only, num_runs):
    overrides = [f"model={model}", "study.seeds=[1]", f"study.only={{{only}}}", "study.plan_only=true"]
    ended = study(tmp_path, tmp_path, *overrides, name=name)
    assert ended.code == 0, ended.out + ended.err
    assert f"study {name}-{model}: {num_runs} runs" in ended.out
    assert "by what model=dense takes on 2 cores" in ended.out
    assert not (tmp_path / "table.csv").exists()


def test_models_can_be_an_axis(tmp_path):
    ended = study(
        tmp_path,
        tmp_path,
        "+study.axes.model=[dense,convrecurrent]",
        "study.by=model",
        "study.baseline=dense",
        "study.only={training:[transfer],labels:[5]}",
        "study.seeds=[0]",
        "study.plan_only=true",
    )
    assert ended.code == 0, ended.out + ended.err
    assert "2 runs" in ended.out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["labels=5"], "varies labels: choose among its values by study.only or study.seeds, got labels=5"),
        (["seed=3"], "varies seed: choose among its values"),
        (["study.seeds=[]"], "study.seeds must be different whole numbers"),
        (
            ["study.only={labels:[7]}"],
            "study.only.labels must be one of 1, 2, 3, 5, 10, 20, 50, all, got '7'",
        ),
        (["study.peers=[klusta]"], "study.peers must be one of lupin"),
        (["noise.level_uv=-1"], "expected level_uv between 0 and 1000 uV, got -1"),
        (["+study.axes.noise=[loud]"], "loud"),
    ],
)
def test_bad_studies_are_refused_before_the_first_run(tmp_path, overrides, message):
    ended = study(tmp_path, tmp_path, "study.plan_only=true", *overrides)
    assert ended.code == 1
    assert message in ended.err
    assert "Traceback" not in ended.err
    assert not (tmp_path / "runs").exists()


def test_a_recording_without_a_truth_is_refused(trained, tmp_path):
    recording = f"recording.path={trained.run['recording']}/recording"
    ended = study(tmp_path, tmp_path, "recording=path", recording, "study.only={labels:[5]}")
    assert "a study scores against the truth: give recording.ground_truth=FOLDER" in ended.error_line()


@pytest.mark.slow
def test_a_study_of_a_recording_on_disk(trained, tmp_path):
    paths = [f"recording.path={trained.run['recording']}/recording"]
    paths += [f"recording.ground_truth={trained.run['recording']}/sorting"]
    only = "study.only={labels:[5],training:[scratch]}"
    ended = study(tmp_path, tmp_path, "recording=path", *paths, *SHORT_TRAINING, only, "study.seeds=[0]")
    assert ended.code == 0, ended.out + ended.err
    (row,) = rows_of(tmp_path / "table.csv")
    assert (row["start_sample"], row["stop_sample"]) == ("160000", "320000")


@pytest.mark.slow
def test_nothing_to_score_is_said(tmp_path):
    silent = [f"+recording.target.rate_{kind}_hz=0.01" for kind in ("excitatory", "inhibitory")]
    overrides = [*SIZES, *silent, "study.only={labels:[5],training:[scratch]}", "study.seeds=[0]"]
    overrides[overrides.index("recording.target.duration_s=10")] = "recording.target.duration_s=1"
    ended = study(tmp_path / "study", tmp_path, *overrides)
    assert ended.code == 1
    assert "a study needs true spikes in time that no label came from, got none for labels-5_" in ended.err
    assert "Traceback" not in ended.err
