"""Copy tables and figures of studies into docs/results, with the commands that made them.

    python benchmarks/collect.py runs/label_efficiency-neuronexus32-dense runs/noise-neuronexus32-dense
    python benchmarks/collect.py                                     # the page alone

For each folder of a study: ``table.csv``, ``summary.csv``, ``figure.png``, ``study.json``, and what else it
left for a curve; then ``docs/results/README.md`` is written anew from all that lie there, and from what the
benchmarks against other sorters left in ``benchmarks/results``.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import pandas as pd

from esort.study_table import overall_labels_ratio

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
FILES = ("study.json", "table.csv", "summary.csv", "figure.png", "curve.json", "label_plan.csv")
NEEDED = FILES[:4]
HEADER = """# Results of the studies

Written by `python benchmarks/collect.py FOLDER ...`. Pooled accuracy at 0.4 ms on time that no label came
from; means over seeds with 95 % intervals by Student's t; source and target share no template. `table.csv`
has a row for each run, `summary.csv` one for each point. `gain`: difference from the baseline's pooled
accuracy, paired by seed; `labels ratio`: labels needed for what the baseline reaches with these, over these
("plateau": it had reached that with fewer).
"""
# Of benchmarks/results: what is said of each, and the prefix of our own columns.
AGAINST = {
    "hybrid": (
        "Real templates in noise as measured on a real probe, 64 channels, 10 labels of each unit",
        "ours",
    ),
    "teacher": ("A student that learned from a teacher's first 30 s, and that teacher", "student"),
    "peers_generator": ("SpikeInterface's generator, 10 labels of each unit", "graph"),
    "peers_noisy": ("MEArec, 128 channels, noise of 20 uV, 10 labels of each unit", "graph"),
    "peers_384": ("MEArec, 384 channels, 10 labels of each unit", "graph"),
    "drift": ("Moving tissue, 10 labels of each unit", "follows"),
    "drift_motion": ("Moving tissue, against Lupin that corrects motion (by default it does not)", "follows"),
    "labels_1": ("One label of each unit, 128 channels", "graph"),
    "labels_3": ("Three labels", "graph"),
    "labels_5": ("Five labels", "graph"),
    "labels_20": ("Twenty labels", "graph"),
}


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
    minutes = study["seconds"] / 60
    lines = [
        f"## {folder.name}",
        "",
        f"`{study['command']}`: {runs}; {minutes:.0f} min by the clock, {study['cores']} cores.",
        *(f"Not run: {reason}." for reason in study["skipped"]),
        "",
        f"![{folder.name}]({folder.name}/figure.png)",
        "",
        "| " + " | ".join([*axes, "seeds", "pooled", "95 %", "mean of units", *extra]) + " |",
        "|" + "---|" * (len(axes) + 4 + len(extra)),
    ]
    for row in rows:
        ends = [row[f"pooled_accuracy_{end}"] for end in ("low", "high")]
        # Student's t knows no limits.
        interval = " to ".join(f"{min(1.0, max(0.0, float(end))):.3f}" for end in ends) if all(ends) else ""
        shown = [*(row[axis] for axis in axes), row["n"], number(row["pooled_accuracy"]), interval]
        shown += [number(row["mean_accuracy"])]
        shown += [f"{number(row[name])} {bound(row, name)}".strip() for name in extra]
        lines.append("| " + " | ".join(shown) + " |")
    lines += labels_ratio(folder)
    return "\n".join(lines)


def labels_ratio(folder):
    """A line on all points of a curve; none for other figures."""
    ratio = overall_labels_ratio(pd.read_csv(folder / "summary.csv", keep_default_na=False, na_values=[""]))
    return [] if ratio != ratio else ["", f"Labels ratio over all points without bounds: {ratio:.2f}."]


def against(name):
    """What README says of a benchmark against other sorters: means over seeds."""
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    if not path.is_file():
        return None
    content = json.loads(path.read_text())
    rows = pd.DataFrame(content["rows"])
    title, own = AGAINST[name]
    sorters = [column.removesuffix("_pooled") for column in rows if column.endswith("_pooled")]
    sorters.sort(key=lambda sorter: sorter != own)
    lines = [f"## {title}", "", f"`{content['command']}`", ""]
    head = [f"{sorter}: pooled | mean of units" for sorter in sorters]
    lines += ["| condition | seeds | " + " | ".join(head) + " |", "|" + "---|" * (2 + 2 * len(sorters))]
    for condition, group in rows.groupby("condition", sort=False):
        values = [group[f"{sorter}_{kind}"].mean() for sorter in sorters for kind in ("pooled", "mean")]
        shown = ["" if value != value else f"{value:.3f}" for value in values]
        lines.append(f"| {condition} | {len(group)} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def number(text):
    return f"{float(text):.3f}" if text else ""


def bound(row, name):
    """Whether a ratio is only known to be at most or at least this."""
    return f"({row['labels_ratio_bound']})" if name == "labels_ratio" and row["labels_ratio_bound"] else ""


def page():
    """Text of docs/results/README.md, from all that lies there."""
    sections = [section(path.parent) for path in sorted(RESULTS.glob("*/study.json"))]
    sections += [text for name in AGAINST if (text := against(name))]
    return "\n\n".join([HEADER.rstrip(), *sections]) + "\n"


def main(arguments):
    for folder in arguments:
        print(f"docs/results/{collect(Path(folder))}")
    (RESULTS / "README.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
