"""The report: one HTML file that opens offline, with all of a sorting to look at and click through.

`esort.page.closeup` reads a bounded part of the traces, `esort.page.trains` describes all spikes, and
SpikeInterface measures both; `esort.page.content` makes one JSON object of it, which ``page.js`` draws with
plotly.js.
"""

from esort.page.document import REPORT, try_page, write_page

__all__ = ["REPORT", "try_page", "write_page"]
