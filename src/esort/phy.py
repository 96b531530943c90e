"""A sorting as the folder that phy's template GUI opens, written by SpikeInterface.

What is done here is what SpikeInterface leaves to its caller: units without spikes, names of units that are
no numbers, the probability of each spike, traces that need no copy.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from esort.files import new_folder_atomically
from esort.phy_tables import UNIT_NAME
from esort.results import set_aside

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording, SortingAnalyzer

__all__ = ["write_phy"]


def write_phy(
    analyzer: SortingAnalyzer,
    has_spikes: np.ndarray,
    probability: np.ndarray,
    recording: BaseRecording,
    path: Path,
    *,
    job_kwargs: dict[str, Any],
) -> Path:
    """Write phy's folder.

    Parameters
    ----------
    analyzer : SortingAnalyzer
        Of all units, with templates, amplitudes, principal components and quality metrics.
    has_spikes : bool array, shape (U,)
        Which units have any. Those that have none stand in the tables only, after all others.
    probability : float array, shape (S,)
        Of each spike, for phy's attribute view.
    recording : BaseRecording
        As stored. Where it is one flat file phy reads that, otherwise the folder gets a copy of the
        analyzer's filtered traces.
    path : Path
        Replaced if it exists.
    job_kwargs : dict
        SpikeInterface's.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        If the disk has no room for the copy.
    """
    from spikeinterface.exporters import export_to_phy

    unit_ids = np.asarray(analyzer.unit_ids)
    if not has_spikes.all():
        # SpikeInterface numbers clusters as if units without spikes were not there, spikes as if they were.
        analyzer = analyzer.select_units(unit_ids[has_spikes], format="memory")
    raw = _flat_file(recording)
    if raw is None:
        _check_room(analyzer.recording, path.parent)
    with set_aside(path), new_folder_atomically(path) as partial:
        partial.rmdir()  # SpikeInterface wants to make it
        export_to_phy(
            analyzer,
            partial,
            copy_binary=raw is None,
            use_relative_path=raw is None,
            add_waveforms=True,
            verbose=False,
            **job_kwargs,
        )
        if raw is not None:
            (partial / "params.py").write_text(_parameters(recording, raw), encoding="utf-8")
        np.save(partial / "spike_probability.npy", probability)
        _name_clusters(partial, unit_ids, has_spikes)
    return path


def _flat_file(recording: BaseRecording) -> dict[str, Any] | None:
    """Where phy can read the traces as they are stored, which saves a copy of them."""
    if not recording.binary_compatible_with(time_axis=0, file_paths_length=1):
        return None
    described: dict[str, Any] = recording.get_binary_description()
    # Phy takes every channel of the file.
    return described if described["num_channels"] == recording.get_num_channels() else None


def _parameters(recording: BaseRecording, raw: dict[str, Any]) -> str:
    return (
        f"dat_path = {str(Path(raw['file_paths'][0]).resolve())!r}\n"
        f"n_channels_dat = {raw['num_channels']}\n"
        f"dtype = {np.dtype(raw['dtype']).name!r}\n"
        f"offset = {int(raw['file_offset'])}\n"
        f"sample_rate = {float(recording.sampling_frequency)!r}\n"
        f"hp_filtered = {recording.is_filtered()}\n"
    )


def _check_room(filtered: BaseRecording, folder: Path) -> None:
    needed = filtered.get_num_samples() * filtered.get_num_channels() * np.dtype(filtered.dtype).itemsize
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"phy's folder needs {needed / 1e9:.1f} GB for a copy of the filtered traces, "
            f"{free / 1e9:.1f} GB are free in {folder}"
        )


def _name_clusters(folder: Path, unit_ids: np.ndarray, has_spikes: np.ndarray) -> None:
    """Say in phy's tables which unit each cluster is, units without spikes too, in the units' order."""
    import pandas as pd

    numbers = np.empty(len(unit_ids), dtype=int)
    numbers[has_spikes] = np.arange(has_spikes.sum())
    numbers[~has_spikes] = np.arange(has_spikes.sum(), len(unit_ids))
    for file in folder.glob("cluster_*.tsv"):
        table = pd.read_csv(file, sep="\t").set_index("cluster_id").reindex(numbers)
        if "group" in table:
            table["group"] = table["group"].fillna("unsorted")
        if "channel_group" in table:
            table["channel_group"] = table["channel_group"].fillna(0).astype(int)
        table.to_csv(file, sep="\t")
    # SpikeInterface reads the names back where they are numbers; of texts its reader can make nothing.
    are_numbers = np.asarray(unit_ids).dtype.kind in "iu" and min(unit_ids, default=0) >= 0
    (folder / "cluster_si_unit_ids.tsv").unlink()
    name = "si_unit_id" if are_numbers else UNIT_NAME
    file = folder / ("cluster_si_unit_ids.tsv" if are_numbers else f"cluster_{UNIT_NAME}.tsv")
    pd.DataFrame({"cluster_id": numbers, name: list(unit_ids)}).to_csv(file, sep="\t", index=False)
