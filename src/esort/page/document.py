"""Write the page: its content, its script, its style and plotly.js in one file."""

from __future__ import annotations

import html
import json
import logging
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from esort.checkpoint import load_card
from esort.files import plain, write_atomically
from esort.page.content import describe_run
from esort.preprocessing import Preprocessing
from esort.results import RUN, SCORES, SORTING
from esort.subject import Subject

__all__ = ["REPORT", "try_page", "write_page"]

logger = logging.getLogger(__name__)

REPORT = "report.html"


def write_page(folder: Path, subject: Subject) -> Path:
    """Write ``report.html`` for what `esort.outcome.sort_subject` left in a folder.

    Parameters
    ----------
    folder : Path
        With ``sorting/``, ``run.json`` and, where something is known, ``scores.json`` and pictures.
    subject : Subject
        The recording that was sorted.

    Returns
    -------
    Path
        About 5 MB, most of it plotly.js; it needs no network and no other file.

    Raises
    ------
    FileNotFoundError
        If there is no sorting in the folder, or its checkpoint has gone.
    """
    import spikeinterface

    for name in (RUN, SORTING):
        if not (folder / name).exists():
            raise FileNotFoundError(f"expected {name} in {folder}, which sorting leaves there: found none")
    run = json.loads((folder / RUN).read_text(encoding="utf-8"))
    scores_path = folder / SCORES
    scores = json.loads(scores_path.read_text(encoding="utf-8")) if scores_path.is_file() else None
    card = load_card(run["checkpoint"])
    content = describe_run(
        folder=folder,
        run=run,
        card=card,
        scores=scores,
        subject=subject,
        filtered=Preprocessing.from_dict(card.preprocessing).apply(subject.recording),
        sorting=spikeinterface.load(folder / SORTING),
    )
    path = folder / REPORT
    with write_atomically(path) as partial:
        partial.write_text(page_of(content), encoding="utf-8")
    return path


def try_page(folder: Path, subject: Subject) -> Path | None:
    """`write_page`, but a failure is only told of: the sorting it would describe is on the disk already."""
    try:
        return write_page(folder, subject)
    except Exception:
        logger.exception("no %s; the sorting is whole", REPORT)
        return None


def page_of(content: dict[str, Any]) -> str:
    """Return the text of the page."""
    from plotly.offline import get_plotlyjs

    part = {name: files("esort.page").joinpath(name).read_text(encoding="utf-8") for name in _PARTS}
    return Template(part["page.html"]).substitute(
        title=html.escape(content["title"]),
        style=part["page.css"],
        content=_harmless(
            json.dumps(plain(content), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        ),
        plotly=get_plotlyjs(),
        script=part["page.js"],
    )


_PARTS = ("page.html", "page.css", "page.js")


def _harmless(text: str) -> str:
    """Names come out of files: none may end the script that holds them (HTML standard, 4.12.1.3)."""
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
