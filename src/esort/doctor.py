"""Whether a recording can be sorted and learned from, in seconds and before anything long begins.

``python -m esort.doctor recording=path recording.path=FOLDER [recording.probe=...] [checkpoint=FILE]`` takes
the words of ``conf/recording/path.yaml``, prints a line per check and ends with 1 if one of them is fatal.
What is fatal here, `sort.py` and `train.py` refuse themselves, by the same functions of `esort.health`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from esort.card import Card
from esort.checkpoint import load_card
from esort.excerpt import Excerpt, take_excerpt
from esort.health import check_recording, check_signal, match_channels
from esort.one_line import one_line
from esort.preprocessing import BAND_HZ, Preprocessing
from esort.recordings import RecordingPath
from esort.symptoms import (
    LEARNABLE_S,
    Finding,
    bad_channels,
    channel_map,
    clipping,
    contacts,
    duration,
    gaps,
    noise,
    number_format,
    spike_rate,
)

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording

__all__ = ["Finding", "examine", "main"]

_USAGE = (
    "python -m esort.doctor recording=path recording.path=FOLDER [recording.NAME=VALUE ...] [checkpoint=FILE]"
)
_NUMBERS = ("sampling_frequency", "num_channels", "gain_to_uv", "offset_to_uv", "segment")
# Without a checkpoint, what `train.py` does by default.
_USUAL = Preprocessing(freq_min_hz=BAND_HZ[0], freq_max_hz=BAND_HZ[1])
# A channel in the network's units of noise looks another way if its noise has changed more than this.
_NOISE_FACTOR = 3.0


def examine(
    recording: BaseRecording,
    *,
    card: Card | None = None,
    seconds: float = 5.0,
    seed: int = 0,
    learned_uv: float | None = None,
) -> list[Finding]:
    """Look at a recording as `sort.py` and `train.py` would, and at what makes sorting poor.

    However long it is, only a few seconds of it are read.

    Parameters
    ----------
    recording : BaseRecording
        As `esort.recordings.RecordingPath.open` returns it.
    card : Card, optional
        Of the checkpoint that is to sort it.
    seconds : float
        How much to read in all; rare faults want more.
    seed : int
        Where `spikeinterface.preprocessing.detect_bad_channels` looks.
    learned_uv : float, optional
        Noise that the checkpoint learned with (`esort.sorter.Sorter.noise_uv`), where its card does not say.

    Returns
    -------
    list of Finding
        In the order in which they were looked at; after a fatal one only what does not depend on it.
    """
    found = [number_format(recording)]
    try:
        check_recording(recording)
    except ValueError as error:
        return [*found, Finding(check="structure", level="fatal", text=str(error))]
    preprocessing = _USUAL if card is None else Preprocessing.from_dict(card.preprocessing)
    found += [duration(recording, preprocessing), contacts(recording)]
    found += _checked("rate", lambda: _rate(recording, preprocessing))
    found += _checked("signal", lambda: check_signal(recording))
    if card is not None:
        found += _checked("checkpoint", lambda: _fits(card, recording))
    if any(finding.level == "fatal" for finding in found):
        return found
    try:
        # A network may filter for itself; whoever looks at the traces wants them filtered all the same.
        looking = (
            replace(preprocessing, inside_network=False) if preprocessing.inside_network else preprocessing
        )
        excerpt = take_excerpt(recording, looking.apply(recording), seconds=seconds)
    except ValueError as error:
        return [*found, Finding(check="signal", level="fatal", text=str(error))]
    found += [gaps(recording, excerpt), noise(excerpt)]
    found += clipping(excerpt)
    found += bad_channels(recording, excerpt, seed=seed)
    found += [channel_map(excerpt), spike_rate(excerpt)]
    if card is not None:
        found += _compare_noise(card, recording, excerpt, learned_uv)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 1 if a check is fatal, 0 otherwise."""
    try:
        spec, checkpoint = _parse(sys.argv[1:] if arguments is None else arguments)
        card = None if checkpoint is None else load_card(checkpoint)
    except (OSError, ValueError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    logging.getLogger("esort").setLevel(logging.ERROR)  # what it would warn of stands in the lines below
    learnable = False
    try:
        recording = spec.open()
        learnable = recording.get_total_duration() >= LEARNABLE_S
        found = examine(recording, card=card, learned_uv=_learned_noise(card, checkpoint))
    except (OSError, ValueError) as error:
        found = [Finding(check="open", level="fatal", text=str(error))]
    for finding in found:
        print(finding)
    fatal = sum(finding.level == "fatal" for finding in found)
    warnings = sum(finding.level == "warning" for finding in found)
    without = "can be learned from and sorted" if learnable else "can only be sorted"
    verdict = "cannot be sorted" if fatal else "can be sorted" if card else without
    print(f"{spec.path}: {verdict}, {fatal} fatal, {warnings} {'warning' if warnings == 1 else 'warnings'}")
    return int(fatal > 0)


def _checked(check: str, look: Any) -> list[Finding]:
    """Run a check that says what it saw, or raises what `sort.py` and `train.py` would end with."""
    try:
        text = look()
    except ValueError as error:
        return [Finding(check=check, level="fatal", text=str(error))]
    return [] if text is None else [Finding(check=check, level="ok", text=text)]


def _rate(recording: BaseRecording, preprocessing: Preprocessing) -> str:
    preprocessing.resolve(recording)
    return f"{recording.sampling_frequency:g} Hz"


def _fits(card: Card, recording: BaseRecording) -> str:
    if card.is_backbone:
        raise ValueError("expected a checkpoint with units, got a backbone: fine-tune it first")
    order = match_channels(
        np.asarray(card.contact_positions_um), recording, card_sampling_frequency=card.sampling_frequency
    )
    same = np.array_equal(order, np.arange(len(order)))
    return "rate and contacts fit" + ("" if same else "; channels come in another order and are mapped")


def _learned_noise(card: Card | None, checkpoint: Path | None) -> float | None:
    """Noise that a network without a word of it on its card learned with; its weights say so."""
    if card is None or checkpoint is None or card.is_backbone or not card.preprocessing.get("inside_network"):
        return None
    from esort.sorter import Sorter  # seconds of imports

    return Sorter.load(checkpoint).noise_uv


def _compare_noise(
    card: Card, recording: BaseRecording, excerpt: Excerpt, learned_uv: float | None
) -> list[Finding]:
    if learned_uv is not None:
        ratio = float(np.median(excerpt.noise)) / learned_uv
    elif not card.noise_level_uv or card.preprocessing.get("inside_network"):
        return []  # such a network keeps its noise among its weights
    else:
        order = match_channels(np.asarray(card.contact_positions_um), recording)
        ratio = float(np.median(excerpt.noise[order] / np.asarray(card.noise_level_uv)))
    text = f"noise is {ratio:.2g} times what the network learned with"
    if 1 / _NOISE_FACTOR <= ratio <= _NOISE_FACTOR:
        return [Finding(check="checkpoint", level="ok", text=text)]
    advice = "check gain and wiring, or learn again from this recording"
    return [Finding(check="checkpoint", level="warning", text=text, advice=advice)]


def _parse(arguments: Sequence[str]) -> tuple[RecordingPath, Path | None]:
    values: dict[str, Any] = {}
    checkpoint = None
    names = [field.name for field in fields(RecordingPath)]
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals:
            raise ValueError(f"expected NAME=VALUE, got {argument!r}: {_USAGE}")
        if name == "recording":
            if value != "path":
                raise ValueError(f"the doctor looks at files: expected recording=path, got recording={value}")
        elif name == "checkpoint":
            checkpoint = Path(value).expanduser()
        elif name.removeprefix("recording.") in names and name.startswith("recording."):
            name = name.removeprefix("recording.")
            values[name] = _value(name, value)
        else:
            known = ", ".join(f"recording.{one}" for one in names)
            raise ValueError(f"expected checkpoint or one of {known}, got {name!r}")
    if not values.get("path"):
        raise ValueError(f"the doctor needs a recording: {_USAGE}")
    return RecordingPath(**values), checkpoint


def _value(name: str, value: str) -> Any:
    if value in ("null", "true", "false"):
        return {"null": None, "true": True, "false": False}[value]
    if name == "bad_channels" and value != "auto":
        return [one.strip() for one in value.strip("[]").split(",") if one.strip()]
    return _number(name, value) if name in _NUMBERS else value


def _number(name: str, value: str) -> float | int:
    try:
        return int(value) if value.lstrip("+-").isdigit() else float(value)
    except ValueError:
        raise ValueError(f"recording.{name} must be a number, got {value!r}") from None


if __name__ == "__main__":
    sys.exit(main())
