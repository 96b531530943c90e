"""Open a recording of any format, with a probe and one segment."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from esort.artifacts import Blanking
from esort.contacts import attach_probe
from esort.defects import Defects, count_nonfinite, look_over
from esort.formats import RECORDING_FORMATS, Format, find_format, is_simulation, one_segment, read
from esort.handling import marked
from esort.health import (
    check_finite,
    check_recording,
    check_signal,
    find_nonfinite,
    fingerprint,
    match_channels,
)
from esort.interpolation import InterpolatedRecording
from esort.preprocessing import Preprocessing, noise_levels_uv
from esort.sortings import open_sorting

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording, BaseSorting

__all__ = [
    "Preprocessing",
    "RecordingPath",
    "check_finite",
    "check_recording",
    "find_nonfinite",
    "fingerprint",
    "match_channels",
    "noise_levels_uv",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RecordingPath:
    """A recording on disk, and what its files do not say themselves.

    Parameters
    ----------
    path : str
        File or folder.
    format : str
        "auto" recognises SpikeInterface's folders, zarr and JSON, SpikeGLX, Open Ephys, NWB, MEArec, a
        simulation of ours, and raw binary (.raw, .bin, .dat). Other readers of SpikeInterface go by name.
    stream_id : str, optional
        Which stream of several (NWB: the path of the electrical series).
    probe : str, optional
        A probeinterface .json or .prb file, a .csv with x and y in µm per channel, or the name of a probe
        of ``esort.probes``. Replaces the recording's own.
    sampling_frequency, num_channels, dtype : optional
        Raw binary needs all three (Hz; samples interleaved, C order). For other formats they are checked.
    gain_to_uv, offset_to_uv : float, optional
        Stored value × gain + offset = µV. Without a gain the recording keeps its own unit.
    ground_truth : str, optional
        A sorting to score against, in any format of `open_sorting`. A simulation and a MEArec file bring
        their own.
    segment : int, optional
        Which segment of several.
    on_nan : {"error", "interpolate"}
        Whether NaN and infinite values are refused, or bridged in time channel by channel.
    resample : bool
        Whether a recording of another rate than the checkpoint's is resampled; otherwise it is refused.
    bad_channels : "auto" or sequence
        Names of channels that are not to be listened to; "auto" looks for dead and noisy ones.
    blank : bool or mapping
        Whether artefacts are cut out, or values for `esort.artifacts.Blanking`.

    Raises
    ------
    ValueError
        If a number is outside its limits.
    """

    path: str
    format: str = "auto"
    stream_id: str | None = None
    probe: str | None = None
    sampling_frequency: float | None = None
    num_channels: int | None = None
    dtype: str | None = None
    gain_to_uv: float | None = None
    offset_to_uv: float | None = None
    ground_truth: str | None = None
    segment: int | None = None
    on_nan: str = "error"
    resample: bool = False
    bad_channels: str | Sequence[Any] = "auto"
    blank: bool | Mapping[str, Any] = True

    def __post_init__(self) -> None:
        _check_number("sampling_frequency", self.sampling_frequency, "a number of Hz above 0", above=0)
        _check_number("num_channels", self.num_channels, "a whole number of at least 1", at_least=1)
        _check_number("segment", self.segment, "a whole number of at least 0", at_least=0)
        _check_number("offset_to_uv", self.offset_to_uv, "a finite number")
        _check_number("gain_to_uv", self.gain_to_uv, "a finite number other than 0")
        if self.gain_to_uv == 0:
            raise ValueError("gain_to_uv must be a finite number other than 0, got 0")
        if self.dtype is not None:
            try:
                np.dtype(self.dtype)
            except TypeError:
                raise ValueError(f"dtype must be one of numpy's such as int16, got {self.dtype!r}") from None
        if self.on_nan not in ("error", "interpolate"):
            raise ValueError(f"on_nan must be error or interpolate, got {self.on_nan!r}")
        if not isinstance(self.resample, bool):
            raise ValueError(f"resample must be true or false, got {self.resample!r}")
        if isinstance(self.bad_channels, str) and self.bad_channels != "auto":
            raise ValueError(f"bad_channels must be auto or a list of channels, got {self.bad_channels!r}")
        self._blanking()

    def _blanking(self) -> Blanking | bool:
        if isinstance(self.blank, bool):
            return self.blank
        known = [field.name for field in fields(Blanking)]
        if not isinstance(self.blank, Mapping) or not set(self.blank) <= set(known):
            raise ValueError(
                f"blank must be true, false or values for {', '.join(known)}, got {self.blank!r}"
            )
        return Blanking(**self.blank)

    def open(self) -> BaseRecording:
        """Open the recording, lazily.

        Returns
        -------
        BaseRecording
            One segment, with a contact position for every channel.

        Raises
        ------
        FileNotFoundError
            If nothing lies at the path.
        ValueError
            If it is no recording, or something it needs is missing; one line says what and how to give it.
        """
        path, fmt = self._find()
        keywords = self._raw_keywords(path) if fmt.name == "raw" else {}
        recording = read(path, fmt, self.stream_id, **keywords)
        if not hasattr(recording, "get_traces"):
            raise ValueError(f"{path} holds a {type(recording).__name__}, not a recording")
        recording = one_segment(recording, self.segment, path)
        self._compare(recording, path)
        if fmt.name != "raw" and self.gain_to_uv is not None:
            recording.set_channel_gains(self.gain_to_uv)
            recording.set_channel_offsets(self.offset_to_uv or 0.0)
        recording = attach_probe(recording, self.probe, path)
        if self.on_nan == "interpolate" and np.dtype(recording.dtype).kind == "f":
            recording = InterpolatedRecording(recording)
        marks: dict[str, Any] = {} if self.blank is True else {"blanking": self._blanking()}
        if self.resample:
            marks["resample"] = True
        if not isinstance(self.bad_channels, str) and len(self.bad_channels):
            marks["bad_channel_ids"] = self.bad_channels
        return marked(recording, **marks) if marks else recording

    def open_checked(self) -> tuple[BaseRecording, Defects]:
        """Open the recording, refuse it if it cannot be sorted, and mark what is bad about it.

        Raises
        ------
        FileNotFoundError, ValueError
            See `open`, `esort.health.check_recording` and `check_signal`.
        """
        recording = self.open()
        check_recording(recording)
        check_signal(recording)
        looking = isinstance(self.bad_channels, str)
        defects = look_over(recording, bad_channel_ids=None if looking else self.bad_channels)
        if self.on_nan == "interpolate":
            count, first, channels = count_nonfinite(replace(self, on_nan="error").open())
            defects = defects.with_nonfinite(count)
            if count:
                logger.warning(
                    "%d NaN or infinite values are bridged, the first at sample %d, on channels %s",
                    count,
                    first,
                    ", ".join(map(str, channels[:8])) + (", …" if len(channels) > 8 else ""),
                )
        return (defects.mark(recording) if looking else recording), defects

    def open_ground_truth(self) -> BaseSorting | None:
        """Open the sorting that is known to be true, or return None where there is none."""
        if self.ground_truth is not None:
            return open_sorting(
                self.ground_truth, segment=self.segment, sampling_frequency=self.sampling_frequency
            )
        path, fmt = self._find()
        if fmt.name == "mearec" or is_simulation(path):
            return open_sorting(path, format=fmt.name, segment=self.segment)
        return None

    def _find(self) -> tuple[Path, Format]:
        path = Path(self.path).expanduser()
        if not path.exists():
            raise FileNotFoundError(f"no recording at {path}: no such file or folder")
        return path, find_format(path, self.format, RECORDING_FORMATS, "recording")

    def _raw_keywords(self, path: Path) -> dict:
        needed = {name: getattr(self, name) for name in ("sampling_frequency", "num_channels", "dtype")}
        missing = [name for name, value in needed.items() if value is None]
        if missing:
            raise ValueError(
                f"{path} is raw binary, which does not say its {', '.join(missing)}: "
                f"give {' '.join(f'recording.{name}=...' for name in missing)}"
            )
        bytes_per_frame = np.dtype(self.dtype).itemsize * int(self.num_channels or 0)
        if path.stat().st_size % bytes_per_frame:
            logger.warning(
                "%s: %d bytes are not a whole number of frames of %d channels of %s; the rest is ignored",
                path,
                path.stat().st_size,
                self.num_channels,
                self.dtype,
            )
        if self.gain_to_uv is not None:
            needed.update(gain_to_uV=self.gain_to_uv, offset_to_uV=self.offset_to_uv or 0.0)
        return needed

    def _compare(self, recording: BaseRecording, path: Path) -> None:
        rate, count, dtype = (
            recording.sampling_frequency,
            recording.get_num_channels(),
            np.dtype(recording.dtype),
        )
        differ = {
            "sampling_frequency": (
                self.sampling_frequency,
                rate,
                math.isclose(self.sampling_frequency or rate, rate),
            ),
            "num_channels": (self.num_channels, count, (self.num_channels or count) == count),
            "dtype": (self.dtype, dtype, np.dtype(self.dtype or dtype) == dtype),
        }
        for name, (given, found, same) in differ.items():
            if not same:
                raise ValueError(f"{path} has {name}={found}, but {name}={given} was given")


def _check_number(
    name: str, value: float | None, limits: str, *, above: float = -math.inf, at_least: int | None = None
) -> None:
    if value is None:
        return
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    whole = at_least is None or (number and float(value).is_integer() and value >= at_least)
    if not (number and whole and value > above):
        raise ValueError(f"{name} must be {limits}, got {value!r}")
