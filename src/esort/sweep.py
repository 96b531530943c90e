"""Before and after the jobs: no result is overwritten by accident, and a sweep ends with one table."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from esort.admission import check_plain_yaml
from esort.files import check_writable, write_atomically
from esort.locks import check_free
from esort.results import check_output
from esort.runs import ERROR_FILE, complain, full_errors

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FolderGuard", "SweepTable"]

# What a job's row shows: file, and the names of numbers in it.
_COLUMNS = {
    "scores.json": ("pooled_accuracy", "mean_accuracy", "agreement"),
    "run.json": ("num_units", "num_spikes", "real_time_factor"),
}


class FolderGuard(Callback):
    """Refuses a folder that holds results, is in use or takes none, before Hydra writes anything into it."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """See `hydra.experimental.callback.Callback`."""
        self._check([Path(config.hydra.run.dir)], config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """See `hydra.experimental.callback.Callback`."""
        folder = Path(config.hydra.sweep.dir)
        self._check([folder, *sorted(path for path in folder.glob("*/") if path.name.isdigit())], config)

    def _check(self, folders: list[Path], config: DictConfig) -> None:
        # Hydra turns a callback's errors into warnings; only leaving stops it.
        try:
            resume, overwrite = bool(config.get("resume")), bool(config.get("overwrite"))
            how = "overwrite=true to replace it" if "overwrite" in config else "resume=true to go on"
            for folder in folders:
                check_output(folder, overwrite=resume or overwrite, how=how)
                check_free(folder)
            check_writable(folders[0])
        except (ValueError, OSError) as error:
            if full_errors():
                raise SystemExit(f"{type(error).__name__}: {error}") from error
            complain(str(error))
            sys.exit(1)


class SweepTable(Callback):
    """One table of all jobs at the end of a sweep; exit code 1 if one of them failed."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Gather what the jobs left, print it as a table, and write it as ``table.csv``."""
        import pandas as pd

        folder = Path(config.hydra.sweep.dir)
        jobs = sorted(folder.glob("*/.hydra/overrides.yaml"), key=lambda path: _job_number(path.parents[1]))
        if not jobs:
            return
        table = pd.DataFrame([_row(path.parents[1]) for path in jobs])
        with write_atomically(folder / "table.csv") as partial:
            table.to_csv(partial, index=False)
        print(_shown(table).to_string(index=False, float_format=lambda value: f"{value:.4g}", na_rep=""))
        print(f"table:    {folder / 'table.csv'}")
        if "error" in table:
            complain(f"{table['error'].notna().sum()} of {len(table)} jobs failed")
            sys.exit(1)


def _job_number(folder: Path) -> tuple[int, str]:
    return (int(folder.name) if folder.name.isdigit() else sys.maxsize, folder.name)


def _row(folder: Path) -> dict[str, Any]:
    """One job: what was overridden, and what came out."""
    row: dict[str, Any] = {"job": folder.name}
    overrides = folder / ".hydra" / "overrides.yaml"
    try:
        check_plain_yaml(overrides)
    except ValueError as error:
        return row | {"error": str(error)}
    for override in OmegaConf.load(overrides):
        name, _, value = str(override).partition("=")
        row[name.lstrip("+~")] = value
    if (folder / ERROR_FILE).is_file():
        return row | {"error": (folder / ERROR_FILE).read_text(encoding="utf-8").strip()}
    for file, names in _COLUMNS.items():
        path = folder / file
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if isinstance(content.get("agreement"), dict):
            content["agreement"] = content["agreement"]["mean_best"]
        row.update({name: content[name] for name in names if content.get(name) is not None})
    return row


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """Columns for the terminal: the overrides that all jobs share would only make it wide."""
    results = {name for names in _COLUMNS.values() for name in names} | {"job", "error"}
    return table[[name for name in table if name in results or table[name].nunique(dropna=False) > 1]]
