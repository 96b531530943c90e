"""What went wrong, on one line."""

from __future__ import annotations

__all__ = ["one_line"]


def one_line(error: object, most: int | None = None) -> str:
    """Return what an error says without line breaks; the name of its type where it says nothing.

    Parameters
    ----------
    error : object
        An exception, or anything with a text.
    most : int, optional
        Characters, at most: the text may come from a hostile file.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if most is None or len(text) <= most else f"{text[: most - 1]}…"
