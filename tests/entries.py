"""Run the two commands as a user does, and sizes at which that takes seconds."""

import contextlib
import io
import logging
import os
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[1]
REAL = ROOT.parent / "shared" / "real"

# Four loud neurons at a tetrode, ten seconds of which five are labelled.
SMALL_TARGET = (
    "probe=tetrode",
    "recording.target.duration_s=10",
    "recording.target.num_units=4",
    "+recording.target.min_amplitude_uv=80",
)
# Learning by gradient has more to go wrong than the default, the pursuit, which has tests of its own.
SHORT_TRAINING = (
    "model=dense",
    "training.pretrain.epochs=2",
    "training.pretrain.batches_per_epoch=20",
    "training.finetune.epochs=2",
    "training.finetune.batches_per_epoch=20",
    "trainer=cpu",
)
SMALL_SOURCE = ("recording.source.duration_s=10", "recording.source.num_units=4")
SMALL = (*SMALL_TARGET, *SMALL_SOURCE, *SHORT_TRAINING, "label_budget=per_unit", "labels=20")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    def error_line(self):
        """The one line on stderr of a command that failed."""
        assert self.code == 1, self.out + self.err
        lines = [line for line in self.err.splitlines() if line]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")


def run_process(script, *overrides, **environment):
    """Run a command in a process of its own."""
    done = subprocess.run(
        [sys.executable, script, *map(str, overrides)],
        cwd=ROOT,
        env={**os.environ, "MPLBACKEND": "Agg", **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def run(script, *overrides, **environment):
    """Run a command in this process, which saves the seconds that the imports take."""
    out, err = io.StringIO(), io.StringIO()
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    code = 0
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            contextlib.chdir(ROOT),
            mock.patch.object(sys, "argv", [script, *map(str, overrides)]),
            # Hydra takes whoever traces for a debugger, coverage too, and then raises what it would print.
            mock.patch.object(sys, "gettrace", return_value=None),
            mock.patch.dict(os.environ, {"HYDRA_FULL_ERROR": "0", **environment}),
        ):
            runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        code = end.code or 0
    finally:
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
    return Ended(code, out.getvalue(), err.getvalue())
