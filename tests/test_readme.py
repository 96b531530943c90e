"""What README shows: its Python runs, its tables are the configuration's (its commands: test_docs)."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)


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
