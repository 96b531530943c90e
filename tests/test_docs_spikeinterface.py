"""What docs/spikeinterface.md and docs/exports.md show works."""

import os
import re
import shlex
from pathlib import Path

import pytest
from entries import ROOT, run
from hydra import compose, initialize_config_dir
from uncompiled import uncompiled

pytestmark = pytest.mark.filterwarnings("ignore:The extractor is not serializable")


def blocks(page, language):
    """Code of a page in order, with the comment in front of each."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = re.findall(r"(?:<!-- (.*?) -->\n)?```(\w*)\n(.*?)```", text, flags=re.DOTALL)
    return [(comment, code) for comment, kind, code in found if kind == language]


@pytest.fixture
def desk(trained, tmp_path, monkeypatch):
    """The folder that the pages work in."""
    subject = trained.subject()
    (tmp_path / "recording").symlink_to(Path(subject.source) / "recording")
    (tmp_path / "labels").symlink_to(Path(subject.source) / "sorting")
    (tmp_path / "model.safetensors").symlink_to(trained.checkpoint)
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    # What slurm does with a script, on this machine: its last argument in a process of its own.
    sbatch.write_text('#!/bin/sh\nfor script; do :; done\ncd / && exec "$script"\n')
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("engines", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_spikeinterface_page(desk, engines):
    """In default tests without the jobs in other processes, which the tests of the sorter run too."""
    names = {}
    ran = 0
    for comment, code in blocks("spikeinterface.md", "python"):
        program = compile(code, "spikeinterface.md", "exec")
        # What takes minutes is run by the slow test of the sorter.
        if comment != "takes minutes" and (engines or "jobs" not in code):
            exec(program, names)  # noqa: S102 (our own page)
            ran += 1
    assert ran == (7 if engines else 5)
    from spikeinterface.sorters import read_sorter_folder

    folders = ["sorted", "from_labels", "sessions"]
    if engines:
        folders += ["days/monday", "cluster/monday", "cluster/tuesday"]
    for name in folders:
        assert read_sorter_folder(desk / name).to_spike_vector().size > 10, name


def commands(page):
    return [shlex.split(line) for _, code in blocks(page, "") for line in code.splitlines() if line]


@pytest.mark.slow
def test_exports_page(desk):
    for _, script, *overrides in commands("exports.md"):
        if script == "sort.py":
            at_desk = [
                re.sub(r"=(model.safetensors|recording|sorted|described)$", rf"={desk}/\1", override)
                for override in overrides
            ]
            with uncompiled():
                ended = run(script, *at_desk)
            assert ended.code == 0, ended.out + ended.err
        else:
            with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
                assert compose(Path(script).stem, overrides=overrides)
    names = {}
    for _, code in blocks("exports.md", "python"):
        exec(compile(code, "exports.md", "exec"), names)  # noqa: S102 (our own page)
    assert (desk / "described" / "sorting.nwb").is_file()
    assert names["sorting"].get_num_units() == names["analyzer"].get_num_units()
