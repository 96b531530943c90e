"""esort in SpikeInterface's list of sorters.

``import esort`` is enough: as soon as ``spikeinterface.sorters`` is imported, before or after, this module
is too and puts `EsortSorter` into its list. A process that unpickles or loads a recording knows nothing of
``import esort``; `carry_esort` wraps a recording so that whoever loads it has esort in the list too.
"""

from __future__ import annotations

import json
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from spikeinterface.core import load
from spikeinterface.core.channelslice import ChannelSliceRecording
from spikeinterface.core.core_tools import SIJsonEncoder
from spikeinterface.sorters import sorterlist
from spikeinterface.sorters.basesorter import BaseSorter

from esort.preprocessing import BAND_HZ

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording, BaseSorting

    from esort.sort_result import SortResult

__all__ = ["CarryingRecording", "EsortSorter", "carry_esort", "register"]

_PARAMETERS: dict[str, tuple[Any, str]] = {
    "checkpoint": (
        None,
        "A checkpoint made by train.py or by a run of this sorter (sorter_output/model.safetensors), whose "
        "units are sorted. None: a teacher sorts the first part, its units are learned, the whole is sorted",
    ),
    "thresholds": (None, "One probability threshold for all units, in (0, 1]. None: the checkpoint's"),
    "num_workers": (None, "Threads that filter and run the network. None: one per core"),
    "teacher": (
        "lupin",
        "Without a checkpoint: the sorter to learn from, one of lupin, tridesclous2, spykingcircus2, simple, "
        "mountainsort5, kilosort4",
    ),
    "teacher_path": (
        None,
        "Without a checkpoint: a sorting of this recording to learn from in the place of a teacher's (a phy "
        "folder, NWB, anything that SpikeInterface reads)",
    ),
    "teacher_groups": (
        None,
        "Curation groups of teacher_path to learn from, such as ['good']. None: all but noise",
    ),
    "teacher_seconds": (
        None,
        "The first seconds that are learned from. None: 300, or everything with teacher_path",
    ),
    "label_budget": (
        "proportional",
        "What `labels` counts: proportional (part of the teacher's spikes), per_unit (spikes of each unit), "
        "interval (all spikes of the first seconds)",
    ),
    "labels": (1.0, "How much of the teacher's spikes is learned from, see label_budget"),
    "training": (
        "finetune",
        "finetune starts from a backbone that was pretrained on simulated recordings, scratch from nothing",
    ),
    "backbone": (
        None,
        "A backbone's checkpoint. None: the one that ships with esort where it fits; make: from the cache, "
        "or pretrained now for this probe and rate",
    ),
    "pretrain_epochs": (15, "Epochs of pretraining, where a backbone has to be made"),
    "epochs": (8, "Epochs of learning the units"),
    "freq_min_hz": (BAND_HZ[0], "Lower corner of the band-pass, where units are learned"),
    "freq_max_hz": (BAND_HZ[1], "Upper corner of the band-pass, where units are learned"),
    "common_reference": (
        "auto",
        "auto, median or none: whether the median over channels is subtracted (auto: from 16 channels on)",
    ),
    "seed": (0, "Seed of everything that is drawn"),
    "cache": (None, "Folder of backbones and simulated recordings. None: esort's in the user's cache"),
}
_SORTING, _PROBABILITY, _UNKNOWN = "sorting", "probability.npy", "unknown_events.npy"


class EsortSorter(BaseSorter):
    """A spike sorter that learns: with a checkpoint it sorts, without one it learns the recording first.

    Segments are sorted one by one with the same units. Without a checkpoint the units are learned on the
    longest segment.
    """

    sorter_name = "esort"
    requires_locations = True
    gpu_capability = "nvidia-optional"
    requires_binary_data = False
    handle_multi_segment = True

    _default_params = {name: default for name, (default, _) in _PARAMETERS.items()}  # noqa: RUF012 (theirs)
    _params_description = {name: text for name, (_, text) in _PARAMETERS.items()}  # noqa: RUF012
    sorter_description = (
        "esort learns the units of a recording from few labelled spikes, or from what another sorter finds "
        "in its first part, with a network pretrained on simulated recordings; with a checkpoint it sorts "
        "hours and days after with the same unit ids. See arXiv 2409.13067 for the published design."
    )
    installation_mesg = "pip install 'esort[peers]'"

    @classmethod
    def is_installed(cls) -> bool:
        """Whoever has this class has the package."""
        return True

    @classmethod
    def get_sorter_version(cls) -> str:
        """Version of the package."""
        return version("esort")

    @classmethod
    def _check_params(
        cls, recording: BaseRecording, output_folder: Path, params: dict[str, Any]
    ) -> dict[str, Any]:
        """Find whatever is wrong before long work starts, and make paths absolute: jobs run elsewhere."""
        params = dict(params)
        for name in ("checkpoint", "teacher_path", "backbone", "cache"):
            if params[name] not in (None, "make"):
                params[name] = str(Path(params[name]).expanduser().absolute())
        if params["teacher_groups"] is not None:
            params["teacher_groups"] = list(params["teacher_groups"])
        _check(recording, params)
        return params

    @classmethod
    def _check_apply_filter_in_params(cls, params: dict[str, Any]) -> bool:
        return True  # the network learned behind its own filter

    @classmethod
    def _setup_recording(
        cls, recording: BaseRecording, sorter_output_folder: Path, params: dict[str, Any], verbose: bool
    ) -> None:
        """Nothing to copy: traces are read where they lie."""

    @classmethod
    def _run_from_folder(cls, sorter_output_folder: Path, params: dict[str, Any], verbose: bool) -> None:
        folder = Path(sorter_output_folder)
        recording = cls.load_recording_from_folder(folder.parent, with_warnings=False)
        _sort(recording, params, folder, verbose)

    @classmethod
    def _get_result_from_folder(cls, sorter_output_folder: Path) -> BaseSorting:
        return load(Path(sorter_output_folder) / _SORTING)


class CarryingRecording(ChannelSliceRecording):
    """A recording as it is, of a class of esort's: whoever loads it imports esort, and so has the sorter.

    Parameters
    ----------
    recording : BaseRecording or str
        A text is SpikeInterface's JSON of a recording: the slurm engine writes what it gets into a script,
        where only the text of a recording can be read again.
    """

    def __init__(self, recording: BaseRecording | str) -> None:
        parent = load(json.loads(recording)) if isinstance(recording, str) else recording
        super().__init__(parent)
        if not isinstance(recording, str) and parent.check_serializability("json"):
            content = parent.to_dict(include_annotations=True, recursive=True)
            recording = json.dumps(content, cls=SIJsonEncoder)
        self._kwargs = {"recording": recording}

    def to_dict(self, *args: Any, **keywords: Any) -> dict[str, Any]:
        """As SpikeInterface's, in plain values: the slurm engine writes them as Python text."""
        content: dict[str, Any] = super().to_dict(*args, **keywords)
        if isinstance(self._kwargs["recording"], str) and not keywords.get("include_properties"):
            content = json.loads(json.dumps(content, cls=SIJsonEncoder))
        return content


def carry_esort(recording: BaseRecording) -> BaseRecording:
    """Return the recording such that a process that loads it can run ``run_sorter("esort", ...)``.

    SpikeInterface's engines (joblib's loky, processes, dask, slurm) run jobs in processes that import
    SpikeInterface and load the job's recording, but not esort.

    Parameters
    ----------
    recording : BaseRecording

    Returns
    -------
    CarryingRecording
        The same traces, channels and times.
    """
    return recording if isinstance(recording, CarryingRecording) else CarryingRecording(recording)


def register() -> None:
    """Put `EsortSorter` into SpikeInterface's list of sorters; twice does no harm."""
    if sorterlist.sorter_dict.setdefault(EsortSorter.sorter_name, EsortSorter) is EsortSorter:
        everyone = sorterlist.sorter_full_list
        if EsortSorter not in everyone:
            everyone.append(EsortSorter)


def _check(recording: BaseRecording, params: dict[str, Any]) -> None:
    """Whether this recording can be sorted with these parameters.

    Raises
    ------
    ValueError, FileNotFoundError
        One line that says what is wrong.
    """
    from esort.checkpoint import load_card
    from esort.health import check_recording, match_channels

    for index in range(recording.get_num_segments()):
        check_recording(recording.select_segments([index]))
    _in_limits("thresholds", params["thresholds"], float, "a number in (0, 1]", lambda value: 0 < value <= 1)
    _in_limits(
        "num_workers", params["num_workers"], int, "a whole number of at least 1", lambda value: value >= 1
    )
    if params["checkpoint"] is not None:
        card = load_card(params["checkpoint"])
        if card.is_backbone:
            raise ValueError(f"{params['checkpoint']}: expected a checkpoint with units, got a backbone")
        match_channels(
            np.asarray(card.contact_positions_um), recording, card_sampling_frequency=card.sampling_frequency
        )
        return
    if params["teacher_path"] is not None and recording.get_num_segments() > 1:
        raise ValueError(
            f"teacher_path is for recordings of 1 segment, got {recording.get_num_segments()}: "
            "learn from one (recording.select_segments([0])), then sort all with its checkpoint"
        )
    from esort.bootstrap import Bootstrap

    Bootstrap.from_parameters(params)


def _in_limits(name: str, value: Any, kind: type, limits: str, fits: Any) -> None:
    number = isinstance(value, (int, kind)) and not isinstance(value, bool)
    if value is not None and not (number and fits(value)):
        raise ValueError(f"{name} must be {limits}, got {value!r}")


def _sort(recording: BaseRecording, params: dict[str, Any], folder: Path, verbose: bool) -> None:
    """Sort every segment; leave the sorting, with each spike's probability beside it."""
    from esort.defects import look_over
    from esort.sorter import Sorter

    segments = [recording.select_segments([index]) for index in range(recording.get_num_segments())]
    segments = [look_over(segment).mark(segment) for segment in segments]
    checkpoint = params["checkpoint"]
    if checkpoint is None:
        checkpoint = _learn(max(segments, key=lambda segment: segment.get_num_samples()), params, folder)
    sorter = Sorter.load(checkpoint)
    results = [
        sorter.sort(segment, thresholds=params["thresholds"], num_workers=params["num_workers"])
        for segment in segments
    ]
    _write(results, folder / _SORTING)
    if verbose:
        num_spikes = sum(len(result.spikes) for result in results)
        print(f"esort: {num_spikes} spikes of {len(sorter.card.unit_ids)} units")


def _learn(recording: BaseRecording, params: dict[str, Any], folder: Path) -> Path:
    from esort.bootstrap import Bootstrap
    from esort.health import fingerprint
    from esort.subject import Subject

    subject = Subject(
        recording=recording, ground_truth=None, source=str(folder.parent), fingerprint=fingerprint(recording)
    )
    return Bootstrap.from_parameters(params).learn(subject, folder)


def _write(results: list[SortResult], path: Path) -> None:
    """Save the segments' spikes as one of SpikeInterface's sortings, and how the tissue moved."""
    from spikeinterface.core import append_sortings

    from esort.files import new_folder_atomically
    from esort.results import MOTION

    with warnings.catch_warnings(), new_folder_atomically(path) as partial:
        # The spikes come from a network, not from a file: there is no provenance to save.
        warnings.filterwarnings("ignore", message="The extractor is not serializable")
        append_sortings([result.sorting() for result in results]).save(folder=partial, overwrite=True)
        np.save(partial / _PROBABILITY, np.concatenate([result.spikes.probability for result in results]))
        peaks = [result.unknown.peaks(segment) for segment, result in enumerate(results)]
        np.save(partial / _UNKNOWN, np.concatenate(peaks))  # as SpikeInterface's components take them
        motions = [result.motion for result in results if result.motion is not None]
        if len(motions) == len(results):
            motions[0].to_spikeinterface(*motions[1:]).save(partial / MOTION, overwrite=True)


# Here and not in the hook of esort/__init__.py, which comes too early where this module is imported first.
register()
