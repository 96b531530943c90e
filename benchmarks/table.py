"""Write the table of measured figures into README.md, from the JSON files that the benchmarks left.

python benchmarks/table.py
"""

from __future__ import annotations

import json
from pathlib import Path

from marked import write_between  # beside this file

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
UNLABELLED = {"10 %": "unknown_32.json", "50 %": "unknown_unseen.json", "80 %": "unknown_most.json"}
BEGIN, END = "<!-- figures: python benchmarks/table.py -->", "<!-- end of figures -->"


def rows():
    """Yield (what, figure, command) of each figure that has been measured."""
    accuracy = json.loads((RESULTS / "accuracy.json").read_text())
    for condition, pooled in accuracy["mean_pooled"].items():
        own = [row for row in accuracy["rows"] if row["condition"] == condition]
        alone = sum(row["alone_pooled"] for row in own) / len(own)
        yield (
            f"pooled accuracy, {condition}, {own[0]['units']} units, 10 labelled spikes each, "
            f"mean of {len(own)} seeds",
            f"**{pooled:.3f}** (units on their own: {alone:.3f})",
            shorter(accuracy["command"]),
        )
    hybrid = json.loads((RESULTS / "hybrid.json").read_text())
    yield hybrid_row(hybrid)
    yield unlabelled_row(
        {share: json.loads((RESULTS / name).read_text()) for share, name in UNLABELLED.items()}
    )
    yield from speed_rows(json.loads((RESULTS / "speed.json").read_text()))
    yield from speed_rows(json.loads((RESULTS / "speed_384.json").read_text()))
    yield peers_row(json.loads((RESULTS / "speed_60.json").read_text()))
    latency = json.loads((RESULTS / "latency.json").read_text())
    yield (
        f"from a spike's block of 10 ms to its report, beyond the {latency['algorithmic_ms']:.0f} ms that a "
        f"decision takes, {latency['num_units']} units",
        f"p50 {latency['delay_ms']['p50']:.1f} ms, **p99 {latency['delay_ms']['p99']:.1f} ms**",
        "python benchmarks/latency.py",
    )
    postprocess = json.loads((RESULTS / "postprocess.json").read_text())
    yield from postprocess_rows(postprocess)


def hybrid_row(content):
    """Real templates in noise as measured: ours and Lupin."""
    rows = content["rows"]
    ours, lupin = (sum(row[f"{name}_pooled"] for row in rows) / len(rows) for name in ("ours", "lupin"))
    return (
        f"pooled accuracy, {rows[0]['true_units']} real templates in noise as measured, 64 channels, 10 "
        f"labelled spikes each, mean of {len(rows)} seeds",
        f"**{ours:.3f}** (Lupin: {lupin:.3f})",
        shorter(content["command"]),
    )


def unlabelled_row(contents):
    """What neurons without a label cost the others, with rivals and without."""
    shown = ", ".join(
        f"**{content['pooled, some labelled']:.3f}** ({content['pooled, some, no rivals, labelled']:.3f})"
        for content in contents.values()
    )
    first, *_, last = contents.values()
    return (
        f"pooled accuracy of the labelled units where {' / '.join(contents)} of the neurons have no label, "
        f"32 channels, mean of {len(first['seeds'])} seeds (without rivals)",
        f"{shown}; all labelled: {first['pooled, all labelled']:.3f}",
        shorter(last["command"]),
    )


def speed_rows(content):
    """Whole processes on one file: ours, those of other sorters, and reading and band-pass alone."""
    names = {"esort": "`sort.py`", "floor": "reading and band-pass by SpikeInterface alone"}
    for row in content["rows"]:
        yield (
            f"{names.get(row['name'], row['name'])}, {content['channels']} channels, "
            f"{content['recording_s']:.0f} s on {content['cores']} cores, whole process",
            f"**{row['real_time_factor']:.1f} × real time**, peak {row['peak_rss_gb']:.2f} GB",
            shorter(content["command"]),
        )


def peers_row(content):
    """Other sorters on the same file, whole process each, in our time."""
    peers = [row for row in content["rows"] if row["name"] not in ("esort", "floor")]
    shown = ", ".join(f"{row['name']} {row['times_ours']:.1f} ×" for row in peers)
    return (
        f"time of other sorters over ours, {content['channels']} channels, {content['recording_s']:.0f} s on "
        f"{content['cores']} cores, whole process",
        f"**{shown}**",
        shorter(content["command"]),
    )


def shorter(command):
    """The command without where its files go."""
    return " ".join(part for part in command.split() if not part.startswith(("folder=", "output=")))


def postprocess_rows(content):
    """Figures of the post-processing alone."""
    speed, options = content["speed"], content["options"]
    whole = [name for name, seconds in speed["measured_s"].items() if seconds == options["duration_s"]]
    fastest = min(whole, key=lambda name: speed["seconds"][name])
    yield (
        f"post-processing, {options['num_units']} units, {options['duration_s']} s at 32 kHz",
        f"**{speed['seconds'][fastest]:.2f} s**, {speed['ratio_to_scipy'][fastest]:.0f} × SciPy",
        "python benchmarks/postprocess.py",
    )


def main():
    lines = ["| what | figure | command |", "|---|---|---|"]
    lines += [f"| {what} | {figure} | `{command}` |" for what, figure, command in rows()]
    write_between(ROOT / "README.md", BEGIN, END, lines)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
