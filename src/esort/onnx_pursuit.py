"""A sorter of the pursuit as an ONNX model: what is written, what is said of it, and how it is checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from scipy.signal import resample_poly

from esort.postprocess import Spikes
from esort.postprocess.stepwise import StepwiseSolver
from esort.pursuit.detector import ScoreDetector
from esort.pursuit.explain import excess
from esort.pursuit.onnx_graph import pursuit_model
from esort.pursuit.onnx_solver import SCORES

if TYPE_CHECKING:
    from esort.sorter import Sorter

__all__ = ["PursuitExport"]

# Of the largest score: what sums in another order differ by.
_TOLERANCE = 1e-5
# Of the spikes of the check, and one in any case.
_MOST_DIFFERENT = 1e-3
# Epochs of the check, and of a chunk that a reader is advised to take: decided side by side.
_EPOCHS_CHECKED, _EPOCHS_AT_ONCE = 2.3, 8
_SPIKES_HZ, _MOST_SPIKES_HZ = 12.0, 1500.0


class PursuitExport:
    """A pursuit that is to be exported.

    Parameters
    ----------
    sorter : Sorter
    rounds : int, optional
        Of the competition in a step, at the most; by default as many as the sorter's own.
    """

    def __init__(self, sorter: Sorter, rounds: int | None = None) -> None:
        self._scorer, self._card, self._tables = sorter.scorer, sorter.card, sorter.tables
        detector = sorter.detector()
        assert isinstance(detector, ScoreDetector)
        self._settings: dict[str, Any] = dict(detector.settings)
        if rounds is not None:
            self._settings["max_rounds"] = rounds
        self._sizes = self._settings["sizes"]

    @property
    def follows(self) -> bool:
        """Whether the sorter follows the tissue, which the model does not."""
        return bool(self._scorer.follows)

    def model(self) -> onnx.ModelProto:
        """Put the model together."""
        card = self._card
        return pursuit_model(
            self._scorer, noise_level_uv=card.noise_level_uv, num_told=card.num_units, **self._settings
        )

    def reading(self) -> dict[str, Any]:
        """What a reader needs beside the card."""
        stride, sizes = self._scorer.stride, self._sizes
        return {
            "max_rounds": self._settings["max_rounds"],
            "follows": False,
            "checkpoint_follows": self.follows,
            "epoch_samples": sizes.epoch * stride,
            "chunk_samples": _EPOCHS_AT_ONCE * sizes.epoch * stride,
            "before_samples": (sizes.warm_up + sizes.epoch) * stride,
            "after_samples": sizes.ahead * stride,
            "min_samples": self._scorer.window_samples,
            "reliability": self._tables.reliability.tolist(),
            "input": "float32 (1, samples, channels), neither filtered nor referenced, uV",
        }

    def check(self, content: bytes) -> tuple[float, float]:
        """Sort rendered traces by onnxruntime, chunk by chunk, and as the sorter does.

        Returns
        -------
        max_difference : float
            Of scores, as a part of the largest.
        different : float
            Part of the spikes that only one of the two has.

        Raises
        ------
        ValueError
            If scores differ by more than sums in another order, the model's spikes are not exactly those of
            the sorter's solver on the model's scores, or too many are not those of the sorter.
        """
        traces = self._rendered()
        scores, found = self._run(content, traces)
        window, offset = self._scorer.window_samples, self._scorer.peak_offset_samples
        padded = np.pad(traces, ((offset, window - offset - 1), (0, 0)), mode="edge")
        expected = self._scorer.outputs(padded, 1 / np.asarray(self._card.noise_level_uv))
        difference = float(np.abs(scores - expected).max() / np.abs(expected).max())
        if not difference <= _TOLERANCE:
            raise ValueError(
                f"network pursuit cannot be exported: scores must be within {_TOLERANCE} of the sorter's, "
                f"as a part of the largest, got a difference of {difference:.1e}"
            )
        of_same_scores = self._solved(scores)
        if not all(map(np.array_equal, found[:2], of_same_scores[:2])) or not np.allclose(
            found[2], of_same_scores[2], rtol=0, atol=1e-6
        ):
            raise ValueError("the exported model's spikes differ from the sorter's on the very same scores")
        own = self._solved(expected)
        pairs = [set(zip(sample.tolist(), unit.tolist(), strict=True)) for sample, unit, _ in (found, own)]
        different = len(pairs[0] ^ pairs[1]) / 2
        if different > max(1.0, _MOST_DIFFERENT * len(pairs[1])):
            raise ValueError(
                f"network pursuit cannot be exported: of {len(pairs[1])} spikes at most a part of "
                f"{_MOST_DIFFERENT} may be others than the sorter's, got {different:g}"
            )
        return difference, different / max(1, len(pairs[1]))

    def _run(self, content: bytes, traces: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Scores (rows, U) and spikes of the model, by a chunk of one epoch and one of the rest."""
        model = onnx.load_from_string(content)
        model.graph.output.append(helper.make_tensor_value_info(SCORES, TensorProto.INT32, [None] * 3))
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        [scale] = [
            onnx.numpy_helper.to_array(value) for value in model.graph.initializer if value.name == "scale"
        ]
        reading, sizes, stride = self.reading(), self._sizes, self._scorer.stride
        before, window = self._scorer.peak_offset_samples, self._scorer.window_samples
        stop, epoch = len(traces), reading["epoch_samples"]
        scores, found = [], []
        for start, end in ((0, epoch), (epoch, stop)):
            first = max(0, start - reading["before_samples"])
            last = min(stop, end + reading["after_samples"])
            low, high = max(0, first - before), min(stop, last + window - before - 1)
            missing = (low - first + before, last + window - before - 1 - high)
            part = np.pad(traces[low:high], (missing, (0, 0)), mode="edge")
            values = {"traces_uv": part[None], "stretch": np.array([first, start, end])}
            *spikes, fixed = session.run(None, values)
            found.append(spikes)
            own = fixed[1:, sizes.warm_up : sizes.warm_up + sizes.epoch].reshape(-1, fixed.shape[2])
            scores.append(own[: -(-(end - start) // stride)])
        columns = [np.concatenate(column) for column in zip(*found, strict=True)]
        order = np.lexsort((columns[1], columns[0]))
        joined = np.concatenate(scores).astype(np.float32) / scale
        return joined, tuple(column[order] for column in columns)

    def _solved(self, scores: np.ndarray) -> tuple[np.ndarray, ...]:
        """Spikes of scores (rows, U) by the sorter's own solver, as the model tells them."""
        solver = StepwiseSolver(**self._settings)
        parts = (solver.push(scores), solver.finish())
        sample, unit, score = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("sample_index", "unit_index", "probability")
        )
        order = np.lexsort((unit, sample))
        order = order[unit[order] < self._card.num_units]  # rivals' are not told
        spikes = Spikes(sample[order], unit[order], score[order])
        above = excess(spikes.probability, np.asarray(self._settings["thresholds"])[spikes.unit_index])
        return spikes.sample_index, spikes.unit_index, above

    def _rendered(self) -> np.ndarray:
        """Noise, and spikes that look like the units': float32 (T, C) in µV."""
        scorer, rng = self._scorer, np.random.default_rng(0)
        stride = scorer.stride
        noise_uv = np.asarray(self._card.noise_level_uv, dtype=np.float64)
        back = np.linalg.pinv(scorer.resting_whitening().astype(np.float64), rcond=1e-6).T * noise_uv
        num_samples = round(_EPOCHS_CHECKED * self._sizes.epoch * stride)
        # White behind filter and whitening, at a level of 1.
        noise = rng.standard_normal((num_samples, scorer.num_channels), dtype=np.float32)
        traces = noise @ (back / np.linalg.norm(scorer.bandpass.taps)).astype(np.float32)
        length = scorer.footprints.shape[2] * stride
        rate_hz = min(_SPIKES_HZ, _MOST_SPIKES_HZ / scorer.num_units)
        number = round(rate_hz * num_samples / self._card.sampling_frequency)
        for channels, footprint in zip(scorer.footprint_channels, scorer.footprints, strict=True):
            waveform = resample_poly(footprint, stride, 1, axis=1).T @ back[channels]  # (n, C)
            for start in rng.integers(0, num_samples - length, number):
                traces[start : start + length] += (rng.uniform(0.75, 1.3) * waveform).astype(np.float32)
        return traces
