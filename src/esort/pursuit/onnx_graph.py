"""A pursuit network and its competition as one ONNX model.

Shapes: T samples, W samples of a window, C channels, F filters, U units, G groups of units, H channels that a
group looks at, E epochs, R rows of an epoch and what is around it, S spikes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnxscript import opset18, script

from esort.postprocess import ConflictTable
from esort.postprocess.conflicts import MOST_SCORE
from esort.postprocess.stepwise import StepSizes
from esort.pursuit.onnx_competition import OUTSIDE
from esort.pursuit.onnx_parts import call, loop, model_of
from esort.pursuit.onnx_solver import SPIKES, competition_constants, competition_nodes
from esort.pursuit.scorer import PursuitScorer

__all__ = ["pursuit_model"]

# Rows of the band-pass that one strided convolution gives, and units that share a matrix product.
_FILTER_ROWS, _GROUP_UNITS = 16, 16
_MOST = float(MOST_SCORE)
_FLOAT64, _FLOAT, _INT32 = 11, 1, 6
op: Any = opset18
_graph: Any = script(default_opset=op)


@_graph
def _cut(traces_uv, stretch, stride, window_samples, lead_samples, epoch_samples, part_samples):  # type: ignore
    """Traces with room for whole epochs, how many these are, and from which row to which one all is real.

    The first epoch is the one before the stretch: of its last spikes the second keeps its distance.
    """
    traces = op.Squeeze(traces_uv, [0])  # (T, C)
    given = op.Gather(op.Shape(traces), 0)
    front = lead_samples - (stretch[1] - stretch[0])
    num_epochs = (stretch[2] - stretch[1] + epoch_samples - 1) / epoch_samples + 1
    back = op.Max((num_epochs - 1) * epoch_samples + part_samples - front - given, 0)
    widths = op.Concat(op.Reshape(front, [1]), [0], op.Reshape(back, [1]), [0], axis=0)
    low = front / stride
    return op.Pad(traces, widths), num_epochs, low, low + (given - window_samples) / stride + 1


def _scores(block_samples: int) -> Any:
    """Function: fixed-point scores of an epoch, int32 (R, U); a block of the filter takes so many samples."""

    @_graph
    def scores(  # type: ignore
        number, padded, low, high, epoch_samples, epoch, part_samples, num_rows, bandpass, whitening, filters,
        channels, heads, order, offsets, scale,
    ):  # fmt: skip
        start = number * epoch_samples
        lines = op.Unsqueeze(op.Transpose(padded[start : start + part_samples], perm=[1, 0]), [1])
        blocks = op.Conv(lines, bandpass, strides=[block_samples])  # (C, n, blocks)
        filtered = op.Flatten(op.Transpose(blocks, perm=[0, 2, 1]), axis=1)
        whitened = op.Unsqueeze(op.MatMul(whitening, filtered), [1])  # (C, 1, rows)
        features = op.Conv(whitened, filters)[:, :, :num_rows]  # (C, F, R)
        seen = op.Gather(features, channels)  # (G, H, F, R)
        seen = op.Reshape(seen, op.Concat(op.Shape(channels)[:1], [-1], op.Reshape(num_rows, [1]), axis=0))
        energy = op.Reshape(op.MatMul(heads, seen), op.Concat([-1], op.Reshape(num_rows, [1]), axis=0))
        found = op.Transpose(op.Gather(energy, order), perm=[1, 0]) + offsets  # (R, U)
        fixed = op.Cast(op.Round(op.Clip(found * scale, -_MOST, _MOST)), to=_INT32)
        row = op.Range(0, num_rows, 1) + number * epoch
        real = op.Unsqueeze(op.And(row >= low, row < high), [1])
        return op.Where(real, fixed, OUTSIDE)

    return scores


@_graph
def _told(spikes, stretch, epoch_samples, limits_of_score, scale, num_told):  # type: ignore
    """Spikes by sample, then unit, and how far each score is above its threshold, as `explain.excess`."""
    num_units = op.Gather(op.Shape(limits_of_score), 0)
    of_stretch = op.And(spikes[0] > 0, spikes[2] < num_told)  # and no rival's
    spikes = op.Compress(spikes, of_stretch, axis=1)
    unit = spikes[2]
    sample = stretch[1] + (spikes[0] - 1) * epoch_samples + spikes[1]
    _, order = op.TopK(sample * num_units + unit, op.Shape(unit), largest=0)
    score = op.Cast(op.Gather(spikes[3], order), to=_FLOAT) / scale
    unit = op.Gather(unit, order)
    above = 1.0 - op.Gather(limits_of_score, unit) / op.Cast(op.Max(score, 1e-9), to=_FLOAT64)
    return op.Gather(sample, order), unit, op.Cast(above, to=_FLOAT)


def pursuit_model(
    scorer: PursuitScorer,
    table: ConflictTable | None,
    *,
    noise_level_uv: Sequence[float],
    num_told: int,
    thresholds: Sequence[float] | np.ndarray,
    stride: int,
    sizes: StepSizes,
    **settings: Any,
) -> onnx.ModelProto:
    """Build the model; its spikes are those of `StepwiseSolver` on the network's scores, tissue at rest.

    Inputs, outputs and what they mean: see `esort.export`.

    Parameters
    ----------
    scorer : PursuitScorer
    noise_level_uv : sequence of float, length C
        By which the traces are divided.
    num_told : int
        Units whose spikes are told, the first; those behind them are rivals and compete.
    table, thresholds, stride, sizes, **settings
        As of `esort.postprocess.stepwise.StepwiseSolver`.
    """
    constants, num_rows = competition_constants(
        table, scorer.num_units, stride=stride, sizes=sizes, thresholds=thresholds, **settings
    )
    constants |= _scorer_constants(scorer, sizes, num_rows)
    constants["whitening"] /= np.asarray(noise_level_uv, dtype=np.float32)
    constants["limits_of_score"] = np.asarray(thresholds, dtype=np.float64)
    constants["num_told"] = np.int64(num_told)
    nodes, functions = _nodes(stride)
    return model_of(
        nodes,
        functions,
        name="esort",
        inputs={
            "traces_uv": (np.float32, (1, "num_samples", scorer.num_channels)),
            "stretch": (np.int64, (3,)),
        },
        outputs={
            "sample_index": (np.int64, ("num_spikes",)),
            "unit_index": (np.int64, ("num_spikes",)),
            "heights": (np.float32, ("num_spikes",)),
        },
        constants=constants,
    )


def _scorer_constants(scorer: PursuitScorer, sizes: StepSizes, num_rows: int) -> dict[str, Any]:
    """Everything that scores are made with; so many rows belong to an epoch."""
    stride, taps = scorer.stride, scorer.bandpass.taps
    filter_samples = scorer.filters.shape[1]
    # The filter several times, each a row later than the one before.
    bandpass = np.zeros((_FILTER_ROWS, 1, len(taps) + stride * (_FILTER_ROWS - 1)), dtype=np.float32)
    for row, line in enumerate(bandpass[:, 0]):
        line[stride * row : stride * row + len(taps)] = taps
    num_blocks = -(-(num_rows + filter_samples - 1) // _FILTER_ROWS)
    order, channels, heads = _groups(scorer)
    return {
        "stride": stride,
        "window_samples": scorer.window_samples,
        "lead_samples": (sizes.warm_up + sizes.epoch) * stride,
        "epoch_samples": sizes.epoch * stride,
        "part_samples": (num_blocks - 1) * _FILTER_ROWS * stride + bandpass.shape[2],
        "num_rows": num_rows,
        "bandpass": bandpass,
        "whitening": scorer.resting_whitening(),
        "filters": scorer.filters[:, None],
        "channels": channels,
        "heads": heads,
        "order": order,
        "offsets": -scorer.energies / 2,
    }


def _groups(scorer: PursuitScorer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each unit is among the groups' (U,), channels of groups (G, H), heads on them (G, units, H F)."""
    dense = scorer.dense_heads()  # (U, C, F)
    centre = scorer.head_channels.mean(axis=1)
    ends = range(_GROUP_UNITS, scorer.num_units, _GROUP_UNITS)
    groups = np.split(np.argsort(centre, kind="stable"), ends)
    members = [np.flatnonzero((dense[units] != 0).any(axis=(0, 2))) for units in groups]
    width = max(1, *map(len, members))
    channels = np.zeros((len(groups), width), dtype=np.int64)
    heads = np.zeros((len(groups), _GROUP_UNITS, width, dense.shape[2]), dtype=np.float32)
    order = np.zeros(scorer.num_units, dtype=np.int64)
    for group, (units, present) in enumerate(zip(groups, members, strict=True)):
        channels[group, : len(present)] = present
        heads[group, : len(units), : len(present)] = dense[np.ix_(units, present)]
        order[units] = group * _GROUP_UNITS + np.arange(len(units))
    return order, channels, heads.reshape(len(groups), _GROUP_UNITS, -1)


def _nodes(stride: int) -> tuple[list[onnx.NodeProto], list[Any]]:
    """The graph's nodes, and the functions that they call."""
    scores = _scores(stride * _FILTER_ROWS)
    scores_of_epoch = call(scores, ["scores_next"], number="epoch_number")
    competition, functions = competition_nodes()
    nodes = [
        call(_cut, ["padded", "num_epochs", "low", "high"]),
        loop("num_epochs", [scores_of_epoch], iteration="epoch_number", stacked=["scores"]),
        *competition,
        call(_told, ["sample_index", "unit_index", "heights"], spikes=SPIKES),
    ]
    return nodes, [_cut, scores, *functions, _told]
