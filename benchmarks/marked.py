"""Tables that benchmarks write into pages, between marks that stay."""

from __future__ import annotations


def write_between(page, begin, end, lines):
    """Put lines between the mark `begin` and the next `end`; a page without the mark stays as it is."""
    text = page.read_text(encoding="utf-8")
    if begin not in text:
        return
    before, rest = text.split(begin)
    after = rest.split(end, 1)[1]
    table = "\n".join(lines)
    page.write_text(f"{before}{begin}\n{table}\n{end}{after}", encoding="utf-8")
