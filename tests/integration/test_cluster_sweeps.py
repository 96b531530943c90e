"""Sweeps of sort.py by Hydra's launchers: processes of this machine, a Ray cluster, a SLURM cluster."""

import csv
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from entries import ROOT, SMALL_TARGET, run_process
from ray_cluster import ray_cluster

from esort.sorter import Sorter

SLURM = ROOT / "tests" / "slurm"


@pytest.fixture(scope="module")
def recordings(trained_pursuit, tmp_path_factory):
    """The small recording, and its first five seconds."""
    whole = trained_pursuit.subject().recording
    folder = tmp_path_factory.mktemp("short") / "recording"
    half = whole.frame_slice(start_frame=0, end_frame=whole.get_num_samples() // 2)
    half.save(folder=folder, verbose=False)
    return {trained_pursuit.run["recording"]: whole, str(folder): half}


def sweep(trained_pursuit, recordings, output, *launcher, **environment):
    """Sort both recordings by a launcher; what comes out is what this process finds."""
    ended = run_process(
        "sort.py",
        "-m",
        f"checkpoint={trained_pursuit.checkpoint}",
        f"recording.path={','.join(recordings)}",
        f"output={output}",
        "report=false",
        *launcher,
        **environment,
    )
    assert ended.code == 0, ended.out + ended.err
    sorter = Sorter.load(trained_pursuit.checkpoint)
    for job, recording in enumerate(recordings.values()):
        spikes = np.load(output / str(job) / "sorting" / "spikes.npy")
        expected = sorter.sort(recording).spikes
        assert len(expected) > 50
        np.testing.assert_array_equal(spikes["sample_index"], expected.sample_index)
        np.testing.assert_array_equal(spikes["unit_index"], expected.unit_index)
    with open(output / "table.csv") as file:
        assert [row["recording.path"] for row in csv.DictReader(file)] == list(recordings)
    return ended


@pytest.mark.slow
def test_joblib(trained_pursuit, recordings, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="pip install esort[joblib]")
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    sweep(trained_pursuit, recordings, tmp_path / "out", *launcher)


@pytest.mark.slow
def test_ray(trained_pursuit, recordings, tmp_path):
    pytest.importorskip("ray", reason="pip install esort[ray]")
    if importlib.util.find_spec("hydra_plugins.hydra_ray_launcher") is None:
        pytest.skip("Hydra's Ray launcher is not installed: pip install --no-deps hydra-ray-launcher")
    with ray_cluster() as cluster:
        launcher = (
            "hydra/launcher=ray",
            f"hydra.launcher.ray.init.address={cluster.address}",
            "+hydra.launcher.ray.init.object_store_memory=null",
        )
        sweep(trained_pursuit, recordings, tmp_path / "out", *launcher)
        # One recording after the other, the chunks of each on all nodes.
        executor = ("executor=ray", f"executor.address={cluster.address}", "executor.chunk_s=2")
        sweep(trained_pursuit, recordings, tmp_path / "chunks", *executor)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A cluster of one node: the setting that leads to it."""
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if _which(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: apt-get install --no-install-recommends slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("a SLURM cluster is started by root only")
    folder = tmp_path_factory.mktemp("slurm") / "cluster"
    done = subprocess.run([SLURM / "start.sh", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    yield {"SLURM_CONF": str(folder / "slurm.conf")}
    subprocess.run([SLURM / "stop.sh", folder], check=True)
    assert not (folder / "slurm.conf").exists()


@pytest.mark.slow
def test_slurm(slurm, trained_pursuit, recordings, tmp_path):
    pytest.importorskip("submitit", reason="pip install esort[slurm]")
    launcher = (
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.timeout_min=20",
        "hydra.launcher.cpus_per_task=1",
    )
    sweep(trained_pursuit, recordings, tmp_path / "out", *launcher, **slurm)
    scripts = list((tmp_path / "out" / ".submitit").rglob("*submission*.sh"))
    assert scripts
    assert "#SBATCH --cpus-per-task=1" in Path(scripts[0]).read_text()


@pytest.mark.slow
def test_a_job_that_fails_on_the_cluster_leaves_its_line(slurm, trained_pursuit, recordings, tmp_path):
    pytest.importorskip("submitit", reason="pip install esort[slurm]")
    ended = run_process(
        "sort.py",
        "-m",
        f"checkpoint={trained_pursuit.checkpoint}",
        f"recording.path={next(iter(recordings))},{tmp_path / 'nowhere'}",
        f"output={tmp_path / 'out'}",
        "report=false",
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.timeout_min=20",
        **slurm,
    )
    assert ended.code == 1, ended.out + ended.err
    assert "error: 1 of 2 jobs failed" in ended.err
    assert "no recording at" in (tmp_path / "out" / "1" / "error.txt").read_text()
    assert (tmp_path / "out" / "0" / "sorting").is_dir()


def _which(name):
    """Where a program lies; Debian's daemons are not on everybody's path."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def study(trained, folder, *overrides, **environment):
    """Two runs of a study; what its table says of them."""
    ended = run_process(
        "train.py",
        "experiment=label_efficiency",
        *SMALL_TARGET,
        "study.only={labels:[5],training:[scratch]}",
        "study.seeds=[0,1]",
        "study.peers=[]",
        f"cache={trained.cache}",
        f"hydra.run.dir={folder}",
        *overrides,
        **environment,
    )
    assert ended.code == 0, ended.out + ended.err
    with open(folder / "table.csv") as file:
        return ended, list(csv.DictReader(file))


@pytest.fixture(scope="module")
def one_after_another(trained_pursuit, tmp_path_factory):
    """The same study in one process."""
    return study(trained_pursuit, tmp_path_factory.mktemp("study") / "plain")[1]


def assert_same_study(rows, expected):
    assert len(rows) == 2
    for row, other in zip(rows, expected, strict=True):
        assert {row["status"], other["status"]} == {"done"}
        assert float(row["seconds"]) > 0.5
        for name in ("seed", "pooled_accuracy", "mean_accuracy", "folder", "found_units"):
            assert row[name] == other[name], name


@pytest.mark.slow
def test_a_study_side_by_side(trained_pursuit, one_after_another, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="pip install esort[joblib]")
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    folder = tmp_path / "study"
    ended, rows = study(trained_pursuit, folder, *launcher)
    assert_same_study(rows, one_after_another)
    assert "pooled accuracy 0." in ended.out
    (one,) = (folder / "runs").glob("*seed-1_*")
    assert {"model.safetensors", "manifest.json", "point.json", "printed.txt"} <= {
        path.name for path in one.iterdir()
    }
    # One run more: what is done is found again, what fails is a line of the table.
    (one / "point.json").unlink()
    (one / "labels.npz").unlink(missing_ok=True)
    ended, rows = study(
        trained_pursuit, folder, *launcher, "study.seeds=[0,1]", "recording.target.duration_s=10"
    )
    assert "2 runs, 1 to do" in ended.out
    assert_same_study(rows, one_after_another)


@pytest.mark.slow
def test_a_run_that_fails_elsewhere_is_a_line_of_the_table(trained_pursuit, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="pip install esort[joblib]")
    _, rows = study(
        trained_pursuit,
        tmp_path / "study",
        "recording.target.duration_s=0.1",  # nobody spikes in the first half
        "study.seeds=[1]",
        "hydra/launcher=joblib",
    )
    assert [row["status"] for row in rows] == ["failed"]
    assert "no labelled spike of 4 units" in rows[0]["error"]


@pytest.mark.slow
def test_a_study_by_slurm(slurm, trained_pursuit, one_after_another, tmp_path):
    pytest.importorskip("submitit", reason="pip install esort[slurm]")
    launcher = (
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.timeout_min=20",
        "hydra.launcher.cpus_per_task=1",
    )
    _, rows = study(trained_pursuit, tmp_path / "study", *launcher, **slurm)
    assert_same_study(rows, one_after_another)
