"""What is wrong with a recording, found before it is sorted: dead and noisy channels, and a wrong unit."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from esort.excerpt import take_excerpt
from esort.handling import marked
from esort.preprocessing import Preprocessing
from esort.symptoms import GAP_ADVICE, MAX_NOISE_UV, MIN_NOISE_UV, clock_jumps

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording

__all__ = ["Defects", "check_scale", "count_nonfinite", "look_over", "scale_advice"]

logger = logging.getLogger(__name__)

# Of all places together: noise is known to 2 percent, and asked is whether it is far from the others'.
_SECONDS = 0.5
# A checkpoint and a recording whose noise differs by more are not in the same unit.
_OTHER_UNIT, _OTHER_NOISE = 30.0, 3.0
_CHUNK_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Defects:
    """What is wrong with a recording.

    Parameters
    ----------
    dead, noisy, given : tuple
        Names of bad channels: constant or nearly so, far noisier than the others (both also if they became
        so in mid-recording), and named by the user.
    noise_uv : float or None
        Median over the good channels, behind the band-pass; None: not looked at.
    in_uv : bool
        Whether the gain is known; otherwise the noise is in the recording's own unit.
    nonfinite : int
        NaN and infinite values that are bridged.
    """

    dead: tuple = ()
    noisy: tuple = ()
    given: tuple = ()
    noise_uv: float | None = None
    in_uv: bool = True
    nonfinite: int = 0

    @property
    def bad_channel_ids(self) -> list[Any]:
        """All bad channels."""
        return [*self.dead, *self.noisy, *self.given]

    def mark(self, recording: BaseRecording) -> BaseRecording:
        """Return the recording with its bad channels marked, see `esort.handling`."""
        if not self.bad_channel_ids:
            return recording
        return marked(recording, bad_channel_ids=self.bad_channel_ids)

    def with_nonfinite(self, count: int) -> Defects:
        """The same with a number of values that were bridged."""
        return replace(self, nonfinite=count)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def look_over(recording: BaseRecording, *, bad_channel_ids: Any = None) -> Defects:
    """Look for bad channels in some stretches of a recording, and say in the log what was found.

    Parameters
    ----------
    recording : BaseRecording
    bad_channel_ids : sequence, optional
        Take these instead of looking for bad channels.

    Returns
    -------
    Defects
    """
    given = None if bad_channel_ids is None else tuple(bad_channel_ids)
    jumps = clock_jumps(recording)
    if jumps.size:
        logger.warning(
            "the clock jumps %d times, first after sample %d: %s", jumps.size, int(jumps[0]), GAP_ADVICE
        )
    try:
        excerpt = take_excerpt(recording, Preprocessing().roughly(recording), seconds=_SECONDS)
    except ValueError:  # too short for the filter, or of a rate that it does not fit: refused elsewhere
        return Defects(given=given or ())
    noise = np.where(excerpt.constant, 0.0, excerpt.noise)  # (C,); NaN where there is a NaN
    alive = noise[noise > 0]
    if not alive.size:
        return Defects(given=given or ())
    level = float(np.median(alive))
    dead, noisy = excerpt.dead_and_noisy()
    found = Defects(noise_uv=level, in_uv=excerpt.in_uv, given=given or ())
    if given is None:
        ids = excerpt.channel_ids
        found = replace(found, dead=tuple(ids[dead].tolist()), noisy=tuple(ids[noisy].tolist()))
    for word, names in (("dead", found.dead), ("noisy", found.noisy), ("bad", found.given)):
        if names:
            shown = ", ".join(map(str, names[:8])) + (", …" if len(names) > 8 else "")
            logger.warning(
                "%d of %d channels are %s and not listened to: %s (recording.bad_channels=[...] to choose)",
                len(names),
                len(noise),
                word,
                shown,
            )
    advice = scale_advice(level, in_uv=found.in_uv)
    if advice:
        logger.warning("%s", advice)
    return found


def scale_advice(noise: float, *, in_uv: bool) -> str:
    """Say what is odd about a noise level, and how to declare the unit; empty if nothing is."""
    if MIN_NOISE_UV <= noise <= MAX_NOISE_UV:
        return ""
    usual = f"{MIN_NOISE_UV:g} to {MAX_NOISE_UV:g} µV are usual"
    guesses = {1e6: "volts", 1e3: "millivolts", 1e-3: "nanovolts"}
    for factor, unit in guesses.items():
        if MIN_NOISE_UV <= noise * factor <= MAX_NOISE_UV and (in_uv or noise < 0.1):
            return (
                f"the noise is {noise:.3g}{' µV' if in_uv else ''}, {usual}: the traces look like {unit}, "
                f"give recording.gain_to_uv with {factor:g} times what it is now"
            )
    if not in_uv:
        return ""  # steps of a converter may be of any size
    return f"the noise is {noise:.3g} µV, {usual}: check recording.gain_to_uv"


def check_scale(defects: Defects, learned_uv: float) -> None:
    """Refuse a recording in another unit than the one that was learned from.

    Parameters
    ----------
    defects : Defects
        Of the recording.
    learned_uv : float
        Noise level of the recording that the network learned from.

    Raises
    ------
    ValueError
        If the noise levels differ by a factor of 30; a factor of 3 is warned of.
    """
    if not defects.noise_uv or not learned_uv > 0:
        return
    ratio = defects.noise_uv / learned_uv
    text = f"the recording's noise is {defects.noise_uv:.3g} µV, the checkpoint knows {learned_uv:.3g} µV"
    if not 1 / _OTHER_UNIT <= ratio <= _OTHER_UNIT:
        raise ValueError(
            f"{text}: they are in different units, give recording.gain_to_uv=µV per stored unit "
            f"(1e6 if the values are volts)"
        )
    if not 1 / _OTHER_NOISE <= ratio <= _OTHER_NOISE:
        logger.warning("%s: check gain and wiring, or learn again from this recording", text)


def count_nonfinite(recording: BaseRecording) -> tuple[int, int | None, list[Any]]:
    """Count the NaN and infinite values of a whole recording, reading all of it.

    Returns
    -------
    count : int
    first_sample : int or None
    channel_ids : list
        Channels that have some.
    """
    if np.dtype(recording.dtype).kind != "f":
        return 0, None, []
    num_samples, length = int(recording.get_num_samples()), round(_CHUNK_S * recording.sampling_frequency)
    per_channel = np.zeros(recording.get_num_channels(), dtype=np.int64)
    first = None
    for start in range(0, num_samples, length):
        stop = min(num_samples, start + length)
        bad = ~np.isfinite(recording.get_traces(start_frame=start, end_frame=stop))
        if bad.any():
            first = start + int(np.argmax(bad.any(axis=1))) if first is None else first
            per_channel += bad.sum(axis=0)
    return int(per_channel.sum()), first, recording.channel_ids[per_channel > 0].tolist()
