"""Whether the units that were learned still fit what is recorded, minute by minute."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from esort.baseline import Baseline
from esort.minutes import FIT_STEPS, MINUTE_S, Minutes, minute_of
from esort.motion import FollowedMotion
from esort.unknown import UnknownEvents

__all__ = ["FITS", "NO_LONGER", "WATCH", "Fitness", "MinuteFitness"]

logger = logging.getLogger(__name__)

FITS, WATCH, NO_LONGER = "fits", "watch", "no longer fits"

# Limits of each sign for `WATCH`, `NO_LONGER`. Spikes: found over expected, less or its inverse more.
_FEW = 0.5, 0.2
# Mean fit, below the usual one by so much.
_FIT_LOST = 0.1, 0.25
# Unknown events, part of all events, and so many times the usual part.
_UNKNOWN, _UNKNOWN_TIMES = (0.1, 0.3), 3.0
# Median noise over that of learning, or its inverse.
_NOISE = 1.3, 2.0
# Channels that say nothing or have become noisy: any, and this part of all.
_MANY_CHANNELS = 0.1
# Motion is told up to here, and is no longer followed so near to the end.
_REACH_UM, _NEAR_END_UM = 48, 4
_FAR_UM = 30
# A unit is silent with less than this part of at least so many expected spikes.
_SILENT, _LEAST_EXPECTED = 0.2, 20.0
# A channel is bad in a minute with so many bad cells: 2 s.
_LEAST_CELLS = 4
# Fewer events or fits than this say nothing.
_LEAST_EVENTS = 20
# Of a cell, in s; see `esort.inference.BLOCK_S`.
_CELL_S = 0.5
# The half of Gaussian noise is smaller than this.
_HALF = 0.6745
_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class MinuteFitness:
    """One minute; None where nothing is known.

    Parameters
    ----------
    minute : int
        From 0.
    verdict : str
        `FITS`, `WATCH` or `NO_LONGER`.
    advice : tuple of str
        What is wrong and what to do.
    num_spikes, expected_spikes : int, float or None
    fit : float or None
        Mean part of large events that the units explain.
    num_unknown : int
    unknown_share : float or None
        Of all events.
    motion_um : int or None
        Largest distance of the tissue from where the units were learned.
    noise : float or None
        Median over channels, over that of learning.
    flat_channels, noisy_channels : tuple
        Ids.
    silent_units : tuple
        Ids of units with far fewer spikes than expected.
    """

    minute: int
    verdict: str
    advice: tuple[str, ...]
    num_spikes: int
    expected_spikes: float | None
    fit: float | None
    num_unknown: int
    unknown_share: float | None
    motion_um: int | None
    noise: float | None
    flat_channels: tuple
    noisy_channels: tuple
    silent_units: tuple

    def __str__(self) -> str:
        facts = [f"{self.num_spikes} spikes"]
        if self.expected_spikes is not None:
            facts[0] += f" ({self.expected_spikes:.0f} expected)"
        if self.fit is not None:
            facts.append(f"fit {self.fit:.2f}")
        if self.unknown_share is not None:
            facts.append(f"{100 * self.unknown_share:.1f} % unknown events")
        if self.motion_um is not None:
            facts.append(f"{self.motion_um} um of motion")
        if self.noise is not None:
            facts.append(f"{self.noise:.2f} times the noise")
        advice = "".join(f"; {line}" for line in self.advice)
        return f"minute {self.minute}: {self.verdict}: {', '.join(facts)}{advice}"


@dataclass(frozen=True, kw_only=True)
class Fitness:
    """All minutes that were sorted.

    Parameters
    ----------
    minutes : tuple of MinuteFitness
    least_size : float or None
        Of an unknown event, in noise levels; None: nothing tells unknown events.
    false_per_minute : float or None
        Unknown events that are to be expected without any unknown neuron.
    """

    minutes: tuple[MinuteFitness, ...]
    least_size: float | None = None
    false_per_minute: float | None = None

    @property
    def verdict(self) -> str:
        """The worst of the minutes."""
        found = {minute.verdict for minute in self.minutes}
        return next((verdict for verdict in (NO_LONGER, WATCH) if verdict in found), FITS)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for ``run.json``."""
        return {
            "verdict": self.verdict,
            "unknown": {
                "count": sum(minute.num_unknown for minute in self.minutes),
                "per_minute": [minute.num_unknown for minute in self.minutes],
                "least_size": self.least_size,
                "expected_false_per_minute": self.false_per_minute,
            },
            "minutes": [asdict(minute) | {"line": str(minute)} for minute in self.minutes],
        }

    def log(self) -> None:
        """Say once what does not fit: the first minute of the worst verdict, and how many there are."""
        if self.verdict == FITS:
            return
        worst = [minute for minute in self.minutes if minute.verdict == self.verdict]
        logger.warning("%s (%d of %d minutes are like it)", worst[0], len(worst), len(self.minutes))

    @classmethod
    def of(
        cls,
        minutes: Minutes,
        unknown: UnknownEvents,
        motion: FollowedMotion | None,
        baseline: Baseline | None,
        *,
        unit_ids: tuple,
        channel_ids: tuple,
        sampling_frequency: float,
    ) -> Fitness:
        """Judge what was counted.

        Parameters
        ----------
        minutes : Minutes
        unknown : UnknownEvents
        motion : FollowedMotion or None
        baseline : Baseline or None
            Without it nothing is expected, and less can be told.
        unit_ids, channel_ids : tuple
            Of the units, and of the recording's channels.
        sampling_frequency : float
            Of the recording, in Hz.
        """
        judge = _Judge(minutes, unknown, motion, baseline, unit_ids, channel_ids, sampling_frequency)
        told = bool(minutes.num_fits.any() or len(unknown) or (baseline and np.isfinite(baseline.fit)))
        return cls(
            minutes=tuple(judge.minute(row) for row in range(len(minutes))),
            least_size=None if baseline is None or not told else _rounded(baseline.least_size),
            false_per_minute=None if baseline is None else _rounded(baseline.false_per_minute),
        )


class _Judge:
    def __init__(self, minutes, unknown, motion, baseline, unit_ids, channel_ids, rate) -> None:  # type: ignore
        self._counts: Minutes = minutes
        self._baseline: Baseline | None = baseline
        self._unit_ids, self._channel_ids = unit_ids, channel_ids
        of_event = minute_of(unknown.sample_index, rate)
        self._num_unknown = [(of_event == minute).sum() for minute in minutes.minute]
        self._motion = motion
        self._has_motion = motion is not None and len(motion.times_s) > 0

    def minute(self, row: int) -> MinuteFitness:
        """Judge one."""
        counts, baseline = self._counts, self._baseline
        number = int(counts.minute[row])
        by_unit = counts.num_spikes[row]
        num_spikes, num_unknown = int(by_unit.sum()), int(self._num_unknown[row])
        seconds = counts.num_cells[row] * _CELL_S
        signs: list[tuple[int, str]] = []

        expected = silent = None
        if baseline is not None:
            of_unit = np.asarray(baseline.rates_hz, dtype=float) * seconds
            expected = float(of_unit.sum())
            quiet = (of_unit >= _LEAST_EXPECTED) & (by_unit < _SILENT * of_unit)
            silent = tuple(self._unit_ids[unit] for unit in np.flatnonzero(quiet))
            if expected >= _LEAST_EVENTS:
                ratio = num_spikes / expected
                less = min(ratio, 1 / ratio) if ratio > 0 else 0.0
                signs += _sign(_FEW[0] - less, _FEW[1] - less, f"{ratio:.2f} times the expected spikes")
        fits = int(counts.num_fits[row])
        fit = float(counts.sum_fits[row] / fits / FIT_STEPS) if fits >= _LEAST_EVENTS else None
        if fit is not None and baseline is not None and np.isfinite(baseline.fit):
            lost = baseline.fit - fit
            signs += _sign(
                lost - _FIT_LOST[0],
                lost - _FIT_LOST[1],
                f"units explain {fit:.2f} of large events, {baseline.fit:.2f} while learning: check drift",
            )
        share = None
        if counts.num_fits.any() and num_spikes + num_unknown >= _LEAST_EVENTS:
            share = num_unknown / (num_spikes + num_unknown)
            usual = 0.0 if baseline is None or np.isnan(baseline.unknown_share) else baseline.unknown_share
            least, most = (max(limit, _UNKNOWN_TIMES * usual) for limit in _UNKNOWN)
            signs += _sign(share - least, share - most, "many unknown events: label the neurons that are new")
        if silent:
            part = len(silent) / max(len(self._unit_ids), 1)
            signs.append((2 if part > 0.5 else 1, f"relabel {_named('unit', silent)}: hardly any spikes"))
        motion_um = self._shift(number)
        if motion_um is not None:
            signs += _sign(
                motion_um - _FAR_UM,
                motion_um - (_REACH_UM - _NEAR_END_UM),
                f"the tissue is {motion_um} um away, up to {_REACH_UM} um are followed: check drift",
            )
        noise, flat, noisy = self._channels(row)
        if noise is not None:
            signs += _sign(
                max(noise, 1 / max(noise, 1e-9)) - _NOISE[0],
                max(noise, 1 / max(noise, 1e-9)) - _NOISE[1],
                f"{noise:.2f} times the noise of learning: check gain and grounding",
            )
        for ids, words in ((flat, "say nothing any more"), (noisy, "have become noisy")):
            if ids:
                many = len(ids) > _MANY_CHANNELS * len(self._channel_ids)
                signs.append((2 if many else 1, f"{_named('channel', ids)} {words}: name them as bad"))
        return MinuteFitness(
            minute=number,
            verdict=(FITS, WATCH, NO_LONGER)[max((grade for grade, _ in signs), default=0)],
            advice=tuple(words for _, words in signs),
            num_spikes=num_spikes,
            expected_spikes=_rounded(expected, 1),
            fit=_rounded(fit),
            num_unknown=num_unknown,
            unknown_share=_rounded(share, 4),
            motion_um=motion_um,
            noise=_rounded(noise),
            flat_channels=flat,
            noisy_channels=noisy,
            silent_units=silent or (),
        )

    def _shift(self, minute: int) -> int | None:
        if not self._has_motion:
            return None
        assert self._motion is not None
        inside = (self._motion.times_s // MINUTE_S).astype(np.int64) == minute
        return int(np.abs(self._motion.shift_um[inside]).max()) if inside.any() else None

    def _channels(self, row: int) -> tuple[float | None, tuple, tuple]:
        """Noise over that of learning, and ids of flat and noisy channels."""
        counts = self._counts
        looked = int(counts.num_looked[row])
        if looked == 0:
            return None, (), ()
        least = min(_LEAST_CELLS, int(counts.num_cells[row]))
        flat, noisy = (found[row] >= least for found in (counts.num_flat, counts.num_noisy))
        ids = [
            tuple(self._channel_ids[channel] for channel in np.flatnonzero(found)) for found in (flat, noisy)
        ]
        within = np.clip(counts.num_within[row] / looked, 1e-6, 1 - 1e-6)
        level = [_HALF / NormalDist().inv_cdf((1 + part) / 2) for part in within[~flat]]
        return (float(np.median(level)) if level else None), ids[0], ids[1]


def _sign(over_watch: float, over_no_longer: float, words: str) -> list[tuple[int, str]]:
    """A sign of grade 1 or 2 where a figure is over its limits."""
    grade = 2 if over_no_longer > 0 else 1 if over_watch > 0 else 0
    return [(grade, words)] if grade else []


def _named(what: str, ids: tuple) -> str:
    shown = ", ".join(map(str, ids[:_NAMED])) + (
        f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    )
    return f"{what} {shown}" if len(ids) == 1 else f"{what}s {shown}"


def _rounded(value: float | None, digits: int = 3) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), digits)
