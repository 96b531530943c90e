"""A backbone for a recording: the one that ships, one from the cache, or one trained now on a simulation."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from esort.learning import LearningSpec
from esort.pretrained import find_pretrained
from esort.simulation import SimulationSpec
from esort.subject import open_subject
from esort.teaching import all_labels
from esort.training import TrainingSettings, backbone_digest, train_backbone

__all__ = ["SOURCE_S", "find_or_make_backbone"]

logger = logging.getLogger(__name__)

SOURCE_S = 40.0
"""Length of the recording that is pretrained on, unless somebody says otherwise."""


def find_or_make_backbone(
    spec: SimulationSpec,
    learning: LearningSpec,
    settings: TrainingSettings,
    *,
    cache: Path,
    folder: Path,
    shipped: bool = False,
    lightning_logger: Any = False,
) -> tuple[Path, dict[str, float]]:
    """Find the backbone of a simulated recording in the cache, or train it and keep it there.

    Parameters
    ----------
    spec : SimulationSpec
        The recording to pretrain on; with the contacts and the rate of the one to be learned.
    learning : LearningSpec
    settings : TrainingSettings
    cache : Path
        Of simulations and backbones.
    folder : Path
        For files of the training.
    shipped : bool
        Whether one that ships with the package will do, where it fits.
    lightning_logger : Lightning logger or False

    Returns
    -------
    path : Path
    metrics : dict
        Of its training; empty where it was found.
    """
    ready = find_pretrained(spec, learning, settings) if shipped else None
    if ready is not None:
        return ready, {}
    # The digest of the simulation also knows the template bank and the version of the simulator.
    described = spec.to_dict() | {"digest": spec.digest()}
    digest = backbone_digest(described, learning, settings)
    path = cache / "backbones" / f"{settings.network.name}-{digest[:16]}.safetensors"
    if path.is_file():
        logger.info("backbone from the cache: %s", path)
        return path, {}
    source = open_subject(spec, cache)
    metrics = train_backbone(
        source,
        all_labels(source),
        learning,
        settings,
        path=path,
        folder=folder,
        lightning_logger=lightning_logger,
    )
    return path, metrics
