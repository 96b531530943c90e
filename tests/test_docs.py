"""Every command and every Python block of README, CONTRIBUTING and docs exists, and takes what it is given.

Commands are checked here without being done: overrides compose, tools and their options are there. The test
that is marked slow does what ``train.py`` and ``sort.py`` are told, at sizes that take seconds.
"""

import ast
import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml
from entries import ROOT, run
from hydra import compose, initialize_config_dir
from probeinterface import generate_multi_columns_probe, write_probeinterface
from spikeinterface.core import load

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL = ("", "sh", "bash", "shell", "console", "text")
# Programs that are not ours, and that nobody runs in a test.
FOREIGN = {
    "apt-get",
    "cd",
    "docker",
    "eval",
    "git",
    "kill",
    "phy",
    "ray",
    "rsync",
    "sbatch",
    "sinfo",
    "srun",
    "ssh",
}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@dataclass(frozen=True)
class Command:
    """A command line of a page."""

    page: Path
    words: tuple[str, ...]

    def __str__(self):
        return f"{self.page.relative_to(ROOT)}: {' '.join(self.words)}"[:100]


def blocks(page):
    """Language and code of each fenced block."""
    return re.findall(
        r"^ *```(\w*)[^\n]*\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def commands(page):
    for language, code in blocks(page):
        if language not in SHELL:
            continue
        for line in re.sub(r"\\\n\s*", " ", code).splitlines():
            words = shlex.split(line.strip().removeprefix("$ "), comments=True)
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # environment
                words = words[1:]
            if words:
                yield Command(page, tuple(words))


def inline(page):
    """Commands in the text and in tables."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for words in re.findall(r"`((?:python|esort|make|pip|wandb) [^`]+)`", text):
        if "..." not in words:
            yield Command(page, tuple(shlex.split(words)))


COMMANDS = list(dict.fromkeys(command for page in PAGES for command in commands(page)))
INLINE = list(dict.fromkeys(command for page in PAGES for command in inline(page)))


def normal(words):
    """``esort train`` and ``.venv/bin/python train.py`` are the same command."""
    words = [words[0].removeprefix(".venv/bin/"), *words[1:]]
    if words[0] == "esort" and words[1:2] in (["train"], ["sort"]):
        return ["python", f"{words[1]}.py", *words[2:]]
    if words[0] == "esort":
        return ["python", "-m", f"esort.{words[1]}", *words[2:]]
    return words


def overrides_of(words):
    """Overrides of the first job."""
    given = [word for word in words if word not in ("-m", "--multirun")]
    is_sweep = len(given) < len(words) and not any(word.startswith("sweep=") for word in given)
    given = [re.sub(r"=(?:range|interval|choice)\(([^,)]+).*", r"=\1", one) for one in given]
    return [re.sub(r"=([^\[{(,]+),.*", r"=\1", one) if is_sweep else one for one in given]


def composed(script, overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(Path(script).stem, overrides=overrides, return_hydra_config=True)


def names_of(words):
    return [word.partition("=")[0].lstrip("-+") for word in words if "=" in word]


def sources_of(path):
    """Text of a script and of those beside it, which it may import."""
    return "".join(other.read_text(encoding="utf-8") for other in sorted(path.parent.glob("*.py")))


def check_python(words):
    if words[0] == "-m":
        module = words[1]
        assert find_spec(module), f"there is no module {module}"
        if module.startswith("esort."):
            assert hasattr(importlib.import_module(module), "main"), f"{module} is no command"
            source = Path(find_spec(module).origin).read_text(encoding="utf-8")
            source += (ROOT / "src/esort/recordings.py").read_text(encoding="utf-8")
            for name in names_of(words[2:]):
                assert name.split(".")[-1] in source, f"{module} has no option {name}"
        return
    script = ROOT / words[0]
    assert script.is_file(), f"there is no {words[0]}"
    if words[0] in ("train.py", "sort.py"):
        assert composed(words[0], [one for one in overrides_of(words[1:]) if one != "--help"])
        return
    for name in names_of(words[1:]):
        assert re.search(rf"\b{re.escape(name)}\b", sources_of(script)), f"{words[0]} has no option {name}"


def check_make(words):
    for target in words:
        assert "=" in target or re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), (
            target
        )


def check_pip(words):
    assert words[0] in ("install", "freeze")
    for word in words[1:]:
        found = re.search(r"^(?:esort|\.)\[(.*)\]$", word)
        for extra in found.group(1).split(",") if found else ():
            assert extra in EXTRAS, f"there is no extra {extra}"


def check_wandb(words):
    if words[0] == "sweep":
        assert yaml.safe_load((ROOT / words[1]).read_text())["parameters"]
    else:
        assert words[0] in ("login", "sync", "agent")


@pytest.mark.parametrize("command", dict.fromkeys(COMMANDS + INLINE), ids=str)
def test_command(command):
    program, *words = normal(command.words)
    checks = {"python": check_python, "make": check_make, "pip": check_pip, "wandb": check_wandb}
    if program in checks:
        checks[program](words)
    else:
        ours = (ROOT / program, Path(sys.executable).parent / program)
        known = program in FOREIGN or any(path.is_file() for path in ours) or shutil.which(program)
        assert known, f"nobody knows the program {program}"


def test_commands_were_found():
    programs = {normal(command.words)[0] for command in COMMANDS}
    assert {"python", "make", "pip", "wandb"} <= programs
    assert len(COMMANDS) > 20
    assert len({command.page for command in COMMANDS}) > 5


PYTHON = [(page, code) for page in PAGES for language, code in blocks(page) if language == "python"]


@pytest.mark.parametrize(
    ("page", "code"), PYTHON, ids=[f"{page.stem}-{number}" for number, (page, _) in enumerate(PYTHON)]
)
def test_python_block(page, code):
    """It can be compiled, and what it imports of ours is there."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "esort":
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} leads to {target}, which is not there"


def test_every_page_is_in_the_contents():
    text = (ROOT / "mkdocs.yml").read_text()
    for page in set((ROOT / "docs").rglob("*.md")) - set((ROOT / "docs" / "results").glob("*/*.md")):
        assert page.relative_to(ROOT / "docs").as_posix() in text, f"{page.name} is in no list of mkdocs.yml"


def test_the_api_names_modules_that_there_are():
    names = re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert len(names) > 15
    for name in names:
        assert find_spec(name), name


# ------------------------------------------------------------------------------------ what takes longer

# For simulated recordings of any probe: seconds instead of minutes.
SHRINK = (
    "recording.target.duration_s=8",
    "recording.target.num_units=4",
    "recording.source.duration_s=6",
    "recording.source.num_units=4",
    "+recording.target.min_amplitude_uv=60",
)
GRADIENT = (
    "training.pretrain.epochs=1",
    "training.pretrain.batches_per_epoch=5",
    "training.finetune.epochs=1",
    "training.finetune.batches_per_epoch=5",
)


@pytest.fixture(scope="module")
def desk(trained, tmp_path_factory):
    """A folder with what the pages talk of."""
    folder = tmp_path_factory.mktemp("desk")
    subject = trained.subject()
    for name in ("recording", "day1_g0", "day2_g0"):
        (folder / name).symlink_to(Path(subject.source) / "recording")
    curated = load(Path(subject.source) / "sorting")
    curated.set_property("quality", ["good"] * curated.get_num_units())
    curated.save(folder=folder / "phy_folder")
    (folder / "model.safetensors").symlink_to(trained.checkpoint)
    probe = generate_multi_columns_probe(num_columns=2, num_contact_per_column=4, xpitch=20, ypitch=25)
    write_probeinterface(folder / "my_probe.json", probe)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["phy", "closed_loop", "extend"])
def test_python_of_the_guides_runs(name, desk, monkeypatch):
    monkeypatch.chdir(desk)
    names = {}
    for language, code in blocks(ROOT / "docs" / "guide" / f"{name}.md"):
        if language == "python":
            exec(compile(code, f"{name}.md", "exec"), names)  # noqa: S102 (our own pages)
    if name == "phy":
        assert names["sorting"].get_num_units() > 1
    if name == "closed_loop":
        assert names["count"] > 3


def is_long(command):
    """Whether it is done by the slow test; the other pages have tests of their own."""
    if command.page.parent.name != "guide" and command.page.name != "README.md":
        return False
    program, *words = normal(command.words)
    if program != "python" or words[0] not in ("train.py", "sort.py") or "--help" in words:
        return False
    # Teachers that sort by themselves take minutes, and have tests of their own; executors too.
    return not re.search(r"teacher=(?!sorting)|executor=|trainer\.devices|recording\.path=/", " ".join(words))


@pytest.mark.slow
@pytest.mark.parametrize("command", [one for one in COMMANDS if is_long(one)], ids=str)
def test_command_runs(command, desk, trained, tmp_path):
    _, script, *words = normal(command.words)
    overrides = [
        re.sub(r"=(recording|day[12]_g0|phy_folder|model\.safetensors|my_probe\.json)$", rf"={desk}/\1", one)
        for one in (word.replace("=FOLDER", "=recording") for word in overrides_of(words))
        if not one.startswith(("hydra.run.dir=", "hydra.sweep.dir=", "output=", "recording.stream_id="))
    ]
    overrides = [re.sub(r"checkpoint=.*", f"checkpoint={trained.checkpoint}", one) for one in overrides]
    text = " ".join(overrides)
    overrides = [
        re.sub(r"teacher\.path=.*", f"teacher.path={desk}/phy_folder", one)
        for one in overrides
        if not one.startswith("teacher.seconds=")
    ]
    if script == "sort.py":
        more = [f"output={tmp_path / 'out'}"]
    else:
        more = [f"hydra.run.dir={tmp_path / 'out'}", *GRADIENT]
        if "recording=path" not in text:
            more += [f"cache={tmp_path / 'cache'}", *SHRINK]
            if "labels=" in text or "experiment=" not in text:
                more += ["label_budget=per_unit", "labels=5"]
        if "experiment=" in text and "demo" not in text and "neuropixels128" not in text:
            more = [f"hydra.run.dir={tmp_path / 'out'}", "study.plan_only=true"]
        if "sweep=" in text:
            more += ["study=null"]
    overrides = [one for one in overrides if one.split("=")[0] not in {name.split("=")[0] for name in more}]
    overrides = [one for one in overrides if not one.startswith(("sweep=", "hydra.sweeper", "resume="))]
    ended = run(script, *overrides, *more)
    assert ended.code == 0, ended.out + ended.err
    if "plan_only=true" not in " ".join(more):
        assert (tmp_path / "out" / "run.json").is_file()
        assert json.loads((tmp_path / "out" / "run.json").read_text())["num_units"] >= 1


def is_tool(command):
    program, *words = normal(command.words)
    return program == "python" and (words[0] == "-m" or words[0].startswith("examples/sort_with"))


@pytest.mark.slow
def test_tools_run(desk, trained_pursuit, tmp_path):
    """Doctor, inspect, export and what sorts with the exported model, in the order of the pages."""
    checkpoint = tmp_path / "model.safetensors"
    shutil.copyfile(trained_pursuit.checkpoint, checkpoint)
    recording = load(desk / "recording")
    traces = recording.get_traces(end_frame=40_000, return_in_uV=True) / 0.195  # the page's step
    np.round(traces).astype(np.int16).tofile(tmp_path / "traces.raw")
    ran = []
    for command in filter(is_tool, COMMANDS):
        _, *words = normal(command.words)
        words = [ROOT / words[0] if words[0].endswith(".py") else words[0], *words[1:]]
        words = [re.sub(r"=day1_g0$", f"={desk}/day1_g0", str(word)) for word in words]
        words = [re.sub(r"runs/day1/model.safetensors$", str(checkpoint), word) for word in words]
        words = [word for word in words if not word.startswith("recording.stream_id=")]
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        ran.append(words[1] if words[0] == "-m" else Path(words[0]).stem)
    assert set(ran) >= {"esort.doctor", "esort.inspect", "esort.export", "sort_with_onnx"}
    assert np.load(tmp_path / "spikes.npz")["sample_index"].size > 3


@pytest.mark.slow
def test_the_pages_are_built(tmp_path):
    """Every link of every page leads somewhere, every docstring can be shown."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "detect_spikes" in (tmp_path / "api" / "index.html").read_text()
    assert "StreamingSorter" in (tmp_path / "api" / "index.html").read_text()


PROMISES = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")


def test_every_promise_has_a_test_that_there_is():
    there = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        there.add(path.stem)
        there.update(re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"`(test_\w+)`", PROMISES))
    assert len(named) > 80
    assert not named - there, "promised, and not tested"
    for path in re.findall(r"`((?:tests|benchmarks)/[\w/]+\.py)`", PROMISES):
        assert (ROOT / path).is_file(), f"{path} is not there"


def test_every_promise_has_a_case_a_promise_a_test_and_a_result():
    rows = [line for line in PROMISES.splitlines() if line.startswith("|") and not line.startswith("|---")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in rows]
    rows = [row for row in rows if row[0] not in ("case", "code") and not row[0].isdigit()]
    assert len(rows) > 60
    for row in rows:
        assert len(row) == 4, row
        assert all(row), row
        assert "`" in row[2], f"{row[0]}: no test is named"
