"""Rows of a result, kept as they are found: a benchmark that was stopped goes on with them.

What is not finished lies beside the result and never looks like it. Rows of another commit, or of other
options, are not taken.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from esort.files import write_json


class Rows:
    """Rows of a result, one for each condition and seed.

    Parameters
    ----------
    output : Path
        Of the result.
    options : dict
        All that the rows depend on.
    """

    def __init__(self, output, options):
        self.output = Path(output)
        self.kept = self.output.with_suffix(".unfinished.json")
        self.made_by = {"options": dict(options), "commit": _commit(Path(__file__).parent)}
        self.rows = []
        if self.kept.is_file():
            found = json.loads(self.kept.read_text())
            if found["made_by"] == self.made_by:
                self.rows = found["rows"]
                print(f"{len(self.rows)} rows found in {self.kept}", flush=True)

    def missing(self, conditions, seeds):
        """Conditions and seeds that have no row yet."""
        found = {(row["condition"], row["seed"]) for row in self.rows}
        wanted = [(condition, int(seed)) for condition in conditions for seed in seeds]
        return [one for one in wanted if one not in found]

    def add(self, row):
        """Keep a row."""
        self.rows.append(row)
        write_json(self.kept, {"made_by": self.made_by, "rows": self.rows})

    def finish(self, command, **more):
        """Write the result; one without rows shall not take the place of another."""
        if not self.rows:
            raise ValueError(f"expected rows for {self.output}, got none")
        write_json(self.output, {"command": command, **more, "rows": self.rows})
        self.kept.unlink(missing_ok=True)


def _commit(folder):
    """The commit that a folder is at; empty where git knows of none."""
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True)
    return found.stdout.strip()
