"""Reading a folder that phy has curated: every cluster that has spikes, with what its tables say.

SpikeInterface reads the spikes. Its reader joins phy's tables by the clusters that all of them know, which
loses those that a table does not mention, and takes no texts as names of units; here it is given one table
of all.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["UNIT_NAME", "read_phy_folder"]

logger = logging.getLogger(__name__)

# Phy's clusters are numbers; what a unit of another name was called stands in this column.
UNIT_NAME = "unit_name"
_SI_NAME = "si_unit_id"  # SpikeInterface's, for numbers
_SPIKES = ("params.py", "spike_times.npy", "spike_clusters.npy", "spike_templates.npy")


def read_phy_folder(path: Path, **keywords: Any) -> Any:
    """Read phy's folder.

    Parameters
    ----------
    path : Path
    **keywords
        For SpikeInterface's `read_phy`.

    Returns
    -------
    BaseSorting
        All clusters that have spikes, and those without that every table knows. Units have the names that
        they had before an export to phy; a cluster that phy has made since is called ``phy<number>`` where
        the others have texts as names.
    """
    from spikeinterface.extractors import read_phy

    with tempfile.TemporaryDirectory() as folder:
        for name in _SPIKES:
            if (path / name).exists():
                Path(folder, name).symlink_to((path / name).resolve())
        table = _one_table(path)
        table.to_csv(Path(folder, "cluster_info.tsv"), sep="\t")
        sorting = read_phy(folder, **keywords)
    sorting._kwargs["folder_path"] = str(path.absolute())
    sorting.annotate(phy_folder=str(path.resolve()))
    if UNIT_NAME not in table:
        return sorting
    names = [str(name) for name in table[UNIT_NAME]]
    own = [name != "nan" and names.count(name) == 1 for name in names]
    return sorting.rename_units(
        [name if kept else f"phy{number}" for name, kept, number in zip(names, own, table.index, strict=True)]
    )


def _one_table(path: Path) -> pd.DataFrame:
    """Join phy's tables, one row for each cluster."""
    import pandas as pd

    files = sorted(file for file in path.iterdir() if file.suffix in (".tsv", ".csv"))
    # Phy's own summary, where it has saved one, is newer than the rest.
    files = [file for file in files if file.stem == "cluster_info"] or files
    tables = [pd.read_csv(file, sep="\t" if file.suffix == ".tsv" else ",") for file in files]
    tables = [table.rename(columns={"id": "cluster_id"}) if "id" in table else table for table in tables]
    tables = [table.set_index("cluster_id") for table in tables if "cluster_id" in table]
    clusters = "spike_clusters.npy" if (path / "spike_clusters.npy").is_file() else "spike_templates.npy"
    present = np.unique(np.load(path / clusters)).astype(np.int64)
    known = tables[0].index if tables else pd.Index(present)
    for table in tables[1:]:
        known = known[known.isin(table.index)]
    lost = present[~np.isin(present, known)]
    if lost.size:
        logger.info("%s: in not all of its tables: clusters %s", path, ", ".join(map(str, lost)))
    rows = pd.Index([*known, *lost], name="cluster_id")
    joined = pd.concat([pd.DataFrame(index=rows), *(table.reindex(rows) for table in tables)], axis=1)
    joined = joined.loc[:, ~joined.columns.duplicated()]
    if "group" not in joined:
        joined["group"] = "unsorted"
    joined["group"] = joined["group"].fillna("unsorted")
    if _SI_NAME in joined and not pd.api.types.is_numeric_dtype(joined[_SI_NAME]):
        joined = joined.rename(columns={_SI_NAME: UNIT_NAME})
    return joined
