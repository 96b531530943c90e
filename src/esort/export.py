"""A trained network and its post-processing as one ONNX file.

    python -m esort.export checkpoint=FILE output=FILE.onnx

Whoever has the file needs neither esort nor PyTorch: examples/sort_with_onnx.py sorts a recording with
NumPy, SciPy's filter and onnxruntime.

Input ``traces_uv``: float32 (1, T, C), channels as in the card, filtered and referenced as the card's
``preprocessing`` says, in µV (or in the recording's own unit where training knew no gain); the division by
the noise level is part of the model. T is free, from one window (W samples) on. Outputs, for N = T - W + 1
windows and U units, row i being about sample i + ``peak_offset_samples``: ``probabilities`` float32 (N, U),
``accepted`` bool (N, U), ``heights`` float32 (N, U). Metadata: ``esort``, the card, and ``esort_export``,
what a reader needs beside it, both JSON: ``margin_samples``, rows on either side that decide on a row, and
``reliability``, the curve (smoothed probability, part of such spikes that is true) that turns a height into
the probability of a spike.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from esort.checkpoint import CARD_KEY
from esort.files import write_atomically
from esort.postprocess import ConflictTable, join_chunks
from esort.postprocess.reach import exclusion_samples, smoothing_half_width

if TYPE_CHECKING:
    from esort.onnx_graph import SpikeGraph
    from esort.sorter import Sorter

__all__ = ["EXPORT_KEY", "ExportResult", "export_onnx", "main"]

EXPORT_KEY = "esort_export"
MAX_ROUNDS = 16  # the default of `detect_spikes`, by which `Detector` works
TOLERANCE = 1e-5
_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
_USAGE = "python -m esort.export checkpoint=FILE output=FILE.onnx"


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What was written.

    Parameters
    ----------
    path : Path
    num_bytes : int
    max_difference : float
        Largest difference between the probabilities of onnxruntime and of PyTorch in the check.
    """

    path: Path
    num_bytes: int
    max_difference: float


def export_onnx(checkpoint: str | os.PathLike[str], output: str | os.PathLike[str]) -> ExportResult:
    """Write a checkpoint as an ONNX model, checked against PyTorch before it takes its name.

    Parameters
    ----------
    checkpoint : path-like
        Of a network with units.
    output : path-like
        Ends in ``.onnx``; replaced if it exists.

    Raises
    ------
    FileNotFoundError
        If there is no such checkpoint.
    ValueError
        If the checkpoint cannot be believed or has no units, the output has another suffix, the packages of
        the extra ``export`` are missing, or onnxruntime's results differ from PyTorch's.
    """
    output = Path(output)
    if output.suffix != ".onnx":
        raise ValueError(f"output must end in .onnx, got {output}")
    if output.is_dir():
        raise ValueError(f"output must be a file, got the folder {output}")
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"the export needs {', '.join(missing)}; install by: pip install 'esort[export]'")
    from esort.sorter import Sorter

    sorter = Sorter.load(checkpoint)
    if sorter.card.network == "pursuit":
        raise ValueError(
            f"{checkpoint}: expected a network whose outputs are probabilities (dense, convrecurrent), got "
            "pursuit, whose competition between units at every lag has no fixed graph"
        )
    graph = _graph_of(sorter)
    model = _traced(graph)
    _describe(model, sorter)
    content = model.SerializeToString()
    max_difference = _check(content, graph, sorter)
    with write_atomically(output) as partial:
        partial.write_bytes(content)
    return ExportResult(path=output, num_bytes=len(content), max_difference=max_difference)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    try:
        options = _parse(sys.argv[1:] if arguments is None else arguments)
        result = export_onnx(options["checkpoint"], options["output"])
    except (OSError, ValueError) as error:
        print(f"esort.export: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(
        f"{result.path}: {result.num_bytes / 1e6:.2f} MB, probabilities within "
        f"{result.max_difference:.1e} of PyTorch's"
    )
    return 0


def _parse(arguments: Sequence[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name not in ("checkpoint", "output") or not value:
            raise ValueError(f"unknown argument {argument!r}; expected: {_USAGE}")
        if name in options:
            raise ValueError(f"{name} must be given once; expected: {_USAGE}")
        options[name] = value
    for name in ("checkpoint", "output"):
        if name not in options:
            raise ValueError(f"{name} is missing; expected: {_USAGE}")
    return options


def _settings(sorter: Sorter) -> dict[str, int]:
    rate, chosen = sorter.card.sampling_frequency, sorter.postprocessing
    return {
        "half_width_samples": smoothing_half_width(rate, chosen.smoothing_ms),
        "exclusion_samples": exclusion_samples(rate, chosen.refractory_ms),
        "max_rounds": MAX_ROUNDS,
    }


def _graph_of(sorter: Sorter) -> SpikeGraph:
    import torch

    from esort.onnx_graph import SpikeGraph

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
        **_settings(sorter),
    )
    return graph.eval().requires_grad_(False)


def _traced(graph: SpikeGraph) -> Any:
    """Return the ONNX model of a graph, the number of samples free."""
    import torch

    window = graph.network.window_samples
    example = torch.zeros(1, 3 * window, graph.network.num_channels)
    # One window more than the model needs: PyTorch takes a size of 1 for a constant. `_check` tries one, too.
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
    return program.model_proto


def _describe(model: Any, sorter: Sorter) -> None:
    """Add the card, name the axis of the outputs, remove what the exporter noted about this machine."""
    import onnx

    _forget_sources(model.graph)
    for value in model.graph.output:
        value.type.tensor_type.shape.dim[0].dim_param = "num_windows"
    del model.graph.value_info[:]  # shapes of intermediate values, as formulas of the number of samples
    reading = {
        **_settings(sorter),
        "margin_samples": sorter.detector().margin_samples,
        "min_samples": sorter.card.window_samples,
        "reliability": sorter.tables.reliability.tolist(),
        "input": "float32 (1, samples, channels), filtered and referenced, uV; not divided by the noise",
    }
    texts = {CARD_KEY: sorter.card.to_dict(), EXPORT_KEY: reading}
    onnx.helper.set_model_props(
        model, {key: json.dumps(value, allow_nan=False) for key, value in texts.items()}
    )
    onnx.checker.check_model(model)


def _forget_sources(graph: Any) -> None:
    """Drop file names and source lines, which the exporter leaves at each node, here and in loops."""
    for item in [graph, *graph.node, *graph.input, *graph.output, *graph.initializer]:
        item.doc_string = ""
        del item.metadata_props[:]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _forget_sources(attribute.g)
                del attribute.g.value_info[:]


def _check(content: bytes, graph: SpikeGraph, sorter: Sorter) -> float:
    """Run the model on random traces of several lengths; return the largest difference from PyTorch.

    Raises
    ------
    ValueError
        If probabilities differ by more than `TOLERANCE`, or spikes from those that the sorter's
        post-processing finds in the very same probabilities.
    """
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    card = sorter.card
    window = card.window_samples
    rng = np.random.default_rng(0)
    worst = 0.0
    for num_samples in (window, window + 1, 2 * window + 7, 20 * window):
        # From silence to well above the noise, so that some windows reach their thresholds.
        amplitude = np.linspace(0, 5, num_samples)[:, None] * np.asarray(card.noise_level_uv)
        traces = (rng.standard_normal((num_samples, card.num_channels)) * amplitude).astype(np.float32)
        found, accepted, heights = session.run(None, {"traces_uv": traces[None]})
        with torch.inference_mode():
            scaled = torch.from_numpy(traces[None]) / graph.noise_level_uv
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
    return worst


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


if __name__ == "__main__":
    sys.exit(main())
