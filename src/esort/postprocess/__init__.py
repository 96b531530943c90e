"""Network outputs in, spikes out: exact, the same on every array library, chunked or whole.

This part of the package needs array-api-compat alone; NumPy, PyTorch, JAX or CuPy come with the arrays.
"""

from .conflicts import conflict_margin_samples, solve_conflicts
from .detect import accept_mask, detect_in_chunks, detect_spikes
from .reach import margin_samples
from .spikes import Spikes, join_chunks
from .table import ConflictTable

__all__ = [
    "ConflictTable",
    "Spikes",
    "accept_mask",
    "conflict_margin_samples",
    "detect_in_chunks",
    "detect_spikes",
    "join_chunks",
    "margin_samples",
    "solve_conflicts",
]
