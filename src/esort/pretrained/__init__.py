"""Backbones that ship with the package: which there are, what they were made from, and where they fit.

Made by ``python data/make_backbones.py``. Beside ``NAME.safetensors`` lies ``NAME.json``: the command, the
recording that it was pretrained on, digests, and what is gained by it.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esort.card import Card
from esort.checkpoint import load_card

if TYPE_CHECKING:
    from esort.learning import LearningSpec
    from esort.simulation import SimulationSpec
    from esort.training import TrainingSettings

__all__ = ["Pretrained", "find_pretrained", "pretrained_names", "pretrained_path"]

logger = logging.getLogger(__name__)

_CLOSED_FORM = "pursuit"
_OF_THE_RECORDING = {"num_channels", "num_units"}


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A backbone that ships with the package.

    Parameters
    ----------
    name : str
        Of its network.
    path : Path
        The checkpoint.
    card : Card
    story : dict
        How it was made: ``command``, ``source`` (of `SimulationSpec.to_dict`), ``source_digest``,
        ``template_bank``, ``learning``, ``weights_digest``, ``scores``.
    """

    name: str
    path: Path
    card: Card
    story: dict[str, Any]

    @classmethod
    def open(cls, name: str) -> Pretrained:
        """Open the backbone of a network; ValueError if none ships for it."""
        return cls.load(pretrained_path(name))

    @classmethod
    def load(cls, path: Path) -> Pretrained:
        """Load a checkpoint and the JSON file beside it.

        Raises
        ------
        ValueError
            If they do not belong together.
        """
        story = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        card = load_card(path)
        if story["weights_digest"] != card.weights_digest:
            raise ValueError(
                f"{path}: expected the weights {story['weights_digest'][:16]} of its .json, got "
                f"{card.weights_digest[:16]}"
            )
        return cls(name=card.network, path=path, card=card, story=story)

    def misfit(self, source: SimulationSpec, learning: LearningSpec, settings: TrainingSettings) -> str:
        """Say why it cannot stand for a backbone that would be pretrained now; empty if it can.

        Parameters
        ----------
        source : SimulationSpec
            The recording that would be pretrained on, with contacts and rate of the one to be learned.
        learning : LearningSpec
        settings : TrainingSettings
        """
        from esort.simulation import TemplateBank

        theirs = self.story["source"]
        # The units that are learned later were drawn from the other half of the bank: see esort.fairness.
        if (source.split, source.disjoint_cell_models) != (theirs["split"], theirs["disjoint_cell_models"]):
            return "its templates may be those that are to be learned"
        if self.story["template_bank"] != TemplateBank.load().digest:
            return "it was made from another template bank"
        corners = [self.card.preprocessing[name] for name in ("freq_min_hz", "freq_max_hz")]
        if corners != [settings.preprocessing.freq_min_hz, settings.preprocessing.freq_max_hz]:
            return f"its band-pass is {corners[0]:g} to {corners[1]:g} Hz"
        if self.name == _CLOSED_FORM:
            return self._other_layout(settings)
        from esort.transfer import MAX_RATIO

        ratio = source.sampling_frequency / self.card.sampling_frequency
        if not 1 / MAX_RATIO <= ratio <= MAX_RATIO:
            return f"its rate is {self.card.sampling_frequency:g} Hz"
        if self.story["learning"] != json.loads(json.dumps(asdict(learning))):
            return "it was trained in another way"
        return self._other_parameters(self._expected(settings))

    def _expected(self, settings: TrainingSettings) -> dict[str, Any]:
        """Hyper-parameters of the network that is to start from it, at its rate."""
        expected = settings.network.hyper_parameters(
            sampling_frequency=self.card.sampling_frequency, num_channels=1, num_units=1
        )
        if settings.network.name == self.name:
            return expected
        from esort.transfer import plainer_parameters

        return plainer_parameters(settings.network.name, expected, self.card.network_parameters)

    def _other_layout(self, settings: TrainingSettings) -> str:
        from esort.pursuit.denoising import NUM_COMPONENTS
        from esort.pursuit.ground import layout_of

        layout = layout_of(self.card.sampling_frequency, settings)
        names = ("num_filters", "filter_samples", "filter_before", "footprint_before", "footprint_samples")
        expected = {name: getattr(layout, name) for name in names}
        return self._other_parameters(expected | {"num_components": NUM_COMPONENTS})

    def _other_parameters(self, expected: dict[str, Any]) -> str:
        for name in sorted(expected.keys() - _OF_THE_RECORDING):
            if self.card.network_parameters.get(name) != expected[name]:
                return f"it has {name}={self.card.network_parameters.get(name)}, not {expected[name]}"
        return ""


def pretrained_names() -> tuple[str, ...]:
    """Return the networks for which a backbone ships."""
    return tuple(sorted(path.stem for path in _folder().glob("*.safetensors")))


def pretrained_path(name: str) -> Path:
    """Return the checkpoint of a shipped backbone.

    Raises
    ------
    ValueError
        If none ships for this network.
    """
    if name not in pretrained_names():
        raise ValueError(f"expected a backbone among {', '.join(pretrained_names())}, got {name!r}")
    return _folder() / f"{name}.safetensors"


def find_pretrained(
    source: SimulationSpec, learning: LearningSpec, settings: TrainingSettings
) -> Path | None:
    """Return the shipped backbone that can stand for one that would be pretrained now.

    Parameters
    ----------
    source : SimulationSpec
        The recording that would be pretrained on, with contacts and rate of the one to be learned.
    learning : LearningSpec
    settings : TrainingSettings

    Returns
    -------
    Path or None
        None where none fits; the log says why.
    """
    from esort.transfer import PLAINER

    name = settings.network.name
    if name not in pretrained_names():
        name = PLAINER.get(name, name)
    if name not in pretrained_names():
        return None
    shipped = Pretrained.open(name)
    reason = shipped.misfit(source, learning, settings)
    if reason:
        logger.info("the backbone that ships with esort is not used: %s", reason)
        return None
    logger.info("backbone: the one that ships with esort (%s)", shipped.path.name)
    return shipped.path


def _folder() -> Path:
    return Path(str(files(__name__)))
