"""E-Sort: a spike sorter that learns from few labelled spikes."""

import wrapt

__version__ = "0.1.0"

# SpikeInterface's list of sorters gets esort when, and only if, that list is imported: before or after this.
wrapt.register_post_import_hook("esort.spikeinterface_sorter:register", "spikeinterface.sorters")
