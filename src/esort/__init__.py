"""E-Sort: a spike sorter that learns from few labelled spikes."""

__version__ = "0.1.0"
