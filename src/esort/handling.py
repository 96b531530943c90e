"""What is to be done about the defects of a recording: marks that go along with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from esort.artifacts import Blanking

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording

__all__ = ["Handling", "handling_of", "marked"]

# A property of channels and annotations of the recording: SpikeInterface takes them along wherever it goes.
_BAD, _BLANKING, _RESAMPLE = "esort_bad", "esort_blanking", "esort_resample"


@dataclass(frozen=True, kw_only=True, eq=False)
class Handling:
    """What is to be done about the defects of a recording.

    Parameters
    ----------
    bad : bool array, shape (C,)
        Channels that are not listened to.
    blanking : Blanking or None
        What is cut out as an artefact; None: nothing.
    resample : bool
        Whether a recording of another rate than the checkpoint's is brought to that.
    """

    bad: np.ndarray
    blanking: Blanking | None = field(default_factory=Blanking)
    resample: bool = False


def handling_of(recording: BaseRecording) -> Handling:
    """Read the marks of a recording; without any, nothing is bad, artefacts are blanked."""
    bad = recording.get_property(_BAD) if _BAD in recording.get_property_keys() else None
    blanking = recording.get_annotation(_BLANKING)
    nothing = np.zeros(recording.get_num_channels(), dtype=bool)
    return Handling(
        bad=nothing if bad is None else np.asarray(bad, dtype=bool),
        blanking=Blanking() if blanking is None else None if not blanking else Blanking(**blanking),
        resample=bool(recording.get_annotation(_RESAMPLE)),
    )


def marked(
    recording: BaseRecording,
    *,
    bad_channel_ids: Sequence[Any] | np.ndarray | None = None,
    blanking: Blanking | bool | None = None,
    resample: bool | None = None,
) -> BaseRecording:
    """Return the recording with marks that `Sorter.sort`, training and streams heed.

    Parameters
    ----------
    recording : BaseRecording
        Stays as it is.
    bad_channel_ids : sequence, optional
        Names of the channels that are not to be listened to.
    blanking : Blanking or bool, optional
        False: nothing is blanked.
    resample : bool, optional

    Raises
    ------
    ValueError
        If there is no such channel, or none is left.
    """
    copy: BaseRecording = recording.select_channels(recording.channel_ids)
    if bad_channel_ids is not None:
        names = [str(name) for name in recording.channel_ids]
        wanted = [str(name) for name in bad_channel_ids]
        unknown = sorted(set(wanted) - set(names))
        if unknown:
            raise ValueError(
                f"bad_channels names {', '.join(unknown)}, but the recording's {len(names)} channels are "
                f"{', '.join(names[:8])}{', …' if len(names) > 8 else ''}"
            )
        if len(set(wanted)) == len(names):
            raise ValueError(f"all {len(names)} channels are bad: expected at least 1 good one")
        copy.set_property(_BAD, np.isin(names, wanted))
    if blanking is not None:
        chosen = Blanking() if blanking is True else blanking
        copy.set_annotation(_BLANKING, asdict(chosen) if isinstance(chosen, Blanking) else {}, overwrite=True)
    if resample is not None:
        copy.set_annotation(_RESAMPLE, bool(resample), overwrite=True)
    return copy
