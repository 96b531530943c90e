"""The rules of a fair comparison, as checks that stop whatever breaks them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from esort.card import LabelSource
from esort.simulation import SimulationSpec, TemplateBank

__all__ = ["SAME_FOR_ALL", "check_apart", "check_same_task", "check_scored_time"]

SAME_FOR_ALL = ("recording_fingerprint", "start_sample", "stop_sample", "delta_ms")
"""What all sorters that are compared with each other must share."""


def check_apart(source: SimulationSpec, target: SimulationSpec) -> None:
    """Check that what is pretrained on knows nothing of the neurons that are learned later.

    Parameters
    ----------
    source, target : SimulationSpec

    Raises
    ------
    ValueError
        If the two may draw the same template. (Where both say `disjoint_cell_models`, that they share no cell
        model either is checked as well.)
    """
    bank = TemplateBank.load()
    first, second = (
        bank.split(spec.split, disjoint_cell_models=spec.disjoint_cell_models) for spec in (source, target)
    )
    said = (
        f"source {source.split} (disjoint_cell_models={source.disjoint_cell_models}), "
        f"target {target.split} (disjoint_cell_models={target.disjoint_cell_models})"
    )
    shared = np.intersect1d(first, second).size
    if shared:
        raise ValueError(f"source and target must share no template, got {shared} in common: {said}")
    if source.disjoint_cell_models or target.disjoint_cell_models:
        models = np.intersect1d(bank.cell_models[first], bank.cell_models[second])
        assert not models.size, f"the template bank's halves share {models.size} cell models: {said}"


def check_scored_time(labels: LabelSource, scores: Mapping[str, Any], *, recording_fingerprint: str) -> None:
    """Check that no label came from the time that is scored.

    Parameters
    ----------
    labels : LabelSource
        From the card of the checkpoint that sorted.
    scores : mapping
        With ``start_sample`` and ``stop_sample``.
    recording_fingerprint : str
        Of the recording that is scored.

    Raises
    ------
    RuntimeError
        If a label came from there.
    """
    if labels.recording_fingerprint != recording_fingerprint:
        return
    start, stop = scores["start_sample"], scores["stop_sample"]
    if start < labels.stop_sample and stop > labels.start_sample:
        raise RuntimeError(
            f"scored on [{start}, {stop}), but labels came from "
            f"[{labels.start_sample}, {labels.stop_sample}) of the same recording"
        )


def check_same_task(rows: Iterable[Mapping[str, Any]]) -> None:
    """Check that all sorters of a comparison were scored on the same seconds with the same tolerance.

    Parameters
    ----------
    rows : iterable of mapping
        One for each sorter, with ``sorter`` and all of `SAME_FOR_ALL`.

    Raises
    ------
    RuntimeError
        If two of them differ.
    """
    first: Mapping[str, Any] | None = None
    for row in rows:
        first = row if first is None else first
        for name in SAME_FOR_ALL:
            if row[name] != first[name]:
                raise RuntimeError(
                    f"{first['sorter']} and {row['sorter']} are compared on different {name}: "
                    f"{first[name]} and {row[name]}"
                )
