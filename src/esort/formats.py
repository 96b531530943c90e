"""What a recording or a sorting can lie in on disk, and the SpikeInterface reader of each format.

Nothing is parsed here: a format is a test of what lies at a path and the name of a reader. The readers are
imported when the first file is opened, so that a command that reads none starts fast.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esort.admission import check_input
from esort.phy_tables import read_phy_folder

RAW_SUFFIXES = (".raw", ".bin", ".dat")


@dataclass(frozen=True, kw_only=True)
class Format:
    """One format.

    Parameters
    ----------
    name : str
    recognise : callable of a Path to bool
        Whether this format lies at an existing path; cheap.
    read : callable of a Path and keyword arguments to a SpikeInterface object
    stream_keyword : str or None
        What the reader calls the choice between several streams of one path.
    """

    name: str
    recognise: Callable[[Path], bool]
    read: Callable[..., Any]
    stream_keyword: str | None = None


def _extractor(function_name: str) -> Callable[..., Any]:
    def read(path: Path, **keywords: Any) -> Any:
        import spikeinterface.extractors

        return getattr(spikeinterface.extractors, function_name)(str(path), **keywords)

    return read


def _load(path: Path, **keywords: Any) -> Any:
    from spikeinterface import load

    return load(path, **keywords)


def _folder_of(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _files(path: Path, patterns: tuple[str, ...], depth: int) -> Iterator[Path]:
    """Files that match in the folder and, without following links, at most `depth` folders below it."""
    if depth < 0 or not path.is_dir():
        return
    for pattern in patterns:
        yield from path.glob(pattern)
    for folder in path.iterdir():
        if folder.is_dir() and not folder.is_symlink():
            yield from _files(folder, patterns, depth - 1)


def is_simulation(path: Path) -> bool:
    """Whether `path` is a folder with a recording and its ground truth, as esort.simulation keeps them."""
    return path.is_dir() and all(_is_spikeinterface(path / part) for part in ("recording", "sorting"))


def _is_spikeinterface(path: Path) -> bool:
    if path.is_file():
        return path.suffix == ".json"
    markers = (
        "si_folder.json",
        "binary.json",
        "spikeinterface_info.json",
        "numpysorting_info.json",
        ".zattrs",
    )
    # Where SpikeInterface's run_sorter leaves its result
    return (
        any((path / marker).is_file() for marker in markers) or (path / "spikeinterface_log.json").is_file()
    )


def _is_spikeglx(path: Path) -> bool:
    if path.is_file():
        return path.suffix in (".bin", ".meta") and all(
            path.with_suffix(s).is_file() for s in (".bin", ".meta")
        )
    return any(
        file.with_suffix(".bin").is_file() for file in _files(path, ("*.imec*.meta", "*.nidq.meta"), depth=2)
    )


def _is_openephys(path: Path) -> bool:
    if path.is_file():
        return path.name == "structure.oebin"
    return any(True for _ in _files(path, ("structure.oebin", "*.continuous"), depth=3))


def _is_nwb(path: Path) -> bool:
    return path.name.endswith((".nwb", ".nwb.zarr"))


def _is_mearec(path: Path) -> bool:
    if not path.is_file() or path.suffix not in (".h5", ".hdf5"):
        return False
    import h5py

    if not h5py.is_hdf5(path):
        return False
    with h5py.File(path, "r") as file:
        return {"recordings", "channel_positions", "spiketrains"} <= set(file)


def _is_raw(path: Path) -> bool:
    return path.is_file() and path.suffix in RAW_SUFFIXES


def _read_spikeglx(path: Path, **keywords: Any) -> Any:
    import spikeinterface.extractors as extractors

    folder = _folder_of(path)
    if not keywords:
        # The synchronisation channel is a stream of its own; who names no stream means the electrodes.
        streams = extractors.get_neo_streams("spikeglx", str(folder))[1]
        electrodes = [stream for stream in streams if stream.endswith(".ap")]
        if path.is_file():
            electrodes = [stream for stream in electrodes if f".{stream}." in path.name]
        if len(electrodes) == 1:
            keywords["stream_id"] = electrodes[0]
    return extractors.read_spikeglx(str(folder), **keywords)


def _read_openephys(path: Path, **keywords: Any) -> Any:
    import spikeinterface.extractors as extractors

    return extractors.read_openephys(str(_folder_of(path)), **keywords)


def _read_mearec(index: int) -> Callable[..., Any]:
    def read(path: Path, **keywords: Any) -> Any:
        import spikeinterface.extractors as extractors

        return extractors.read_mearec(str(path), **keywords)[index]

    return read


def _read_spikeinterface_sorting(path: Path, **keywords: Any) -> Any:
    loaded = _load(path, **keywords)
    return getattr(loaded, "sorting", loaded)  # a SortingAnalyzer holds its sorting


def _read_nwb_sorting(path: Path, sampling_frequency: float | None = None, **keywords: Any) -> Any:
    """Read the units table; its spike times are in seconds of the session, so a recording gives the clock."""
    from spikeinterface.extractors import read_nwb_sorting
    from spikeinterface.extractors.nwbextractors import NwbRecordingExtractor

    if not keywords:
        series = NwbRecordingExtractor.fetch_available_electrical_series_paths(str(path))
        if len(series) == 1:
            keywords["electrical_series_path"] = series[0]
        elif not series and sampling_frequency is not None:
            keywords.update(sampling_frequency=sampling_frequency, t_start=0.0)
    return read_nwb_sorting(str(path), **keywords)


def _is_phy(path: Path) -> bool:
    return (path / "params.py").is_file() and (path / "spike_times.npy").is_file()


# The first that recognises a path opens it.
RECORDING_FORMATS = {
    f.name: f
    for f in (
        Format(name="simulation", recognise=is_simulation, read=lambda path: _load(path / "recording")),
        Format(
            name="nwb",
            recognise=_is_nwb,
            read=_extractor("read_nwb_recording"),
            stream_keyword="electrical_series_path",
        ),
        Format(name="spikeinterface", recognise=_is_spikeinterface, read=_load),
        Format(name="spikeglx", recognise=_is_spikeglx, read=_read_spikeglx, stream_keyword="stream_id"),
        Format(name="openephys", recognise=_is_openephys, read=_read_openephys, stream_keyword="stream_id"),
        Format(name="mearec", recognise=_is_mearec, read=_read_mearec(0)),
        Format(name="raw", recognise=_is_raw, read=_extractor("read_binary")),
    )
}

SORTING_FORMATS = {
    f.name: f
    for f in (
        Format(name="simulation", recognise=is_simulation, read=lambda path: _load(path / "sorting")),
        Format(
            name="nwb", recognise=_is_nwb, read=_read_nwb_sorting, stream_keyword="electrical_series_path"
        ),
        Format(name="spikeinterface", recognise=_is_spikeinterface, read=_read_spikeinterface_sorting),
        Format(name="phy", recognise=_is_phy, read=read_phy_folder),
        # Kilosort writes phy's files: never recognised before phy, but it can be asked for.
        Format(name="kilosort", recognise=_is_phy, read=_extractor("read_kilosort")),
        Format(name="mearec", recognise=_is_mearec, read=_read_mearec(1)),
        Format(name="npz", recognise=lambda path: path.suffix == ".npz", read=_extractor("read_npz_sorting")),
    )
}


def find_format(path: Path, name: str, formats: dict[str, Format], kind: str) -> Format:
    """Choose the format of an existing path.

    Parameters
    ----------
    path : Path
    name : str
        A name of `formats`, the name of any other SpikeInterface reader, or "auto": the first that
        recognises what lies at `path`.
    formats : dict
        `RECORDING_FORMATS` or `SORTING_FORMATS`.
    kind : {"recording", "sorting"}
        For the error.

    Raises
    ------
    ValueError
        If none recognises the path, or there is no such format.
    """
    if name != "auto":
        return formats[name] if name in formats else _other_format(name, formats, kind)
    for candidate in formats.values():
        if candidate.recognise(path):
            return candidate
    raise ValueError(f"{path} is not a {kind} in any of the formats tried ({', '.join(formats)})")


def _other_format(name: str, formats: dict[str, Format], kind: str) -> Format:
    from spikeinterface.extractors import extractor_classes

    others = getattr(extractor_classes, f"{kind}_extractor_full_dict")
    if name not in others:
        names = ", ".join(["auto", *formats, *(n for n in others if n not in formats)])
        raise ValueError(f"format of a {kind} must be one of {names}, got {name!r}")
    return Format(
        name=name,
        recognise=lambda _: True,
        read=lambda path, **k: others[name](path, **k),
        stream_keyword="stream_id",
    )


def read(path: Path, fmt: Format, stream_id: str | None, **keywords: Any) -> Any:
    """Read `path` with SpikeInterface; whatever its reader raises becomes one line.

    Raises
    ------
    ValueError
        If the reader fails, the format has no streams to choose from, or the path holds more than values.
    """
    if stream_id is not None:
        if fmt.stream_keyword is None:
            raise ValueError(f"{fmt.name} has no streams to choose from, got stream_id={stream_id!r}")
        keywords[fmt.stream_keyword] = stream_id
    check_input(path, fmt.name)
    try:
        return fmt.read(path, **keywords)
    except Exception as error:
        reason = re.sub(r"\s+", " ", str(error)).strip()[:400]
        raise ValueError(f"cannot open {path} as {fmt.name}: {type(error).__name__}: {reason}") from error


def one_segment(extractor: Any, segment: int | None, path: Path) -> Any:
    """Choose a segment of a recording or a sorting.

    Parameters
    ----------
    extractor : BaseRecording or BaseSorting
    segment : int or None
        None: the only one.
    path : Path
        Where it lies, for the message.

    Returns
    -------
    BaseRecording or BaseSorting

    Raises
    ------
    ValueError
        If there is no such segment, or there are several and none is chosen.
    """
    count = extractor.get_num_segments()
    if segment is not None and segment >= count:
        raise ValueError(f"{path} has {count} segments: segment must be in 0..{count - 1}, got {segment}")
    if count == 1:
        return extractor
    if segment is None:
        # Joining them would put false neighbours side by side: spikes, filter and drift do not cross a gap.
        raise ValueError(
            f"{path} has {count} segments, which are sorted one by one: give segment=0..{count - 1}"
        )
    return extractor.select_segments([segment])
