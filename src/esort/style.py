"""The look of esort's pictures: colours, fonts, and PNG files that are whole or absent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from esort.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLORS", "picture"]

# Okabe and Ito's palette, told apart by readers of any colour vision ("Color Universal Design", 2008).
COLORS = {
    "green": "#009E73",
    "vermilion": "#D55E00",
    "blue": "#0072B2",
    "orange": "#E69F00",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "black": "#222222",
    "grey": "#9AA0A6",
}
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.linewidth": 0.8,
    "axes.labelcolor": "#333333",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.dpi": 150,
}


@contextmanager
def picture(path: str | os.PathLike[str], *, width_in: float, height_in: float) -> Iterator[Figure]:
    """Yield an empty figure in the house style; write it to `path` when the block ends.

    Parameters
    ----------
    path : path-like
        A PNG file, written atomically.
    width_in, height_in : float
        Size in inches.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        yield figure
        with write_atomically(path) as partial:
            figure.savefig(partial, format="png", pil_kwargs={"compress_level": 3})  # half the time, as small
