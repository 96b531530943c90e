"""The command `esort`, and the package as it is installed."""

import subprocess
import sys
import zipfile
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest
from entries import ROOT, SMALL_TARGET

from esort.command import conf_folder, main


def test_its_tools_are_named(capsys):
    for arguments in (["--help"], ["-h"], []):
        assert main(arguments) == 0
        shown = capsys.readouterr().out
        assert all(
            f"esort {name} " in shown
            for name in ("train", "sort", "doctor", "inspect", "verify", "export", "workspace")
        )
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"esort {version('esort')}\n"


def test_another_word_is_refused(capsys):
    assert main(["learn"]) == 1
    error = capsys.readouterr().err
    assert error == (
        "error: expected one of train, sort, doctor, inspect, verify, export, rivals, workspace, "
        "got 'learn': see esort --help\n"
    )


def test_a_tool_gets_its_arguments(capsys):
    assert main(["inspect"]) == 1
    assert "expected one checkpoint file, got 0" in capsys.readouterr().err


def test_it_is_installed_under_its_name():
    (entry,) = entry_points(group="console_scripts", name="esort")
    assert entry.load() is main


def test_the_configuration_of_a_checkout_is_that_of_the_root():
    assert conf_folder() == ROOT / "conf"


@pytest.mark.parametrize("name", ["train", "sort"])
def test_what_hydra_composes_is_the_same_as_at_the_root(name):
    installed, at_root = (
        subprocess.run(
            [sys.executable, *program, "--cfg", "job", "seed=3"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for program in (("-m", "esort", name), (f"{name}.py",))
    )
    assert installed == at_root
    assert "seed: 3" in installed


@pytest.mark.slow
def test_a_clean_environment(tmp_path):
    """A wheel, in an environment without the checkout: everything comes along."""
    built = tmp_path / "dist"
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(built), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)  # an sdist, and the wheel made from that
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert f"esort/{path.relative_to(ROOT).as_posix()}" in names
    for path in (ROOT / "src" / "esort").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert path.relative_to(ROOT / "src").as_posix() in names
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    site = next((environment / "lib").glob("python*/site-packages"))
    # The dependencies are those of this environment, on the path behind the new one's own packages; esort is
    # the wheel's, for the checkout is on no path.
    theirs = [path for path in sys.path if path.endswith("site-packages")]
    (site / "theirs.pth").write_text("\n".join(theirs))
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--quiet"]
    subprocess.run([*install, "--no-index", "--ignore-installed", str(wheel)], check=True)
    program = "import esort, esort.command as c; print(esort.__file__); print(c.conf_folder())"
    done = subprocess.run([python, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [Path(line).parents[0].name for line in done.stdout.split()] == ["esort", "esort"]
    assert str(ROOT) not in done.stdout
    folder = tmp_path / "run"
    esort = environment / "bin" / "esort"
    arguments = [*SMALL_TARGET, "label_budget=per_unit", "labels=20", f"hydra.run.dir={folder}"]
    subprocess.run([esort, "train", *arguments], cwd=tmp_path, check=True, capture_output=True)
    model, recording = (
        folder / "model.safetensors",
        next((tmp_path / "data" / "cache" / "simulations").glob("*/recording")),
    )
    for tool in (
        ("sort", f"checkpoint={model}", f"recording.path={recording}", "output=sorted"),
        ("doctor", "recording=path", f"recording.path={recording}"),
        ("inspect", str(model)),
    ):
        done = subprocess.run([esort, *tool], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "sorted" / "report.html").is_file()
