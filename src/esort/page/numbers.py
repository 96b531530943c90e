"""Numbers as the page shows them."""

from __future__ import annotations

import numpy as np

__all__ = ["number", "rounded"]


def number(value: float) -> float | None:
    """A number with 5 digits; None where it is undefined."""
    return float(f"{value:.5g}") if np.isfinite(value) else None


def rounded(values: np.ndarray, decimals: int) -> list:
    """Return numbers with as many decimals as a page can show; undefined ones become None in `plain`."""
    return np.round(np.asarray(values, dtype=float), decimals).tolist()
