"""A sorting as an NWB file: its units with the probability of each spike, and the electrodes."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from esort.files import write_atomically
from esort.phy_tables import UNIT_NAME

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording, BaseSorting

__all__ = ["Session", "write_nwb"]

# NWB wants to know when the recording began. A date that is plainly none does not mislead.
_UNKNOWN_START = datetime(1970, 1, 1, tzinfo=UTC)
# An age range open to above: what is true of every subject.
_ANY_AGE = "P0D/"
_SEXES = ("F", "M", "O", "U")


@dataclass(frozen=True, kw_only=True)
class Session:
    """What a sorter cannot know of a session and NWB asks for.

    Parameters
    ----------
    start_time : str, optional
        Of the first sample, in ISO 8601 with its zone; None: 1970-01-01, which no reader takes for true.
    description, experimenter, institution, lab : str, optional
    subject_id, species : str, optional
        The species by its Latin name, such as Mus musculus.
    age : str, optional
        An ISO 8601 duration such as P90D; None: any.
    sex : str
        F, M, O (other) or U (unknown).
    location : str
        Where in the brain the probe was, such as CA1.

    Raises
    ------
    ValueError
        If the time or the sex is none.
    """

    start_time: str | None = None
    description: str | None = None
    experimenter: str | None = None
    institution: str | None = None
    lab: str | None = None
    subject_id: str | None = None
    species: str | None = None
    age: str | None = None
    sex: str = "U"
    location: str = "unknown"

    def __post_init__(self) -> None:
        if self.sex not in _SEXES:
            raise ValueError(f"session.sex must be one of {', '.join(_SEXES)}, got {self.sex!r}")
        if self.start_time is not None:
            try:
                naive = datetime.fromisoformat(self.start_time).tzinfo is None
            except (TypeError, ValueError):
                naive = True
            if naive:
                raise ValueError(
                    "session.start_time must be a time with its zone such as 2024-05-01T10:00:00+02:00, "
                    f"got {self.start_time!r}"
                )

    @property
    def start(self) -> datetime:
        """When the recording began."""
        return _UNKNOWN_START if self.start_time is None else datetime.fromisoformat(self.start_time)


def write_nwb(
    sorting: BaseSorting,
    probability: np.ndarray,
    recording: BaseRecording,
    path: Path,
    *,
    session: Session,
    source: str,
) -> Path:
    """Write the units table and the electrodes; no traces.

    Parameters
    ----------
    sorting : BaseSorting
        One segment. Whole numbers as unit ids are the ids of the table, others its column ``unit_name``.
    probability : float array, shape (S,)
        Of each spike, in the order of ``sorting.to_spike_vector()``: the column ``probability``, as long for
        each unit as its spike times.
    recording : BaseRecording
        Whose contacts are the electrodes.
    path : Path
        Replaced if it exists.
    session : Session
    source : str
        Where the recording lies.

    Returns
    -------
    Path
    """
    from hdmf.common import VectorData, VectorIndex
    from pynwb import NWBHDF5IO, NWBFile
    from pynwb.file import Subject
    from pynwb.misc import Units

    rate = float(sorting.sampling_frequency)
    spikes = sorting.to_spike_vector()
    by_unit = np.argsort(spikes["unit_index"], kind="stable")
    ends = np.cumsum(np.bincount(spikes["unit_index"], minlength=len(sorting.unit_ids))).tolist()
    file = NWBFile(
        session_description=session.description or "Sorted by esort.",
        identifier=str(uuid.uuid4()),
        session_start_time=session.start,
        experimenter=session.experimenter,
        institution=session.institution,
        lab=session.lab,
        notes="Times count from the first sample of the recording.",
        source_script_file_name="sort.py",
        source_script=f"esort, from {source}",
        subject=Subject(
            subject_id=session.subject_id or "unknown",
            species=session.species,
            age=session.age or _ANY_AGE,
            sex=session.sex,
        ),
    )
    _add_electrodes(file, recording, session.location)
    are_numbers = np.asarray(sorting.unit_ids).dtype.kind in "iu"
    ids = sorting.unit_ids.tolist() if are_numbers else list(range(len(sorting.unit_ids)))
    columns = {
        "spike_times": ("Spike times of each unit in seconds.", spikes["sample_index"][by_unit] / rate),
        "probability": (
            "Probability of each spike to be one of its unit, in the order of spike_times.",
            np.asarray(probability, dtype=np.float32)[by_unit],
        ),
    }
    # Made by hand, because pynwb's own way takes no table in which every unit is without spikes.
    ragged = []
    for name, (description, values) in columns.items():
        data = VectorData(name=name, description=description, data=values)
        ragged += [data, VectorIndex(name=f"{name}_index", data=ends, target=data)]
    units = Units(
        name="units", description="Units found by esort.", id=ids, columns=ragged, resolution=1 / rate
    )
    if not are_numbers:
        names = [str(unit_id) for unit_id in sorting.unit_ids]
        units.add_column(UNIT_NAME, "Name of the unit.", data=names)
    file.units = units
    with write_atomically(path) as partial, NWBHDF5IO(partial, "w") as output:
        output.write(file)
    return path


def _add_electrodes(file: Any, recording: BaseRecording, location: str) -> None:
    device = file.create_device(name="probe", description=_probe_of(recording))
    group = file.create_electrode_group(
        name="probe", description="All contacts of the recording.", location=location, device=device
    )
    file.add_electrode_column("channel_name", "Name of the channel in the recording.")
    positions = recording.get_channel_locations()[:, :2]
    for channel_id, (x, y) in zip(recording.channel_ids, positions, strict=True):
        file.add_electrode(
            group=group, location=location, rel_x=float(x), rel_y=float(y), channel_name=str(channel_id)
        )


def _probe_of(recording: BaseRecording) -> str:
    probes = recording.get_probes() if recording.has_probe() else []
    names = [" ".join(filter(None, (probe.manufacturer, probe.model_name))) for probe in probes]
    return ", ".join(filter(None, names)) or "A probe whose name is not known."
