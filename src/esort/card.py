"""The card of a checkpoint: what a trained network fits, where it came from, how it is to be used."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from reprlib import repr as short
from typing import Any

import numpy as np

__all__ = ["SCHEMA_VERSION", "Card", "LabelSource", "package_versions"]

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class LabelSource:
    """Where the labels of a checkpoint came from.

    Parameters
    ----------
    recording_fingerprint : str
        Digest of the labelled recording (see `esort.recordings.fingerprint`).
    start_sample, stop_sample : int
        The labelled stretch is [start_sample, stop_sample).
    num_labels : int
        How many labelled spikes training used.
    """

    recording_fingerprint: str
    start_sample: int
    stop_sample: int
    num_labels: int

    def __post_init__(self) -> None:
        _text("recording_fingerprint", self.recording_fingerprint)
        _integer("start_sample", self.start_sample, low=0)
        _integer("stop_sample", self.stop_sample, low=self.start_sample)
        _integer("num_labels", self.num_labels, low=0)


@dataclass(frozen=True, kw_only=True)
class Card:
    """What stands beside the weights in a checkpoint; checks itself.

    C is the number of channels and U the number of units. A backbone has no units (U = 0) and may have no
    channels. Arrays and lists are taken too and kept as tuples of plain numbers, so that cards compare.

    Parameters
    ----------
    network : str
        Name of the network class.
    network_parameters : dict
        Its hyper-parameters, anything that JSON can hold.
    sampling_frequency : float
        Of the traces that the network takes, in Hz.
    contact_positions_um : (C, 2) numbers
        Position of each channel's contact on the probe.
    channel_ids : (C,) str or int
        Names of the channels, kept as they are.
    unit_ids : (U,) str or int
        Names of the units, kept as they are.
    window_ms, window_samples : float, int
        Length of the network's window; both are kept, and must agree to one sample.
    peak_offset_samples : int
        Where in the window the peak of a spike lies, in [0, window_samples).
    preprocessing : dict
        As made by `esort.recordings.Preprocessing.to_dict`.
    noise_level_uv : (C,) numbers above 0, or empty
        By which the traces of each channel are divided.
    thresholds : (U,) numbers
        One per unit, on the network's output.
    postprocess : dict
        Parameters of the post-processing, other than the thresholds.
    labels : LabelSource or None
        What the units were learned from; None for a backbone.
    seed : int or None
        Of the training.
    versions : dict of str to str
        Of the packages that matter; by default those that are installed now.
    created : str
        Time in UTC, ISO 8601; by default now.
    weights_digest : str
        Digest of the weights; filled in when the checkpoint is saved.
    schema_version : int
        Of this list of fields.

    Raises
    ------
    ValueError
        If a field has the wrong type, length or range.
    """

    network: str
    network_parameters: dict[str, Any]
    sampling_frequency: float
    contact_positions_um: tuple[tuple[float, float], ...]
    channel_ids: tuple[str | int, ...]
    unit_ids: tuple[str | int, ...] = ()
    window_ms: float
    window_samples: int
    peak_offset_samples: int
    preprocessing: dict[str, Any] = field(default_factory=dict)
    noise_level_uv: tuple[float, ...] = ()
    thresholds: tuple[float, ...] = ()
    postprocess: dict[str, Any] = field(default_factory=dict)
    labels: LabelSource | None = None
    seed: int | None = None
    versions: dict[str, str] = field(default_factory=lambda: package_versions())
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    weights_digest: str = ""
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731 (frozen)
        _text("network", self.network)
        for name in ("network_parameters", "preprocessing", "postprocess", "versions"):
            put(name, _json_object(name, getattr(self, name)))
        put("sampling_frequency", _number("sampling_frequency", self.sampling_frequency, low=1, high=1e6))
        put("channel_ids", _ids("channel_ids", self.channel_ids))
        put("unit_ids", _ids("unit_ids", self.unit_ids))
        positions = tuple(
            _numbers("contact_positions_um", position, length=2)
            for position in _sequence("contact_positions_um", self.contact_positions_um)
        )
        _same_length("contact_positions_um", positions, "channel_ids", self.channel_ids)
        put("contact_positions_um", positions)
        if self.unit_ids and not self.channel_ids:
            raise ValueError("channel_ids: expected at least one channel where there are units, got none")
        put("noise_level_uv", _numbers("noise_level_uv", self.noise_level_uv, above_zero=True))
        if self.noise_level_uv:
            _same_length("noise_level_uv", self.noise_level_uv, "channel_ids", self.channel_ids)
        put("thresholds", _numbers("thresholds", self.thresholds))
        _same_length("thresholds", self.thresholds, "unit_ids", self.unit_ids)
        self._check_window()
        if self.labels is not None and not isinstance(self.labels, LabelSource):
            raise ValueError(f"labels: expected a LabelSource or None, got {short(self.labels)}")
        if self.seed is not None:
            _integer("seed", self.seed, low=0)
        if not all(isinstance(value, str) for value in self.versions.values()):
            raise ValueError(f"versions: expected texts, got {short(self.versions)}")
        _time("created", self.created)
        if not isinstance(self.weights_digest, str):
            raise ValueError(f"weights_digest: expected a text, got {short(self.weights_digest)}")
        _integer("schema_version", self.schema_version, low=1, high=SCHEMA_VERSION)

    def _check_window(self) -> None:
        object.__setattr__(self, "window_ms", _number("window_ms", self.window_ms, low=0, high=1e4))
        _integer("window_samples", self.window_samples, low=1)
        _integer("peak_offset_samples", self.peak_offset_samples, low=0, high=self.window_samples - 1)
        expected_samples = self.window_ms * self.sampling_frequency / 1e3
        if abs(expected_samples - self.window_samples) > 1:
            raise ValueError(
                f"window_samples: expected about {expected_samples:.1f} ({self.window_ms} ms at "
                f"{self.sampling_frequency} Hz), got {short(self.window_samples)}"
            )

    @property
    def num_channels(self) -> int:
        """Number of channels (C)."""
        return len(self.channel_ids)

    @property
    def num_units(self) -> int:
        """Number of units (U); 0 for a backbone."""
        return len(self.unit_ids)

    @property
    def is_backbone(self) -> bool:
        """Whether the weights have no head for units yet."""
        return not self.unit_ids

    def to_dict(self) -> dict[str, Any]:
        """Return the card in terms of what JSON can hold; `from_dict` takes it back."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Card:
        """Return the card that `to_dict` described; ValueError if it is not exactly such a description."""
        _check_names("card", content, cls)
        values = dict(content)
        if values["labels"] is not None:
            if not isinstance(values["labels"], Mapping):
                raise ValueError(f"labels: expected an object or null, got {short(values['labels'])}")
            _check_names("labels", values["labels"], LabelSource)
            values["labels"] = LabelSource(**values["labels"])
        return cls(**values)


def package_versions(
    names: Sequence[str] = ("esort", "numpy", "scipy", "spikeinterface", "torch"),
) -> dict[str, str]:
    """Return the installed versions of packages, without importing them; those not installed are left out."""
    versions = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name}: expected a text, got {short(value)}")


def _time(name: str, value: Any) -> None:
    try:
        naive = datetime.fromisoformat(value).tzinfo is None
    except (TypeError, ValueError):
        naive = True
    if naive:
        raise ValueError(f"{name}: expected a time with its zone in ISO 8601, got {short(value)}")


def _integer(name: str, value: Any, *, low: int, high: int = 2**62) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name}: expected a whole number from {low} to {high}, got {short(value)}")


def _number(name: str, value: Any, *, low: float = -math.inf, high: float = math.inf) -> float:
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, (int, float)) or isinstance(value, bool) or abs(value) > 1e300:
        raise ValueError(f"{name}: expected a finite number, got {short(value)}")
    if not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {value}")
    if not low <= value <= high:
        raise ValueError(f"{name}: expected a number from {low:g} to {high:g}, got {short(value)}")
    return float(value)


def _sequence(name: str, value: Any) -> Sequence[Any]:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{name}: expected a list, got {short(value)}")
    return value


def _numbers(
    name: str, value: Any, *, length: int | None = None, above_zero: bool = False
) -> tuple[Any, ...]:
    values = tuple(_number(name, entry) for entry in _sequence(name, value))
    if length is not None and len(values) != length:
        raise ValueError(f"{name}: expected {length} numbers each, got {len(values)}")
    if above_zero and not all(entry > 0 for entry in values):
        raise ValueError(f"{name}: expected numbers above 0, got {min(values):g}")
    return values


def _ids(name: str, value: Any) -> tuple[str | int, ...]:
    ids = tuple(entry.item() if isinstance(entry, np.generic) else entry for entry in _sequence(name, value))
    for entry in ids:
        if not isinstance(entry, (str, int)) or isinstance(entry, bool):
            raise ValueError(f"{name}: expected texts or whole numbers, got {short(entry)}")
    if len(set(ids)) != len(ids):
        raise ValueError(f"{name}: expected every name once, got {len(ids) - len(set(ids))} twice")
    return ids


def _same_length(name: str, value: Sequence[Any], other: str, reference: Sequence[Any]) -> None:
    if len(value) != len(reference):
        raise ValueError(f"{name}: expected {len(reference)}, as many as {other}, got {len(value)}")


def _json_object(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name}: expected an object, got {short(value)}")
    try:
        content: dict[str, Any] = json.loads(json.dumps(dict(value), allow_nan=False, default=_from_numpy))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected what JSON can hold ({error}), got {short(value)}") from error
    return content


def _from_numpy(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON type")


def _check_names(what: str, content: Mapping[str, Any], kind: type) -> None:
    expected = {entry.name for entry in fields(kind)}
    for word, names in (("missing", expected - set(content)), ("unknown", set(content) - expected)):
        if names:
            raise ValueError(f"{what}: {word} fields {short(sorted(names))}")
