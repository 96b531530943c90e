"""Contact positions: attach a probe to a recording that does not bring its own."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from esort.admission import MAX_PROBE_BYTES, check_plain_python, check_size
from esort.one_line import one_line
from esort.probes import PROBES, ProbeSpec

if TYPE_CHECKING:
    from probeinterface import Probe, ProbeGroup
    from spikeinterface.core import BaseRecording


def attach_probe(recording: BaseRecording, probe: str | None, path: Path) -> BaseRecording:
    """Return the recording with a position for every channel.

    Parameters
    ----------
    recording : BaseRecording
    probe : str or None
        See `read_probe`. None keeps the recording's own.
    path : Path
        Where the recording lies, for the errors.

    Raises
    ------
    ValueError
        If there is no probe, or it has another number of contacts.
    FileNotFoundError
        If `probe` looks like a file that does not exist.
    """
    if probe is None:
        if not has_positions(recording):
            raise ValueError(
                f"{path} says nothing of its probe: give recording.probe=FILE (probeinterface .json or .prb, "
                f".csv with x and y in µm of its {recording.get_num_channels()} channels) "
                f"or recording.probe=NAME of {', '.join(PROBES)}"
            )
        return recording
    group = read_probe(probe)
    num_contacts, num_channels = group.get_contact_count(), recording.get_num_channels()
    if any(one.device_channel_indices is None for one in group.probes):
        # A file that does not say which contact is wired to which channel means: in the order they stand.
        group.set_global_device_channel_indices(np.arange(num_contacts))
    wired = np.asarray(group.get_global_device_channel_indices()["device_channel_indices"])
    wired = wired[wired >= 0]
    if sorted(wired) != list(range(num_channels)):
        raise ValueError(
            f"probe {probe} has {wired.size} connected contacts, which must be wired to channels "
            f"0..{num_channels - 1}, but {path} has {num_channels} channels"
        )
    try:
        recording.set_probegroup(group)
    except Exception as error:  # noqa: BLE001 (SpikeInterface has no narrower one for probes that overlap)
        raise ValueError(
            f"probe {probe}: {one_line(error)} Its {len(group.probes)} probes must lie beside "
            f"each other: move one of them in the file, or sort them one by one"
        ) from None
    return recording


def has_positions(recording: BaseRecording) -> bool:
    """Whether every channel has a position."""
    return bool(recording.has_probe())


def read_probe(probe: str) -> ProbeGroup:
    """Read a probe file, or make a probe by name.

    Parameters
    ----------
    probe : str
        A probeinterface ``.json`` file, a ``.prb`` file, a ``.csv`` file with x and y in µm (one line per
        channel, a header line allowed), or a name of `esort.probes`.

    Returns
    -------
    probeinterface.ProbeGroup

    Raises
    ------
    ValueError, FileNotFoundError
        If there is no such name or file, or the file cannot be read.
    """
    from probeinterface import ProbeGroup, read_prb, read_probeinterface

    path = Path(probe).expanduser()
    readers = {".json": read_probeinterface, ".prb": read_prb, ".csv": _read_positions}
    if path.suffix not in readers:
        if probe not in PROBES:
            raise ValueError(
                f"probe must be a .json, .prb or .csv file or one of {', '.join(PROBES)}, got {probe!r}"
            )
        found = ProbeSpec(name=probe).build()
    else:
        if not path.is_file():
            raise FileNotFoundError(f"no probe file at {path}")
        check_size(path, MAX_PROBE_BYTES, "a probe")
        if path.suffix == ".prb":
            check_plain_python(path)
        try:
            found = readers[path.suffix](path)
        except Exception as error:
            reason = one_line(error, 200)
            raise ValueError(f"cannot read {path} as a probe: {reason or type(error).__name__}") from error
    if isinstance(found, ProbeGroup):
        return found
    group = ProbeGroup()
    group.add_probe(found)
    return group


def _read_positions(path: Path) -> Probe:
    from probeinterface import Probe

    with path.open(newline="") as file:
        rows = [row for row in csv.reader(file) if row and not row[0].startswith("#")]
    if rows and not _is_number(rows[0][0]):
        header = [name.strip().lower() for name in rows.pop(0)]
        for axis in "xy":
            if not any(name.startswith(axis) for name in header):
                raise ValueError(f"a header must name a column {axis}, got {','.join(header)}")
        x, y = (next(i for i, name in enumerate(header) if name.startswith(axis)) for axis in "xy")
    else:
        x, y = 0, 1
    positions = np.array([[float(row[x]), float(row[y])] for row in rows])
    probe = Probe(ndim=2, si_units="um")
    probe.set_contacts(positions=positions, shapes="circle", shape_params={"radius": 5.0})
    probe.set_device_channel_indices(np.arange(len(rows)))
    return probe


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
