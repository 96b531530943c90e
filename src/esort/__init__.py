"""E-Sort: a spike sorter that learns from few labelled spikes."""

from types import ModuleType

import wrapt

__version__ = "0.1.0"


@wrapt.when_imported("spikeinterface.sorters")
def _enlist(sorters: ModuleType) -> None:
    """Put esort into SpikeInterface's list of sorters if that is imported, before esort or after."""
    import esort.spikeinterface_sorter  # noqa: F401 (it enlists itself)
