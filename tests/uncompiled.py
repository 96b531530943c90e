"""SpikeInterface's kernels as plain Python: the same numbers without half a minute of compilation."""

from contextlib import contextmanager

import pytest
from spikeinterface.metrics.quality import misc_metrics
from spikeinterface.postprocessing import template_similarity


@contextmanager
def uncompiled():
    """Within the block a SortingAnalyzer is computed without numba where that compiles for long."""
    with pytest.MonkeyPatch.context() as patch:
        plain = template_similarity._compute_similarity_matrix_numpy
        patch.setattr(template_similarity, "_compute_similarity_matrix", plain)
        patch.setattr(misc_metrics, "_get_synchrony_counts", misc_metrics._get_synchrony_counts.py_func)
        yield
