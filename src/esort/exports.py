"""A sorting in the formats that other programs open: phy's folder, NWB, a SortingAnalyzer.

SpikeInterface writes the analyzer and phy's folder (`esort.phy`), pynwb the NWB file (`esort.nwb`).
"""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from esort.files import new_folder_atomically
from esort.nwb import Session, write_nwb
from esort.one_line import one_line
from esort.phy import write_phy
from esort.results import RUN, set_aside
from esort.threads import available_cores

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording, BaseSorting, SortingAnalyzer

__all__ = ["EXPORTS", "Exportable", "check_exports", "remove_exports", "write_exports"]

logger = logging.getLogger(__name__)

# Name of an export -> what it is called in the folder of results.
EXPORTS = {"phy": "phy", "nwb": "sorting.nwb", "analyzer": "analyzer"}
_PACKAGES = {"phy": ("pandas", "sklearn"), "nwb": ("pynwb",), "analyzer": ("pandas", "sklearn")}
_EXTENSIONS = (
    "random_spikes",
    "waveforms",
    "templates",
    "noise_levels",
    "spike_amplitudes",
    "unit_locations",
    "correlograms",
    "template_similarity",
    "template_metrics",
    "principal_components",
    "quality_metrics",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Exportable:
    """What there is to export.

    Parameters
    ----------
    sorting : BaseSorting
        One segment.
    probability : float array, shape (S,)
        Of each spike, in the order of ``sorting.to_spike_vector()``.
    recording : BaseRecording
        As stored.
    filtered : BaseRecording
        The same behind the filter, lazily; from here come waveforms and metrics.
    source : str
        Where the recording lies.
    session : Session
        What the NWB file says of the session.
    """

    sorting: BaseSorting
    probability: np.ndarray
    recording: BaseRecording
    filtered: BaseRecording
    source: str
    session: Session = field(default_factory=Session)

    def __post_init__(self) -> None:
        num_spikes = self.sorting.to_spike_vector().size
        if np.shape(self.probability) != (num_spikes,):
            raise ValueError(
                f"expected a probability for each of {num_spikes} spikes, "
                f"got shape {np.shape(self.probability)}"
            )

    @property
    def has_spikes(self) -> np.ndarray:
        """Which units have any, (U,) booleans."""
        spikes = self.sorting.to_spike_vector()
        return np.bincount(spikes["unit_index"], minlength=len(self.sorting.unit_ids)) > 0


def check_exports(
    names: Iterable[str] | None, folder: Path | None = None, *, overwrite: bool = False
) -> tuple[str, ...]:
    """Find out early whether exports can be made.

    Parameters
    ----------
    names : sequence of str, optional
        Among `EXPORTS`.
    folder : Path, optional
        Of the results.
    overwrite : bool
        Whether what lies there may be replaced.

    Returns
    -------
    tuple of str
        Each name once.

    Raises
    ------
    ValueError
        If one is unknown or its packages are missing; it says how to install them.
    FileExistsError
        If there is such an export in the folder, unless `overwrite`.
    """
    if isinstance(names, str):
        names = [names]
    names = tuple(dict.fromkeys(names or ()))
    for name in names:
        if name not in EXPORTS:
            raise ValueError(f"export must be a list among {', '.join(EXPORTS)}, got {name!r}")
        missing = [package for package in _PACKAGES[name] if importlib.util.find_spec(package) is None]
        if missing:
            raise ValueError(f"export={name} needs {', '.join(missing)}: pip install 'esort[export]'")
        if folder is not None and not overwrite and (folder / EXPORTS[name]).exists():
            raise FileExistsError(
                f"{folder / EXPORTS[name]} exists: choose another folder, or give overwrite=true to "
                "replace it"
            )
    return names


def remove_exports(folder: Path) -> None:
    """Remove the exports of the sorting that lies in a folder, before it is replaced.

    Only those that its ``run.json`` names: a folder ``phy`` that somebody else has put there stays.
    """
    try:
        names = json.loads((folder / RUN).read_text(encoding="utf-8")).get("exports", [])
    except (OSError, ValueError, AttributeError):
        return
    for path in [folder / EXPORTS[name] for name in names if name in EXPORTS]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write_exports(names: Iterable[str], content: Exportable, folder: Path) -> dict[str, Path]:
    """Write a sorting in the formats that other programs open.

    Parameters
    ----------
    names : sequence of str
        Among `EXPORTS`.
    content : Exportable
    folder : Path
        Of the results: phy's folder is ``phy/``, the NWB file ``sorting.nwb``, the analyzer ``analyzer/``.
        What is there is replaced.

    Returns
    -------
    dict of str to Path
        What was written. A sorting without any spike has nothing for phy or an analyzer: a warning says so.

    Raises
    ------
    ValueError
        See `check_exports`; or a library fails, or the disk has no room for phy's copy of the traces.
    """
    names = check_exports(names)
    written = {}
    if "nwb" in names:
        with _one_line("nwb"):
            written["nwb"] = write_nwb(
                content.sorting,
                content.probability,
                content.recording,
                folder / EXPORTS["nwb"],
                session=content.session,
                source=content.source,
            )
    rest = [name for name in ("analyzer", "phy") if name in names]
    if rest and not content.has_spikes.any():
        logger.warning("no export=%s: no spike was found", ",".join(rest))
        return written
    if rest:
        with _one_line(rest[0]):
            path = folder / EXPORTS["analyzer"] if "analyzer" in rest else None
            analyzer = _analyzer(content, path)
        if path is not None:
            written["analyzer"] = path
    if "phy" in rest:
        with _one_line("phy"):
            written["phy"] = write_phy(
                analyzer,
                content.has_spikes,
                content.probability,
                content.recording,
                folder / EXPORTS["phy"],
                job_kwargs=_jobs(),
            )
    return written


@contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Turn what a library raises into one line; the sorting itself is on disk by now."""
    logger.info("exporting: %s", name)
    try:
        with warnings.catch_warnings():
            # Empty units and few spikes make metrics nan, which is what the libraries warn of.
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        reason = one_line(error, 300)
        raise ValueError(f"export={name} failed, the sorting itself is complete: {reason}") from error


def _jobs() -> dict[str, Any]:
    # Threads: a pool of processes might import the caller's script again.
    return {
        "n_jobs": available_cores(),
        "pool_engine": "thread",
        "chunk_duration": "1s",
        "progress_bar": False,
    }


def _analyzer(content: Exportable, path: Path | None) -> SortingAnalyzer:
    """Make the analyzer, with metrics and all units; on disk, or where there is no path in memory."""
    from spikeinterface.core import create_sorting_analyzer, load

    def make(**where: Any) -> SortingAnalyzer:
        analyzer = create_sorting_analyzer(
            content.sorting, content.filtered, sparse=True, job_kwargs=_jobs(), **where
        )
        analyzer.compute({name: {} for name in _EXTENSIONS}, **_jobs())
        return analyzer

    if path is None:
        return make(format="memory")
    with set_aside(path), new_folder_atomically(path) as partial:
        make(format="binary_folder", folder=partial, overwrite=True)
    analyzer = load(path)
    if not analyzer.has_recording():  # it lives in memory
        analyzer.set_temporary_recording(content.filtered)
    return analyzer
