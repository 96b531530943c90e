"""Blocks and detection with a network whose answers are known: no spike lost, doubled or shifted."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spikeinterface.core import NumpyRecording

from esort import inference
from esort.detector import Detector, Postprocessing, UnitTables
from esort.inference import output_blocks
from esort.network import SpikeNetwork
from esort.postprocess import join_chunks
from esort.prepared import PreparedRecording
from esort.preprocessing import Preprocessing
from esort.threads import available_cores

RATE = 1000.0
NUM_SAMPLES = 2345
BLOCK = round(inference.BLOCK_S * RATE)
WINDOW, PEAK = 21, 8


def waveforms():
    """Two units on two channels, shape (U, T, C); the peak lies at PEAK."""
    time = np.arange(WINDOW) - PEAK
    shape = -np.exp(-0.5 * (time / 1.5) ** 2) + 0.3 * np.exp(-0.5 * ((time - 5) / 2) ** 2)
    return np.stack([np.outer(shape, [10, 1]), np.outer(shape, [1, 10])]).astype(np.float32)


class Matched(SpikeNetwork):
    """Sure of a unit where its own waveform lies, and nowhere else."""

    def __init__(self):
        super().__init__(num_channels=2, num_units=2, window_samples=WINDOW, peak_offset_samples=PEAK)

    def forward(self, traces):
        filters = torch.from_numpy(waveforms()).permute(0, 2, 1)  # (U, C, T)
        energy = filters.square().sum(dim=(1, 2))  # (U,)
        scores = torch.nn.functional.conv1d(traces.permute(0, 2, 1), filters)  # (B, U, T)
        return 20 * (scores / energy[:, None] - 0.7).permute(0, 2, 1)  # (B, T, U)


def prepared(spikes):
    """A recording with waveforms at known samples and nothing else, cut off at its ends."""
    traces = np.zeros((NUM_SAMPLES + 2 * WINDOW, 2), dtype=np.float32)
    for sample, unit in spikes:
        start = sample + WINDOW - PEAK
        traces[start : start + WINDOW] += waveforms()[unit]
    recording = NumpyRecording([traces[WINDOW:-WINDOW].copy()], RATE)
    return PreparedRecording(
        raw=recording, filtered=recording, preprocessing=Preprocessing(), noise_level_uv=np.ones(2)
    )


def detect(recording, start=0, stop=NUM_SAMPLES, **options):
    detector = Detector(
        sampling_frequency=RATE,
        num_units=2,
        thresholds=0.5,
        tables=UnitTables(),
        postprocessing=Postprocessing(smoothing_ms=3.0, refractory_ms=5.0),
    )
    margin = detector.margin_samples
    blocks = output_blocks(Matched(), recording, start - margin, stop + margin, **options)
    found = [detector.push(block.outputs, block.start_sample) for block in blocks]
    spikes = join_chunks([*found, detector.finish()])
    pairs = zip(spikes.sample_index.tolist(), spikes.unit_index.tolist(), strict=True)
    return [(sample, unit) for sample, unit in pairs if start <= sample < stop]


EDGES = [2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK - PEAK, NUM_SAMPLES - 4]


@pytest.mark.parametrize("sample", EDGES)
@pytest.mark.parametrize("unit", [0, 1])
def test_first_and_last_window_and_the_joints(sample, unit):
    assert detect(prepared([(sample, unit)])) == [(sample, unit)]


def test_both_units_at_the_same_sample():
    spikes = [(sample, unit) for sample in (BLOCK, 700, 2 * BLOCK - 1) for unit in (0, 1)]
    assert detect(prepared(spikes)) == sorted(spikes)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(0, 66), st.integers(0, 1)), unique_by=lambda spike: spike[0]),
    st.integers(0, NUM_SAMPLES),
    st.integers(0, NUM_SAMPLES),
    st.integers(1, 3),
)
def test_every_spike_once_at_its_sample(places, first, second, num_workers):
    start, stop = sorted((first, second))
    spikes = sorted((5 + 35 * place, unit) for place, unit in places)
    wanted = [(sample, unit) for sample, unit in spikes if start <= sample < stop]
    assert detect(prepared(spikes), start, stop, num_workers=num_workers) == wanted


def test_blocks_lie_on_a_fixed_grid_and_say_what_they_took():
    recording = prepared([(700, 0)])
    whole = list(output_blocks(Matched(), recording, 0, NUM_SAMPLES))
    assert [block.start_sample for block in whole] == list(range(0, NUM_SAMPLES, BLOCK))
    assert sum(len(block.outputs) for block in whole) == NUM_SAMPLES
    assert all(block.read_filter_s > 0 and block.network_s > 0 for block in whole)
    (part,) = output_blocks(Matched(), recording, 700, 701)
    assert part.start_sample == BLOCK
    np.testing.assert_array_equal(part.outputs, whole[1].outputs)
    assert list(output_blocks(Matched(), recording, 700, 700 - BLOCK)) == []


def test_the_number_of_torch_threads_comes_back():
    before = torch.get_num_threads()
    blocks = output_blocks(Matched(), prepared([]), 0, NUM_SAMPLES)
    next(blocks)
    blocks.close()
    assert torch.get_num_threads() == before


def test_cores():
    assert available_cores() >= 1
