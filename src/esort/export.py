"""A trained network and its post-processing as one ONNX file.

    python -m esort.export checkpoint=FILE output=FILE.onnx

Whoever has the file needs neither esort nor PyTorch: examples/sort_with_onnx.py sorts a recording with NumPy
and onnxruntime, by chunks with margins (sort_probabilities_with_onnx.py with SciPy's filter, too). Each chunk
[start, stop) is the spikes' own; `before_samples` and `after_samples` beside it decide on them, too.

Input of all: ``traces_uv``, float32 (1, T, C), channels as in the card, in µV (or in the recording's own unit
where training knew no gain); the division by the noise level is part of the model. T is free, from one window
(W samples) on. Row i of what the network says is about sample i + ``peak_offset_samples``.

*Networks with probabilities* (dense, convrecurrent) take traces filtered and referenced as the card's
``preprocessing`` says. Outputs, for N = T - W + 1 windows and U units: ``probabilities`` float32 (N, U),
``accepted`` bool (N, U), ``heights`` float32 (N, U).

*The pursuit* filters for itself, and its spikes are those of `esort.postprocess.stepwise.StepwiseSolver`, at
sub-sample phases and with amplitudes, by at most ``max_rounds`` rounds in each of its steps. It takes a
second input, ``stretch``, int64 (3,): the sample of the recording that row 0 is about, start and stop of the
chunk.
start is a multiple of ``epoch_samples``, and so is stop where the recording does not end; in front of the
recording and behind it stand copies of its first and last sample, as many as a window needs. Outputs, for S
spikes by sample, then unit: ``sample_index`` int64 (S,), of the recording, ``unit_index`` int64 (S,),
``heights`` float32 (S,), how far a score is above its threshold. The model does not follow the motion of
the tissue, whatever the checkpoint does, and knows neither artefacts nor bad channels.

Metadata: ``esort``, the card, and ``esort_export``, what a reader needs beside it, both JSON: the numbers
above, ``chunk_samples``, a good length of a chunk, and ``reliability``, the curve (height, part of such
spikes that is true) that turns a height into the probability of a spike.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esort.checkpoint import CARD_KEY
from esort.files import write_atomically
from esort.one_line import one_line

if TYPE_CHECKING:
    from esort.card import Card

__all__ = ["EXPORT_KEY", "ExportResult", "export_onnx", "main"]

logger = logging.getLogger(__name__)

EXPORT_KEY = "esort_export"
MOST_ROUNDS = 1000
_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
_USAGE = "python -m esort.export checkpoint=FILE output=FILE.onnx [rounds=12]"


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What was written.

    Parameters
    ----------
    path : Path
    num_bytes : int
    max_difference : float
        Largest difference of onnxruntime's numbers from our own in the check: of probabilities, or of scores
        as a part of the largest.
    different : float
        Part of the spikes in the check that are not the sorter's, because sums have another order.
    """

    path: Path
    num_bytes: int
    max_difference: float
    different: float


def export_onnx(
    checkpoint: str | os.PathLike[str], output: str | os.PathLike[str], *, rounds: int | None = None
) -> ExportResult:
    """Write a checkpoint as an ONNX model, checked against our own path before it takes its name.

    Parameters
    ----------
    checkpoint : path-like
        Of a network with units.
    output : path-like
        Ends in ``.onnx``; replaced if it exists.
    rounds : int, optional
        Of the pursuit's competition in each step, at the most; by default as many as sort.py takes. It ends
        earlier where nothing is left.

    Raises
    ------
    FileNotFoundError
        If there is no such checkpoint.
    ValueError
        If the checkpoint cannot be believed or has no units, the output has another suffix, rounds are out of
        range or asked for without need, the packages of the extra ``export`` are missing, or onnxruntime's
        results differ from our own.
    """
    output = Path(output)
    if output.suffix != ".onnx":
        raise ValueError(f"output must end in .onnx, got {output}")
    if output.is_dir():
        raise ValueError(f"output must be a file, got the folder {output}")
    if rounds is not None and not 1 <= rounds <= MOST_ROUNDS:
        raise ValueError(f"rounds must be from 1 to {MOST_ROUNDS}, got {rounds}")
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"the export needs {', '.join(missing)}; install by: pip install 'esort[export]'")
    from esort.sorter import Sorter

    sorter = Sorter.load(checkpoint)
    if sorter.card.network == "pursuit":
        from esort.onnx_pursuit import PursuitExport

        export: Any = PursuitExport(sorter, rounds)
    else:
        from esort.onnx_dense import DenseExport

        if rounds is not None:
            raise ValueError(f"rounds are the pursuit's, got rounds={rounds} for {sorter.card.network}")
        export = DenseExport(sorter)
    if export.follows:
        logger.warning(
            "%s follows the motion of the tissue, the exported model does not: it is as with follows=false",
            checkpoint,
        )
    model = export.model()
    _describe(model, sorter.card, export.reading())
    content = model.SerializeToString()
    max_difference, different = export.check(content)
    with write_atomically(output) as partial:
        partial.write_bytes(content)
    return ExportResult(
        path=output, num_bytes=len(content), max_difference=max_difference, different=different
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    try:
        options = _parse(sys.argv[1:] if arguments is None else arguments)
        result = export_onnx(options["checkpoint"], options["output"], rounds=_rounds(options))
    except (OSError, ValueError) as error:
        print(f"esort.export: {one_line(error)}", file=sys.stderr)
        return 1
    print(
        f"{result.path}: {result.num_bytes / 1e6:.2f} MB, within {result.max_difference:.1e} of our own "
        f"numbers, {result.different:.2%} of the spikes of the check others than the sorter's"
    )
    return 0


def _parse(arguments: Sequence[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name not in ("checkpoint", "output", "rounds") or not value:
            raise ValueError(f"unknown argument {argument!r}; expected: {_USAGE}")
        if name in options:
            raise ValueError(f"{name} must be given once; expected: {_USAGE}")
        options[name] = value
    for name in ("checkpoint", "output"):
        if name not in options:
            raise ValueError(f"{name} is missing; expected: {_USAGE}")
    return options


def _rounds(options: dict[str, str]) -> int | None:
    if "rounds" not in options:
        return None
    try:
        return int(options["rounds"])
    except ValueError:
        raise ValueError(f"rounds must be from 1 to {MOST_ROUNDS}, got {options['rounds']}") from None


def _describe(model: Any, card: Card, reading: dict[str, Any]) -> None:
    """Add the card, and remove what the exporters noted about this machine."""
    import onnx

    _forget_sources(model.graph)
    for function in model.functions:
        _forget_sources(function)
    texts = {CARD_KEY: card.to_dict(), EXPORT_KEY: reading}
    onnx.helper.set_model_props(
        model, {key: json.dumps(value, allow_nan=False) for key, value in texts.items()}
    )
    onnx.checker.check_model(model)


def _forget_sources(graph: Any) -> None:
    """Drop file names and source lines, which the exporters leave at each node, here and in loops."""
    values = [value for name in ("input", "output", "initializer") for value in getattr(graph, name, ())]
    for item in [graph, *graph.node, *(value for value in values if not isinstance(value, str))]:
        item.doc_string = ""
        del item.metadata_props[:]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _forget_sources(attribute.g)
                del attribute.g.value_info[:]


if __name__ == "__main__":
    sys.exit(main())
