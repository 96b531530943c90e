"""What a result was made of and by: digests of inputs, configuration, outputs and spikes, beside the result.

``manifest.json`` is written last and lists all that belongs to the result: a folder without it is not whole.
`esort.verify` computes the digests again.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from esort.checkpoint import package_versions
from esort.files import plain, sha256_of_file, write_json
from esort.locks import LOCK
from esort.one_line import one_line
from esort.recordings import RecordingPath
from esort.results import MANIFEST, RUN, SORTING

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording, BaseSorting

__all__ = [
    "Manifest",
    "digest_of",
    "digest_of_recording",
    "digest_of_spikes",
    "digests_of_outputs",
    "how_to_open",
    "make_manifest",
]

MAX_MANIFEST_BYTES = 2**24
_SCHEMA_VERSION = 1
# Written after the manifest, or changed by who looks at the result; exports are made of what is listed.
_NOT_LISTED = {MANIFEST, LOCK, "metrics.csv", "summary.json", "artifacts.json", "error.txt"}
_NOT_LISTED_SUFFIXES = {".log", ".nwb"}
_LISTED_FOLDERS = (SORTING, ".hydra", "tables")
_SPIKES_AT_ONCE = 2**20
_TRACES_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Content of ``manifest.json``.

    Parameters
    ----------
    command : {"sort", "train"}
    inputs : dict
        "recording": source, fingerprint, how to open it, and the digest of all samples where it was asked
        for. "checkpoint" and "backbone": path and SHA-256.
    stretch : pair of int
        Samples [start, stop) that were sorted.
    thresholds : float or None
        For all units, in the place of the checkpoint's.
    config : dict
        The whole configuration, resolved. Never instantiated.
    config_sha256 : str
    seeds : dict
    versions : dict
        Of Python and of the packages that matter.
    outputs : dict of str to str
        SHA-256 of each file.
    spikes_sha256 : str
        See `digest_of_spikes`.
    created : str
    schema_version : int
    """

    command: str
    inputs: dict[str, Any]
    stretch: tuple[int, int]
    thresholds: float | None
    config: dict[str, Any]
    config_sha256: str
    seeds: dict[str, int]
    versions: dict[str, str]
    outputs: dict[str, str]
    spikes_sha256: str
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    schema_version: int = _SCHEMA_VERSION

    def save(self, folder: Path) -> None:
        """Write ``manifest.json``, with a digest of itself."""
        content = plain(self)
        write_json(folder / MANIFEST, content | {"manifest_sha256": digest_of(content)})

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read ``manifest.json``.

        Raises
        ------
        FileNotFoundError
            If there is none: the run has not ended.
        ValueError
            If it is damaged, was edited, or is of a newer version.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise FileNotFoundError(
                f"no {MANIFEST} in {folder}: its run has not ended, or is of an older esort"
            )
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise ValueError(
                f"{path}: expected at most {MAX_MANIFEST_BYTES} bytes, got {path.stat().st_size}"
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is no JSON: {one_line(error, 100)}") from None
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version != _SCHEMA_VERSION or isinstance(version, bool):
            raise ValueError(f"{path}: expected schema version {_SCHEMA_VERSION}, got {version!r:.40}")
        stated = content.pop("manifest_sha256", None)
        if stated != digest_of(content):
            raise ValueError(f"{path} does not match its own digest: it is damaged or was edited")
        names = {one.name for one in fields(cls)}
        if set(content) != names:
            raise ValueError(f"{path}: missing or unknown fields {sorted(set(content) ^ names)!r:.80}")
        try:
            _check_kinds(content)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        return cls(**content | {"stretch": tuple(content["stretch"])})


def _check_kinds(content: dict[str, Any]) -> None:
    """Refuse a manifest that says something else than it must, whoever wrote it."""
    for name in ("inputs", "config", "seeds", "versions", "outputs"):
        _expect(name, content[name], dict, "an object")
    for name in ("versions", "outputs"):
        for key, value in content[name].items():
            _expect(f"{name}.{key!r:.40}", value, str, "a text")
    for name in ("command", "config_sha256", "spikes_sha256", "created"):
        _expect(name, content[name], str, "a text")
    stretch = content["stretch"]
    if not (isinstance(stretch, list) and len(stretch) == 2 and all(type(one) is int for one in stretch)):
        raise ValueError(f"stretch must be two whole numbers, got {stretch!r:.40}")
    _expect("thresholds", content["thresholds"], (float, int, type(None)), "a number or null")
    inputs = content["inputs"]
    recording = _expect("inputs.recording", inputs.get("recording"), dict, "an object")
    _expect("inputs.recording.opened", recording.get("opened"), dict, "an object")
    _expect("inputs.recording.fingerprint", recording.get("fingerprint"), str, "a text")
    _expect("inputs.recording.sha256", recording.get("sha256"), (str, type(None)), "a text or null")
    for name in ("checkpoint", "backbone"):
        if name in inputs or name == "checkpoint":
            entry = _expect(f"inputs.{name}", inputs.get(name), dict, "an object")
            for part in ("path", "sha256"):
                _expect(f"inputs.{name}.{part}", entry.get(part), str, "a text")


def _expect(name: str, value: Any, kind: type | tuple[type, ...], words: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{name} must be {words}, got {value!r:.40}")
    return value


def make_manifest(
    command: str,
    folder: Path,
    *,
    sorting: BaseSorting,
    recording: BaseRecording,
    opened: Mapping[str, Any],
    config: Mapping[str, Any],
    thresholds: float | None = None,
    whole_recording: bool = False,
) -> Manifest:
    """Describe a result that lies in a folder.

    Parameters
    ----------
    command : {"sort", "train"}
    folder : Path
        With ``run.json`` and ``sorting/``.
    sorting : BaseSorting
        As it lies in ``sorting/``.
    recording : BaseRecording
    opened : mapping
        How the recording is opened again: the fields of a `RecordingPath`.
    config : mapping
        Resolved.
    thresholds : float, optional
    whole_recording : bool
        Whether to digest every sample of the recording, which reads it once more.
    """
    run = json.loads((folder / RUN).read_text(encoding="utf-8"))
    inputs: dict[str, Any] = {
        "recording": {
            "source": run["recording"],
            "fingerprint": run["recording_fingerprint"],
            "opened": plain(dict(opened)),
            "sha256": digest_of_recording(recording) if whole_recording else None,
        },
        "checkpoint": {"path": _relative(run["checkpoint"], folder), "sha256": run["checkpoint_sha256"]},
    }
    if run.get("backbone"):
        inputs["backbone"] = {"path": run["backbone"], "sha256": sha256_of_file(run["backbone"])}
    described = plain(dict(config))
    return Manifest(
        command=command,
        inputs=inputs,
        stretch=(run["start_sample"], run["stop_sample"]),
        thresholds=thresholds,
        config=described,
        config_sha256=digest_of(described),
        seeds={"seed": int(described.get("seed", 0))},
        versions={"python": platform.python_version(), **package_versions()},
        outputs=digests_of_outputs(folder),
        spikes_sha256=digest_of_spikes(sorting),
    )


def how_to_open(spec: Any, source: str) -> dict[str, Any]:
    """Return the fields of a `RecordingPath` that opens a recording again, from anywhere.

    Parameters
    ----------
    spec : RecordingPath or SimulationSpec
    source : str
        Where it lies.
    """
    if not isinstance(spec, RecordingPath):
        return {"path": str(Path(source).resolve()), "format": "simulation"}
    content = {name: value for name, value in asdict(spec).items() if value is not None}
    content.pop("ground_truth", None)
    if spec.probe is not None and Path(spec.probe).expanduser().is_file():
        content["probe"] = str(Path(spec.probe).expanduser().resolve())
    return content | {"path": source}


def digest_of(content: Any) -> str:
    """Return the SHA-256 of plain values, in hexadecimal; the order of names does not matter."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def digests_of_outputs(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a result, but for logs and exports, by its name in the folder."""
    paths = [path for path in folder.iterdir() if path.is_file()]
    for name in _LISTED_FOLDERS:
        paths.extend(path for path in (folder / name).rglob("*") if path.is_file())
    names = sorted(path.relative_to(folder).as_posix() for path in paths if _is_listed(path))
    return {name: sha256_of_file(folder / name) for name in names}


def _is_listed(path: Path) -> bool:
    return not (path.name in _NOT_LISTED or path.suffix in _NOT_LISTED_SUFFIXES or ".partial-" in path.name)


def digest_of_spikes(sorting: BaseSorting) -> str:
    """Return the SHA-256 of the integers of a sorting: names of units, then sample and unit of each spike.

    Wherever the spikes lie, the same spikes have the same digest.

    Parameters
    ----------
    sorting : BaseSorting
        One segment.
    """
    unit_ids = [str(unit_id) for unit_id in sorting.unit_ids]
    vector = sorting.to_spike_vector(concatenated=True)
    digest = hashlib.sha256(json.dumps([unit_ids, len(vector)]).encode())
    for name in ("sample_index", "unit_index"):
        for start in range(0, len(vector), _SPIKES_AT_ONCE):
            piece = vector[start : start + _SPIKES_AT_ONCE][name]
            digest.update(np.ascontiguousarray(piece, dtype="<i8").tobytes())
    return digest.hexdigest()


def digest_of_recording(recording: BaseRecording) -> str:
    """Return the SHA-256 of every stored sample, of rate, type and contacts; whatever the file format.

    Parameters
    ----------
    recording : BaseRecording
        One segment.
    """
    num_samples = int(recording.get_num_samples())
    header = [num_samples, recording.get_num_channels(), float(recording.sampling_frequency)]
    header.append(np.dtype(recording.dtype).newbyteorder("<").str)
    digest = hashlib.sha256(json.dumps(header).encode())
    digest.update(np.ascontiguousarray(recording.get_channel_locations(), dtype="<f8").tobytes())
    for start, stop in _pieces(num_samples, max(1, round(_TRACES_S * recording.sampling_frequency))):
        traces = recording.get_traces(start_frame=start, end_frame=stop)
        digest.update(np.ascontiguousarray(traces, dtype=header[-1]).data)
    return digest.hexdigest()


def _pieces(num_samples: int, length: int) -> Iterator[tuple[int, int]]:
    for start in range(0, num_samples, length):
        yield start, min(num_samples, start + length)


def _relative(path: str, folder: Path) -> str:
    """Return a path as seen from the folder if it lies inside, so that the folder may be moved."""
    absolute, inside = Path(path), folder.resolve()
    return absolute.relative_to(inside).as_posix() if absolute.is_relative_to(inside) else path
