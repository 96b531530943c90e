"""Copy tables and figures of studies into docs/results, with the commands that made them.

    python benchmarks/collect.py runs/label_efficiency-neuronexus32-dense runs/noise-neuronexus32-dense

For each folder of a study: ``table.csv``, ``summary.csv``, ``figure.png``, ``study.json``, and what else it
left for a curve; then ``docs/results/README.md`` is written anew from all that lie there.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
FILES = ("study.json", "table.csv", "summary.csv", "figure.png", "curve.json", "label_plan.csv")
NEEDED = FILES[:4]
HEADER = """# Results of the studies

Written by `python benchmarks/collect.py FOLDER ...`. Pooled accuracy at 0.4 ms on time that no label came
from; means over seeds with 95 % intervals by Student's t; source and target share no template. `table.csv`
has a row for each run, `summary.csv` one for each point.
"""


def collect(folder):
    """Copy one study; return its name."""
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        sys.exit(f"{folder} holds no finished study: {', '.join(missing)} not found")
    target = RESULTS / folder.name
    target.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (target / name).unlink(missing_ok=True)
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)
    return folder.name


def section(folder):
    """What README says of one study."""
    study = json.loads((folder / "study.json").read_text())
    with open(folder / "summary.csv") as file:
        rows = [row for row in csv.DictReader(file) if int(row["n"])]
    known = list(rows[0])
    axes = known[: known.index("n")]
    extra = [name for name in ("gain", "labels_ratio") if name in known]
    runs = ", ".join(f"{count} {status}" for status, count in study["runs"].items())
    lines = [
        f"## {folder.name}",
        "",
        f"`{study['command']}`: {runs}; {study['seconds'] / 60:.0f} min on {study['cores']} cores.",
        *(f"Not run: {reason}." for reason in study["skipped"]),
        "",
        f"![{folder.name}]({folder.name}/figure.png)",
        "",
        "| " + " | ".join([*axes, "seeds", "pooled", "95 %", "mean of units", *extra]) + " |",
        "|" + "---|" * (len(axes) + 4 + len(extra)),
    ]
    for row in rows:
        interval = f"{number(row['pooled_accuracy_low'])} to {number(row['pooled_accuracy_high'])}"
        shown = [*(row[axis] for axis in axes), row["n"], number(row["pooled_accuracy"]), interval]
        shown += [number(row["mean_accuracy"])]
        shown += [f"{number(row[name])} {bound(row, name)}".strip() for name in extra]
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines)


def number(text):
    return f"{float(text):.3f}" if text else ""


def bound(row, name):
    """Whether a ratio is only known to be at most or at least this."""
    return f"({row['labels_ratio_bound']})" if name == "labels_ratio" and row["labels_ratio_bound"] else ""


def main(arguments):
    if not arguments:
        sys.exit("expected the folder of at least one study, got none")
    for folder in arguments:
        print(f"docs/results/{collect(Path(folder))}")
    sections = [section(path.parent) for path in sorted(RESULTS.glob("*/study.json"))]
    (RESULTS / "README.md").write_text("\n\n".join([HEADER.rstrip(), *sections]) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
