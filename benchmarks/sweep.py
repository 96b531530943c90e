"""The table of a search of hyper-parameters, for the documentation.

    python benchmarks/sweep.py runs/optuna-neuronexus32-pursuit
    python benchmarks/sweep.py runs/optuna-neuronexus32-pursuit output=docs/results/sweep.md

The folder is one that ``python train.py -m sweep=optuna`` left. What a page says between its marks of a note,
written by hand, stays when the page is made anew.
"""

from __future__ import annotations

import sys
from pathlib import Path

import optuna
import pandas as pd
from omegaconf import OmegaConf

from esort.files import write_atomically
from esort.optimise import STUDY_DB, TRIALS

ROOT = Path(__file__).parents[1]
NOTE, END_OF_NOTE = "<!-- note -->\n", "<!-- end of note -->"


def importances(folder: Path) -> dict[str, float]:
    """How much of the differences between trials each value explains (PED-ANOVA)."""
    study = optuna.load_study(study_name="esort", storage=f"sqlite:///{(folder / STUDY_DB).absolute()}")
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def page(folder: Path, note: str = "") -> str:
    """Return the page as Markdown."""
    table = pd.read_csv(folder / TRIALS)
    config = OmegaConf.load(folder / "multirun.yaml") if (folder / "multirun.yaml").is_file() else None
    params = [name for name in table if "." in name]
    score = table.columns[2]
    usual = table.iloc[0]
    done = table[table["state"] == "complete"]
    seeds = [name for name in table if name.startswith("seed")]
    command = " ".join(["python train.py -m sweep=optuna", *_given(config)])
    spread = usual[seeds].astype(float)
    best = done.loc[done[score].idxmax()]
    chosen = ", ".join(f"`{name.rpartition('.')[2]}={_text(best[name])}`" for name in params)
    lines = [
        "# A search of hyper-parameters",
        "",
        "<!-- made by: python benchmarks/sweep.py " + folder.as_posix() + " output=docs/results/sweep.md -->",
        "",
        "```",
        command,
        "```",
        "",
        f"{len(table)} trials on {len(seeds)} recordings each ({', '.join(seeds)}): {len(done)} complete, "
        f"{(table['state'] == 'pruned').sum()} pruned, {(table['state'] == 'fail').sum()} failed. Scored by "
        f"`{score}` on time that no label came from; no other table is made on these recordings.",
        "",
        f"As it is (trial 0): **{usual[score]:.4f}** ({spread.min():.4f} to {spread.max():.4f} over "
        f"recordings). Best: **{best[score]:.4f}**, {best[score] - usual[score]:+.4f}, by {chosen}.",
        "",
        f"{NOTE}{note}{END_OF_NOTE}",
        "",
        "| value | importance | tried | of the five best |",
        "|---|---|---|---|",
    ]
    weights = importances(folder)
    five = done.nlargest(5, score)
    for name in sorted(params, key=lambda one: -weights.get(one, 0)):
        tried, good = (f"{some[name].min():.4g} to {some[name].max():.4g}" for some in (table, five))
        lines.append(f"| `{name}` | {weights.get(name, 0):.2f} | {tried} | {good} |")
    shown = table.sort_values(["state", score], ascending=[True, False])
    names = ["trial", "state", score, *params, *seeds]
    lines += [
        "",
        "| " + " | ".join(one.rpartition(".")[2] for one in names) + " |",
        "|---" * len(names) + "|",
    ]
    for _, row in shown.iterrows():
        lines.append("| " + " | ".join(_text(row[name]) for name in names) + " |")
    lines += [
        "",
        "Importance: share of the differences between trials (PED-ANOVA of Optuna). A pruned trial shows ",
    ]
    lines[-1] += (
        "the mean over the recordings that it was tried on. The best of many trials looks better than it is: "
    )
    lines[-1] += "what is gained has to be seen on recordings that were not searched on."
    return "\n".join(lines) + "\n"


def note_of(path: Path) -> str:
    """What stands between the marks of a note in a page; nothing where there is no page."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return text.partition(NOTE)[2].partition(END_OF_NOTE)[0]


def _given(config: object) -> list[str]:
    overrides = [] if config is None else list(config.hydra.overrides.task)  # type: ignore[attr-defined]
    return [one for one in overrides if not one.startswith(("sweep=", "resume="))]


def _text(value: object) -> str:
    if isinstance(value, float):
        if pd.isna(value):
            return ""
        return f"{value:.4f}" if abs(value) <= 1 else f"{value:.4g}"
    return str(value)


def main(arguments: list[str]) -> int:
    """Run the command line; return its exit code."""
    folders = [one for one in arguments if "=" not in one]
    options = dict(one.split("=", 1) for one in arguments if "=" in one)
    if len(folders) != 1 or set(options) - {"output"}:
        print("error: expected python benchmarks/sweep.py FOLDER [output=FILE]", file=sys.stderr)
        return 1
    folder = Path(folders[0])
    if not (folder / TRIALS).is_file():
        print(f"error: expected a folder with {TRIALS}, got {folder}", file=sys.stderr)
        return 1
    if "output" not in options:
        print(page(folder), end="")
        return 0
    path = ROOT / options["output"]
    content = page(folder, note_of(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as partial:
        Path(partial).write_text(content, encoding="utf-8")
    print(f"page:     {options['output']}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
