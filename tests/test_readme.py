"""What README shows works: its Python runs, its commands compose, its pictures and links are there."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)
    for language, block in BLOCKS
    if language == ""
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("python ")
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[1:4]))
def test_command_composes(command):
    script = Path(command[1]).stem
    assert (ROOT / command[1]).is_file()
    overrides = [argument for argument in command[2:] if argument != "-m"]
    if "-m" in command:  # the first job of the sweep
        overrides = [
            f"{name}={value.split(',')[0]}" for name, value in (one.split("=", 1) for one in overrides)
        ]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert compose(script, overrides=overrides)


def test_choices_are_the_configuration_s():
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|$", README, flags=re.MULTILINE)
    for groups, options in rows:
        names = re.findall(r"`(\w+)`", groups)
        for name, part in zip(names, options.split(";"), strict=False):
            folder = ROOT / "conf" / name
            if folder.is_dir():
                existing = {path.stem for path in folder.glob("*.yaml")}
                assert set(re.findall(r"`(\w+)`", part)) == existing, name


def test_python_runs(capsys):
    blocks = [block for language, block in BLOCKS if language == "python"]
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})  # noqa: S102 (our own README)
        (comment,) = re.findall(r"print\(.*\)  # (.*)", block)
        assert capsys.readouterr().out.strip() == comment


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
