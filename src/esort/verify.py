"""Whether a result is what its manifest says, computed again.

python -m esort.verify DIR                 digests of outputs, spikes, inputs and configuration
python -m esort.verify DIR resort=true     sorts the recording again and compares the integers too
    recording=PATH checkpoint=FILE         where these lie now, if they were moved
    json=true                              for programs

Exit codes: 0 all is the same, 1 it cannot be said (no manifest, a damaged one, nothing to sort again), 3
something differs or is missing.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from esort.checkpoint import package_versions
from esort.chunks import ChunkFolder, sort_in_chunks
from esort.files import sha256_of_file
from esort.health import fingerprint
from esort.manifest import Manifest, digest_of, digest_of_recording, digest_of_spikes
from esort.one_line import one_line
from esort.recordings import RecordingPath
from esort.results import SORTING
from esort.saved import open_saved
from esort.sorter import Sorter

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording, BaseSorting

__all__ = ["DIFFERS", "SAME", "UNKNOWN", "Finding", "main", "verify"]

SAME, UNKNOWN, DIFFERS = 0, 1, 3
"""Exit codes."""

_USAGE = "python -m esort.verify DIR [resort=true] [recording=PATH] [checkpoint=FILE] [json=true]"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was compared.

    Parameters
    ----------
    name : str
    state : {"same", "differs", "missing", "note"}
        "note": worth knowing, and no reason to doubt the result.
    text : str
        What was found.
    """

    name: str
    state: str
    text: str = ""


def verify(
    folder: Path, *, resort: bool = False, recording: str | None = None, checkpoint: str | None = None
) -> list[Finding]:
    """Compare a result with its manifest.

    Parameters
    ----------
    folder : Path
        That ``sort.py`` or ``train.py`` left.
    resort : bool
        Whether to sort again.
    recording, checkpoint : str, optional
        Where these lie now.

    Returns
    -------
    list of Finding

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no manifest, or it cannot be believed; if it is to be sorted again, and cannot be.
    """
    manifest = Manifest.load(folder)
    findings = [_output(folder, name, wanted) for name, wanted in sorted(manifest.outputs.items())]
    same_config = digest_of(manifest.config) == manifest.config_sha256
    findings.append(Finding(name="config", state="same" if same_config else "differs"))
    sorting = _opened(lambda: open_saved(folder / SORTING))
    if isinstance(sorting, str):
        findings.append(Finding(name="spikes", state="missing", text=sorting))
    else:
        findings.append(_compared("spikes", digest_of_spikes(sorting), manifest.spikes_sha256))
    opened = _opened(lambda: _recording(manifest, recording))
    findings.extend(_recording_findings(manifest, opened))
    path = _input_path(folder, manifest, "checkpoint", checkpoint)
    for name, place in (("checkpoint", path), ("backbone", _input_path(folder, manifest, "backbone", None))):
        if place is not None:
            findings.append(_file(name, place, manifest.inputs[name]["sha256"]))
    findings.extend(_versions(manifest))
    if resort:
        if isinstance(opened, str) or isinstance(sorting, str) or path is None:
            reason = opened if isinstance(opened, str) else sorting
            raise ValueError(f"cannot sort again: {reason}")
        findings.append(_sorted_again(manifest, opened, path, sorting))
    return findings


def _output(folder: Path, name: str, wanted: Any) -> Finding:
    # A manifest is believed to be no attack, but it is a file: it names nothing outside its folder.
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"the manifest names {name!r:.80}, which lies outside {folder}")
    return _file(name, folder / name, wanted)


def _file(name: str, path: Path, wanted: Any) -> Finding:
    if not path.is_file():
        return Finding(name=name, state="missing", text=f"no file at {path}")
    return _compared(name, sha256_of_file(path), wanted)


def _compared(name: str, found: str, wanted: Any) -> Finding:
    if found == wanted:
        return Finding(name=name, state="same")
    return Finding(name=name, state="differs", text=f"expected {wanted!s:.16}…, got {found:.16}…")


def _opened(opening: Callable[[], Any]) -> Any:
    """What was opened, or why it could not be."""
    try:
        return opening()
    except (OSError, ValueError) as error:
        return one_line(error)


def _recording(manifest: Manifest, moved: str | None) -> BaseRecording:
    described = manifest.inputs["recording"]["opened"]
    known = {one.name for one in fields(RecordingPath)}
    described = described | ({} if moved is None else {"path": moved})
    if not set(described) <= known:
        raise ValueError("the manifest does not say how the recording is opened")
    try:
        return RecordingPath(**described).open_checked()[0]
    except TypeError as error:  # a number in the place of a path, or nothing there
        raise ValueError(f"the manifest does not say how the recording is opened: {error}") from None


def _recording_findings(manifest: Manifest, opened: BaseRecording | str) -> list[Finding]:
    wanted = manifest.inputs["recording"]
    if isinstance(opened, str):
        return [Finding(name="recording", state="missing", text=opened)]
    if wanted.get("sha256") is not None:
        return [_compared("recording", digest_of_recording(opened), wanted["sha256"])]
    return [_compared("recording (at 5 places)", fingerprint(opened), wanted["fingerprint"])]


def _input_path(folder: Path, manifest: Manifest, name: str, moved: str | None) -> Path | None:
    if moved is not None:
        return Path(moved).expanduser()
    entry = manifest.inputs.get(name)
    return None if entry is None else folder / entry["path"]


def _versions(manifest: Manifest) -> list[Finding]:
    now = {"python": platform.python_version(), **package_versions()}
    names = sorted(name for name in now.keys() | manifest.versions.keys())
    return [
        Finding(
            name=f"version of {name}",
            state="note",
            text=f"made with {manifest.versions.get(name, 'none')}, here is {now.get(name, 'none')}",
        )
        for name in names
        if now.get(name) != manifest.versions.get(name)
    ]


def _sorted_again(
    manifest: Manifest, recording: BaseRecording, checkpoint: Path, saved: BaseSorting
) -> Finding:
    start, stop = manifest.stretch
    with tempfile.TemporaryDirectory() as scratch:
        result = sort_in_chunks(
            Sorter.load(checkpoint),
            recording,
            ChunkFolder(Path(scratch) / "chunks", {}),
            start_sample=start,
            stop_sample=stop,
            thresholds=manifest.thresholds,
        )
        found = np.stack([result.spikes.sample_index, result.spikes.unit_index], axis=1).astype(np.int64)
    vector = saved.to_spike_vector()
    wanted = np.stack([vector["sample_index"], vector["unit_index"]], axis=1).astype(np.int64)
    if np.array_equal(found, wanted):
        return Finding(name="sorted again", state="same", text=f"{len(found)} spikes, the same integers")
    first = _first_difference(found, wanted)
    text = f"{len(wanted)} spikes were saved, {len(found)} were found; the first difference is at {first}"
    return Finding(name="sorted again", state="differs", text=text)


def _first_difference(found: np.ndarray, wanted: np.ndarray) -> str:
    length = min(len(found), len(wanted))
    (different,) = np.nonzero((found[:length] != wanted[:length]).any(axis=1))
    position = int(different[0]) if different.size else length
    samples = [int(one[position, 0]) for one in (found, wanted) if position < len(one)]
    return f"spike {position}, sample {min(samples)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    try:
        folder, options = _parse(sys.argv[1:] if arguments is None else arguments)
        findings = verify(
            folder,
            resort=options.get("resort") == "true",
            recording=options.get("recording"),
            checkpoint=options.get("checkpoint"),
        )
    except (OSError, ValueError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return UNKNOWN
    bad = [one for one in findings if one.state in ("differs", "missing")]
    if options.get("json") == "true":
        print(json.dumps({"same": not bad, "findings": [vars(one) for one in findings]}, indent=2))
    else:
        _print(folder, findings, len(bad))
    return DIFFERS if bad else SAME


def _print(folder: Path, findings: Sequence[Finding], num_bad: int) -> None:
    for one in findings:
        if one.state != "same" or one.text:
            print(f"{one.state:<8} {one.name}{': ' if one.text else ''}{one.text}")
    compared = sum(one.state != "note" for one in findings)
    print(f"{folder}: {compared - num_bad} of {compared} are the same" + (", all" if not num_bad else ""))


def _parse(arguments: Sequence[str]) -> tuple[Path, dict[str, str]]:
    known = ("resort", "recording", "checkpoint", "json")
    options, folders = {}, []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if equals and name in known:
            options[name] = value
        else:
            folders.append(argument)
    if len(folders) != 1:
        raise ValueError(f"expected one folder, got {len(folders)}: {_USAGE}")
    for name in ("resort", "json"):
        if options.get(name, "false") not in ("true", "false"):
            raise ValueError(f"{name} must be true or false, got {options[name]!r}")
    return Path(folders[0]).expanduser(), options


if __name__ == "__main__":
    sys.exit(main())
