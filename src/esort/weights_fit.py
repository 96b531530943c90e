"""Whether the weights of a checkpoint are those of the network that its card describes."""

from __future__ import annotations

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esort.card import Card

__all__ = ["UNFIT", "check_weights_fit"]

UNFIT = (RuntimeError, ValueError, TypeError, IndexError, OverflowError, ArithmeticError, AttributeError)
"""What the parts of a sorter raise when they are made from values that do not fit."""
# Networks that tell their sizes without PyTorch, as `esort.network.NETWORKS` names them.
_SIZES = {"pursuit": "esort.pursuit.scorer:PursuitSizes"}


def check_weights_fit(card: Card, weights: Mapping[str, Any]) -> None:
    """Compare a card with its weights before a network of the card's size is made.

    Parameters
    ----------
    card : Card
    weights : mapping of str to array
        Without the tables of the units.

    Raises
    ------
    ValueError
        If the card describes a network with other weights, or channels are named that it has not.
    """
    wanted = _shapes(card)
    for word, names in (
        ("missing", wanted.keys() - weights.keys()),
        ("unknown", weights.keys() - wanted.keys()),
    ):
        if names:
            raise ValueError(f"{word} weights {sorted(names)!r:.80}")
    for name, shape in wanted.items():
        if shape != tuple(weights[name].shape):
            raise ValueError(
                f"weights {name!r:.80}: the card describes the shape {shape}, "
                f"the file has {tuple(weights[name].shape)}"
            )
        if name.endswith("_channels") and 0 not in shape:
            low, high = int(weights[name].min()), int(weights[name].max())
            if low < 0 or high >= card.num_channels:
                raise ValueError(
                    f"weights {name!r}: expected channels 0 to {card.num_channels - 1}, got {low} to {high}"
                )


def _shapes(card: Card) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights of a network of the card's; nothing is allocated, whatever the card says."""
    if card.network in _SIZES:
        try:
            sizes = resolve_name(_SIZES[card.network])(**card.network_parameters)
        except TypeError as error:
            raise ValueError(
                f"network {card.network} does not take these hyper-parameters: {error}"
            ) from None
        shapes: dict[str, tuple[int, ...]] = sizes.shapes()
        return shapes
    import torch

    from esort.network import build_network

    with torch.device("meta"):
        wanted = build_network(card.network, card.network_parameters).state_dict()
    return {name: tuple(value.shape) for name, value in wanted.items()}
