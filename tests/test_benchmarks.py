"""Every benchmark runs, at a size that takes seconds, and the pages show what the benchmarks left.

What they measure is nobody's promise here: a test that is timed says how busy the machine is.
"""

import json
import re
import subprocess
import sys

import pytest
from entries import REAL, ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import collect
import table
from rows import Rows

# Benchmark, its options, and what its result holds. Those with a folder learn one checkpoint between them.
SMALL = {
    "ablation": ("channels=32 rates=none FOLDER", "rows"),
    "accuracy": ("conditions=generator seeds=0", "mean_pooled"),
    "defects": ("probe=neuronexus32 shares=0.05 draws=1", "rows"),
    "drift": ("conditions=zigzag seeds=1 peers=none", "rows"),
    "latency": ("probe=neuronexus32 seconds=4 paced=false FOLDER", "delay_ms"),
    "load": ("probe=neuronexus32 hours=0.04 units=10 FOLDER", "hours"),
    "postprocess": ("num_units=20 duration_s=2 array_duration_s=1", "speed"),
    "runtimes": ("channels=32 FOLDER", "by_the_clock"),
    "scaling": ("channels=32,64 seconds=4 lengths_s=4,8 FOLDER", "over_channels"),
    "speed": ("channels=32 seconds=10 peers=none runs=1 FOLDER", "floors"),
    "teacher": ("conditions=generator seeds=0 teacher=tridesclous2", "rows"),
    "unknown": ("probe=neuronexus32", "rivals"),
}
# Run by hand on what others left, or with tests of their own.
OTHERS = {"collect", "exported", "hybrid", "mutants", "pursuit", "sweep", "table"}
PIECES = {"every_second_row", "marked", "options", "rows", "same_seconds"}


def run(name, *options):
    command = [sys.executable, ROOT / "benchmarks" / f"{name}.py", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("benchmark")


def test_every_benchmark_is_known():
    there = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert there == SMALL.keys() | OTHERS | PIECES


def test_a_benchmark_that_was_stopped_goes_on_with_its_rows(tmp_path):
    output, options = tmp_path / "result.json", {"labels": "10"}
    first = Rows(output, options)
    assert first.missing(["a", "b"], ["0", "1"]) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    first.add({"condition": "a", "seed": 1, "pooled": 0.5})
    assert not output.exists()
    again = Rows(output, options)
    assert again.missing(["a", "b"], ["0", "1"]) == [("a", 0), ("b", 0), ("b", 1)]
    assert Rows(output, {"labels": "5"}).rows == []
    again.add({"condition": "a", "seed": 0, "pooled": 0.25})
    again.finish("python benchmarks/one.py", mean=0.375)
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    content = json.loads(output.read_text())
    assert content == {"command": "python benchmarks/one.py", "mean": 0.375, "rows": again.rows}
    assert Rows(output, options).rows == []
    with pytest.raises(ValueError, match="expected rows for"):
        Rows(output, options).finish("python benchmarks/one.py")
    assert json.loads(output.read_text()) == content


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_benchmark(name, folder):
    options, wanted = SMALL[name]
    output = folder / f"{name}.json"
    options = options.replace("FOLDER", f"folder={folder}").split()
    done = run(name, *options, f"output={output}")
    assert done.returncode == 0, done.stdout + done.stderr
    found = next(folder.glob(f"{name}*.json"))  # the ablation's is named by the channels too
    content = json.loads(found.read_text())
    assert content["command"].startswith(f"python benchmarks/{name}.py")
    assert content[wanted]


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the real recordings are not here")
def test_hybrid(tmp_path):
    output = tmp_path / "hybrid.json"
    done = run(
        "hybrid",
        f"templates={REAL / 'templates'}",
        f"noise={REAL / 'np_ultra_stub' / 'p5_g0'}",
        *("stream=imec0.ap", "conditions=measured", "seeds=0", "peers=none", "seconds=20", "channels=32"),
        f"output={output}",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(output.read_text())["rows"][0]["ours_pooled"] > 0


@pytest.mark.slow
def test_exported(trained_pursuit):
    recording = trained_pursuit.subject().source
    done = run("exported", f"checkpoint={trained_pursuit.checkpoint}", f"recording={recording}", "seconds=8")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_mutants(tmp_path):
    output = tmp_path / "mutants.json"
    options = ("count=2", "minutes=1", "workers=1", "check=false", "modules=labels")
    done = run("mutants", *options, f"output={output}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert output.is_file()


@pytest.mark.parametrize("name", SMALL)
def test_an_unknown_option_is_refused(name):
    done = run(name, "colour=blue")
    assert done.returncode != 0
    assert re.search(r"expected .*, got '?colour=blue", done.stderr), done.stderr


def test_the_readme_shows_what_was_measured():
    before = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = before.split(table.BEGIN)[1].split(table.END)[0]
    for what, figure, command in table.rows():
        assert f"| {what} | {figure} | `{command}` |" in shown, what


def test_the_page_of_results_shows_what_lies_there():
    assert (ROOT / "docs/results/README.md").read_text(encoding="utf-8") == collect.page()
