"""A sorter whose network gives probabilities as an ONNX model: what is written, said of it, and checked."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import torch

from esort.onnx_graph import SpikeGraph
from esort.postprocess import ConflictTable, join_chunks
from esort.postprocess.reach import exclusion_samples, smoothing_half_width

if TYPE_CHECKING:
    from esort.sorter import Sorter

__all__ = ["DenseExport", "traced"]

MAX_ROUNDS = 16  # the default of `detect_spikes`, by which `Detector` works
TOLERANCE = 1e-5


class DenseExport:
    """A network with probabilities that is to be exported.

    Parameters
    ----------
    sorter : Sorter
    """

    follows = False

    def __init__(self, sorter: Sorter) -> None:
        self._sorter = sorter
        card, tables = sorter.card, sorter.tables
        conflicts = None
        if sorter.postprocessing.competition and len(tables.pairs):
            edges = (torch.from_numpy(np.array(values)) for values in (tables.pairs, tables.kernels))
            conflicts = ConflictTable.from_pairs(card.num_units, *edges)
        graph = SpikeGraph(
            sorter.network,
            noise_level_uv=card.noise_level_uv,
            thresholds=card.thresholds,
            conflicts=conflicts,
            **self._settings(),
        )
        self._graph = graph.eval().requires_grad_(False)

    def _settings(self) -> dict[str, int]:
        rate, chosen = self._sorter.card.sampling_frequency, self._sorter.postprocessing
        return {
            "half_width_samples": smoothing_half_width(rate, chosen.smoothing_ms),
            "exclusion_samples": exclusion_samples(rate, chosen.refractory_ms),
            "max_rounds": MAX_ROUNDS,
        }

    def model(self) -> onnx.ModelProto:
        """Trace the network and its post-processing."""
        model = traced(self._graph)
        for value in model.graph.output:
            value.type.tensor_type.shape.dim[0].dim_param = "num_windows"
        del model.graph.value_info[:]  # shapes of intermediate values, as formulas of the number of samples
        return model

    def reading(self) -> dict[str, Any]:
        """What a reader needs beside the card."""
        margin, card = self._sorter.detector().margin_samples, self._sorter.card
        return {
            **self._settings(),
            "margin_samples": margin,
            "chunk_samples": round(card.sampling_frequency),
            "before_samples": margin,
            "after_samples": margin,
            "min_samples": card.window_samples,
            "reliability": self._sorter.tables.reliability.tolist(),
            "input": "float32 (1, samples, channels), filtered and referenced, uV; not divided by the noise",
        }

    def check(self, content: bytes) -> tuple[float, float]:
        """Run the model on random traces of several lengths.

        Returns
        -------
        max_difference : float
            Of probabilities.
        different : float
            Part of the spikes that are not the sorter's: 0.

        Raises
        ------
        ValueError
            If probabilities differ by more than `TOLERANCE`, or spikes from those that the sorter's
            post-processing finds in the very same probabilities.
        """
        sorter, card = self._sorter, self._sorter.card
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        window = card.window_samples
        rng = np.random.default_rng(0)
        worst = 0.0
        for num_samples in (window, window + 1, 2 * window + 7, 20 * window):
            # From silence to well above the noise, so that some windows reach their thresholds.
            amplitude = np.linspace(0, 5, num_samples)[:, None] * np.asarray(card.noise_level_uv)
            traces = (rng.standard_normal((num_samples, card.num_channels)) * amplitude).astype(np.float32)
            found, accepted, heights = session.run(None, {"traces_uv": traces[None]})
            with torch.inference_mode():
                scaled = torch.from_numpy(traces[None]) / self._graph.noise_level_uv
                expected = sorter.network(scaled)[0].sigmoid().numpy()  # (N, U)
            if found.shape != expected.shape:
                raise ValueError(
                    f"network {card.network} cannot be exported: for {num_samples} samples onnxruntime gives "
                    f"probabilities of shape {found.shape}, PyTorch {expected.shape}"
                )
            worst = max(worst, float(np.abs(found - expected).max()))
            if not worst <= TOLERANCE:
                raise ValueError(
                    f"network {card.network} cannot be exported: probabilities must be within {TOLERANCE} of "
                    f"PyTorch's, got a difference of {worst:.1e} for {num_samples} samples"
                )
            detector = sorter.detector()
            spikes = join_chunks([detector.push(found, 0), detector.finish()])
            sample, unit = np.nonzero(accepted)
            same = np.array_equal(sample, spikes.sample_index) and np.array_equal(unit, spikes.unit_index)
            probability = np.interp(heights[accepted], *sorter.tables.reliability).astype(np.float32)
            if not same or not np.array_equal(probability, spikes.probability):
                raise ValueError(
                    f"the exported model's spikes differ from the sorter's for {num_samples} samples"
                )
        return worst, 0.0


def traced(graph: SpikeGraph) -> onnx.ModelProto:
    """Return the ONNX model of a graph, the number of samples free."""
    window = graph.network.window_samples
    example = torch.zeros(1, 3 * window, graph.network.num_channels)
    # One window more than the model needs: PyTorch takes a size of 1 for a constant. `check` tries one, too.
    num_samples = torch.export.Dim("num_samples", min=window + 1)
    with _quiet():
        program = torch.onnx.export(
            graph,
            (example,),
            dynamo=True,
            dynamic_shapes={"traces_uv": {1: num_samples}},
            input_names=["traces_uv"],
            output_names=["probabilities", "accepted", "heights"],
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what the exporter says about packages that this does not need, and its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
