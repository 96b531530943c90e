"""How long a spike of a stream takes to become certain."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Latency"]


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How much must follow a spike before it is certain, in ms: what no faster computer makes shorter.

    Parameters
    ----------
    filter_ms : float
        The filter looks ahead so far.
    window_ms : float
        From a spike's peak to the end of the network's window.
    block_ms : float
        Networks whose numbers depend on where a block begins wait for the block's end, at most so long.
    decision_ms : float
        The competition between units: at most so long.
    blanking_ms : float
        What follows says whether a sample belongs to an artefact. Around one, spikes come up to 30 ms later.
    """

    filter_ms: float
    window_ms: float
    block_ms: float
    decision_ms: float
    blanking_ms: float = 0.0

    @property
    def total_ms(self) -> float:
        """At most, from a spike's peak to the last sample that decides on it."""
        return self.filter_ms + self.window_ms + self.block_ms + self.decision_ms + self.blanking_ms

    def __str__(self) -> str:
        block = f", block {self.block_ms:.1f}" if self.block_ms else ""
        return (
            f"a spike is certain at most {self.total_ms:.1f} ms after its peak: filter {self.filter_ms:.1f}, "
            f"window {self.window_ms:.1f}{block}, decision {self.decision_ms:.1f}, "
            f"artefacts {self.blanking_ms:.1f}"
        )
