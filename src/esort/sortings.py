"""Open a sorting of any format."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from esort.curation import curated
from esort.formats import SORTING_FORMATS, find_format, one_segment, read

if TYPE_CHECKING:
    from spikeinterface.core import BaseSorting

__all__ = ["open_sorting"]


def open_sorting(
    path: str | Path,
    *,
    format: str = "auto",
    sampling_frequency: float | None = None,
    stream_id: str | None = None,
    segment: int | None = None,
    groups: Sequence[str] | None = None,
) -> BaseSorting:
    """Open a sorting of any format, without the units that whoever curated it called noise.

    Parameters
    ----------
    path : path-like
        File or folder: SpikeInterface's folders, zarr, npz and sorter outputs, phy, Kilosort, NWB, MEArec, a
        simulation of ours. Other readers of SpikeInterface go by name.
    format : str
        "auto" recognises it.
    sampling_frequency : float, optional
        In Hz, for NWB units without a recording beside them; otherwise checked.
    stream_id : str, optional
        For NWB: the path of the electrical series whose clock the units follow.
    segment : int, optional
        Which segment of several.
    groups : sequence of str, optional
        Only units of these groups of the curation, see `esort.curation.curated`.

    Returns
    -------
    BaseSorting
        One segment. Units have the names that they had before an export to phy, where it says them.

    Raises
    ------
    FileNotFoundError
        If nothing lies at the path.
    ValueError
        If it is no sorting, its rate is another than `sampling_frequency`, or nothing is left of `groups`.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"no sorting at {path}: no such file or folder")
    fmt = find_format(path, format, SORTING_FORMATS, "sorting")
    clock = {"sampling_frequency": sampling_frequency} if fmt.name == "nwb" else {}
    sorting = read(path, fmt, stream_id, **clock)
    if not hasattr(sorting, "get_unit_spike_train"):
        raise ValueError(f"{path} holds a {type(sorting).__name__}, not a sorting")
    if sampling_frequency is not None and not math.isclose(
        sorting.sampling_frequency, sampling_frequency, rel_tol=1e-3
    ):
        raise ValueError(
            f"{path} is a sorting at {sorting.sampling_frequency:g} Hz, "
            f"but the recording has {sampling_frequency:g} Hz"
        )
    return curated(one_segment(sorting, segment, path), path, groups)
